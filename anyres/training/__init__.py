"""Training: losses, the state that a checkpoint holds, one loop for every method, and a run on disk."""
