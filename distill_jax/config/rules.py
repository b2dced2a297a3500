"""Rules between settings: combinations that cannot work are rejected before anything is loaded.

Bounds, choices and unread settings follow from the declarations; see `values.py`.
"""

import pathlib

from distill_jax import errors, plan
from distill_jax.config.values import look_up
from distill_jax.settings import WORLDS, Also, Cross, Settings, Task

STAGES = ("recall", "analyze", "summarize")
STYLES = ("cot", "plain")


def check(settings: Settings) -> None:
  """Checks combinations of settings.

  Raises:
    UserError: A combination cannot work.
  """
  _check_plan(settings)
  _check_samples(settings)
  _check_format(settings)
  _check_student(settings)
  _check_training(settings)
  if "prefer" in settings.opening + settings.each_round:
    _check_preferences(settings)
  _check_tasks(settings)


def _check_plan(s: Settings) -> None:
  for field in ("opening", "each_round"):
    phases = look_up(s, field)
    for position, phase in enumerate(phases):
      if (other := plan.PHASES[phase].after) and other not in phases[:position]:
        raise errors.config(field, phases, f"a plan with {other} before {phase}")
    if len(set(phases)) < len(phases):
      raise errors.config(field, phases, "a plan that names each phase once")
    if "prefer" in phases and "train" in phases[phases.index("pair") : phases.index("prefer")]:
      allowed = "a plan without train between pair and prefer: pairs hold reference log-probs"
      raise errors.config(field, phases, allowed)
  prompting_only = not s.opening and not s.rounds  # the untrained student is scored
  if not prompting_only and not set(plan.TRAINERS) & set(s.opening):
    allowed = "a plan with train (or pair and prefer) in it, or empty with rounds=0: no training"
    raise errors.config("opening", s.opening, allowed)
  if "train" in s.opening and not set(plan.WRITERS) & set(s.opening[: s.opening.index("train")]):
    allowed = f"a plan with one of {', '.join(plan.WRITERS)} before train"
    raise errors.config("opening", s.opening, allowed)
  if s.rounds and not s.each_round:
    raise errors.config("rounds", s.rounds, "0, because each_round is empty", "--config.rounds=0")
  if s.cross.name and set(plan.ASKERS) & set(s.each_round):
    allowed = "a plan without a teacher if config.cross is set: the teacher teaches config.task"
    raise errors.config("each_round", s.each_round, allowed)


def _check_samples(s: Settings) -> None:
  if s.train.losses.triplet and "exam" not in s.opening + s.each_round:
    allowed = "0 if no phase is an exam: its negatives are the student's mistakes"
    raise errors.config("train.losses.triplet", s.train.losses.triplet, allowed)
  for field in ("contrast.positives", "contrast.negatives"):
    if s.train.losses.triplet and not look_up(s, field):
      allowed = "1 or more with a triplet loss"
      raise errors.config(field, 0, allowed, "--config.train.losses.triplet=0")
  if s.exam.samples > 1 and s.exam.temperature == 0:
    allowed = "1 at temperature 0, where all samples are equal"
    raise errors.config("exam.samples", s.exam.samples, allowed)
  if s.evaluate.num_votes > 1 and s.evaluate.temperature == 0:
    allowed = "1 at evaluate.temperature 0, where all votes are equal"
    raise errors.config("evaluate.num_votes", s.evaluate.num_votes, allowed)


def _check_format(s: Settings) -> None:
  planned = s.opening + s.each_round
  _check_styles(s)
  if s.train.losses.triplet and s.format in ("staged", "socratic"):
    allowed = f"0 with format {s.format}: its targets are parts, which are not right or wrong"
    raise errors.config("train.losses.triplet", s.train.losses.triplet, allowed)
  if "feedback" in planned and s.format in ("staged", "socratic", "answer_only"):
    field = "opening" if "feedback" in s.opening else "each_round"
    allowed = f"a plan without feedback: format {s.format} has no layout for corrections"
    raise errors.config(field, look_up(s, field), allowed)
  if "rationalize" in planned and s.format != "cot":
    allowed = "cot if a phase is rationalize: only that format has a hint"
    raise errors.config("format", s.format, allowed)
  if "pair" in planned and s.format == "socratic":
    allowed = "another if a phase is pair: a socratic step has no answer of its own"
    raise errors.config("format", "socratic", allowed)
  if s.format == "staged":
    _check_stages(s)


def _check_styles(s: Settings) -> None:
  styles, several = s.exam.styles, s.format == "instruct"
  known = STYLES if several else ("",)
  if "exam" not in s.opening + s.each_round:
    return
  if not styles or len(set(styles)) < len(styles) or set(styles) - set(known):
    allowed = "one or both of cot, plain" if several else f"('',): format {s.format} has one style"
    raise errors.config("exam.styles", styles, allowed)


def _check_stages(s: Settings) -> None:
  stages, reflect = s.staged.stages, s.staged.reflect
  first = ((), STAGES[:1], STAGES[1:2], STAGES[:2])
  if stages not in [(*some, "summarize") for some in first]:
    allowed = "some of recall, analyze, in this order, and summarize"
    raise errors.config("staged.stages", stages, allowed)
  if s.demonstrate.source == "gold" and len(stages) > 1 and "demonstrate" in s.opening:
    allowed = "teacher: no data set comes with recalls and analyses"
    raise errors.config("demonstrate.source", "gold", allowed)
  used = s.opening + (s.each_round if s.rounds else ())
  invalid = not reflect or set(reflect) - set(stages) or len(set(reflect)) < len(reflect)
  if "exam" in used and invalid:
    raise errors.config("staged.reflect", reflect, f"some of {', '.join(stages)}, once each")


def _check_preferences(s: Settings) -> None:
  p = s.prefer
  if bool(p.steps) == bool(p.epochs):
    allowed = f"0, or prefer.epochs (now {p.epochs}) must be 0: exactly one is set"
    raise errors.config("prefer.steps", p.steps, allowed, "--config.prefer.epochs=0")
  field = "train.grad_accum_steps"
  if p.batch % s.train.grad_accum_steps:
    allowed = f"a divisor of prefer.batch ({p.batch})"
    raise errors.config(field, s.train.grad_accum_steps, allowed)
  if p.loss == "kto" and s.train.grad_accum_steps > 1:
    allowed = "1 with prefer.loss=kto: its reference point is a mean over the whole batch"
    raise errors.config(field, s.train.grad_accum_steps, allowed)
  if s.compat.tinythinker.nll_on_pads and (s.train.packing or not p.nll_weight):
    allowed = "False if rows are packed or prefer.nll_weight is 0"
    raise errors.config("compat.tinythinker.nll_on_pads", True, allowed)
  if p.loss == "robust" and p.label_smoothing >= 0.5:
    raise errors.config("prefer.label_smoothing", p.label_smoothing, "below 0.5 with loss robust")
  if s.pair.policy != "right_over_wrong" and set(s.exam.styles) != set(STYLES):
    allowed = "right_over_wrong, or an exam in both styles"
    raise errors.config("pair.policy", s.pair.policy, allowed, "--config.exam.styles=cot,plain")
  if s.format == "instruct" and s.pair.policy == "right_over_wrong":
    if s.pair.style not in s.exam.styles:
      allowed = f"one of exam.styles ({', '.join(s.exam.styles)}) with policy right_over_wrong"
      raise errors.config("pair.style", s.pair.style, allowed)


def _check_student(s: Settings) -> None:
  c, at = s.student.scratch, "student.scratch"
  if c.heads % c.kv_heads:
    raise errors.config(f"{at}.kv_heads", c.kv_heads, f"a divisor of {at}.heads ({c.heads})")
  if c.head_width % 2:
    allowed = "even: rotary position embeddings rotate pairs"
    raise errors.config(f"{at}.head_width", c.head_width, allowed)
  if not s.student.init:
    allowed = "scratch, a directory, or a name on the hub"
    raise errors.config("student.init", "", allowed, "--config.student.init=DIRECTORY")
  targets = s.student.lora.targets
  if not targets or len(set(targets)) < len(targets):
    allowed = "one or more of q, k, v, o, gate, up, down, once each"
    example = "--config.student.lora.targets=q,v"
    raise errors.config("student.lora.targets", targets, allowed, example)


def _check_training(s: Settings) -> None:
  t = s.train
  if bool(t.steps) == bool(t.epochs):
    allowed = f"0, or train.epochs (now {t.epochs}) must be 0: exactly one is set"
    raise errors.config("train.steps", t.steps, allowed, "--config.train.epochs=0")
  if bool(t.batch) == bool(t.batch_tokens):
    allowed = f"0, or train.batch_tokens (now {t.batch_tokens}) must be 0: exactly one is set"
    raise errors.config("train.batch", t.batch, allowed, "--config.train.batch=0")
  if t.batch % t.grad_accum_steps:
    allowed = f"a divisor of train.batch ({t.batch})"
    raise errors.config("train.grad_accum_steps", t.grad_accum_steps, allowed)
  for field in ("train.lr", "prefer.lr"):
    if look_up(s, field) not in (-1, abs(look_up(s, field))):
      raise errors.config(field, look_up(s, field), "0 or more, or -1: as fits the student")
  if not t.losses.sft and not t.losses.triplet:
    raise errors.config("train.losses.sft", t.losses.sft, "above 0 if train.losses.triplet is 0")
  for field in ("train.buckets", "rollout.buckets"):
    buckets = look_up(s, field)
    if (buckets and buckets[0] < 1) or list(buckets) != sorted(set(buckets)):
      raise errors.config(field, buckets, "increasing lengths", f"--config.{field}=64,128,256")


def _check_tasks(s: Settings) -> None:
  also = s.evaluate.also
  if "arithmetic" in (s.task.name, s.cross.name, also.name):
    if not 1 <= s.world.steps_min <= s.world.steps_max <= 5:
      raise errors.config("world.steps_max", s.world.steps_max, "from world.steps_min to 5")
    if not 6 <= s.world.operand_max <= 10_000:
      raise errors.config("world.operand_max", s.world.operand_max, "6 to 10000")
  _check_files("task", s.task)
  _check_files("cross", s.cross)
  _check_files("evaluate.also", also)
  if s.cross.name == s.task.name:
    raise errors.config("cross.name", s.cross.name, f"another task than {s.task.name}, or empty")
  if also.name and also.name in (s.task.name, s.cross.name):
    allowed = f"another task than {also.name}, which is tested already, or empty"
    raise errors.config("evaluate.also.name", also.name, allowed)


def _check_files(group: str, task: Task | Cross | Also) -> None:
  if task.name in ("", *WORLDS):
    return
  if bool(task.path) == bool(task.hub):
    raise errors.config(
      f"{group}.path",
      task.path,
      f"the published files of this task (or set {group}.hub, not both)",
      f"--config.{group}.path=DIR",
    )
  if task.path and not pathlib.Path(task.path).exists():
    raise errors.config(f"{group}.path", task.path, "a file or directory that exists")
