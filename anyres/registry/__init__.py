"""An MLflow registry of generators: its champion, its client, and the served model."""
