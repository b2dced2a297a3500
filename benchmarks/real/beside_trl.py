"""Trains the same student on the same rows here and in TRL's SFTTrainer, on the CPU.

  pip install torch==2.13.0 trl==1.16.0 accelerate     (in addition to the packages of this project)
  python -m benchmarks.real.beside_trl --runs=DIR --data=DATA --students=STUDENTS
  python -m benchmarks.real.beside_trl ... --steps=120 --accuracy    also scores both on the test

The row `svamp-smollm2-cot` of rows.py is run for --steps steps, at a constant rate without warm-up,
all weights in float32, and reports every step. TRL then trains the same base model on the same
token rows in the same order, with the loss on the same target tokens, batch size, rate, AdamW and
clipping. Here a batch is padded to a bucket, in TRL to its longest row. Neither side recomputes
activations. Each side is a process of its own.

Prints a line of JSON: the largest relative difference of the losses of one step, the losses, median
seconds a step (without the first two), and peak resident memory until the last step. The run is
kept in DIR/beside_trl; the line is computed from what the two processes wrote there. With
--accuracy, both trained students answer the test questions through distill_jax, and the line has
both accuracies with their intervals.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.real import rows
from distill_jax import console, records
from distill_jax.ablations import sweep
from distill_jax.config.read import read_settings

STUDENT = "svamp-smollm2"
BATCH = 4


class Clock:
  """What a side reports at the end of every step."""

  def __init__(self) -> None:
    self.losses: list[float] = []
    self.ends: list[float] = []
    self.peak_mib = 0

  def step(self, loss: float) -> None:
    """Takes the time, the memory and the loss of a step that has ended."""
    self.losses.append(loss)
    self.ends.append(time.perf_counter())
    self.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

  def facts(self) -> dict[str, Any]:
    """Returns losses, seconds of each step but the first, and peak memory."""
    seconds = np.diff(self.ends).tolist()
    return {"losses": self.losses, "seconds": seconds, "peak_mib": self.peak_mib}


def planned_run(args: argparse.Namespace) -> sweep.PlannedRun:
  """Returns the run of our side, in a directory of its own for each number of steps and rate."""
  block = rows.BLOCKS[STUDENT]
  row = block.rows["cot"]
  overrides = row.overrides | rows.steps(args.steps, args.rate)
  overrides |= {"train.batch": BATCH, "train.schedule": "constant", "train.warmup": 0}
  overrides |= {"train.log_every": 1, "student.dtype": "float32", "train.remat": "none"}
  common = {k: v for k, v in block.common.items() if not k.startswith("evaluate.also.")}
  name = f"beside-trl-{args.steps}-steps-{args.rate:g}"
  only = rows.Block(block.title, block.student, block.size, {}, common)
  own = rows.Row(row.recipe, overrides)
  places = {"data": str(args.data), "students": str(args.students)}
  (planned,) = rows.runs_of(name, only, own, args.runs, places)
  return planned


def ours(args: argparse.Namespace) -> None:
  """Trains here; writes the batches for the other side, and what its steps took."""
  from distill_jax import phases
  from distill_jax.cli import commands
  from distill_jax.phases import train
  from distill_jax.run_dir.run_dir import RunDir
  from distill_jax.runtime import export as student_export
  from distill_jax.runtime.context import RunContext
  from distill_jax.runtime.tracking import Tracking

  clock = Clock()

  class Watch(Tracking):
    def metrics(self, phase: str, row: records.Metrics) -> None:
      clock.step(row.loss)

  planned = planned_run(args)
  run_dir, screen = RunDir(planned.run_dir), console.Console(file=sys.stderr)
  run_dir.claim(planned.config)
  with RunContext(read_settings(planned.config), run_dir, screen) as ctx:
    ctx.tracking = Watch((), run_dir, screen)
    commands.check_run(ctx)
    for position, name in enumerate(ctx.settings.opening):
      if not (out := run_dir.phase(0, position, name)).finished:
        phases.run_phase(name, ctx, 0, out)
    phase = run_dir.find(0, "train")
    examples = phase.rows(train.EXAMPLES, records.Example)
    corpus = train.build_corpus(ctx, 0, examples, [])
    batches = [_rows(corpus.batch(n)) for n in range(args.steps)]
    student_export.write(ctx, 0, "student", out=str(_of(planned, "ours")), dtype="float32", card="")
  _of(planned, "batches.json").write_text(json.dumps(batches))
  if len(clock.losses) == args.steps:  # else it was finished before
    _of(planned, "ours.json").write_text(json.dumps(clock.facts()))


def _rows(arrays: dict[str, np.ndarray]) -> list[dict[str, list[int]]]:
  """The rows of a batch as TRL takes them: tokens, and which of them the loss is on."""
  made = []
  names = ("tokens", "segments", "where", "weights")
  for tokens, segments, where, weights in zip(*(arrays[name] for name in names), strict=True):
    length = int((segments > 0).sum())
    mask = np.zeros(length, int)
    mask[where[weights > 0] + 1] = 1  # `where` holds the positions that predict the targets
    made.append({"input_ids": tokens[:length].tolist(), "completion_mask": mask.tolist()})
  if not all(row["input_ids"] for row in made):
    raise SystemExit("a batch is not full: choose fewer --steps")
  return made


def theirs(args: argparse.Namespace) -> None:
  """Trains in TRL on the batches that our side wrote."""
  import datasets
  import transformers
  import trl

  planned, clock = planned_run(args), Clock()
  batches = json.loads(_of(planned, "batches.json").read_text())

  class Watch(transformers.TrainerCallback):
    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
      if logs and "loss" in logs:
        clock.step(logs["loss"])

  config = trl.SFTConfig(
    output_dir=str(_of(planned, "theirs_work")), max_steps=args.steps, max_length=None,
    completion_only_loss=True,
    per_device_train_batch_size=BATCH, learning_rate=args.rate, lr_scheduler_type="constant",
    weight_decay=0.01, max_grad_norm=1.0, train_sampling_strategy="sequential",
    gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], disable_tqdm=True,
    logging_steps=1, save_strategy="no", model_init_kwargs={"dtype": "float32"},
  )  # fmt: skip
  trainer = trl.SFTTrainer(
    str(args.students / rows.BLOCKS[STUDENT].student),
    args=config,
    train_dataset=datasets.Dataset.from_list([row for batch in batches for row in batch]),
    callbacks=[Watch()],
  )
  trainer.train()
  trainer.save_model(str(_of(planned, "theirs")))
  _of(planned, "theirs.json").write_text(json.dumps(clock.facts()))


def _of(planned: sweep.PlannedRun, name: str) -> pathlib.Path:
  """A file or directory beside our side's run directory."""
  return planned.run_dir.with_name(name)


def accuracy(planned: sweep.PlannedRun, side: str) -> dict[str, Any]:
  """Returns the test accuracy of a trained student, answered through distill_jax."""
  file = _of(planned, f"{side}_test.json")
  if not file.exists():
    command, config, _, *overrides = planned.arguments
    assert command == "run"
    words = [word for word in overrides if not word.startswith("--config.student.init=")]
    student = f"--student={_of(planned, side)}"
    line = subprocess.run(
      [sys.executable, "-m", "distill_jax", "evaluate", config, student, *words],
      stdout=subprocess.PIPE, check=True, text=True,
    ).stdout  # fmt: skip
    file.write_text(line.strip().splitlines()[-1])
  facts = json.loads(file.read_text())
  return {name: round(facts[name], 3) for name in ("accuracy", "low", "high", "n")}


def line(args: argparse.Namespace) -> dict[str, Any]:
  """Returns what both sides wrote, compared."""
  import importlib.metadata

  planned = planned_run(args)
  sides = {
    side: json.loads(_of(planned, f"{side}.json").read_text()) for side in ("ours", "theirs")
  }
  losses = np.array([sides[side]["losses"] for side in sides])
  ratio = np.abs(losses[0] / losses[1] - 1)
  facts: dict[str, Any] = {
    "benchmark": "sft beside trl",
    "cpu": measure.cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
    "versions": {name: importlib.metadata.version(name) for name in ("jax", "torch", "trl")},
    "steps": args.steps,
    "batch": BATCH,
    "rate": args.rate,
    "loss_difference": float(ratio.max()),
    "loss_difference_first_20": float(ratio[:20].max()),
  }
  for side, found in sides.items():
    facts |= {
      f"{side}_seconds": round(statistics.median(found["seconds"][1:]), 2),
      f"{side}_peak_gib": round(found["peak_mib"] / 1024, 2),
      f"{side}_losses": [round(loss, 4) for loss in found["losses"]],
    }
  facts["speedup"] = round(facts["theirs_seconds"] / facts["ours_seconds"], 2)
  if args.accuracy:
    facts |= {f"{side}_test": accuracy(planned, side) for side in sides}
  return facts


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name in ("runs", "data", "students"):
    parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--rate", type=float, default=5e-5)
  parser.add_argument("--accuracy", action="store_true", help="score both on the test questions")
  parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.side:
    return {"ours": ours, "theirs": theirs}[args.side](args)
  planned = planned_run(args)
  if not _of(planned, "ours.json").exists():  # its steps must be timed in one process
    shutil.rmtree(planned.run_dir.parent, ignore_errors=True)
  for side in ("ours", "theirs"):
    if not _of(planned, f"{side}.json").exists():
      child = [sys.executable, "-m", "benchmarks.real.beside_trl", *sys.argv[1:], f"--side={side}"]
      subprocess.run(child, check=True)
  print(json.dumps(line(args)))


if __name__ == "__main__":
  main()
