"""Checkpoints, Hugging Face directories and the shared cache of log-probabilities."""
