"""How much of an accelerator is used: of its arithmetic in training, of its bandwidth in decoding.

  python -m benchmarks.accelerator                     (0.1B, 0.5B and 1.5B on whatever is there)
  python -m benchmarks.accelerator train --sizes 1.5B --rows 8 --length 4096 --remat dots full
  python -m benchmarks.accelerator train --sizes 0.5B --attention plain
  python -m benchmarks.accelerator decode --sizes 0.5B --decode-rows 1 32 256 --prompt 128
  python -m benchmarks.accelerator --smoke             (tiny, under a minute on a CPU)

Random Llamas with float32 parameters that compute in --dtype. A line of JSON for each measurement,
or with "error" where memory did not suffice; then the next one is tried. All devices work, and
tflops, mfu and bandwidth are of one. peak_mib: the most this process held, so far; program_mib:
what the step's program holds on a device, state and batch included.

train: AdamW steps on ragged examples packed into rows of --length (benchmarks/train_step.py; of one
epoch, the batch of median fill). mfu is needed FLOP/s over the device's dense bf16 peak. Needed are

  6 * the layers' matrices           for each token that is no padding
  6 * width * vocabulary             for each token that is a target
  12 * layers * heads * head width   for each pair of a token and one it sees, itself included

so that padding, what is masked, and what remat computes again do not count.

decode: rows whose prompts have been read draw --new tokens at temperature 1; the reading is not
timed, what makes the weights ready before the first step is. bandwidth_use is the bytes a step must
read over the memory's peak: all weights once, in --dtype, and the keys and values that a row has
written so far (their mean over the steps).
"""

import argparse
import gc
import json
import re
import statistics

import jax
import numpy as np

from benchmarks import measure, train_step
from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.learning import objectives
from distill_jax.students import attention, decoder, sharding

# A device_kind, its dense bf16 FLOP/s, and bytes/s of its memory: the makers' data sheets.
PEAKS = (
  ("NVIDIA H200", 989e12, 4.8e12),
  ("NVIDIA H100 80GB HBM3", 989e12, 3.35e12),
  ("NVIDIA A100.*80GB.*", 312e12, 2.0e12),
  ("NVIDIA A100.*40GB", 312e12, 1.555e12),
  ("NVIDIA L4", 121e12, 300e9),
  ("TPU v4", 275e12, 1.228e12),
  ("TPU v5 lite|TPU v5e", 197e12, 819e9),
  ("TPU v5|TPU v5p", 459e12, 2.765e12),
  ("TPU v6 lite|TPU v6e", 918e12, 1.64e12),
)
SMOKE = dict(
  sizes=["quickstart"], rows=4, length=96, remat=["full", "none"], steps=2, repeats=2,
  decode_rows=[4], prompt=16, new=16,
)  # fmt: skip


def peaks(kind: str) -> tuple[float | None, float | None]:
  """(FLOP/s, bytes/s) of a device; None where nobody told."""
  return next((found for name, *found in PEAKS if re.fullmatch(name, kind)), (None, None))


def matrices(config: decoder.Config) -> int:
  """Weights of the layers' products."""
  blocks = jax.tree.leaves(decoder.shapes(config)["blocks"])
  return sum(x.size for x in blocks if x.ndim > 2)  # the first dimension is the layer


def needed_flops(config: decoder.Config, arrays) -> float:
  """Of one step; see the top of this file."""
  pairs = 0
  for row in arrays["segments"]:
    lengths = np.unique(row[row > 0], return_counts=True)[1]
    pairs += int(np.sum(lengths * (lengths + 1) // 2))
  in_layers = 6 * matrices(config) * train_step.real_tokens(arrays)
  in_head = 6 * config.width * config.vocab * np.count_nonzero(arrays["weights"])
  return float(in_layers + in_head + 12 * config.layers * config.heads * config.head_width * pairs)


def shown(number: float | None, digits: int = 3):
  return None if number is None else round(number, digits)


def typical_batch(config, *, rows: int, length: int):
  """The arrays of the batch of median fill."""
  corpus = train_step.corpus(config, examples=16 * rows, rows=rows, length=length, packed=True)
  epoch = [corpus.batch(n) for n in range(len(corpus.batch_order.epoch(0)))]
  return sorted(epoch, key=train_step.real_tokens)[len(epoch) // 2]


def train(config, args, facts) -> None:
  mesh = sharding.make_mesh(fsdp=args.fsdp)
  arrays = typical_batch(config, rows=args.rows, length=args.length)
  batch = jax.device_put(objectives.batch_of(arrays), sharding.batch(mesh))
  update, state = train_step.compiled(config, mesh, remat=facts["remat"], path=args.attention)
  with jax.set_mesh(mesh):
    program = update.lower(state, batch, ()).compile()

    def work():
      nonlocal state
      for _ in range(args.steps):
        state, metrics = program(state, batch, ())
      return metrics

    seconds = [s / args.steps for s in measure.median_seconds(work, args.repeats)]
  per_device = needed_flops(config, arrays) / statistics.median(seconds) / mesh.size
  memory, real = program.memory_analysis(), train_step.real_tokens(arrays)
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  held += memory.output_size_in_bytes - memory.alias_size_in_bytes
  measure.report(
    "train step",
    seconds,
    real,
    **facts,
    real=round(real / arrays["tokens"].size, 3),
    examples=int(sum(len(np.unique(row[row > 0])) for row in arrays["segments"])),
    devices=mesh.size,
    program_mib=round(held / 2**20),
    tflops=shown(per_device / 1e12),
    peak_tflops=args.peak and args.peak / 1e12,
    mfu=shown(args.peak and per_device / args.peak),
  )


def decode(config, args, facts) -> None:
  mesh, rows = sharding.make_mesh(), facts["rows"]
  shapes = decoder.shapes(config)
  places = sharding.of_params(mesh, decoder.axes(config), shapes)
  params = jax.jit(lambda key: decoder.init(config, key), out_shardings=places)(jax.random.key(0))
  rng = np.random.Generator(np.random.PCG64(0))
  prompts = rng.integers(3, config.vocab, (rows, args.prompt), dtype=np.int32)
  every, keys = np.arange(rows, dtype=np.int32), rng.integers(0, 2**32, (rows, 2), dtype=np.uint32)

  def begun():
    read = decode_loop.prefill(config, params, prompts, np.full(rows, args.prompt, np.int32))
    state = decode_loop.empty(read, count=rows, max_new_tokens=args.new)
    return (decode_loop.place(state, read, every, every, keys),)

  def work(state):
    return decode_loop.decode(
      config, params, state, np.ones(rows, bool), sampling.sampling(1.0), np.int32(rows),
      rollout.FOREVER, eos=(-1,),
    )  # fmt: skip

  with jax.set_mesh(mesh):
    seconds = measure.median_seconds(work, args.repeats, begun)
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
    milliseconds_a_step=shown(1000 * statistics.median(seconds) / args.new),
    weights_mib=round(weights / 2**20, 1),
    cache_mib=round(cache / 2**20, 1),
    gb_per_second=shown(per_second / 1e9),
    peak_gb_per_second=args.bandwidth and args.bandwidth / 1e9,
    bandwidth_use=shown(args.bandwidth and per_second / args.bandwidth),
  )


def attempt(work, config, args, **facts) -> None:
  """One measurement; where memory does not suffice, a line that says so."""
  try:
    work(config, args, facts)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    line = {"benchmark": work.__name__, "device": jax.devices()[0].device_kind, **facts}
    print(json.dumps(line | {"error": "out of memory"}), flush=True)
  jax.clear_caches()
  gc.collect()


def arguments():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("work", nargs="?", choices=["train", "decode", "both"], default="both")
  parser.add_argument("--sizes", nargs="+", choices=measure.SIZES, default=["0.1B", "0.5B", "1.5B"])
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--peak", type=float, help="FLOP/s of a device, where the table is silent")
  parser.add_argument("--bandwidth", type=float, help="bytes/s of its memory, likewise")
  parser.add_argument("--smoke", action="store_true")
  group = parser.add_argument_group("train")
  group.add_argument("--rows", type=int, default=8)
  group.add_argument("--length", type=int, default=2048)
  group.add_argument(
    "--remat", nargs="+", choices=["none", *decoder.REMAT], default=["full", "dots", "none"]
  )
  group.add_argument("--attention", choices=attention.PATHS, default="auto")
  group.add_argument("--fsdp", type=int, default=1, help="devices that share the weights")
  group.add_argument("--steps", type=int, default=5, help="between two looks at the clock")
  group = parser.add_argument_group("decode")
  group.add_argument("--decode-rows", type=int, nargs="+", default=[1, 32, 256])
  group.add_argument("--prompt", type=int, default=128)
  group.add_argument("--new", type=int, default=128)
  args = parser.parse_args()
  return argparse.Namespace(**vars(args) | (SMOKE if args.smoke else {}))


def main():
  args = arguments()
  flops, bandwidth = peaks(jax.devices()[0].device_kind)
  args.peak, args.bandwidth = args.peak or flops, args.bandwidth or bandwidth
  for size in args.sizes:
    config = measure.student(size, args.dtype)
    facts = dict(size=size, dtype=args.dtype)
    for remat in args.remat * (args.work != "decode"):
      attempt(
        train, config, args, **facts, rows=args.rows, length=args.length, remat=remat,
        attention=args.attention,
      )  # fmt: skip
    for rows in args.decode_rows * (args.work != "train"):
      attempt(decode, config, args, **facts, rows=rows, prompt=args.prompt, new=args.new)


if __name__ == "__main__":
  main()
