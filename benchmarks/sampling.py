"""Times the sampler: prompts in, new tokens out, several samples a prompt.

  python -m benchmarks.sampling                                  (the quickstart's student)
  python -m benchmarks.sampling --size=mini --prompts=32 --samples=1 --prompt=64 --new=128
  python -m benchmarks.sampling --size=half_billion --dtype=bfloat16 --prompts=64

Prints a line of JSON for greedy decoding, for temperature 1, and for top-p; tokens_per_second
counts new tokens, none of which ends a row early. compiled is how many programs the timed calls
compiled, temperature changes included; it must be 0.
"""

import argparse

import jax
import numpy as np

from benchmarks import measure
from distill_jax.decoding import choice, sampler
from distill_jax.students import decoder


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=measure.SIZES, default="quickstart")
  parser.add_argument("--prompts", type=int, default=64)
  parser.add_argument("--samples", type=int, default=4)
  parser.add_argument("--prompt", type=int, default=64)
  parser.add_argument("--new", type=int, default=64)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--repeats", type=int, default=10)
  args = parser.parse_args()
  config = measure.student(args.size, args.dtype)
  params = jax.jit(lambda key: decoder.init(config, key))(jax.random.key(0))
  rng = np.random.Generator(np.random.PCG64(0))
  tokens = jax.device_put(
    rng.integers(3, config.vocab, (args.prompts, args.prompt), dtype=np.int32)
  )
  lengths = jax.device_put(np.full(args.prompts, args.prompt, np.int32))
  keys = jax.device_put(rng.integers(0, 2**32, (args.prompts * args.samples, 2), dtype=np.uint32))
  call = lambda settings: sampler.sample(
    config,
    params,
    tokens,
    lengths,
    keys,
    settings,
    samples=args.samples,
    new_tokens=args.new,
    eos=(-1,),
    pad=0,
  )
  jax.block_until_ready(call(choice.sampling(1.0)))
  new = args.prompts * args.samples * args.new
  for name, settings in (
    ("greedy", choice.sampling(0.0)),
    ("temperature 1", choice.sampling(1.0)),
    ("top-p 0.9", choice.sampling(1.0, 0.9)),
    ("top-k 50", choice.sampling(1.0, 1.0, 50)),
  ):
    with measure.compilations() as compiled:
      seconds = measure.median_seconds(lambda s=settings: call(s), args.repeats)
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
      compiled=len(compiled),
    )


if __name__ == "__main__":
  main()
