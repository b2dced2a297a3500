"""What the commands do with a run directory: run, evaluate, sample, export, serve."""

import functools
import itertools
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from distill_jax import console, disk, errors, rounds, summary, teacher, together
from distill_jax.cli import model_card, processes
from distill_jax.cli.open_run import open_run, select_round
from distill_jax.config import rules_teacher
from distill_jax.machine import hf_verify
from distill_jax.phases import evaluate as evaluation
from distill_jax.report import write as run_report
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import SUMMARY, RunDir
from distill_jax.runtime import adapter as peft_adapter
from distill_jax.runtime import (
  base_model,
  context,
  conversations,
  devices,
  example,
  lengths,
  memory,
  overview,
  results,
  resume,
  tracking,
)
from distill_jax.runtime import export as student_export
from distill_jax.runtime.context import RunContext
from distill_jax.settings import WORLDS, Settings
from distill_jax.teacher import pool
from distill_jax.teacher.builtin import teacher as builtin


def run(
  settings: Settings, config: dict[str, Any], workdir: str, *, retry_failed: bool = False
) -> dict[str, Any]:
  """Runs every round, or resumes the run.

  Args:
    settings: The settings.
    config: The config they were read from, which is stored in the run directory.
    workdir: The run directory.
    retry_failed: Request again what the teacher failed to answer in unfinished phases.

  Returns:
    The summary.

  Raises:
    UserError: See `errors`; everything that was finished or paid for is kept.
  """
  rules_teacher.check_prices(settings)
  screen, run_dir = console.Console(), RunDir(workdir)
  run_dir.claim(config)
  try:
    processes.check_directory(run_dir.path)
    settings = resume.name_servers(settings, run_dir)
    with RunContext(settings, run_dir, screen) as ctx:
      processes.compare_data(ctx)
      resume.check_start(ctx)
      check_run(ctx)
      screen.line(overview.first_line(ctx, rules_teacher.askers(settings)))
      for note in rules_teacher.free_notes(settings):
        screen.warn(note)
      for line in example.lines(ctx):
        screen.line(line)
      overview.write_for_readers(ctx)
      run_dir.seal()
      finished = rounds.finished_phases(ctx)
      ended = together.once("ended", (run_dir.path / SUMMARY).exists)
      if finished and not ended:
        round_index, name = max(finished, key=lambda phase: (phase[0], _position(phase[1])))
        screen.line(f"Resuming after round {round_index}, phase {name.partition('_')[2]}")
      if retry_failed:
        again = together.once(
          "retry failed", lambda: teacher.retry_failed(settings.teacher, run_dir.path, finished)
        )
        screen.line(f"Requesting {again} failed samples again")
      result = rounds.run(ctx)
      screen.rounds_table(result["base"] + result["rounds"], best=result["best_round"])
      screen.examples(summary.before_and_after(ctx, result["best_round"]))
  finally:
    run_dir.release()
  for split in summary.FINALS:
    if score := result[split]:
      screen.line(
        f"{split.replace('_', ' ')}: {score['accuracy']:.1%} "
        f"({score['low']:.1%} to {score['high']:.1%}, n={score['n']}), "
        f"student of round {result['best_round']}"
      )
  run_report.write_at_end(run_dir.path, screen)
  screen.line(f"Run directory: {run_dir.path}; summary: {run_dir.path / SUMMARY}")
  return result


def _position(directory: str) -> int:
  """The position of a phase in its plan, from the name of its directory."""
  return int(directory.partition("_")[0])


def check_run(ctx: RunContext) -> None:
  """Checks student, devices and data before anything is paid for.

  Raises:
    UserError: There is no such student, the devices cannot train it, or the settings ask for gold
      sub-questions and a problem has none.
  """
  settings = ctx.settings
  together.once("cache", lambda: teacher.check_cache(settings.teacher, ctx.workdir))
  tracking.check(settings.track)
  if settings.format == "socratic" and settings.socratic.questions == "gold":
    scored = [*ctx.task.problems("validation"), *itertools.chain(*ctx.final_problems().values())]
    if lacking := [problem.id for problem in scored if not problem.decomposition]:
      allowed = f"model: {lacking[0]} and {len(lacking) - 1} more have no sub-questions"
      raise errors.config("socratic.questions", "gold", allowed)
  for name in pool.teachers_used(settings, rules_teacher.askers(settings)):
    asked = pool.get(settings, name)
    if asked.kind == "student":
      ctx.student_teacher(asked, name)
  if (
    settings.student.init == base_model.SCRATCH
  ):  # its tokenizer is trained on the first rationales
    path, vocab = ctx.run_dir.path, settings.student.scratch.vocab
    base = base_model.open_base(settings, path, started=ctx.run_dir.started, vocab=vocab)
    _check_devices(ctx, base)
    return
  devices.check(settings, ctx.base)  # before there is a tokenizer: then the run has started
  _ = ctx.student  # its tokenizer can be loaded, and its chat template lays out a question
  for line in lengths.settle(ctx):
    ctx.console.line(line)
  _check_devices(ctx, ctx.base)
  _check_memory(ctx)


def _check_devices(ctx: RunContext, base: base_model.BaseModel) -> None:
  """Rejects settings that the devices cannot train with, and prints notes on slow ones."""
  devices.check(ctx.settings, base)
  for note in devices.notes(ctx.settings, base):
    ctx.console.line(note)


def _check_memory(ctx: RunContext) -> None:
  """Prints the least memory that a pretrained student needs. Raises UserError if it cannot fit."""
  s, student = ctx.settings, ctx.student
  columns = max(s.rollout.buckets) + max(s.exam.max_new_tokens, s.evaluate.max_new_tokens)
  mesh = student.mesh.shape
  rows, shards = -(-student.rows // mesh["data"]), mesh["fsdp"] * mesh["tensor"]
  line = memory.check_start(student.trainable, rows, columns, shards, s.rollout.weights)
  ctx.console.line(line)


def evaluate(settings: Settings, *, workdir: str, round: int, split: str) -> dict[str, Any]:
  """Scores a round's student on a split and prints one line of JSON.

  The run directory is not changed.

  Returns:
    The facts of the evaluation: accuracy, its interval and n.
  """
  with open_run(settings, workdir) as ctx, tempfile.TemporaryDirectory() as scratch:
    problems = ctx.problems(split)
    if not problems:
      raise errors.usage(f"--split={split}: task {ctx.task.name} has no such questions")
    round_index = select_round(ctx, round)
    out = RunDir(scratch).final(split)
    scored = ctx.of_split(split)
    evaluation.score(scored, out, problems, split, round_index=round_index)
    print(console.json_line({"round": round_index, "task": scored.task.name, **out.facts}))
    return out.facts


def evaluate_untrained(settings: Settings, *, split: str) -> dict[str, Any]:
  """Scores the student that the settings start from, without a run directory.

  Prints one line of JSON, as `evaluate`; its round is "base".

  Returns:
    The facts of the evaluation.
  """
  with tempfile.TemporaryDirectory() as scratch:
    screen = console.Console(file=sys.stderr)
    with RunContext(settings, RunDir(scratch), screen) as ctx:
      with together.separately():  # each process has a directory of its own
        for line in lengths.settle(ctx):
          screen.line(line)
        _ = ctx.student
      problems = ctx.problems(split)
      if not problems:
        raise errors.usage(f"--split={split}: task {ctx.task.name} has no such questions")
      out = ctx.run_dir.final(split)
      scored = ctx.of_split(split)
      evaluation.score(scored, out, problems, split, round_index=-1)
      facts = {name: value for name, value in out.facts.items() if name != results.MEASURED}
  print(console.json_line({"round": "base", "task": scored.task.name, **facts}))
  return facts


def sample(
  settings: Settings,
  *,
  workdir: str,
  round: int,
  question: str,
  questions: str,
  samples: int,
  temperature: float,
) -> None:
  """Answers questions with a round's student; prints one JSON object per line.

  Args:
    settings: The settings of the run, with overrides.
    workdir: The run directory.
    round: The student's round; -1 = the best.
    question: One question; empty = read `questions`.
    questions: A file of questions; empty = standard input.
    samples: Answers per question.
    temperature: Sampling temperature; 0 = greedy.

  Raises:
    UserError: The options contradict each other, or there is no question.
  """
  if question and questions:
    raise errors.usage("--question and --questions exclude each other; leave one out")
  if samples < 1 or not 0 <= temperature < math.inf:
    raise errors.usage("--samples must be at least 1, --temperature 0 or more")
  if samples > 1 and temperature == 0:
    raise errors.usage("--samples above 1 needs a --temperature above 0: greedy answers are equal")
  asked = [question] if question else together.once("ask", lambda: read_questions(questions))
  with open_run(settings, workdir) as ctx:
    round_index = select_round(ctx, round)
    shots = ctx.task.shots[: settings.cot.shots]
    rows = [(text, k) for text in asked for k in range(samples)]
    transcripts = conversations.run_conversations(
      [ctx.format.conversation(ctx.task.parse_question(text), text, shots) for text, _ in rows],
      [f"sample/{n}" for n in range(len(rows))],
      students=ctx.students(round_index),
      samples=samples,
      temperature=temperature,
      max_new_tokens=ctx.settings.evaluate.max_new_tokens,
      stop=ctx.format.stop,
    )
  for (text, k), transcript in zip(rows, transcripts, strict=True):
    asked, whole = ctx.task.parse_question(text), transcript.finish == "stop"
    answer = ctx.task.read_answer(transcript.text, asked, whole=whole)
    row = {
      "question": text,
      "sample": k,
      "text": transcript.text,
      "answer": answer,
      "finish": transcript.finish,
      "tokens": transcript.tokens,
      "logprob": transcript.logprob,
    }
    print(console.json_line(row))


def export(
  settings: Settings,
  *,
  workdir: str,
  round: int,
  out: str,
  dtype: str,
  verify: bool,
  adapter: bool = False,
) -> None:
  """Exports a round's student to Hugging Face format, with a model card.

  Args:
    settings: The settings of the run.
    workdir: The run directory.
    round: The student's round; -1 = the best.
    out: The directory to write; several students get directories in it.
    dtype: Of the weights: float32 or bfloat16.
    verify: Compare logits and greedy tokens with transformers.
    adapter: Write only the LoRA adapters, in the format of peft.
  """
  if adapter and (verify or dtype != "float32"):
    raise errors.usage("--adapter writes float32 adapters; leave out --dtype and --verify")
  if verify:
    together.once("torch", lambda: bool(hf_verify.require_torch()))
  with open_run(settings, workdir) as ctx:
    round_index = select_round(ctx, round)
    rows = [summary.row(ctx.run_dir, index) for index in range(round_index + 1)]
    finals = {
      split: scores  # only of the student that was tested
      for split in summary.FINALS
      if (scores := results.final(ctx.run_dir, split, round_index))
    }
    names = ctx.format.students
    for name, directory in zip(names, _directories(out, names), strict=True):
      card = model_card.write(
        ctx.settings,
        rows,
        round_index=round_index,
        finals=finals,
        prompt=student_export.shown_prompt(ctx, name),
        name=pathlib.Path(directory).name,
      )
      if adapter:
        peft_adapter.write(ctx, round_index, name, out=directory, card=card)
      else:
        student_export.write(ctx, round_index, name, out=directory, dtype=dtype, card=card)
      print(f"Exported the {name} of round {round_index} to {directory}")
      if verify:
        difference = together.once(
          "verify", functools.partial(student_export.verify, ctx, directory)
        )
        print(f"Verified with transformers: logits differ by at most {difference:.1g}")


def _directories(out: str, names: Sequence[str]) -> list[str]:
  """One directory per student: `out` itself, or several in it."""
  if len(names) == 1:
    return [out]
  together.once("directory", lambda: pathlib.Path(out).mkdir(parents=True, exist_ok=True))
  return [str(pathlib.Path(out) / name) for name in names]


def read_questions(path: str) -> list[str]:
  """Reads questions from a file, or from standard input if `path` is empty.

  A line is a question, or a JSON object with a field "question".

  Raises:
    UserError: The file cannot be read, a line is malformed, or there is no question.
  """
  try:
    text = disk.read_text(path, "utf-8-sig") if path else sys.stdin.read()
  except (OSError, UnicodeDecodeError) as error:
    raise errors.usage(f"--questions={path} cannot be read: {error}") from None
  questions: list[str] = []
  for number, line in enumerate(map(str.strip, text.split("\n")), 1):
    if line.startswith("{"):
      try:
        line = json.loads(line)["question"].strip()
      except (ValueError, KeyError, AttributeError, RecursionError):
        place = f"{path or 'standard input'}:{number}"
        raise errors.data(f"{place}: not JSON with a text in its field question") from None
    if line:
      questions.append(line)
  if not questions:
    raise errors.usage("no question: give --question, --questions=FILE, or lines on standard input")
  return questions


def serve(settings: Settings, *, port: int, log: str) -> None:
  """Serves the built-in teacher until interrupted.

  Args:
    settings: The settings; the teacher answers from the world of their task.
    port: Port on loopback; 0 = any free port.
    log: File that gets one line per reply; empty = no log.

  Raises:
    UserError: The task has no built-in world, or the log cannot be written.
  """
  if settings.task.name not in WORLDS:
    allowed = f"one of {', '.join(WORLDS)}: the built-in teacher answers from its world"
    raise errors.config("task.name", settings.task.name, allowed)
  if log:
    with phase_dir.report_os_errors(log):
      if pathlib.Path(log).exists():
        disk.check_regular(log)
      disk.create_private(log)
  own, world = settings.teacher.builtin, context.open_task(settings).world
  assert world is not None  # the task is one of WORLDS
  builtin.serve(
    world,
    port=port,
    latency=own.latency,
    error_rate=own.error_rate,
    seed=teacher.world_of(settings).seed,
    log=log,
  )
