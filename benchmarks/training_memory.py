"""Peak memory of training a pretrained student beside the estimate that a run prints.

  python -m benchmarks.training_memory --student=DIR            (all weights)
  python -m benchmarks.training_memory --student=DIR --lora     (adapters of rank 16)

DIR is a student in Hugging Face format. Trains it for --steps of --rows random rows of up to
--length tokens, in float32, as the recipe `cot:pretrained` (or `:pretrained_lora`) does, saves its
weights, and prints a line of JSON: the two estimates of runtime/memory.py, the largest resident
size of this process as the kernel counts it, and `ratio`, the measured size divided by the
estimated one. CPU only.
"""

import argparse
import io
import json
import re
import resource
import tempfile

import numpy as np
from ml_collections import config_dict

from benchmarks import measure
from distill_jax import console, settings
from distill_jax.config.read import read_settings
from distill_jax.data import batches, collate, encode
from distill_jax.data.batch_size import BatchSize
from distill_jax.phases.train import TailoredObjective
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, fit, memory

BUCKETS = (128, 256, 384, 512, 768, 1024)


def main() -> None:
  """Trains and prints the line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--student", required=True)
  parser.add_argument("--lora", action="store_true")
  parser.add_argument("--rows", type=int, default=8)
  parser.add_argument("--length", type=int, default=384)
  parser.add_argument("--steps", type=int, default=6)
  args = parser.parse_args()
  printed = io.StringIO()
  with tempfile.TemporaryDirectory() as workdir, open_run(args, workdir, printed) as ctx:
    start = memory.check_start(ctx.student.trainable, ctx.student.rows, args.length, 1)
    train, phase = ctx.settings.train, ctx.run_dir.phase(0, 0, "train")
    corpus = random_rows(args, ctx.student.config.vocab)
    objective = TailoredObjective(train.losses, ctx.settings.triplet)
    (name,) = ctx.format.students
    fit.fit(ctx, 0, phase, corpus, name=name, train=train, objective=objective)
  estimate = float(found(r"memory of a train step: about ([\d.]+)", printed.getvalue()))
  measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / memory.GB
  line = {
    "benchmark": "training memory, lora" if args.lora else "training memory, full",
    "cpu": measure.cpu_name(),
    "rows": args.rows,
    "length": args.length,
    "at_start_gb": float(found(r"at least ([\d.]+)", start)),
    "estimate_gb": estimate,
    "measured_gb": round(measured, 2),
    "ratio": round(measured / estimate, 3),
  }
  print(json.dumps(line))


def found(pattern: str, text: str) -> str:
  """Returns the first group of a pattern. Raises ValueError if the text does not contain it."""
  match = re.search(pattern, text)
  if match is None:
    raise ValueError(f"no {pattern!r} in {text!r}")
  return match[1]


def open_run(args: argparse.Namespace, workdir: str, file: io.StringIO) -> context.RunContext:
  """Opens a run of the recipe whose console writes to `file`."""
  from configs import cot

  c: config_dict.ConfigDict = cot.get_config("pretrained_lora" if args.lora else "pretrained")
  c.student.init, c.student.dtype = args.student, "float32"
  c.train.batch, c.train.steps, c.train.epochs = args.rows, args.steps, 0
  c.train.buckets = c.rollout.buckets = (args.length,)
  return context.RunContext(read_settings(c.to_dict()), RunDir(workdir), console.Console(file=file))


def random_rows(args: argparse.Namespace, vocab: int) -> batches.Corpus:
  """Returns rows that are half prompt and half target; some of them are as long as allowed."""
  rng = np.random.Generator(np.random.PCG64(0))
  lengths = rng.integers(args.length // 8, args.length + 1, 8 * args.rows)
  lengths[:: args.rows] = args.length
  buckets = (*(b for b in BUCKETS if b < args.length), args.length)

  def example(n: int, length: int) -> encode.EncodedExample:
    ids = tuple(rng.integers(3, vocab, length).tolist())
    return encode.EncodedExample(f"{n}", ids[: length // 2], ids[length // 2 :])

  return batches.Corpus(
    [example(n, int(length)) for n, length in enumerate(lengths)],
    collate.SupervisedCollator(
      settings.Sft(prompt_weight=0.0, denominator="weights"),
      settings.Triplet(),
      with_triplets=False,
    ),
    size=BatchSize(args.rows),
    buckets=buckets,
    seed=0,
    pad=0,
    packed=False,
  )


if __name__ == "__main__":
  main()
