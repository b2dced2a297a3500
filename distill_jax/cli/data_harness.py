"""distill-jax data harness: a task for lm-evaluation-harness and inspect_ai."""

import contextlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from distill_jax import console, errors, records
from distill_jax.cli.open_run import open_run
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import lengths
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings
from distill_jax.tasks import harness

LM_EVAL = """\
# Task {task} of distill_jax: lm_eval --model {model}
task: {name}
custom_dataset: !function distill_jax_reader.load
dataset_kwargs:
  questions: {questions}.jsonl
test_split: test
output_type: generate_until
doc_to_text: {field}
doc_to_target: gold
process_results: !function distill_jax_reader.verdict
num_fewshot: 0
generation_kwargs:
  until: {stop}
  max_gen_toks: {max_tokens}
  do_sample: false
  temperature: 0.0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
  - metric: unreadable
    aggregation: mean
    higher_is_better: false
metadata:
  version: 1.0
"""
READER = '''\
"""Loads questions of distill_jax and judges answers, for lm-evaluation-harness.

It imports distill_jax, which may be installed without its dependencies (pip install --no-deps).
"""

import pathlib

import datasets

from distill_jax.tasks import harness


def load(questions, **_):
  """Returns the questions of a file that stands next to this one."""
  file = str(pathlib.Path(__file__).with_name(questions))
  return datasets.load_dataset("json", data_files={"test": file})


def verdict(row, results):
  """Returns the metrics of one answer."""
  answer, is_correct = harness.verdict(row["problem"], results[0])
  return {"exact_match": float(is_correct), "unreadable": float(answer is None)}
'''
INSPECT = '''\
"""Task {task} of distill_jax for inspect_ai: inspect eval {name}.py --model MODEL

It imports distill_jax, which may be installed without its dependencies (pip install --no-deps).
"""

import json
import pathlib

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, accuracy, scorer, stderr
from inspect_ai.solver import generate

from distill_jax.tasks import harness

QUESTIONS = pathlib.Path(__file__).with_suffix(".jsonl")


@scorer(metrics=[accuracy(), stderr()])
def verdict():
  """Judges answers as `distill-jax evaluate` does."""

  async def score(state, target):
    whole = state.output.stop_reason != "max_tokens"
    text = state.output.completion
    answer, is_correct = harness.verdict(state.metadata["problem"], text, whole=whole)
    return Score(value="C" if is_correct else "I", answer=answer, explanation=text)

  return score


@task
def {name}():
  """The questions, answered greedily."""
  rows = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
  samples = [
    Sample(id=r["id"], input=r["question"], target=r["gold"], metadata={{"problem": r["problem"]}})
    for r in rows
  ]
  config = GenerateConfig(temperature=0.0, max_tokens={max_tokens})
  return Task(MemoryDataset(samples), solver=generate(), scorer=verdict(), config=config)
'''


def run(settings: Settings, *, workdir: str, out: str, split: str, limit: int) -> None:
  """Writes a task and prints what it wrote.

  Args:
    settings: The settings: task, format, worked examples, and the student whose prompt it is.
    workdir: A run directory, whose student is evaluated; "" for the settings alone.
    out: The directory to write in. It may hold other tasks.
    split: The split of the task.
    limit: The first questions only; 0 = all.

  Raises:
    UserError: An option is wrong, the task has no such questions, or it has a grader.
  """
  if not out:
    raise errors.missing("out", "harness")
  if limit < 0:
    raise errors.usage("--limit must be at least 0")
  with _opened(settings, workdir) as ctx:
    task, problems = ctx.task, ctx.task.problems(split)[: limit or None]
    if not problems:
      raise errors.usage(f"--split={split}: task {task.name} has no such questions")
    if task.grader is not None:
      allowed = '"": a harness cannot call a grader'
      raise errors.config("task.grader", ctx.settings.task.grader, allowed)
    rows = [harness.row(problem, ctx.prompt(problem)) for problem in problems]
    name, max_tokens = f"distill_jax_{task.name}", ctx.settings.evaluate.max_new_tokens
    files = {
      f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
      f"{name}.py": INSPECT.format(task=task.name, name=name, max_tokens=max_tokens),
      "distill_jax_reader.py": READER,
    }
    shared = {"task": task.name, "questions": name, "max_tokens": max_tokens}
    # The server, or a model's chat template, lays out the question and knows what ends an answer.
    files[f"{name}_chat.yaml"] = LM_EVAL.format(
      name=f"{name}_chat", model="local-chat-completions", field="question", stop="[]", **shared
    )
    if all(row["prompt"] for row in rows) and _has_one_turn(ctx, problems[0]):
      stop = json.dumps(list(ctx.format.stop))
      files[f"{name}.yaml"] = LM_EVAL.format(
        name=name, model="local-completions", field="prompt", stop=stop, **shared
      )
  for file, text in files.items():
    phase_dir.write_bytes(pathlib.Path(out) / file, text.encode())
  print(f"Wrote {len(rows)} questions to {out}: {', '.join(sorted(files))}")


@contextlib.contextmanager
def _opened(settings: Settings, workdir: str) -> Iterator[RunContext]:
  """Yields the context of a run, or of settings without one."""
  if workdir:
    with open_run(settings, workdir) as ctx:
      yield ctx
    return
  with tempfile.TemporaryDirectory() as scratch:
    with RunContext(settings, RunDir(scratch), console.Console(file=sys.stderr)) as ctx:
      lengths.settle(ctx)
      yield ctx


def _has_one_turn(ctx: RunContext, problem: records.Problem) -> bool:
  """Whether an attempt of the run's format is one completion of its prompt."""
  conversation = ctx.conversation(problem)
  turns = next(conversation)
  try:
    conversation.send([""] * len(turns))
  except StopIteration:
    return len(turns) == 1
  return False
