"""The built-in teacher: an OpenAI-compatible server that knows the built-in worlds."""
