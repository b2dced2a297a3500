"""The sizes `pretrained` and `pretrained_lora` of recipes: training of a student that can read.

`student.init` is empty, which is an error until the user names a student. Rates, lengths and
recomputation follow from it; see defaults.py and runtime/lengths.py. What is here suits a few
hundred to a few thousand questions and students of 0.1 to 3 billion parameters.
"""

import dataclasses
from typing import Any

from distill_jax.settings_student import Scratch

FULL: dict[str, Any] = {
  # What a recipe sets for students from scratch does not apply.
  "student": {"init": "", "dtype": "auto", "scratch": dataclasses.asdict(Scratch())},
  "train": {"epochs": 3, "steps": 0, "batch": 8, "schedule": "cosine", "warmup": 10},
}
LORA: dict[str, Any] = {
  **FULL,
  "student": {
    **FULL["student"],
    "lora": {"rank": 16, "alpha": 32.0, "targets": ("q", "k", "v", "o", "gate", "up", "down")},
  },
}


def sizes(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the two sizes, with further settings of a recipe by group."""

  def joined(size: dict[str, Any]) -> dict[str, Any]:
    return {name: {**size.get(name, {}), **more.get(name, {})} for name in {**size, **more}}

  return {"pretrained": joined(FULL), "pretrained_lora": joined(LORA)}
