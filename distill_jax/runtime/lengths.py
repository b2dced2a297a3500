"""Lengths that follow from the data and the tokenizer of a pretrained student, in tokens.

Lengths that are set are kept; what is longer is reported before anything is paid for.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from distill_jax import defaults, errors, records
from distill_jax.machine import hf_write
from distill_jax.runtime import base_model
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings
from distill_jax.students.families import hf_config

LADDER = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
# Of rows in training on a CPU, where padding costs as much as text, and compilations take seconds.
FINE_LADDER = (*LADDER[:3], *(n * 32 * 2**k for k in range(7) for n in range(4, 8)))
LEAST_NEW, MOST_NEW, STEP_NEW = 256, 1024, 64  # tokens of an answer
CUT = "answers as long as these are cut off"
SEVERAL_TURNS = ("staged", "socratic")  # formats whose later prompts hold what was written before


class Lengths(NamedTuple):
  """What is in the data."""

  prompts: list[int]  # of every question, as the student reads it
  gold: list[int]  # of the gold rationales, as the student would write them
  also: Sequence[int] = ()  # prompts that nothing is learned from: they change no other length


def measure(ctx: RunContext) -> Lengths:
  """Measures the questions of all splits, each in its longest prompt."""
  problems = [*ctx.task.problems("train"), *ctx.task.problems("validation")]
  finals = ctx.final_problems()
  also = finals.pop("also", [])
  for split in finals.values():
    problems += split
  problems += ctx.round_task(1).problems("train") if ctx.settings.cross.name else []
  s, student = ctx.settings, ctx.student

  def prompts(asked: Sequence[records.Problem], shown: RunContext = ctx) -> list[int]:
    styles = dict.fromkeys(s.exam.styles)
    return [max(len(student.encode_prompt(shown.prompt(p, x))) for x in styles) for p in asked]

  only_read = prompts(also)
  if s.evaluate.base_shots:
    only_read += prompts(ctx.task.problems("validation"), ctx.with_shots(s.evaluate.base_shots))
  if "rationalize" in s.opening + s.each_round:
    hinted = (next(ctx.conversation(p, hint=p.gold))[0].prompt for p in problems)
    only_read += [len(student.encode_prompt(prompt)) for prompt in hinted]
  gold = [len(student.encode_target(p.rationale)) for p in problems if p.rationale]
  return Lengths(prompts(problems), gold, only_read)


def settle(ctx: RunContext) -> list[str]:
  """Sets the lengths of a pretrained student in `ctx.settings`.

  Returns:
    Lines that describe the lengths and name what exceeds them. None for a student from scratch,
    whose tokenizer may not exist yet.
  """
  if ctx.settings.student.init == "scratch":
    return []
  found = measure(ctx)
  if not found.prompts:
    return []
  on_cpu = ctx.student.mesh.devices.flat[0].platform == "cpu"
  positions = _positions(ctx.base)
  ctx.set_lengths(choose(ctx.given_settings, found, positions or LADDER[-1], fine=on_cpu))
  base_model.check_rows(ctx.settings, ctx.base.config)
  return describe(ctx.settings, found, positions)


def _positions(base: base_model.BaseModel) -> int:
  """Returns how many tokens a row of the student should have at most; 0 if that is not known."""
  table = base_model.learned_positions(base.config)
  name = next((name for name in hf_write.POSITIONS if base.fields.get(name) is not None), None)
  return table if table or name is None else hf_config.integer(base.fields, name)


def choose(s: Settings, found: Lengths, positions: int, *, fine: bool = False) -> Settings:
  """Returns the settings with lengths that fit the data, where none are set.

  Args:
    s: The settings.
    found: What is in the data.
    positions: The most tokens of a row.
    fine: Whether training has more buckets with less padding.

  Raises:
    UserError: The answers that are set leave no room for a prompt.
  """
  longest = max(found.prompts)
  new = _round_up(max([LEAST_NEW, *found.gold]), STEP_NEW)
  new = min(new, MOST_NEW, max(positions - longest, STEP_NEW), positions // 2)
  most_new = max(new, s.exam.max_new_tokens)  # of what may become a training row
  room = positions - max(most_new, s.evaluate.max_new_tokens)
  if room < 1 and not s.rollout.buckets:
    exam, evaluation = s.exam.max_new_tokens, s.evaluate.max_new_tokens
    field = "exam" if exam > evaluation else "evaluate"
    allowed = f"below {positions}, the tokens of a row with its prompt, or with rollout.buckets set"
    raise errors.config(f"{field}.max_new_tokens", max(exam, evaluation), allowed)
  if s.format in SEVERAL_TURNS:
    rollout = _ladder(LADDER[1], longest + 4 * most_new, room)
  else:
    rollout = _two_rungs(statistics.median(found.prompts), longest, room)
  if max(found.also, default=0) > rollout[-1]:
    rollout = (*rollout, *_ladder(_rung(max(found.also)), max(found.also), room))
  copies = 3 if s.train.losses.triplet else 2 if "prefer" in s.opening + s.each_round else 1
  return defaults.with_lengths(
    s,
    train=_ladder(LADDER[1], longest + copies * most_new, positions, fine=fine),
    rollout=rollout,
    exam=new,
    evaluate=new,
    response=new,
  )


def _round_up(n: int, step: int) -> int:
  return -(-n // step) * step


def _rung(n: float) -> int:
  """Returns the lowest rung of the ladder that is at least n."""
  return next((rung for rung in LADDER if rung >= n), _round_up(int(n), 1024))


def _ladder(start: int, need: int, limit: int, *, fine: bool = False) -> tuple[int, ...]:
  """Returns the rungs from `start` to the first that is at least `need`; none is above `limit`."""
  top = min(_rung(need), limit)
  rungs = FINE_LADDER if fine else LADDER
  return (*(rung for rung in rungs if start <= rung < top), top)


def _two_rungs(median: float, longest: int, limit: int) -> tuple[int, ...]:
  """Returns a rung for half of the prompts and one for all: each costs a compilation."""
  top = min(_rung(longest), limit)
  half = _rung(median)
  return (half, top) if top > 1.5 * half else (top,)


def describe(s: Settings, found: Lengths, positions: int = 0) -> list[str]:
  """Returns lines about lengths: what the data have, what is set, and what exceeds it.

  Args:
    s: The settings.
    found: What is in the data.
    positions: The most tokens of a row that the student was trained on; 0 if that is not known.
  """
  median = int(statistics.median(found.prompts))
  parts = [f"prompts {median} (median) to {max(found.prompts)}"]
  if found.gold:
    parts.append(f"gold rationales up to {max(found.gold)}")
  lines = [
    f"lengths in tokens: {', '.join(parts)}; exam.max_new_tokens {s.exam.max_new_tokens}, "
    f"evaluate.max_new_tokens {s.evaluate.max_new_tokens}, rollout.buckets "
    f"{_listed(s.rollout.buckets)}, train.buckets {_listed(s.train.buckets)}"
  ]
  response = s.triplet.max_response
  prompts, gold = (found.prompts, "prompts"), (found.gold, "gold rationales")
  limits = [
    (prompts, max(s.rollout.buckets), "rollout.buckets", "they lose their beginnings"),
    (gold, s.evaluate.max_new_tokens, "evaluate.max_new_tokens", CUT),
  ]
  if "exam" in s.opening + s.each_round:
    limits.append((gold, s.exam.max_new_tokens, "exam.max_new_tokens", CUT))
  if s.train.losses.triplet:
    limits.append((gold, response, "triplet.max_response", "they are cut"))
  for (lengths, what), limit, key, effect in limits:
    if count := sum(length > limit for length in lengths):
      lines.append(f"{count} of {len(lengths)} {what} are longer than {key} ({limit}): {effect}")
  if positions and (longest := base_model.max_row_length(s)) > positions:
    lines.append(
      f"rows have up to {longest} tokens (train.buckets, or rollout.buckets and max_new_tokens),"
      f" but the student was made for {positions}: it may do worse there"
    )
  return lines


def _listed(values: Sequence[int]) -> str:
  return ",".join(map(str, values))
