"""Orchestration: one module per stage, the flow over all stages, tracking, deployment, and the facts of this machine."""
