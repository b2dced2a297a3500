"""Packages of the wheel. Everything else is in pyproject.toml.

configs/ stays at the top of the repository, where people edit it, and is installed as
distill_jax/configs. pyproject.toml cannot combine such a mapping with automatic discovery.
"""

from setuptools import find_packages, setup

setup(
  packages=[
    *find_packages(include=["distill_jax", "distill_jax.*"]),
    "distill_jax.configs",
    "distill_jax.configs.sweeps",
  ],
  package_dir={"distill_jax.configs": "configs"},
)
