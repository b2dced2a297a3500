"""A teacher client that backs off for milliseconds."""

import pytest

from distill_jax.teacher.client import rate_limit


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.004)
