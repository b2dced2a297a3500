"""Benchmarks. Each module prints its results as lines of JSON."""
