"""A run shows one example with what is learned of it before anything is trained or paid for."""

import pytest

from distill_jax.runtime import example
from tests.runtime import test_overview


def shown(tmp_path, recipe, **changes) -> str:
  return "\n".join(example.lines(test_overview.context(tmp_path, recipe, **changes)))


def test_prompt_target_and_end_are_shown(tmp_path):
  text = shown(tmp_path, "quickstart")
  assert text.startswith("Example: prompt (plain text, ")
  assert "then [[target]] (ends in '<end>')\n  Question: " in text
  assert "\n  Reasoning:\n  [[" in text and text.endswith("<end>]]")


@pytest.mark.parametrize("recipe", ["answer_only", "socratic:quick", "tinythinker:quick"])
def test_every_format_has_an_example(recipe, tmp_path):
  changes = {"task.name": "arithmetic"} if recipe == "answer_only" else {}
  text = shown(tmp_path, recipe, **changes)
  assert "[[" in text and text.endswith("<end>]]")


def test_a_long_text_is_shortened_in_the_middle(monkeypatch, tmp_path):
  monkeypatch.setattr(example, "LONGEST", 20)
  assert " [...] " in shown(tmp_path, "quickstart")
