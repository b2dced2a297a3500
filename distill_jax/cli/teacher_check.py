"""teacher check: sends one real request of a recipe, and shows how a run would use the reply.

Nothing is stored: the reply is not part of any run.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Sequence

from distill_jax import console, errors, phases, plan, records, teacher
from distill_jax.config import rules_teacher
from distill_jax.phases import demonstrate, feedback
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import rationales
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings, Teacher
from distill_jax.teacher import pool, presets, types
from distill_jax.teacher.client import probes

ATTEMPTS = 2  # at most, for the one request
ATTEMPT = "I am not sure.\nAnswer: 0"  # stands for a student's mistake


def check(settings: Settings) -> int:
  """Checks every teacher of the first phase that uses a teacher.

  Args:
    settings: The settings.

  Returns:
    The exit code: 0 if the reply of every teacher could be parsed, else 5.

  Raises:
    UserError: The recipe uses no teacher, or a teacher cannot be reached.
  """
  screen = console.Console()
  round_index, phase = _first_asker(settings)
  names = pool.teachers_used(settings, [phase])
  readable = [_check_one(screen, settings, name, round_index, phase) for name in names]
  return 0 if all(readable) else errors.TEACHER


def _first_asker(settings: Settings) -> tuple[int, str]:
  askers = rules_teacher.askers(settings)
  for round_index, phases_ in enumerate((settings.opening, settings.each_round)):
    if asking := [name for name in phases_ if name in askers]:
      return round_index, asking[0]
  raise errors.usage("no phase of this recipe uses a teacher, so there is nothing to check")


def _check_one(
  screen: console.Console, settings: Settings, name: str, round_index: int, phase: str
) -> bool:
  """Checks one teacher; returns whether its reply can be read."""
  chosen = pool.get(settings, name)
  if chosen.batch == "files":
    raise errors.config("teacher.batch", chosen.batch, "'' or api, to be checked from here")
  only = dataclasses.replace(
    chosen,
    pool=(),
    by_phase=(),
    cache="",
    batch="",
    max_attempts=min(chosen.max_attempts, ATTEMPTS),
  )
  with tempfile.TemporaryDirectory() as scratch:
    run_dir = RunDir(pathlib.Path(scratch) / "check")
    single = dataclasses.replace(settings, teacher=only, teachers={})
    with RunContext(single, run_dir, screen) as ctx:
      _show_teacher(screen, name, only)
      source = _one_request(ctx, round_index, phase)
      started = time.monotonic()
      received = _ask(ctx, round_index, phase, source)
      seconds = time.monotonic() - started
      readable = _show_reply(screen, ctx, received, seconds)
      _show_capabilities(screen, only)
      _show_cost(screen, ctx, round_index, received.reply, chosen)
  return readable


def _show_teacher(screen: console.Console, name: str, chosen: Teacher) -> None:
  address = f" at {chosen.base_url}" if chosen.kind == "openai" else ""
  screen.line(f"Teacher {name}: {chosen.kind}, model {chosen.model or '(the only one)'}{address}")
  if presets.unpriced(chosen):
    screen.warn(
      f"the price of {chosen.model} is unknown: a run needs config.teacher.prices.input and .output"
    )
  elif prices := presets.describe_prices(chosen):
    screen.line(f"Price of {prices}")


def _one_request(ctx: RunContext, round_index: int, phase: str) -> rationales.TeacherRequest:
  """The first request of the phase, for one sample."""
  if phase == "feedback":
    problem = ctx.round_task(round_index).problems("train")[0]
    mistake = feedback.Mistake(problem.id, ATTEMPT)
    source = feedback.build_requests(ctx, round_index, [mistake])[0]
  else:
    requests, _ = phases.planned_requests(phase, ctx, round_index)
    source = requests[0]
  return source._replace(request=dataclasses.replace(source.request, samples=1))


def _ask(
  ctx: RunContext, round_index: int, phase: str, source: rationales.TeacherRequest
) -> rationales.ReceivedReply:
  parse = (feedback if phase == "feedback" else demonstrate).parser(ctx)
  with contextlib.closing(teacher.open(ctx)) as opened:
    ((reply,),) = opened.ask(
      [source.request],
      round=round_index,
      phase=phase,
      temperature=ctx.settings.teacher.temperature,
      on_progress=None,
    )
  parsed = None if isinstance(reply, types.Failure) else parse(reply.text, source.problem)
  answer = ctx.task.read_answer(parsed.text, source.problem) if parsed else None
  return rationales.ReceivedReply(source, source.request.first, reply, parsed, answer)


def _show_reply(
  screen: console.Console, ctx: RunContext, received: rationales.ReceivedReply, seconds: float
) -> bool:
  """Shows the reply as it would be trained on; returns whether it can be read."""
  reply, problem = received.reply, received.source.problem
  if isinstance(reply, types.Failure):
    screen.line(f"No reply ({reply.kind}, {seconds:.2f} s): {reply.message}")
    return False
  screen.line(
    f"Reply from {reply.model} in {seconds:.2f} s: {reply.tokens_in} tokens in, {reply.tokens_out}"
    f" out ({reply.tokens_reasoning} of them thinking), {reply.tokens_cached} cached,"
    f" ${reply.dollars:.6f}"
  )
  rationale = rationales.build_rationale(ctx, 0, received, problem.gold)
  if isinstance(rationale, records.Rationale):
    screen.line(f"Kept: the answer {received.answer} is right. The training target:")
    targets = [example.target for example in ctx.examples([rationale])]
    _show_texts(screen, targets)
  else:
    answer = "no answer can be read" if received.answer is None else f"answer {received.answer}"
    screen.line(f"Dropped ({rationale}): {answer}, gold {problem.gold}. The reply:")
    _show_texts(screen, [reply.text])
  if reply.thinking:
    mode = ctx.settings.teacher.thinking
    screen.line(
      f"Thinking: {len(reply.thinking)} characters, stored separately; teacher.thinking={mode}"
    )
  return received.answer is not None


def _show_texts(screen: console.Console, texts: Sequence[str]) -> None:
  for text in texts:
    for line in console.plain(text).splitlines() or [""]:
      screen.line(f"  | {line}")


def _show_capabilities(screen: console.Console, chosen: Teacher) -> None:
  if chosen.kind != "openai":
    return
  report = probes.probe(chosen)
  for finding in report.findings:
    note = f" ({finding.note})" if finding.note else ""
    screen.line(f"  {finding.feature}: {finding.state}{note}")
  screen.line(f"These {len(report.findings)} small requests cost ${report.dollars:.6f}")


def _show_cost(
  screen: console.Console, ctx: RunContext, round_index: int, reply: types.Outcome, chosen: Teacher
) -> None:
  """Shows what the requests of the round would cost at the price of this reply."""
  settings = ctx.settings
  phases_ = settings.each_round if round_index else settings.opening
  discount = 1 - chosen.batch_discount if chosen.batch == "api" else 1.0
  for name in (name for name in phases_ if name in plan.ASKERS):
    sure, bounded = phases.planned_requests(name, ctx, round_index)
    count = sum(item.request.samples for item in sure)
    more = sum(item.request.samples for item in bounded)
    dollars = discount * reply.dollars
    at_most = f", and at most {more} more: ${(count + more) * dollars:.4f}" if more else ""
    screen.line(
      f"Round {round_index}, {name}: {count} replies, about ${count * dollars:.4f} at the price of"
      f" this one{at_most}"
    )
  screen.line(
    f"The cap is config.teacher.max_dollars={settings.teacher.max_dollars:g}; see also run"
    " --dry_run. Nothing was stored."
  )
