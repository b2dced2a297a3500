"""The door: a ConfigDict becomes frozen settings without defaults, and what makes no sense is
refused here.

A key that is unknown or missing, a value of the wrong type, and a combination that cannot work each
give one line that names the field. What the keys mean stands in configs/base.py.
"""

import dataclasses
import os
import pathlib
import types

from distill_jax import errors

Group = dataclasses.dataclass(frozen=True)


@Group
class Stop:
  patience: int
  min_gain: float


@Group
class Task:
  name: str
  path: str
  hub: str
  train: int
  validation: int
  test: int


@Group
class World:
  seed: int
  train: int
  test: int
  out_of_domain: int
  steps_min: int
  steps_max: int
  operand_max: int
  families: int
  distractors: float
  ood_extra_steps: int


@Group
class Prices:
  input: float
  output: float


@Group
class Builtin:
  error_rate: float
  latency: float
  faults: str


@Group
class Replay:
  path: tuple[str, ...]
  question: str
  rationale: str


@Group
class Teacher:
  kind: str
  model: str
  base_url: str
  key_env: str
  temperature: float
  max_tokens: int
  max_tokens_field: str
  concurrency: int
  timeout: float
  attempts: int
  patience: float
  prices: Prices
  max_dollars: float
  max_requests: int
  cache: str
  builtin: Builtin
  replay: Replay


@Group
class Student:
  init: str
  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp: int
  rope_theta: float
  norm_eps: float
  tied: bool
  dtype: str


@Group
class Mesh:
  data: int
  fsdp: int
  tensor: int


@Group
class Cot:
  shots: int


@Group
class Demonstrate:
  rationales: int
  questions: int


@Group
class Exam:
  questions: int
  samples: int
  temperature: float
  top_p: float
  top_k: int
  new_tokens: int


@Group
class Feedback:
  kind: str
  show_gold: bool
  mistakes: int
  rationales: int


@Group
class Contrast:
  positives: int
  negatives: int


@Group
class Losses:
  sft: float
  triplet: float


@Group
class Train:
  losses: Losses
  steps: int
  epochs: int
  batch: int
  micro: int
  buckets: tuple[int, ...]
  lr: float
  schedule: str
  warmup: int
  beta1: float
  beta2: float
  eps: float
  weight_decay: float
  clip: float
  checkpoint_every: int
  log_every: int
  chunk: int


@Group
class Sft:
  prompt_weight: float
  denominator: str


@Group
class Triplet:
  margin: float
  pool: str
  detach_prompt: bool
  max_response: int


@Group
class Evaluate:
  new_tokens: int


@Group
class Rollout:
  batch: int
  buckets: tuple[int, ...]


@Group
class Settings:
  recipe: str
  seed: int
  format: str
  opening: tuple[str, ...]
  each_round: tuple[str, ...]
  rounds: int
  carry: str
  start_from: str
  stop: Stop
  task: Task
  world: World
  teacher: Teacher
  student: Student
  mesh: Mesh
  cot: Cot
  demonstrate: Demonstrate
  exam: Exam
  feedback: Feedback
  contrast: Contrast
  train: Train
  sft: Sft
  triplet: Triplet
  evaluate: Evaluate
  rollout: Rollout


def read(config: dict) -> Settings:
  """Settings from a plain nested dict (ConfigDict.to_dict()).

  Raises Refusal (exit code 3) for whatever is missing, unknown, of the wrong type, or makes no
  sense.
  """
  settings = _group(Settings, config, "")
  check(settings)
  return settings


def _group(kind, values, at: str):
  if not isinstance(values, dict):
    raise errors.config(at, values, "a group of settings")
  names = {f.name: f.type for f in dataclasses.fields(kind)}
  path = lambda name: f"{at}.{name}" if at else name
  for name in values:
    if name not in names:
      raise errors.Refusal(
        f"config.{path(name)} is not a setting; there are: {', '.join(names)}", errors.CONFIG
      )
  for name in names:
    if name not in values:
      raise errors.Refusal(f"config.{path(name)} is missing (see configs/base.py)", errors.CONFIG)
  return kind(**{name: _value(hint, values[name], path(name)) for name, hint in names.items()})


def _value(hint, value, at: str):
  if dataclasses.is_dataclass(hint):
    return _group(hint, value, at)
  if isinstance(hint, types.GenericAlias):  # tuple[X, ...]
    if not isinstance(value, tuple | list):
      raise errors.config(at, value, "a tuple", f"--config.{at}='(a, b)'")
    return tuple(_value(hint.__args__[0], v, f"{at}[{n}]") for n, v in enumerate(value))
  if hint is float and type(value) is int:
    return float(value)
  if type(value) is not hint:
    raise errors.config(at, value, f"of type {hint.__name__}")
  return value


CHOICES = {
  "format": ("cot",),
  "carry": ("append", "replace"),
  "start_from": ("previous", "base"),
  "task.name": ("arithmetic", "gsm8k", "svamp"),
  "teacher.kind": ("builtin", "openai", "replay"),
  "teacher.max_tokens_field": ("max_tokens", "max_completion_tokens"),
  "student.init": ("scratch",),
  "student.dtype": ("float32", "bfloat16"),
  "feedback.kind": ("correct", "blind"),
  "train.schedule": ("constant", "cosine", "linear"),
  "sft.denominator": ("weights", "all_tokens"),
  "triplet.pool": ("last", "mean"),
}

PHASES = ("demonstrate", "exam", "feedback", "train")

AT_LEAST_ONE = (
  "exam.samples",
  "exam.new_tokens",
  "evaluate.new_tokens",
  "demonstrate.rationales",
  "feedback.mistakes",
  "feedback.rationales",
  "teacher.concurrency",
  "teacher.attempts",
  "teacher.max_tokens",
  "teacher.max_requests",
  "student.width",
  "student.layers",
  "student.heads",
  "student.kv_heads",
  "student.mlp",
  "train.batch",
  "train.micro",
  "train.checkpoint_every",
  "train.log_every",
  "train.chunk",
  "triplet.max_response",
  "rollout.batch",
  "task.validation",
  "world.train",
  "world.test",
)

NOT_NEGATIVE = (
  "rounds",
  "seed",
  "stop.patience",
  "stop.min_gain",
  "task.train",
  "task.test",
  "teacher.temperature",
  "teacher.timeout",
  "teacher.patience",
  "teacher.prices.input",
  "teacher.prices.output",
  "teacher.max_dollars",
  "cot.shots",
  "demonstrate.questions",
  "exam.questions",
  "exam.temperature",
  "exam.top_k",
  "contrast.positives",
  "contrast.negatives",
  "train.losses.sft",
  "train.losses.triplet",
  "train.steps",
  "train.epochs",
  "train.lr",
  "train.warmup",
  "train.clip",
  "train.weight_decay",
  "triplet.margin",
  "world.out_of_domain",
  "teacher.builtin.latency",
)

SHARES = ("world.distractors", "teacher.builtin.error_rate", "sft.prompt_weight", "exam.top_p")


def _look_up(settings, field: str):
  for name in field.split("."):
    settings = getattr(settings, name)
  return settings


def check(s: Settings) -> None:
  """Refuses values and combinations that cannot work, before anything is loaded or paid for."""
  for field, allowed in CHOICES.items():
    if (value := _look_up(s, field)) not in allowed:
      raise errors.config(
        field, value, f"one of {', '.join(allowed)}", f"--config.{field}={allowed[0]}"
      )
  for fields, ok, allowed in (
    (AT_LEAST_ONE, lambda v: v >= 1, "at least 1"),
    (NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
    (SHARES, lambda v: 0 <= v <= 1, "between 0 and 1"),
  ):
    for field in fields:
      if not ok(value := _look_up(s, field)):
        raise errors.config(field, value, allowed)
  _check_plan(s)
  _check_student(s)
  _check_training(s)
  _check_sources(s)


def _check_plan(s: Settings) -> None:
  for field in ("opening", "each_round"):
    for phase in _look_up(s, field):
      if phase not in PHASES:
        raise errors.config(field, phase, f"made of {', '.join(PHASES)}")
  for field in ("opening", "each_round"):
    plan = _look_up(s, field)
    if "feedback" in plan and "exam" not in plan[: plan.index("feedback")]:
      raise errors.config(field, plan, "a plan with an exam before the feedback")
    if len(set(plan)) < len(plan):
      raise errors.config(field, plan, "a plan that names each phase once")
  if "train" not in s.opening:
    raise errors.config("opening", s.opening, "a plan with train in it")
  if s.train.losses.triplet and "exam" not in s.opening + s.each_round:
    raise errors.config(
      "train.losses.triplet",
      s.train.losses.triplet,
      "0 where no phase is an exam: its negatives are the student's mistakes",
    )
  if s.exam.samples > 1 and s.exam.temperature == 0:
    raise errors.config(
      "exam.samples", s.exam.samples, "1 at temperature 0: all samples would be the same"
    )


def _check_student(s: Settings) -> None:
  c = s.student
  if c.heads % c.kv_heads:
    raise errors.config("student.kv_heads", c.kv_heads, f"a divisor of student.heads ({c.heads})")
  if c.head_width < 2 or c.head_width % 2:
    raise errors.config("student.head_width", c.head_width, "even (rotary positions turn pairs)")
  if c.vocab < 260:
    raise errors.config("student.vocab", c.vocab, "at least 260: 256 bytes and the special tokens")


def _check_training(s: Settings) -> None:
  t = s.train
  if bool(t.steps) == bool(t.epochs):
    raise errors.config(
      "train.steps",
      t.steps,
      f"0, or train.epochs (now {t.epochs}) must be 0: one decides",
      "--config.train.epochs=0",
    )
  if t.batch % t.micro:
    raise errors.config("train.micro", t.micro, f"a divisor of train.batch ({t.batch})")
  if not t.losses.sft and not t.losses.triplet:
    raise errors.config("train.losses.sft", t.losses.sft, "above 0 where train.losses.triplet is 0")
  for field in ("train.buckets", "rollout.buckets"):
    buckets = _look_up(s, field)
    if not buckets or any(b < 1 for b in buckets) or list(buckets) != sorted(set(buckets)):
      raise errors.config(
        field, buckets, "a rising list of lengths", f"--config.{field}=64,128,256"
      )


def _check_sources(s: Settings) -> None:
  if s.task.name == "arithmetic":
    if not 1 <= s.world.steps_min <= s.world.steps_max <= 5:
      raise errors.config("world.steps_max", s.world.steps_max, "from world.steps_min to 5")
    if s.world.operand_max < 4:
      raise errors.config("world.operand_max", s.world.operand_max, "4 or more")
  elif bool(s.task.path) == bool(s.task.hub):
    raise errors.config(
      "task.path",
      s.task.path,
      "the published files of this task (or set task.hub, not both)",
      "--config.task.path=DIR",
    )
  if s.task.path and not pathlib.Path(s.task.path).exists():
    raise errors.config("task.path", s.task.path, "a file or folder that exists")
  _check_teacher(s)


def _check_teacher(s: Settings) -> None:
  t = s.teacher
  if t.kind == "builtin" and s.task.name != "arithmetic":
    raise errors.config(
      "teacher.kind", t.kind, f"openai or replay: no world is behind task {s.task.name}"
    )
  if t.kind == "openai":
    if not t.base_url.startswith(("http://", "https://")):
      raise errors.config(
        "teacher.base_url",
        t.base_url,
        "the server's address",
        "--config.teacher.base_url=https://api.openai.com/v1",
      )
    local = any(
      t.base_url.startswith(f"http://{host}") for host in ("127.0.0.1", "localhost", "[::1]")
    )
    if not local and not os.environ.get(t.key_env):
      raise errors.config(
        "teacher.key_env",
        t.key_env,
        "an environment variable that holds the key",
        f"export {t.key_env}=...",
      )
  if t.kind == "replay":
    if not t.replay.path:
      raise errors.config(
        "teacher.replay.path",
        t.replay.path,
        "the recorded files",
        "--config.teacher.replay.path=FILE",
      )
    for path in t.replay.path:
      if not pathlib.Path(path).is_file():
        raise errors.config("teacher.replay.path", path, "a file that exists")
