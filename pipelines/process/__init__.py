"""Processes: supervised commands, locks, launches, and how they ended."""
