"""Times rollouts with several samples per prompt.

  python -m benchmarks.sampling                                  (the quickstart's student)
  python -m benchmarks.sampling --size=mini --prompts=32 --samples=1 --prompt=64 --new=128
  python -m benchmarks.sampling --size=0.5B --dtype=bfloat16 --prompts=64
  python -m benchmarks.sampling --unequal --prompts=256

Prints a line of JSON each for greedy decoding, temperature 1, top-p and top-k. tokens_per_second
counts new tokens; no row ends early. `compiled` is the number of programs compiled during the
timed calls, temperature changes included; it must be 0.

--unequal: rows end at random, because one percent of the vocabulary are end tokens, and most are
far shorter than --new. Prints a line for each share of rows that must be free before new ones are
started (rollout.refill). At 1, a batch waits for its longest row.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.students import decoder


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=measure.SIZES, default="quickstart")
  parser.add_argument("--prompts", type=int, default=64)
  parser.add_argument("--samples", type=int, default=4)
  parser.add_argument(
    "--batch", type=int, default=0, help="rows per batch; 0: all, or a quarter with --unequal"
  )
  parser.add_argument("--prompt", type=int, default=64)
  parser.add_argument("--new", type=int, default=64)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--unequal", action="store_true")
  args = parser.parse_args()
  config = measure.student(args.size, args.dtype)
  params = jax.jit(lambda key: decoder.init(config, key))(jax.random.key(0))
  rng = np.random.Generator(np.random.PCG64(0))
  prompts = rng.integers(3, config.vocab, (args.prompts, args.prompt)).tolist()
  keys = list(rng.integers(0, 2**32, (args.prompts, args.samples, 2), dtype=np.uint32))
  rows = args.prompts * args.samples
  batch = args.batch or (max(rows // 4, 1) if args.unequal else rows)
  end_tokens = max(config.vocab // 100, 1)  # with --unequal

  def call(settings, refill=0.25):
    opened = rollout.Rollout(
      config,
      params,
      settings,
      sizes=rollout.sizes(batch, refill, args.samples, 1),
      bucket=args.prompt,
      max_new_tokens=args.new,
      eos=tuple(range(end_tokens)) if args.unequal else (-1,),
      pad=0,
    )
    return rollout.sample(opened, prompts, keys)

  runs = [
    ("greedy", sampling.sampling(0.0), 0.25),
    ("temperature 1", sampling.sampling(1.0), 0.25),
    ("top-p 0.9", sampling.sampling(1.0, 0.9), 0.25),
    ("top-k 50", sampling.sampling(1.0, 1.0, 50), 0.25),
  ]
  if args.unequal:
    runs = [("unequal", sampling.sampling(1.0), refill) for refill in (0.125, 0.25, 0.5, 1.0)]
  for name, settings, refill in runs:
    new, iterations = count(lambda s=settings, r=refill: call(s, r))
    with measure.compilations() as compiled:
      seconds = measure.time_calls(lambda s=settings, r=refill: call(s, r), args.repeats)
    measure.report(
      f"sampling, {name}",
      seconds,
      new,
      size=args.size,
      prompts=args.prompts,
      samples=args.samples,
      prompt=args.prompt,
      new=args.new,
      dtype=args.dtype,
      batch=batch,
      refill=refill,
      iterations=iterations,
      compiled=len(compiled),
    )


def count(work: Callable[[], Any]) -> tuple[int, int]:
  """Runs a rollout, which also compiles it; returns (new tokens, decoding iterations)."""
  decode, iterations = decode_loop.decode, []

  def counting_decode(config, params, state, *args, **kwargs):
    state, running = decode(config, params, state, *args, **kwargs)
    iterations.append(int(state.iteration))
    return state, running

  decode_loop.decode = counting_decode
  try:
    new = int(work().lengths.sum())
  finally:
    decode_loop.decode = decode
  return new, iterations[-1]


if __name__ == "__main__":
  main()
