"""The rows of the table: each is a recipe with overrides, run with one or more seeds.

`{data}`, `{students}` and `{teacher}` in a value stand for the directories and the address of the
command line. A row is named BLOCK-ROW. The rows of a block are compared on the same questions.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from distill_jax.ablations import sweep

Overrides = dict[str, Any]

RATIONALES = "{data}/teacher_distilling_cot"
RECORDED: Overrides = {
  "teacher.kind": "replay",
  "teacher.replay.question": "instruction",
  "teacher.replay.rationale": "output",
}
UNTRAINED: Overrides = {"opening": (), "each_round": (), "rounds": 0}
LONGER: Overrides = {"train.buckets": (64, 128, 192, 256)}  # for rationales of level 5
# Attempts of an untrained student go on as long as they may. They are cut, since a step has three
# responses of a triplet for each rationale.
SHORT: Overrides = {"exam.max_new_tokens": 128}
TRIPLETS: Overrides = LONGER | SHORT | {"triplet.max_response": 96}
# Every row: attempts in the plain prompt of the format; the row `untrained` scores the base model.
COMMON: Overrides = {
  "student.prompt": "plain",
  "evaluate.base": False,
  "train.batch": 4,
  "train.remat": "dots",
  "train.log_every": 5,
}


def levels(*numbers: int) -> Overrides:
  """Returns the setting that replays GPT-4o's rationales for SVAMP of these levels of detail."""
  files = tuple(f"{RATIONALES}/svamp/SVAMP_ChatGPT_level{n}_ranked.json" for n in numbers)
  return {"teacher.replay.path": files}


def steps(count: int, rate: float) -> Overrides:
  """Returns the settings of a training by steps at a peak learning rate."""
  return {"train.epochs": 0, "train.steps": count, "train.lr": rate}


@dataclasses.dataclass(frozen=True)
class Row:
  """One recipe, in the size for pretrained students, with overrides."""

  recipe: str
  overrides: Overrides = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Block:
  """Rows of one student on one task.

  Attributes:
    title: Heading in the table.
    student: Directory of the student, below the directory of students.
    size: Size of every recipe: pretrained or pretrained_lora.
    rows: The rows by name.
    common: Overrides of every row; those that a row does not read are left out.
    base: The row that all others are compared with.
    claims: Pairs (better, worse) of rows that are compared, too.
    splits: The splits in the table, besides validation.
    seeds: Seeds of every row.
  """

  title: str
  student: str
  size: str
  rows: Mapping[str, Row]
  common: Overrides
  base: str = "untrained"
  claims: tuple[tuple[str, str], ...] = ()
  splits: tuple[str, ...] = ("test",)
  seeds: tuple[int, ...] = (0,)


SEARCH: Overrides = {
  "task.name": "svamp",
  "task.path": "{data}/svamp",
  "task.validation": 100,
  "task.test": 30,  # validation decides
  "train.buckets": (64, 128, 192),  # 3 % of the rationales of level 3 are longer and left out
  **RECORDED,
}
SVAMP: Overrides = SEARCH | {
  "task.test": 0,
  "evaluate.also.name": "asdiv",
  "evaluate.also.path": "{data}/asdiv",
  "evaluate.also.test": 150,
}

PREFER: Overrides = {
  "exam.samples": 2,
  "exam.questions": 200,
  "prefer.epochs": 0,
  "prefer.steps": 40,
}


def tailored_row(count: int, rate: float, own: Overrides = TRIPLETS) -> Row:
  """Returns a row of round 0 and one more, trained for `count` steps in all.

  Rationales of level 3 in round 0; those of level 5 are the feedback. There is no second round of
  feedback, since level 1, the only other recorded one, is worse (search-smollm2).
  """
  return Row(
    "tailored", levels(3, 5) | steps(count // 2, rate) | {"rounds": 1, "exam.samples": 1} | own
  )


def tinythinker_row(count: int, rate: float, own: Overrides | None = None) -> Row:
  """Returns a row that recalls what the teacher wrote, trained for `count` steps, then with DPO."""
  shared: Overrides = {
    "staged.stages": ("recall", "summarize"),
    "staged.reflect": ("recall",),
    "demonstrate.rationales": 1,
    "demonstrate.passes": 1,
    "exam.questions": 100,
    "exam.samples": 4,
    "rounds": 1,
    "prefer.epochs": 0,
    "prefer.steps": 40,
  }
  return Row("tinythinker", shared | steps(count, rate) | (own or {}))


def svamp_rows(count: int, rate: float) -> dict[str, Row]:
  """Returns the rows on SVAMP, each trained for `count` steps in all."""
  taught = levels(3) | steps(count, rate)
  return {
    "untrained": Row("cot", UNTRAINED),
    "few_shot": Row("cot", UNTRAINED | {"cot.shots": 3}),
    "answer_only": Row("answer_only", steps(count, rate)),
    "cot": Row("cot", taught),
    # As many rationales as `tailored` has, and of the same levels.
    "cot_all": Row(
      "cot", levels(3, 5) | steps(count, rate) | {"demonstrate.rationales": 2} | LONGER
    ),
    "tailored": tailored_row(count, rate),
    "self_refine": Row("self_refine", taught | PREFER),
  }


SVAMP_CLAIMS = (
  ("cot", "answer_only"),
  ("tailored", "cot_all"),
  ("tailored", "cot"),
  ("self_refine", "cot"),
)


def search_rows(count: int, *rates: float) -> dict[str, Row]:
  """Returns cot rows by learning rate; only their validation matters."""
  rows = {f"lr{rate:.0e}".replace("e-0", "e-"): steps(count, rate) for rate in rates}
  return {name: Row("cot", levels(3) | own) for name, own in rows.items()}


# Around the settings of svamp-smollm2: rationales of other levels of detail, and more steps.
SEARCH_ROWS = {
  **search_rows(80, 2e-4, 6e-4, 5e-5),
  "level1": Row("cot", levels(1) | steps(80, 2e-4)),
  "level5": Row("cot", levels(5) | steps(80, 2e-4) | LONGER),
  "steps480": Row("cot", levels(3) | steps(480, 2e-4)),
  "lr5e-5-steps240": Row("cot", levels(3) | steps(240, 5e-5)),
}


def prefer_rows() -> dict[str, Row]:
  """Returns rows that train a tuned student with DPO in one setting each."""
  only = PREFER | {"opening": ("exam", "pair", "prefer"), "each_round": (), "rounds": 0}
  tried: dict[str, Overrides] = {
    "lr1e-6": {},  # that of svamp-smollm2-self_refine
    "lr5e-6": {"prefer.lr": 5e-6},
    "beta0.5": {"prefer.lr": 5e-6, "prefer.beta": 0.5},
    "right": {"prefer.lr": 5e-6, "pair.policy": "right_over_wrong"},
    "samples6": {"prefer.lr": 5e-6, "exam.samples": 6},
  }
  rows = {name: Row("self_refine", only | own) for name, own in tried.items()}
  return {"tuned": Row("self_refine", UNTRAINED)} | rows


SMOLLM2, QWEN = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
TUNED = "smollm2-svamp-tuned"  # round 0 of svamp-smollm2-self_refine, exported
GSM8K: Overrides = {
  "task.name": "gsm8k",
  "task.path": "{data}/gsm8k/test_socratic.jsonl",  # with sub-questions; 30 % are the test
  "task.validation": 100,
  "task.test": 200,
}
OBQA: Overrides = {
  "task.name": "openbookqa",
  "task.path": "{data}/obqa",
  "task.train": 800,
  "task.validation": 100,
  "task.test": 200,
  **RECORDED,
  "teacher.replay.path": f"{RATIONALES}/obqa/openbookQA_chatgpt_level_2_ranked.json",
}

LIVE: Overrides = {
  **{key: value for key, value in SEARCH.items() if not key.startswith("teacher.")},
  "task.train": 100,
  "task.test": 0,
  "teacher.kind": "openai",
  "teacher.base_url": "{teacher}",
  "teacher.model": "local",
  "teacher.max_tokens": 200,
  "teacher.prices.input": 0.0,
  "teacher.prices.output": 0.0,
}

BLOCKS: dict[str, Block] = {
  "search-smollm2": Block(
    "SmolLM2-135M-Instruct on SVAMP: settings of cot, 80 steps if not named",
    *(SMOLLM2, "pretrained", SEARCH_ROWS, SEARCH),
    base="lr2e-4",
    splits=(),
  ),
  "search-smollm2-lora": Block(
    "SmolLM2-135M-Instruct on SVAMP: learning rate of adapters, 80 steps",
    *(SMOLLM2, "pretrained_lora", search_rows(80, 2e-3, 5e-4), SEARCH),
    base="lr5e-4",
    splits=(),
  ),
  "search-smollm2-prefer": Block(
    "SmolLM2-135M-Instruct tuned on SVAMP: settings of DPO, 40 steps",
    *(TUNED, "pretrained", prefer_rows(), SEARCH | {"task.test": 0}),
    base="tuned",
  ),
  "search-smollm2-tailored": Block(
    "SmolLM2-135M-Instruct on SVAMP: settings of tailored, 240 steps",
    *(SMOLLM2, "pretrained"),
    rows={
      "triplet0": tailored_row(240, 2e-4, LONGER | SHORT | {"train.losses.triplet": 0.0}),
      "prompt0": tailored_row(240, 2e-4, TRIPLETS | {"sft.prompt_weight": 0.0}),
    },
    common=SEARCH | {"task.test": 0},
    base="triplet0",
  ),
  "search-smollm2-tinythinker": Block(
    "SmolLM2-135M-Instruct on OpenBookQA: settings of tinythinker",
    *(SMOLLM2, "pretrained"),
    rows={
      "lr5e-6": tinythinker_row(240, 2e-4, {"prefer.lr": 5e-6}),
      "steps480": tinythinker_row(480, 2e-4, {"rounds": 0}),
    },
    common=OBQA,
    base="lr5e-6",
  ),
  "svamp-smollm2": Block(
    "SmolLM2-135M-Instruct on SVAMP",
    *(SMOLLM2, "pretrained", svamp_rows(240, 2e-4), SVAMP),
    claims=SVAMP_CLAIMS,
    splits=("test", "also"),
    seeds=(0, 1),
  ),
  "svamp-qwen": Block(
    "Qwen2.5-Coder-0.5B-Instruct on SVAMP, adapters",
    *(QWEN, "pretrained_lora", svamp_rows(120, 2e-4)),
    common=SVAMP | {"task.validation": 50, "evaluate.also.test": 100, "exam.questions": 300},
    claims=SVAMP_CLAIMS,
    splits=("test", "also"),
  ),
  "gsm8k-smollm2": Block(
    "SmolLM2-135M-Instruct on GSM8K's own sub-questions",
    *(SMOLLM2, "pretrained"),
    rows={
      "untrained": Row("cot", UNTRAINED),
      "cot": Row("cot", {"demonstrate.source": "gold"} | steps(240, 2e-4)),
      # Two students, a decomposer and a solver, each trained for half of the steps.
      "socratic": Row("socratic", {"demonstrate.source": "gold"} | steps(120, 2e-4)),
      # One student writes sub-questions and solutions.
      "socratic_unified": Row(
        "socratic", {"demonstrate.source": "gold", "socratic.mode": "unified"} | steps(240, 2e-4)
      ),
    },
    common=GSM8K,
    claims=(("socratic", "cot"), ("socratic_unified", "cot")),
  ),
  "obqa-smollm2": Block(
    "SmolLM2-135M-Instruct on OpenBookQA",
    *(SMOLLM2, "pretrained"),
    rows={
      "untrained": Row("cot", UNTRAINED),
      "cot": Row("cot", steps(240, 2e-4)),
      "tinythinker": tinythinker_row(240, 2e-4),
    },
    common=OBQA,
    claims=(("tinythinker", "cot"),),
  ),
  "live-smollm2": Block(
    "SmolLM2-135M-Instruct taught by Qwen2.5-Coder-0.5B-Instruct, live",
    *(SMOLLM2, "pretrained"),
    rows={
      "untrained": Row("cot", UNTRAINED),
      "tailored": Row("tailored", steps(30, 2e-4) | {"rounds": 1, "exam.samples": 2} | TRIPLETS),
    },
    common=LIVE,
  ),
}


def name_of(block: str, row: str) -> str:
  """Returns the full name of a row, which is also that of its directory."""
  return f"{block}-{row}"


def names() -> list[str]:
  """Returns the full names of all rows, in the order in which they are played."""
  return [name_of(block, row) for block, found in BLOCKS.items() for row in found.rows]


def plan(
  wanted: str, *, runs: pathlib.Path, data: pathlib.Path, students: pathlib.Path, teacher: str
) -> list[tuple[str, str, sweep.PlannedRun]]:
  """Returns (block, row, run) of the rows whose full name begins with `wanted`, by seed.

  Raises:
    UserError: The config of a row is invalid, or a directory is missing.
  """
  places = {"data": str(data), "students": str(students), "teacher": teacher}
  planned: list[tuple[str, str, sweep.PlannedRun]] = []
  for block, found in BLOCKS.items():
    for row, own in found.rows.items():
      if (name := name_of(block, row)).startswith(wanted):
        planned += [(block, row, run) for run in runs_of(name, found, own, runs, places)]
  return sorted(planned, key=lambda found: found[2].seed)  # stable


def common_of(block: Block) -> Overrides:
  """Returns the overrides that the rows of a block share, with directories in braces."""
  return COMMON | block.common | {"student.init": "{students}/" + block.student}


def runs_of(
  name: str, block: Block, row: Row, runs: pathlib.Path, places: Mapping[str, str]
) -> list[sweep.PlannedRun]:
  """Returns the runs of a row, one per seed of its block.

  Args:
    name: The name of the row, and of its directory.
    block: Its block; the other rows do not matter.
    row: The row.
    runs: Directory of all runs.
    places: What `{data}`, `{students}` and `{teacher}` stand for.
  """
  single = sweep.Sweep(
    config=f"{row.recipe}:{block.size}",
    rows={name: _filled(row.overrides, places)},
    base=name,
    seeds=block.seeds,
    common=_filled(common_of(block), places),
    cache=str(runs / "teacher.sqlite"),
  )
  return sweep.plan_runs(single, runs)


def _filled(overrides: Overrides, places: Mapping[str, str]) -> Overrides:
  """The overrides with the directories of the command line in their values."""

  def fill(value: Any) -> Any:
    if isinstance(value, tuple):
      return tuple(map(fill, value))
    return value.format(**places) if isinstance(value, str) else value

  return {key: fill(value) for key, value in overrides.items()}
