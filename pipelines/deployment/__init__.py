"""The pipeline as a Prefect server deploys it."""
