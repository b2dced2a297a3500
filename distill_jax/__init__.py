"""Distills reasoning from a black-box large language model into small students, in rounds."""
