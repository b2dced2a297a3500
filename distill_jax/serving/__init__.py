"""Serves a student through OpenAI's API on loopback: `http` -> `api` -> `engine` -> the student."""
