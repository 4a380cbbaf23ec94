"""Orchestration: one thin module per stage, the outer flow, tracking, and the facts of this machine."""
