"""Recipes and kinds of students: two processes write what one process with two devices writes.

python -m pytest -m heavy tests/multiprocess/test_recipes_on_processes.py
"""

import pytest

from tests.multiprocess import commands

pytestmark = pytest.mark.heavy

SCRATCH = {
  "rounds": 1, "task.validation": 4, "student.scratch.width": 32, "student.scratch.head_width": 8,
  "student.scratch.mlp": 64, "student.scratch.layers": 1, "evaluate.max_new_tokens": 28,
  "rollout.batch": 8, "rollout.buckets": "192", "train.buckets": "256", "train.batch": 8,
  "train.epochs": 0, "train.steps": 8, "train.warmup": 0, "train.lr": 0.01, "train.log_every": 2,
}  # fmt: skip
WORDS = {"world.train": 24, "world.test": 4, "world.out_of_domain": 4}
EXAM = {"exam.samples": 4, "exam.temperature": 1.0, "exam.max_new_tokens": 28}
PREFER = {"prefer.batch": 8, "prefer.epochs": 0, "prefer.steps": 6, "prefer.warmup": 0}
TINYTHINKER = {
  "taxonomy.train": 24, "taxonomy.test": 4, "taxonomy.out_of_domain": 0, "taxonomy.options": 3,
  "staged.interval": 1, "demonstrate.rationales": 1, "demonstrate.passes": 1,
  "student.scratch.vocab": 512, "train.steps": 60,
}  # fmt: skip
SMALL = SCRATCH | WORDS | {"student.scratch.vocab": 320, "demonstrate.rationales": 1}
T5 = {"student.arch": "t5", "student.scratch.kv_heads": 4, "sft.prompt_weight": 0.0}
# From the exported student of a run; `:pretrained` measures lengths, which the others are given.
FROM_HF = {
  "world.train": 24, "world.test": 4, "world.out_of_domain": 0, "task.validation": 4,
  "rollout.batch": 8, "train.batch": 8, "train.steps": 4, "train.epochs": 0, "train.log_every": 1,
}  # fmt: skip
# Trained until it ends its answers.
TRAINED = {"rounds": 0, "train.steps": 60, "train.lr": 0.01}
STAR = {"exam.max_new_tokens": 48, "evaluate.max_new_tokens": 48, "demonstrate.questions": 16}
LORA = {"student.lora.rank": 2, "student.lora.targets": "q,v"}
CASES = {
  "quickstart": ("quickstart", commands.TINY | {"rounds": 2}),
  "self_refine": ("self_refine", SMALL | EXAM | PREFER | {"exam.max_new_tokens": 80}),
  "tinythinker": ("tinythinker", SCRATCH | EXAM | PREFER | TINYTHINKER),
  "tinythinker_llama": ("tinythinker:quick", SCRATCH | EXAM | PREFER | TINYTHINKER),
  "socratic": ("socratic", SMALL | {"rounds": 0}),
  "star": ("star:quick", SMALL | TRAINED | STAR | {"rounds": 1}),
  "t5": ("quickstart", commands.TINY | T5),
  "lora": ("quickstart", commands.TINY | LORA | {"rounds": 0}),
  "loaded": ("tailored:pretrained", FROM_HF | {"rounds": 1}),
  "loaded_lora": ("self_refine:pretrained", FROM_HF | LORA | {"rounds": 1, "prefer.batch": 8}),
  "taught_by_student": (
    "quickstart", commands.TINY | {"rounds": 0, "teacher.kind": "student", "teacher.max_tokens": 64}
  ),
}  # fmt: skip
# The setting that names the exported student of another run.
MODEL = {
  "loaded": "student.init", "loaded_lora": "student.init", "taught_by_student": "teacher.model"
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """The exported student of a tiny run: a directory in Hugging Face format."""
  path = tmp_path_factory.mktemp("model")
  words = [f"--config.{key}={x}" for key, x in (commands.TINY | TRAINED).items()]
  run = [f"--workdir={path / 'run'}"]
  commands.run(path / "logs", ["run", "--config=quickstart", *words, *run], 1)
  commands.run(path / "export", ["export", *run, f"--out={path / 'out'}"], 1)
  return path / "out"


@pytest.mark.parametrize("name", CASES)
def test_two_processes_write_the_bytes_and_weights_of_one_with_two_devices(name, tmp_path, request):
  recipe, values = CASES[name]
  if name in MODEL:
    values = values | {MODEL[name]: request.getfixturevalue("model")}
  words = ["run", f"--config={recipe}", *(f"--config.{key}={x}" for key, x in values.items())]
  one, two = tmp_path / "one", tmp_path / "two"
  commands.run(tmp_path / "1", [*words, f"--workdir={one}"], 1, devices=2)
  several = commands.run(tmp_path / "2", [*words, f"--workdir={two}"], 2)
  commands.assert_equal(one, two)
  assert several.out(1) == "" == several.err(1)
