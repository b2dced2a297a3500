"""Sweeps: rows of overrides of a recipe, and the claims that they test."""
