"""`python -m distill_jax`: the same as the command `distill-jax`."""

from distill_jax.cli import main

if __name__ == "__main__":
  main.entry()
