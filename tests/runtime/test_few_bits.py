"""Weights in few bits are refused by name where they cannot be; none of this needs qwix."""

import dataclasses

import jax
import pytest

from distill_jax import errors, settings, students
from distill_jax.runtime import base_model
from distill_jax.students import quantized, trainable
from tests.golden import cases


@pytest.mark.parametrize("name", sorted(cases.CASES))
def test_every_family_is_quantized_or_refused_by_the_name_of_a_weight(name):
  config = cases.read(cases.CASES[name])
  adapted = trainable.Trainable(config, 2, base="nf4")
  inputs = min(
    x.shape[quantized.input_axis(axes)]
    for (path, x), axes in zip(
      jax.tree.leaves_with_path(students.of(config).shapes(config)),
      jax.tree.leaves(students.of(config).axes(config), is_leaf=lambda x: isinstance(x, tuple)),
      strict=True,
    )
    if quantized.covers(path[-1].key, axes)
  )
  if inputs % 16:
    with pytest.raises(ValueError, match=r"weight (q|k|v|o|gate|up|down) has \d+ inputs"):
      _ = adapted.frozen_shapes
  else:
    shapes = jax.tree.leaves(adapted.frozen_shapes, is_leaf=lambda x: isinstance(x, quantized.Nf4))
    assert any(isinstance(x, quantized.Nf4) for x in shapes)


@pytest.mark.parametrize("field", ["student.lora.base", "rollout.weights"])
def test_without_the_package_a_run_is_rejected_before_anything_is_read(
  monkeypatch, tmp_path, field
):
  monkeypatch.setattr(quantized, "PACKAGE", "qwix_of_nobody")
  s = settings.Settings()
  if field == "rollout.weights":
    changed = {"rollout": dataclasses.replace(s.rollout, weights="int8")}
  else:
    rank = dataclasses.replace(s.student.lora, rank=2, base="nf4")
    changed = {"student": dataclasses.replace(s.student, lora=rank)}
  with pytest.raises(errors.UserError, match=f"{field}.*pip install qwix_of_nobody"):
    base_model.open_base(dataclasses.replace(s, **changed), tmp_path, started=False, vocab=300)
