"""Shortens the client's backoff to milliseconds."""

import pytest

from distill_jax.teacher.client import rate_limit


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.004)
