"""Servers that a run speaks to: MLflow and DVC's remote."""
