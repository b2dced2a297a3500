"""Which settings make sense. Each that does not is refused by name, at the door.

`s` is a settings.Settings throughout.
"""

import pathlib

from distill_jax import errors, tasks
from distill_jax import plan as plans

CHOICES = {
  "format": ("cot", "answer_only", "instruct", "staged", "socratic"),
  "start_from": ("previous", "base"),
  "task.name": tuple(tasks.LOADERS),
  "teacher.kind": ("builtin", "openai", "replay", "student"),
  "teacher.max_tokens_field": ("max_tokens", "max_completion_tokens"),
  "teacher.batch": ("", "api", "files"),
  "student.attention": ("auto", "plain", "cudnn", "splash"),
  "student.dtype": ("float32", "bfloat16"),
  "demonstrate.source": ("teacher", "gold"),
  "demonstrate.relabel": ("keep", "majority", "drop"),
  "feedback.kind": ("correct", "blind"),
  "socratic.mode": ("iterative", "unified"),
  "socratic.questions": ("model", "gold"),
  "pair.policy": ("right_over_wrong", "cot_over_plain", "both"),
  "pair.style": ("cot", "plain"),
  "prefer.loss": ("dpo", "robust", "ipo", "hinge", "simpo", "orpo", "kto"),
  "prefer.schedule": ("constant", "cosine", "linear"),
  "train.schedule": ("constant", "cosine", "linear"),
  "train.remat": ("none", "dots", "full"),
  "sft.denominator": ("weights", "all_tokens"),
  "triplet.pool": ("last", "mean"),
}

WORLDS = ("arithmetic", "taxonomy")  # tasks that are made, not read
STAGES = ("recall", "analyze", "summarize")
STYLES = ("cot", "plain")

AT_LEAST_ONE = (
  "exam.samples",
  "exam.max_new_tokens",
  "evaluate.max_new_tokens",
  "demonstrate.rationales",
  "demonstrate.passes",
  "socratic.max_steps",
  "evaluate.num_votes",
  "prefer.batch",
  "feedback.mistakes",
  "feedback.rationales",
  "teacher.max_concurrency",
  "teacher.max_attempts",
  "teacher.max_tokens",
  "teacher.max_requests",
  "teacher.batch_size",
  "student.scratch.width",
  "student.scratch.layers",
  "student.scratch.heads",
  "student.scratch.kv_heads",
  "student.scratch.mlp",
  "train.batch",
  "train.grad_accum_steps",
  "train.checkpoint_every",
  "train.log_every",
  "train.logits_chunk",
  "triplet.max_response",
  "rollout.batch",
  "task.validation",
  "world.train",
  "world.test",
  "taxonomy.train",
  "taxonomy.test",
)

NOT_NEGATIVE = (
  "rounds",
  "seed",
  "stop.patience",
  "stop.min_gain",
  "task.train",
  "task.test",
  "teacher.temperature",
  "teacher.max_wait",
  "teacher.deadline",
  "teacher.max_tokens_retry_limit",
  "teacher.requests_per_minute",
  "teacher.tokens_per_minute",
  "teacher.prices.input",
  "teacher.prices.output",
  "teacher.max_dollars",
  "student.lora.rank",
  "student.scratch.rope_theta",
  "student.scratch.norm_eps",
  "cot.shots",
  "demonstrate.questions",
  "demonstrate.distance",
  "staged.interval",
  "staged.starts",
  "evaluate.temperature",
  "pair.max_pairs_per_prompt",
  "prefer.gamma",
  "prefer.nll_weight",
  "prefer.steps",
  "prefer.epochs",
  "prefer.lr",
  "prefer.warmup",
  "cross.train",
  "cross.test",
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
  "train.grad_clip_norm",
  "train.weight_decay",
  "triplet.margin",
  "world.out_of_domain",
  "taxonomy.out_of_domain",
  "world.families",
  "world.ood_extra_steps",
  "teacher.builtin.latency",
)

ABOVE_ZERO = (
  "teacher.timeout",
  "teacher.batch_poll",
  "student.lora.alpha",
  "train.eps",
  "prefer.beta",
)

LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")

# What only some plans read, with the value that leaves it alone.
FROM_GOLD = {"rationales": 1, "passes": 1, "distance": 0, "relabel": "keep", "show_gold": False}
OF_STAGES = {"options_split_on_commas": False, "teachers_order": False}
OF_CROSS = {"path": "", "hub": "", "train": 0, "test": 0}

BELOW_ONE = ("teacher.batch_discount", "train.beta1", "train.beta2")

PARTS = ("rollout.refill",)

SHARES = (
  "world.distractors",
  "taxonomy.exceptions",
  "prefer.label_smoothing",
  "teacher.builtin.error_rate",
  "teacher.min_reply_rate",
  "sft.prompt_weight",
  "exam.top_p",
)


def look_up(settings, field: str):
  for name in field.split("."):
    settings = getattr(settings, name)
  return settings


def _values(s, field: str):
  """(field, its value); of a field of config.teacher, those of config.teachers, too."""
  yield field, look_up(s, field)
  group, _, rest = field.partition(".")
  if group == "teacher":
    for name, teacher in s.teachers.items():
      yield f"teachers.{name}.{rest}", look_up(teacher, rest)


def check(s) -> None:
  """Refuses values and combinations that cannot work, before anything is loaded or paid for."""
  for key, allowed in CHOICES.items():
    for field, value in _values(s, key):
      if value not in allowed:
        example = f"--config.{field}={allowed[0]}"
        raise errors.config(field, value, f"one of {', '.join(allowed)}", example)
  for fields, ok, allowed in (
    (AT_LEAST_ONE, lambda v: v >= 1, "at least 1"),
    (NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
    (SHARES, lambda v: 0 <= v <= 1, "between 0 and 1"),
    (ABOVE_ZERO, lambda v: v > 0, "above 0"),
    (BELOW_ONE, lambda v: 0 <= v < 1, "0 or more and below 1"),
    (PARTS, lambda v: 0 < v <= 1, "above 0 and at most 1"),
  ):
    for field, value in (found for key in fields for found in _values(s, key)):
      if not ok(value):
        raise errors.config(field, value, allowed)
  _check_plan(s)
  _check_format(s)
  _check_student(s)
  _check_training(s)
  if "prefer" in s.opening + s.each_round:
    _check_preferences(s)
  _check_sources(s)


def _check_plan(s) -> None:
  for field in ("opening", "each_round"):
    for phase in look_up(s, field):
      if phase not in plans.PHASES:
        raise errors.config(field, phase, f"made of {', '.join(plans.PHASES)}")
  for field in ("opening", "each_round"):
    plan = look_up(s, field)
    for place, phase in enumerate(plan):
      if (other := plans.PHASES[phase].after) and other not in plan[:place]:
        raise errors.config(field, plan, f"a plan with {other} before {phase}")
    if len(set(plan)) < len(plan):
      raise errors.config(field, plan, "a plan that names each phase once")
    if "prefer" in plan and "train" in plan[plan.index("pair") : plan.index("prefer")]:
      allowed = "a plan without train between pair and prefer: the pairs know the reference policy"
      raise errors.config(field, plan, allowed)
  if not set(plans.TRAINERS) & set(s.opening):
    raise errors.config("opening", s.opening, "a plan with train (or pair and prefer) in it")
  if "train" in s.opening and not set(plans.WRITERS) & set(s.opening[: s.opening.index("train")]):
    raise errors.config(
      "opening", s.opening, f"a plan with one of {', '.join(plans.WRITERS)} before train"
    )
  if s.rounds and not s.each_round:
    raise errors.config("rounds", s.rounds, "0: nothing stands in each_round", "--config.rounds=0")
  if s.cross.name and set(plans.ASKERS) & set(s.each_round):
    allowed = "a plan without a teacher where config.cross is set: it teaches config.task"
    raise errors.config("each_round", s.each_round, allowed)
  if s.train.losses.triplet and "exam" not in s.opening + s.each_round:
    allowed = "0 where no phase is an exam: its negatives are the student's mistakes"
    raise errors.config("train.losses.triplet", s.train.losses.triplet, allowed)
  for field in ("contrast.positives", "contrast.negatives"):
    if s.train.losses.triplet and not look_up(s, field):
      raise errors.config(
        field, 0, "1 or more where there is a triplet loss", "--config.train.losses.triplet=0"
      )
  if s.exam.samples > 1 and s.exam.temperature == 0:
    raise errors.config(
      "exam.samples", s.exam.samples, "1 at temperature 0: all samples would be the same"
    )
  if s.evaluate.num_votes > 1 and s.evaluate.temperature == 0:
    allowed = "1 at evaluate.temperature 0: all votes would be the same"
    raise errors.config("evaluate.num_votes", s.evaluate.num_votes, allowed)


def _check_format(s) -> None:
  if s.cot.shots and s.format not in ("cot", "answer_only"):
    raise errors.config("cot.shots", s.cot.shots, f"0: format {s.format} shows no worked examples")
  styles = s.exam.styles
  several = s.format == "instruct"
  if (
    not styles or len(set(styles)) < len(styles) or set(styles) - set(STYLES if several else ("",))
  ):
    allowed = "one or both of cot, plain" if several else f"('',): format {s.format} has one way"
    raise errors.config("exam.styles", styles, allowed)
  if s.train.losses.triplet and s.format in ("staged", "socratic"):
    allowed = f"0: in format {s.format} a target is a part, and no part is right or wrong by itself"
    raise errors.config("train.losses.triplet", s.train.losses.triplet, allowed)
  if s.demonstrate.show_gold and s.format not in ("staged", "socratic"):
    allowed = f"False: in format {s.format} the teacher answers by itself"
    raise errors.config("demonstrate.show_gold", True, allowed)
  if "feedback" in s.opening + s.each_round and s.format in ("staged", "socratic", "answer_only"):
    field = "opening" if "feedback" in s.opening else "each_round"
    allowed = f"a plan without feedback: format {s.format} has no layout for corrections"
    raise errors.config(field, look_up(s, field), allowed)
  plans = s.opening + s.each_round
  if "rationalize" in plans and s.format != "cot":
    raise errors.config("format", s.format, "cot where a phase is rationalize: it has the hint")
  if "pair" in plans and s.format == "socratic":
    raise errors.config("format", "socratic", "another where a phase is pair: a step is no answer")
  if s.socratic.mode == "unified" and s.socratic.questions == "gold":
    allowed = "model with socratic.mode=unified: that student asks itself"
    raise errors.config("socratic.questions", "gold", allowed)
  if s.socratic.mode == "unified" and not s.socratic.solutions:
    allowed = "True with socratic.mode=unified: that student has written them itself"
    raise errors.config("socratic.solutions", False, allowed)
  if s.format != "staged":
    _refuse_unread(s, "compat.tinythinker", OF_STAGES, f"in format {s.format}: it has no stages")
  if s.demonstrate.source == "gold" and s.format == "staged" and len(s.staged.stages) > 1:
    allowed = "teacher: no data set comes with recalls and analyses"
    raise errors.config("demonstrate.source", "gold", allowed)
  if s.demonstrate.source == "gold":
    _refuse_unread(s, "demonstrate", FROM_GOLD, "with demonstrate.source=gold: nobody is asked")
  if s.format == "staged":
    stages, reflect = s.staged.stages, s.staged.reflect
    if stages not in ((*some, "summarize") for some in ((), STAGES[:1], STAGES[1:2], STAGES[:2])):
      allowed = "some of recall, analyze, in this order, and summarize"
      raise errors.config("staged.stages", stages, allowed)
    played = s.opening + (s.each_round if s.rounds else ())
    if "exam" in played and (
      not reflect or set(reflect) - set(stages) or len(set(reflect)) < len(reflect)
    ):
      raise errors.config("staged.reflect", reflect, f"some of {', '.join(stages)}, once each")


def _refuse_unread(s, group: str, unread: dict, why: str) -> None:
  """Refuses a setting that is turned although nobody reads it. `unread`: what leaves each alone."""
  for name, alone in unread.items():
    if (value := look_up(s, f"{group}.{name}")) != alone:
      raise errors.config(f"{group}.{name}", value, f"{alone!r} {why}")


def _check_preferences(s) -> None:
  p = s.prefer
  if bool(p.steps) == bool(p.epochs):
    allowed = f"0, or prefer.epochs (now {p.epochs}) must be 0: one decides"
    raise errors.config("prefer.steps", p.steps, allowed, "--config.prefer.epochs=0")
  if p.batch % s.train.grad_accum_steps:
    raise errors.config(
      "train.grad_accum_steps", s.train.grad_accum_steps, f"a divisor of prefer.batch ({p.batch})"
    )
  if p.loss == "kto" and s.train.grad_accum_steps > 1:
    allowed = "1 with prefer.loss=kto: its reference point is a mean over the whole batch"
    raise errors.config("train.grad_accum_steps", s.train.grad_accum_steps, allowed)
  if s.compat.tinythinker.nll_on_pads and (s.train.packing or not p.nll_weight):
    allowed = "False where rows are packed, or prefer.nll_weight is 0"
    raise errors.config("compat.tinythinker.nll_on_pads", True, allowed)
  if p.label_smoothing and p.loss not in ("dpo", "robust"):
    raise errors.config("prefer.label_smoothing", p.label_smoothing, f"0 with loss {p.loss}")
  if p.loss == "robust" and p.label_smoothing >= 0.5:
    raise errors.config("prefer.label_smoothing", p.label_smoothing, "below 0.5 with loss robust")
  if s.pair.policy != "right_over_wrong" and set(s.exam.styles) != set(STYLES):
    allowed = "right_over_wrong, or an exam in both styles"
    example = "--config.exam.styles=\"('cot', 'plain')\""
    raise errors.config("pair.policy", s.pair.policy, allowed, example)
  if s.format == "instruct" and s.pair.policy == "right_over_wrong":
    if s.pair.style not in s.exam.styles:
      allowed = f"one of exam.styles ({', '.join(s.exam.styles)}) with policy right_over_wrong"
      raise errors.config("pair.style", s.pair.style, allowed)


def _check_student(s) -> None:
  c, at = s.student.scratch, "student.scratch"
  if c.heads % c.kv_heads:
    raise errors.config(f"{at}.kv_heads", c.kv_heads, f"a divisor of {at}.heads ({c.heads})")
  if c.head_width < 2 or c.head_width % 2:
    raise errors.config(f"{at}.head_width", c.head_width, "even (rotary positions turn pairs)")
  if c.vocab < 260:
    raise errors.config(f"{at}.vocab", c.vocab, "at least 260: 256 bytes and the special tokens")
  if not s.student.init:
    raise errors.config("student.init", "", "scratch, a folder, or a name on the hub")
  targets = s.student.lora.targets
  if not targets or len(set(targets)) < len(targets) or set(targets) - set(LORA_TARGETS):
    allowed = f"one or more of {', '.join(LORA_TARGETS)}, once each"
    example = "--config.student.lora.targets=\"('q', 'v')\""
    raise errors.config("student.lora.targets", targets, allowed, example)


def _check_training(s) -> None:
  t = s.train
  if bool(t.steps) == bool(t.epochs):
    allowed = f"0, or train.epochs (now {t.epochs}) must be 0: one decides"
    raise errors.config("train.steps", t.steps, allowed, "--config.train.epochs=0")
  if t.batch % t.grad_accum_steps:
    raise errors.config(
      "train.grad_accum_steps", t.grad_accum_steps, f"a divisor of train.batch ({t.batch})"
    )
  if not t.losses.sft and not t.losses.triplet:
    raise errors.config("train.losses.sft", t.losses.sft, "above 0 where train.losses.triplet is 0")
  for field in ("train.buckets", "rollout.buckets"):
    buckets = look_up(s, field)
    if not buckets or any(b < 1 for b in buckets) or list(buckets) != sorted(set(buckets)):
      raise errors.config(
        field, buckets, "a rising list of lengths", f"--config.{field}=64,128,256"
      )


def _check_sources(s) -> None:
  if s.task.name == "arithmetic":
    if not 1 <= s.world.steps_min <= s.world.steps_max <= 5:
      raise errors.config("world.steps_max", s.world.steps_max, "from world.steps_min to 5")
    if not 6 <= s.world.operand_max <= 10_000:
      raise errors.config("world.operand_max", s.world.operand_max, "6 to 10000")
  if not s.cross.name:
    _refuse_unread(s, "cross", OF_CROSS, "where cross.name is empty: there is no second task")
  for group in ("task", "cross"):
    _check_files(group, look_up(s, group))
  if s.cross.name == s.task.name:
    raise errors.config("cross.name", s.cross.name, f"another task than {s.task.name}, or empty")


def _check_files(group: str, task) -> None:
  if task.name in ("", *WORLDS):
    return
  if task.name not in tasks.LOADERS:
    raise errors.config(f"{group}.name", task.name, f"one of {', '.join(tasks.LOADERS)}")
  if bool(task.path) == bool(task.hub):
    raise errors.config(
      f"{group}.path",
      task.path,
      f"the published files of this task (or set {group}.hub, not both)",
      f"--config.{group}.path=DIR",
    )
  if task.path and not pathlib.Path(task.path).exists():
    raise errors.config(f"{group}.path", task.path, "a file or folder that exists")
