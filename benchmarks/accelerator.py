"""Measures the utilization of an accelerator: MFU in training, memory bandwidth in decoding.

  python -m benchmarks.accelerator                     (0.1B, 0.5B and 1.5B on all devices)
  python -m benchmarks.accelerator train --sizes 1.5B --rows 8 --length 4096 --remat dots full
  python -m benchmarks.accelerator train --sizes 0.5B --attention plain
  python -m benchmarks.accelerator decode --sizes 0.5B --decode-rows 1 32 256 --prompt 128
  python -m benchmarks.accelerator --smoke             (tiny, under a minute on a CPU)

The models are Llamas with random float32 parameters that compute in --dtype. Each measurement
prints a line of JSON; if memory is exhausted, the line has an "error" and the next one is tried.
All devices are used; tflops, mfu and bandwidth are per device. peak_mib is the peak memory of the
process so far. program_mib is the memory of the step's program on a device, state and batch
included.

train: AdamW steps on ragged examples packed into rows of --length (see train_step.py; the batch
with median fill of one epoch). mfu is the required FLOP/s divided by the device's dense bf16 peak.
The required FLOPs are

  6 * weights of the layers' matrices   per token that is not padding
  6 * width * vocabulary                per token that is a target
  12 * layers * heads * head width      per pair of a token and one that it attends to, or itself

so padding, masked positions and recomputation do not count. mfu_at_most is the prediction of the
compiled program's roofline (compiled/roofline.py).

decode: rows sample --new tokens at temperature 1. Prefill is not timed; the preparation of the
weights before the first step is. bandwidth_use is the bytes that a step must read, per second,
divided by the peak bandwidth: all weights once, in --dtype, and the keys and values of each row so
far (their mean over the steps).
"""

import argparse
import gc
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import measure, train_step
from benchmarks.compiled import flops, hlo, roofline
from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.learning import objectives
from distill_jax.students import decoder, sharding

ATTENTION = ("auto", "plain", "cudnn", "splash")
SMOKE = dict(
  sizes=["quickstart"], rows=4, length=96, remat=["full", "none"], steps=2, repeats=2,
  decode_rows=[4], prompt=16, new=16,
)  # fmt: skip


Work = Callable[[decoder.Config, argparse.Namespace, dict[str, Any]], None]


def matrices(config: decoder.Config) -> int:
  """Returns the number of weights in the layers' matrices."""
  blocks = jax.tree.leaves(decoder.shapes(config)["blocks"])
  return sum(x.size for x in blocks if x.ndim > 2)  # the first dimension is the layer


def required_flops(config: decoder.Config, arrays: dict[str, np.ndarray]) -> float:
  """Returns the required FLOPs of one step, as defined above."""
  pairs = 0
  for row in arrays["segments"]:
    lengths = np.unique(row[row > 0], return_counts=True)[1]
    pairs += int(np.sum(lengths * (lengths + 1) // 2))
  in_layers = 6 * matrices(config) * train_step.real_tokens(arrays)
  in_head = 6 * config.width * config.vocab * np.count_nonzero(arrays["weights"])
  return float(in_layers + in_head + 12 * config.layers * config.heads * config.head_width * pairs)


def rounded(number: float | None, digits: int = 3) -> float | None:
  """Rounds a number; None stays None."""
  return None if number is None else round(number, digits)


def typical_batch(config: decoder.Config, *, rows: int, length: int) -> dict[str, np.ndarray]:
  """Returns the arrays of the batch with the median number of tokens."""
  corpus = train_step.corpus(config, examples=16 * rows, rows=rows, length=length, packed=True)
  epoch = [corpus.batch(n) for n in range(len(corpus.batch_order.epoch(0)))]
  return sorted(epoch, key=train_step.real_tokens)[len(epoch) // 2]


def train(config: decoder.Config, args: argparse.Namespace, facts: dict[str, Any]) -> None:
  """Measures training steps."""
  mesh = sharding.make_mesh(fsdp=args.fsdp)
  arrays = typical_batch(config, rows=args.rows, length=args.length)
  batch = jax.device_put(objectives.as_batch(arrays), sharding.batch(mesh))
  update, state = train_step.compiled(config, mesh, remat=facts["remat"], path=args.attention)
  with jax.set_mesh(mesh):
    traced = update.trace(state, batch, ())
    program = traced.lower().compile()

    def work():
      nonlocal state
      for _ in range(args.steps):
        state, metrics = program(state, batch, ())
      return metrics

    seconds = [s / args.steps for s in measure.time_calls(work, args.repeats)]
  required = required_flops(config, arrays) / mesh.size
  per_device = required / statistics.median(seconds)
  memory, real = program.memory_analysis(), train_step.real_tokens(arrays)
  assert memory is not None
  program_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  program_bytes += memory.output_size_in_bytes - memory.alias_size_in_bytes
  measure.report(
    "train step",
    seconds,
    real,
    **facts,
    real=round(real / arrays["tokens"].size, 3),
    examples=int(sum(len(np.unique(row[row > 0])) for row in arrays["segments"])),
    devices=mesh.size,
    program_mib=round(program_bytes / 2**20),
    tflops=rounded(per_device / 1e12),
    peak_tflops=args.peak and args.peak / 1e12,
    mfu=rounded(args.peak and per_device / args.peak),
    mfu_at_most=rounded(predicted(args, traced, program, required, mesh.size)),
  )


def predicted(
  args: argparse.Namespace, traced: Any, program: Any, required: float, devices: int
) -> float | None:
  """Returns the largest MFU that a program can reach; None if the device's rates are unknown."""
  if not (args.peak and args.bandwidth):
    return None
  rates = roofline.Rates(args.peak, args.bandwidth, args.links)
  products = flops.count(traced.jaxpr.jaxpr).flops / devices
  text = hlo.Program(program.as_text())
  least = roofline.bound(rates, text, products)
  return roofline.share(rates, least, required)


def decode(config: decoder.Config, args: argparse.Namespace, facts: dict[str, Any]) -> None:
  """Measures decoding."""
  mesh, rows = sharding.make_mesh(), facts["rows"]
  shapes = decoder.shapes(config)
  shardings = sharding.of_params(mesh, decoder.axes(config), shapes)
  params = jax.jit(lambda key: decoder.init(config, key), out_shardings=shardings)(
    jax.random.key(0)
  )
  rng = np.random.Generator(np.random.PCG64(0))
  prompts = rng.integers(3, config.vocab, (rows, args.prompt), dtype=np.int32)
  every, keys = np.arange(rows, dtype=np.int32), rng.integers(0, 2**32, (rows, 2), dtype=np.uint32)

  def prefilled():
    read = decode_loop.prefill(config, params, prompts, np.full(rows, args.prompt, np.int32))
    state = decode_loop.empty_state(read, count=rows, max_new_tokens=args.new)
    return (decode_loop.insert(state, read, every, every, keys),)

  def work(state):
    return decode_loop.decode(
      config, params, state, np.ones(rows, bool), sampling.sampling(1.0), np.int32(rows),
      rollout.UNLIMITED, eos=(-1,),
    )  # fmt: skip

  with jax.set_mesh(mesh):
    seconds = measure.time_calls(work, args.repeats, prefilled)
  size = np.dtype(config.dtype).itemsize
  weights = size * sum(x.size for x in jax.tree.leaves(shapes))
  column = size * 2 * config.layers * config.kv_heads * config.head_width
  cache = column * rows / mesh.size * (args.prompt + (args.new + 1) / 2)
  per_second = (weights + cache) * args.new / statistics.median(seconds)
  measure.report(
    "decode",
    seconds,
    rows * args.new,
    **facts,
    devices=mesh.size,
    milliseconds_per_step=rounded(1000 * statistics.median(seconds) / args.new),
    weights_mib=round(weights / 2**20, 1),
    cache_mib=round(cache / 2**20, 1),
    gb_per_second=rounded(per_second / 1e9),
    peak_gb_per_second=args.bandwidth and args.bandwidth / 1e9,
    bandwidth_use=rounded(args.bandwidth and per_second / args.bandwidth),
  )


def attempt(work: Work, config: decoder.Config, args: argparse.Namespace, **facts: Any) -> None:
  """Runs one measurement, or reports that memory is exhausted."""
  try:
    work(config, args, facts)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    line = {
      "benchmark": getattr(work, "__name__", ""),
      "device": jax.devices()[0].device_kind,
      **facts,
    }
    print(json.dumps(line | {"error": "out of memory"}), flush=True)
  jax.clear_caches()
  gc.collect()


def arguments() -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("work", nargs="?", choices=["train", "decode", "both"], default="both")
  parser.add_argument("--sizes", nargs="+", choices=measure.SIZES, default=["0.1B", "0.5B", "1.5B"])
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--peak", type=float, help="FLOP/s of a device that is not in the table")
  parser.add_argument("--bandwidth", type=float, help="bytes/s of its memory")
  parser.add_argument("--smoke", action="store_true")
  group = parser.add_argument_group("train")
  group.add_argument("--rows", type=int, default=8)
  group.add_argument("--length", type=int, default=2048)
  group.add_argument(
    "--remat", nargs="+", choices=["none", *decoder.REMAT], default=["full", "dots", "none"]
  )
  group.add_argument("--attention", choices=ATTENTION, default="auto")
  group.add_argument(
    "--fsdp", type=int, default=1, help="number of devices that the parameters are sharded over"
  )
  group.add_argument("--steps", type=int, default=5, help="steps per timed call")
  group = parser.add_argument_group("decode")
  group.add_argument("--decode-rows", type=int, nargs="+", default=[1, 32, 256])
  group.add_argument("--prompt", type=int, default=128)
  group.add_argument("--new", type=int, default=128)
  args = parser.parse_args()
  return argparse.Namespace(**vars(args) | (SMOKE if args.smoke else {}))


def main() -> None:
  args = arguments()
  known = roofline.rates(jax.devices()[0].device_kind)
  args.peak = args.peak or (known and known.flops)
  args.bandwidth = args.bandwidth or (known and known.memory)
  args.links = known.links if known else math.inf
  for size in args.sizes:
    config = measure.student(size, args.dtype)
    facts = dict(size=size, dtype=args.dtype)
    for remat in args.remat if args.work != "decode" else []:
      attempt(
        train, config, args, **facts, rows=args.rows, length=args.length, remat=remat,
        attention=args.attention,
      )  # fmt: skip
    for rows in args.decode_rows if args.work != "train" else []:
      attempt(decode, config, args, **facts, rows=rows, prompt=args.prompt, new=args.new)


if __name__ == "__main__":
  main()
