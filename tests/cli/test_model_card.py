"""The model card says what the student began as."""

import types

import pytest

from distill_jax.cli import model_card

Some = types.SimpleNamespace
SIZES = Some(width=96, layers=2, heads=4, kv_heads=2, head_width=24, mlp=256)


def written(init: str, *, arch: str = "", rank: int = 0) -> str:
  lora = Some(rank=rank, alpha=16.0, targets=("q", "v"))
  settings = Some(
    recipe="tailored",
    task=Some(name="arithmetic"),
    teacher=Some(model="builtin"),
    evaluate=Some(max_new_tokens=64),
    student=Some(init=init, arch=arch, lora=lora, scratch=SIZES),
  )
  return model_card.write(settings, [], number=1, finals={}, prompt="Q\n", name="it")


@pytest.mark.parametrize(
  "student, said",
  [
    ({"init": "scratch"}, "a `llama` from scratch (width 96, 2 layers, 4 heads of 24 on 2 of"),
    ({"init": "scratch", "arch": "gpt2"}, "a `gpt2` from scratch"),
    ({"init": "owner/model", "arch": "gpt2"}, "It began as `owner/model`.\n"),
    ({"init": "/some/where/model", "rank": 8}, "`model`; trained were updates of rank 8 (LoRA, of"),
  ],
)
def test_a_card_names_what_the_student_began_as(student, said):
  assert said in written(**student)


def test_a_card_tells_nothing_of_the_machine_and_no_rank_where_there_is_none():
  assert "/some" not in written("/some/where/model")
  assert "LoRA" not in written("scratch")
