"""Times the train step: SFT alone, and SFT with the triplet loss in the same rows.

  python -m benchmarks.train_step                   (the quickstart's student, 32 rows of 96 tokens)
  python -m benchmarks.train_step --size=mini --rows=8 --length=256
  python -m benchmarks.train_step --size=half_billion --rows=16 --length=1024 --dtype=bfloat16

Prints a line of JSON for each. tokens_per_second counts all tokens of the rows; compiled is how
many programs the timed steps compiled, which must be 0.
"""

import argparse
import functools

import jax
import numpy as np

from benchmarks import measure
from distill_jax import students
from distill_jax.data import batches, encode
from distill_jax.learning import objectives, optim, sharding, step
from distill_jax.students import decoder


def rows(config, *, count: int, length: int, triplet: bool):
  """Rows that fill their bucket: half prompt, the rest target, or target and two responses of the
  same length."""
  rng = np.random.Generator(np.random.PCG64(0))
  ids = lambda n: tuple(rng.integers(3, config.vocab, n).tolist())
  prompt = length // 2
  answer = (length - prompt) // (3 if triplet else 1)
  out = []
  for _ in range(count):
    row = encode.plain(ids(prompt), ids(answer), prompt_weight=0.0, denominator="weights")
    if triplet:
      row = encode.with_contrast(
        row, ids(answer), ids(answer), pool="last", detach=False, max_response=length
      )
    out.append(row)
  return batches.stack(
    out, batch=count, length=length, targets=answer, pad=0, contrasts=int(triplet)
  )


def time_step(config, args, *, triplet: bool) -> None:
  mesh = sharding.make_mesh()
  objective = objectives.tailored(
    functools.partial(decoder.hidden, config),
    functools.partial(students.token_logprobs, config, chunk=256),
    share={"sft": 1.0, "triplet": 0.5 * triplet},
    margin=1.0,
  )
  optimizer = optim.adamw(
    optim.schedule("constant", peak=1e-4, warmup=10, steps=1000),
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    clip=1.0,
  )
  places = step.places(mesh, decoder.axes(config), decoder.shapes(config), optimizer)
  train_step = step.compiled(step.make_train_step(objective, optimizer, micro=1), mesh, places)
  start = lambda key: step.start(decoder.init(config, key), optimizer)
  state = jax.jit(start, out_shardings=places)(jax.random.key(0))
  data = rows(config, count=args.rows, length=args.length, triplet=triplet)
  batch = jax.device_put(objectives.batch_of(data), sharding.batch(mesh))

  def work():
    nonlocal state
    state, metrics = train_step(state, batch, ())
    return metrics

  with jax.set_mesh(mesh):
    jax.block_until_ready(work())
    with measure.compilations() as compiled:
      seconds = measure.median_seconds(work, args.repeats)
  measure.report(
    "sft+triplet step" if triplet else "sft step",
    seconds,
    args.rows * args.length,
    size=args.size,
    rows=args.rows,
    length=args.length,
    dtype=args.dtype,
    compiled=len(compiled),
  )


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=measure.SIZES, default="quickstart")
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--length", type=int, default=96)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--repeats", type=int, default=30)
  args = parser.parse_args()
  for triplet in (False, True):
    time_step(measure.student(args.size, args.dtype), args, triplet=triplet)


if __name__ == "__main__":
  main()
