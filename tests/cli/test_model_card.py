"""The model card names what the student was trained from."""

import pytest

from distill_jax import settings
from distill_jax.cli import model_card


def card(init: str, *, arch: str = "", rank: int = 0) -> str:
  lora = settings.Lora(rank=rank, targets=("q", "v"))
  student = settings.Student(init=init, arch=arch, lora=lora)
  return model_card.write(
    settings.Settings(student=student), [], round_index=1, finals={}, prompt="Q\n", name="it"
  )


@pytest.mark.parametrize(
  "student, text",
  [
    ({"init": "scratch"}, "scratch, as a `llama` (width 96, 2 layers, 4 heads of width 24, 2 key"),
    ({"init": "scratch", "arch": "gpt2"}, "scratch, as a `gpt2`"),
    ({"init": "owner/model", "arch": "gpt2"}, "It was trained from `owner/model`.\n"),
    ({"init": "/some/where/model", "rank": 8}, "`model`, with LoRA adapters of rank 8 on q, v"),
  ],
)
def test_a_card_names_what_the_student_was_trained_from(student, text):
  assert text in card(**student)


def test_a_card_names_no_path_of_the_machine_and_no_rank_without_adapters():
  assert "/some" not in card("/some/where/model")
  assert "LoRA" not in card("scratch")
