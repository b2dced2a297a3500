"""Times training steps, with SFT alone and with the triplet loss, or epochs, bucketed and packed.

  python -m benchmarks.train_step                   (the quickstart's student, 32 rows of 96 tokens)
  python -m benchmarks.train_step --size=mini --rows=8 --length=256
  python -m benchmarks.train_step --size=0.5B --rows=16 --length=1024 --dtype=bfloat16
  python -m benchmarks.train_step --packed --repeats=3

Prints a line of JSON each. tokens_per_second counts all tokens of the rows. `compiled` is the
number of programs compiled during the timed steps; it must be 0.

--packed: SFT on --examples whose prompts and targets have --length/24 to --length/2 tokens, drawn
log-uniformly: once in buckets (a quarter, half and all of --length), once packed into rows of
--length. A line times an epoch. tokens_per_second excludes padding, and `real` is the share of
positions that are not padding.
"""

import argparse
import functools
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from distill_jax import settings, students
from distill_jax.data import batches, collate, encode
from distill_jax.data.batch_size import BatchSize
from distill_jax.learning import objectives, optim, step
from distill_jax.students import decoder, sharding


def rows(config, *, count: int, length: int, triplet: bool):
  """Returns a batch whose rows fill their bucket.

  Half of a row is the prompt. The rest is the target, or the target and two responses of the same
  length.
  """
  rng = np.random.Generator(np.random.PCG64(0))

  def ids(n: int) -> tuple[int, ...]:
    return tuple(rng.integers(3, config.vocab, n).tolist())

  prompt = length // 2
  answer = (length - prompt) // (3 if triplet else 1)
  out = []
  for _ in range(count):
    row = encode.supervised_row(ids(prompt), ids(answer), prompt_weight=0.0, denominator="weights")
    if triplet:
      row = encode.add_triplet(
        row, ids(answer), ids(answer), pool="last", detach=False, max_response=length
      )
    out.append(row)
  return batches.stack(
    out, batch=count, length=length, targets=answer, pad=0, triplets=int(triplet)
  )


def corpus(config, *, examples: int, rows: int, length: int, packed: bool) -> batches.Corpus:
  """Returns examples of very different lengths, as described above."""
  rng = np.random.Generator(np.random.PCG64(0))
  count_N2 = np.exp(rng.uniform(np.log(length / 24), np.log(length / 2), (examples, 2))).astype(int)

  def ids(n: int) -> tuple[int, ...]:
    return tuple(rng.integers(3, config.vocab, max(n, 1)).tolist())

  return batches.Corpus(
    [encode.EncodedExample(f"{n}", ids(p), ids(t)) for n, (p, t) in enumerate(count_N2)],
    collate.SupervisedCollator(
      settings.Sft(prompt_weight=0.0, denominator="weights"),
      settings.Triplet(),
      with_triplets=False,
    ),
    size=BatchSize(rows),
    buckets=(length // 4, length // 2, length),
    seed=0,
    pad=0,
    packed=packed,
  )


def real_tokens(arrays: dict[str, np.ndarray]) -> int:
  """Returns the number of tokens that are not padding."""
  return int((arrays["segments"] > 0).sum())


def compiled(config, mesh, *, triplet: bool = False, remat: str = "none", path: str = "plain"):
  """Returns (train step, state) of a student on a mesh."""
  objective = objectives.tailored(
    functools.partial(decoder.hidden, config, remat=remat, path=path),
    functools.partial(students.token_logprobs, config, chunk=256),
    coefficients={"sft": 1.0, "triplet": 0.5 if triplet else 0.0},
    margin=1.0,
  )
  optimizer = optim.adamw(
    optim.schedule("constant", peak=1e-4, warmup=10, steps=1000),
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    grad_clip_norm=1.0,
  )
  shardings = step.state_shardings(mesh, decoder.axes(config), decoder.shapes(config), optimizer)
  train_step = step.jit_train_step(
    step.make_train_step(objective, optimizer, grad_accum_steps=1), mesh, shardings
  )

  def start(key):
    return step.init_state(decoder.init(config, key), optimizer)

  return train_step, jax.jit(start, out_shardings=shardings)(jax.random.key(0))


def time_epoch(config: decoder.Config, args: argparse.Namespace, *, packed: bool) -> None:
  """Times an epoch of ragged examples."""
  examples = corpus(
    config, examples=args.examples, rows=args.rows, length=args.length, packed=packed
  )
  epoch = [examples.batch(n) for n in range(len(examples.batch_order.epoch(0)))]
  real = sum(map(real_tokens, epoch))
  report(
    "sft epoch, packed" if packed else "sft epoch, bucketed",
    config,
    args,
    epoch,
    tokens=real,
    examples=args.examples,
    steps=len(epoch),
    real=round(real / sum(x["tokens"].size for x in epoch), 3),
  )


def time_step(config: decoder.Config, args: argparse.Namespace, *, triplet: bool) -> None:
  """Times a step on full rows."""
  data = rows(config, count=args.rows, length=args.length, triplet=triplet)
  name, count = "sft+triplet step" if triplet else "sft step", args.rows * args.length
  report(name, config, args, [data], tokens=count, triplet=triplet)


def report(
  name: str,
  config: decoder.Config,
  args: argparse.Namespace,
  arrays_of_batches: list[dict[str, np.ndarray]],
  *,
  tokens: int,
  triplet: bool = False,
  **facts: Any,
) -> None:
  """Times one step on each of the batches and prints the total."""
  mesh = sharding.make_mesh()
  train_step, state = compiled(config, mesh, triplet=triplet)
  placed = [jax.device_put(objectives.as_batch(x), sharding.batch(mesh)) for x in arrays_of_batches]

  def work():
    nonlocal state
    for batch in placed:
      state, metrics = train_step(state, batch, ())
    return metrics

  with jax.set_mesh(mesh):
    jax.block_until_ready(work())
    with measure.compilations() as programs:
      seconds = measure.time_calls(work, args.repeats)
  measure.report(
    name,
    seconds,
    tokens,
    size=args.size,
    rows=args.rows,
    length=args.length,
    dtype=args.dtype,
    **facts,
    compiled=len(programs),
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=measure.SIZES, default="quickstart")
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--length", type=int, default=96)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--repeats", type=int, default=30)
  parser.add_argument("--packed", action="store_true", help="ragged examples, packed and bucketed")
  parser.add_argument("--examples", type=int, default=1024, help="of --packed")
  args = parser.parse_args()
  config = measure.student(args.size, args.dtype)
  for variant in (False, True):
    if args.packed:
      time_epoch(config, args, packed=variant)
    else:
      time_step(config, args, triplet=variant)


if __name__ == "__main__":
  main()
