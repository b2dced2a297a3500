"""Samples an exam with a pretrained student here and in transformers, on the CPU.

  python -m benchmarks.beside_transformers exam --student=DIR
  python -m benchmarks.beside_transformers exam --student=DIR --task=svamp --path=FILE_OR_DIR

DIR is a student in Hugging Face format. Every question gets --samples attempts at temperature 1,
which end where the student ends them or at the exam's limit: some are many times as long as others.
Both sides read the same prompt ids and compute in float32. Ours is the product's own call,
Student.generate with its default settings. Theirs is `generate` with a prompt's samples as
num_return_sequences, prompts sorted by length and padded on the left, and with the best of
--batches (rows), found by decoding one batch of each.

The sides then alternate --repeats times. Prints a line of JSON a pass, and one with the medians of
tokens per second (those up to and including the end token), of the ratio of neighboring passes, and
of the ratio by CPU time, which other work on the machine disturbs less.
"""

import argparse
import gc
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from benchmarks import measure
from distill_jax import console
from distill_jax.config.read import read_settings
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, lengths

PAUSE = 1  # seconds: the other side's threads spin for a while after their work


class Exam(NamedTuple):
  """What both sides do."""

  prompts: list[list[int]]  # in tokens
  samples: int
  new: int  # tokens of an attempt, at most
  ends: tuple[int, ...]


class Pass(NamedTuple):
  """One pass over the exam."""

  lengths: list[int]  # tokens of each attempt
  seconds: float
  cpu_seconds: float

  @property
  def rate(self) -> float:
    """Tokens per second."""
    return sum(self.lengths) / self.seconds

  @property
  def cpu_rate(self) -> float:
    """Tokens per second of CPU time."""
    return sum(self.lengths) / self.cpu_seconds


def run(args: argparse.Namespace) -> None:
  """Runs the comparison and prints its lines."""
  with tempfile.TemporaryDirectory() as workdir, open_run(args, workdir) as ctx:
    exam, ours = our_side(ctx, args)
    theirs = their_side(args.student, exam)
    ours(2)  # compiles
    best = best_batch(exam, theirs, [int(rows) for rows in args.batches.split(",")])
    passes = []
    for _ in range(args.repeats):
      with measure.compilations() as compiled:
        one = timed(lambda: ours(len(exam.prompts)))
      other = timed(lambda: theirs(exam.prompts, best))
      show("ours", one, compiled=len(compiled))
      show("theirs", other, batch=best)
      passes.append((one, other))
  print(json.dumps(summary(args, exam, best, passes)), flush=True)


def open_run(args: argparse.Namespace, workdir: str) -> context.RunContext:
  """Opens a run of the untrained student, with lengths that follow from the questions."""
  from configs import base

  c: config_dict.ConfigDict = base.get_config()
  c.student.init, c.task.name, c.task.path = args.student, args.task, args.path
  c.rounds, c.opening, c.each_round, c.train.losses.triplet = 0, (), (), 0.0
  ctx = context.RunContext(
    read_settings(c.to_dict()), RunDir(workdir), console.Console(file=sys.stderr)
  )
  _ = ctx.student
  lengths.settle(ctx)
  return ctx


def best_batch(
  exam: Exam, theirs: Callable[[list[list[int]], int], list[int]], batches: list[int]
) -> int:
  """Returns the number of rows with which transformers makes the most tokens per second."""
  if len(batches) == 1:
    return batches[0]
  rates = {}
  for rows in batches:
    count = min(rows // exam.samples, len(exam.prompts))
    spread = [exam.prompts[n * len(exam.prompts) // count] for n in range(count)]
    one = timed(lambda spread=spread, rows=rows: theirs(spread, rows))
    show("theirs, one batch", one, batch=rows)
    rates[rows] = one.rate
  return max(rates, key=lambda rows: rates[rows])


def our_side(
  ctx: context.RunContext, args: argparse.Namespace
) -> tuple[Exam, Callable[[int], list[int]]]:
  """Returns the exam, and a function that answers its first questions here.

  The function returns the length of each attempt.
  """
  student, params = next(iter(ctx.students(-1).values()))
  prompts = [ctx.prompt(problem) for problem in ctx.task.problems("train")[: args.questions]]
  ids = [student.encode_prompt(prompt) for prompt in prompts]
  order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
  requests = [(prompts[n], f"{n}/{sample}") for n in order for sample in range(args.samples)]
  new = ctx.settings.exam.max_new_tokens

  def take(questions: int) -> list[int]:
    part = requests[: questions * args.samples]
    done = student.generate(params, part, samples=args.samples, temperature=1.0, max_new_tokens=new)
    return [completion.tokens for completion in done]

  return Exam([ids[n] for n in order], args.samples, new, student.end_tokens), take


def their_side(model_dir: str, exam: Exam) -> Callable[[list[list[int]], int], list[int]]:
  """Returns a function that continues prompts in transformers, a number of rows at a time.

  The function returns the length of each attempt.
  """
  import torch  # pyright: ignore[reportMissingImports] (an optional dependency)
  import transformers

  auto: Any = transformers.AutoModelForCausalLM
  model = auto.from_pretrained(model_dir, dtype=torch.float32).eval()
  torch.manual_seed(0)

  @torch.no_grad()
  def take(prompts: list[list[int]], rows: int) -> list[int]:
    counts, at_once = [], max(rows // exam.samples, 1)
    for start in range(0, len(prompts), at_once):
      part = prompts[start : start + at_once]
      longest = max(map(len, part))
      padding = [longest - len(prompt) for prompt in part]
      out = model.generate(
        torch.tensor([[exam.ends[0]] * n + p for n, p in zip(padding, part, strict=True)]),
        attention_mask=torch.tensor([[0] * n + [1] * (longest - n) for n in padding]),
        max_new_tokens=exam.new,
        num_return_sequences=exam.samples,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        eos_token_id=list(exam.ends),
        pad_token_id=exam.ends[0],
      )
      counts += [count(row, exam.ends) for row in out[:, longest:].tolist()]
    return counts

  return take


def count(row: list[int], ends: tuple[int, ...]) -> int:
  """Returns how many tokens a row has, including its end token."""
  return next((n + 1 for n, token in enumerate(row) if token in ends), len(row))


def timed(work: Callable[[], list[int]]) -> Pass:
  """Takes the exam."""
  gc.collect()
  time.sleep(PAUSE)
  start, cpu = time.perf_counter(), time.process_time()
  made = work()
  return Pass(made, time.perf_counter() - start, time.process_time() - cpu)


def show(side: str, one: Pass, **facts: Any) -> None:
  """Prints a line about a pass."""
  line = {
    "side": side,
    "seconds": round(one.seconds, 1),
    "cpu_seconds": round(one.cpu_seconds, 1),
    "tokens": sum(one.lengths),
    "tokens_per_second": round(one.rate, 1),
  }
  print(json.dumps(line | facts), flush=True)


def summary(
  args: argparse.Namespace, exam: Exam, batch: int, passes: list[tuple[Pass, Pass]]
) -> dict[str, Any]:
  """Returns the medians of all passes."""

  def median(values: list[float]) -> float:
    return round(statistics.median(values), 2)

  made = sorted(length for one, _ in passes for length in one.lengths)
  return {
    "benchmark": "exam",
    "student": pathlib.Path(args.student).resolve().name,
    "questions": len(exam.prompts),
    "samples": exam.samples,
    "prompt_tokens": f"{len(exam.prompts[0])} to {len(exam.prompts[-1])}",
    "attempt_tokens": f"{made[0]} to {made[-1]}, median {made[len(made) // 2]}",
    "limit": exam.new,
    "cpu": measure.cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
    "jax": jax.__version__,
    "ours_tokens_per_second": median([one.rate for one, _ in passes]),
    "theirs_tokens_per_second": median([other.rate for _, other in passes]),
    "their_batch": batch,
    "speedup": median([one.rate / other.rate for one, other in passes]),
    "speedup_by_cpu_time": median([one.cpu_rate / other.cpu_rate for one, other in passes]),
    "all_speedups": [round(one.rate / other.rate, 2) for one, other in passes],
  }
