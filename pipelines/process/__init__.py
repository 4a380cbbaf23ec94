"""Processes: supervised commands, locks, launches and outcomes."""
