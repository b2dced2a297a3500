r"""Compiles the device programs for accelerators that are only described, and says what they are.

  python -m benchmarks.compile_for --topology=v5e:2x2 --mesh=1,4,1 --student=tiny
  python -m benchmarks.compile_for --topology=v5e:4x4 --mesh=1,16,1 --student=llama3.2-1b \
    --programs sft --rows=128 --length=1024
  python -m benchmarks.compile_for --topology=v6e:2x2 --mesh=4,1,1 --student=DIRECTORY --find-rows
  python -m benchmarks.compile_for --topology=h100:1x1x8 --mesh=1,8,1 --student=qwen2.5-0.5b

Needs libtpu for TPUs (pip install "jax[tpu]") and the CUDA plugin for GPUs ("jax[cuda13]"), but no
device: nothing runs. The student is a named size or a directory with a config.json; --mesh is data,
fsdp, tensor. Prints a line of JSON for each program, and at the end a table (on stderr):

  gib, fits      memory of a device that the program holds, and whether a run has as much: of a GPU
                 three quarters, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set; see --memory
  kernels        hand-written kernels in the program: splash attention (Mosaic), cuDNN
  loops          trips of the loops, "?" where the program decides
  sent_mib       MiB that a device receives a step by collectives, in loops and outside
  vocabulary_mib the part of it that is shards of the embedding or the head
  whole          collectives as large as the whole embedding, how often a step
  float32_tables arrays of float32 as large as the whole embedding, how many operations make one
  tflop, needed_tflop   of matrix products on all devices: of the program, loops multiplied out, and
                 of the model without recomputation and without masked positions
  products       the dtypes of products with more than 1 % of the FLOPs
  token_mib      decoding: MiB that a device reads from memory for each token of its rows
  token_needed_mib   the weights and the cache of its rows
  largest        the largest arrays, MiB
  at_least       milliseconds that a device computes, reads and writes memory, and receives, at the
                 rates of its data sheet; a step takes as long as the longest of them, or longer
  share_at_most  the largest share of peak FLOP/s that the needed FLOPs can reach

--find-rows: the largest number of rows, a multiple of data x fsdp, for which all programs fit, to
about an eighth; the search begins at --rows.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported

import argparse
import collections
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.compiled import devices, flops, hlo, programs, roofline, search, traffic
from benchmarks.compiled import students as sizes
from distill_jax.students import sharding

MIB = 2**20
NO_ROOM = re.compile(r"RESOURCE_EXHAUSTED|Ran out of memory|exceeds? the .*memory", re.IGNORECASE)
USED = re.compile(r"Used ([\d.]+)([GM]) of")


def report(
  options: programs.Options, kind: str, device: devices.Kind, effort: float
) -> dict[str, Any]:
  """Compiles a program and returns its facts."""
  facts: dict[str, Any] = {"program": kind, "rows": options.rows, "length": options.length}
  begun = time.perf_counter()
  program = programs.trace(options, kind)
  products = flops.count(program.traced.jaxpr.jaxpr)
  try:
    compiled = _compile(program.traced, device, effort)
  except Exception as error:
    if not NO_ROOM.search(str(error)):
      raise
    return facts | {"seconds": _seconds(begun), "gib": _used(str(error)), "fits": False}
  memory = compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  held += memory.output_size_in_bytes - memory.alias_size_in_bytes
  facts |= {"seconds": _seconds(begun), "gib": round(held / devices.GIB, 3)}
  facts["fits"] = held / devices.GIB < device.gib
  text = hlo.Program(compiled.as_text())
  facts |= text_facts(text, options)
  if program.token_bytes:
    (body,) = [name for name, trips in text.trips.items() if trips is None]
    read = traffic.read_by_loop(text, body, traffic.kernel_bytes(program.traced.jaxpr.jaxpr))
    facts |= {"token_mib": round(read / MIB, 1)}
    facts |= {"token_needed_mib": round(program.token_bytes / MIB, 1)}
  facts |= {"tflop": round(products.flops / 1e12, 4), "products": _shares(products)}
  if program.flops is not None:
    need = flops.needed(
      options.config, program.flops, backward=program.backward, frozen=options.lora > 0
    )
    facts |= {"needed_tflop": round(need.total / 1e12, 4)}
    facts |= {"ratio": round(products.flops / need.total, 3)}
    facts |= _roofline(options, text, products, need)
  return facts


def _roofline(
  options: programs.Options, text: hlo.Program, products: flops.Products, need: flops.Needed
) -> dict[str, Any]:
  """Returns the least time of a program, and its share of peak."""
  parts = options.mesh.devices
  rates = roofline.rates(parts.flat[0].device_kind)
  if rates is None:
    return {}
  # The products of cuDNN are not in the traced program.
  hidden = need.of_pairs if any("fmha" in name for name in text.kernels()) else 0.0
  on_one = (products.flops + hidden) / parts.size
  least = roofline.bound(rates, text, on_one)
  share = roofline.share(rates, least, need.total / parts.size)
  times = {f"{name}_ms": round(ms, 1) for name, ms in least._asdict().items()}
  return {"at_least": times, "share_at_most": round(share, 3)}


def _compile(traced: Any, device: devices.Kind, effort: float) -> Any:
  """Compiles a program. For TPU, `effort` below 0 saves compile time, above 0 run time."""
  chosen = {"exec_time_optimization_effort": effort} if device.platform == "tpu" and effort else {}
  return traced.lower().compile(compiler_options=chosen or None)


def _seconds(begun: float) -> float:
  return round(time.perf_counter() - begun, 1)


def _used(message: str) -> float | None:
  """Returns the GiB that the compiler says it would need."""
  match = USED.search(message)
  return match and round(float(match.group(1)) / (1 if match.group(2) == "G" else 1024), 2)


def _shares(products: flops.Products) -> dict[str, float]:
  everything = products.by_dtype | {f"kernel {name}": n for name, n in products.kernels.items()}
  return {
    name: round(n / products.flops, 3)
    for name, n in sorted(everything.items(), key=lambda pair: -pair[1])
    if n > 0.01 * products.flops
  }


def text_facts(program: hlo.Program, options: programs.Options) -> dict[str, Any]:
  """Returns what the text of a program says."""
  config, mesh = options.config, options.mesh
  whole = config.vocab * config.width // mesh.shape["tensor"]
  parts = whole // mesh.shape["fsdp"]
  sent: collections.Counter[str] = collections.Counter()
  repeated: collections.Counter[str] = collections.Counter()
  of_vocabulary = 0
  for collective in program.collectives():
    place = "in loops" if collective.loops else "outside"
    sent[f"{collective.kind} {place}"] += collective.bytes * collective.times
    for shape in collective.shapes:
      if shape.elements >= 0.9 * parts and _is_table(shape, options):
        of_vocabulary += shape.bytes * collective.times
      if shape.elements >= whole and _is_table(shape, options):
        repeated[f"{collective.kind} {shape}"] += collective.times
  return {
    "kernels": dict(program.kernels()),
    "loops": dict(collections.Counter(str(n or "?") for n in program.trips.values())),
    "sent_mib": {name: round(n / MIB, 2) for name, n in sorted(sent.items())},
    "vocabulary_mib": round(of_vocabulary / MIB, 1),
    "whole": dict(repeated),
    "float32_tables": _float32_tables(program, options),
    "largest": {str(x): [round(x.bytes / MIB, 1), where] for x, where in program.largest(6)},
  }


def _float32_tables(program: hlo.Program, options: programs.Options) -> dict[str, int]:
  whole = options.config.vocab * options.config.width // options.mesh.shape["tensor"]
  shapes = collections.Counter(
    str(shape)
    for operation in program.operations
    if operation.opcode != "parameter" and "fused" not in operation.computation
    for shape in operation.shapes
    if shape.dtype == "f32" and shape.elements >= whole and _is_table(shape, options)
  )
  return dict(shapes)


def _is_table(shape: hlo.Shape, options: programs.Options) -> bool:
  """Returns whether an array is a part of the embedding or the head, by its dimensions."""
  config, mesh = options.config, options.mesh
  tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
  entries = [-(-config.vocab // n) for n in (1, tensor, fsdp, tensor * fsdp)]
  widths = {config.width, config.width // fsdp, fsdp * config.width}
  return any(
    first <= dim < first + tensor * fsdp and shape.elements // dim in widths
    for first in entries
    for dim in shape.dims
  )


def find_rows(
  options: programs.Options, kinds: Sequence[str], device: devices.Kind, effort: float
) -> int:
  """Returns the largest number of rows for which all programs fit; 0 if none does.

  The search begins at `options.rows`, and ends when it is known to about an eighth.
  """
  parts = options.mesh.shape["data"] * options.mesh.shape["fsdp"]

  def attempt(count: int) -> search.Try:
    gib: dict[str, float | None] = {}
    for kind in kinds:
      facts = report(options._replace(rows=count * parts), kind, device, effort)
      print(json.dumps(facts), flush=True)
      gib[kind] = facts["gib"]
      if not facts["fits"]:
        return search.Try(count, False, gib)
    return search.Try(count, True, gib)

  return parts * search.largest(attempt, max(options.rows // parts, 1), device.gib)


def table(lines: Sequence[dict[str, Any]]) -> str:
  """Returns the facts as a table."""
  head = (
    "program", "rows", "length", "GiB", "fits", "TFLOP", "/needed", "share", "sent MiB", "kernels",
  )  # fmt: skip
  rows: list[tuple[Any, ...]] = [head]
  for x in lines:
    sent = round(sum(x.get("sent_mib", {}).values()), 1)
    kernels = ", ".join(x.get("kernels", {})) or "none"
    cells = (x["program"], x["rows"], x["length"], x["gib"], "yes" if x["fits"] else "NO")
    computed = (x.get("tflop", ""), x.get("ratio", ""), x.get("share_at_most", ""))
    rows.append((*cells, *computed, sent, kernels))
  widths = [max(len(str(row[n])) for row in rows) for n in range(len(head))]
  return "\n".join(
    "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for row in rows
  )


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", default="v5e:2x2", help="kind:sizes, e.g. v5e:4x4, h100:1x1x8")
  parser.add_argument("--mesh", default="1,-1,1", help="data,fsdp,tensor; -1 takes what is left")
  names = ", ".join(sizes.NAMES)
  parser.add_argument(
    "--student", default="tiny", help=f"{names}, or a directory with a config.json"
  )
  parser.add_argument(
    "--programs", nargs="+", choices=list(programs.BUILDERS), default=list(programs.BUILDERS)
  )
  parser.add_argument("--rows", type=int, default=32, help="of a batch, on all devices together")
  parser.add_argument("--length", type=int, default=512, help="tokens of a row, or of a prompt")
  parser.add_argument("--new", type=int, default=256, help="new tokens of a decoded row")
  parser.add_argument("--remat", choices=["none", "dots", "full"], default="full")
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--lora", type=int, default=0, help="rank of the adapters; 0: all weights")
  parser.add_argument("--packing", action="store_true", help="several examples in a row")
  parser.add_argument("--base", choices=["", "nf4"], default="", help="weights below adapters")
  parser.add_argument("--weights", choices=["", "int8"], default="", help="that decoding reads")
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--effort", type=float, default=-1.0, help="of the TPU compiler; a run has 0")
  parser.add_argument("--memory", type=float, help="GiB that a device has; default: see above")
  parser.add_argument("--find-rows", action="store_true")
  return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
  """Compiles what the command line asks for; returns the facts of each program."""
  args = arguments(words)
  try:
    described = devices.describe(args.topology)
    mesh = sharding.make_mesh(*map(int, args.mesh.split(",")), devices=described)
    config = sizes.read(args.student, args.dtype)
  except (ValueError, devices.Missing) as error:
    sys.exit(f"compile_for: {error}")
  options = programs.Options(
    config, mesh, args.rows, args.length, args.remat, args.attention, args.lora, args.new,
    args.base, args.weights, args.packing,
  )  # fmt: skip
  device = devices.kind_of(args.topology)
  device = device._replace(gib=args.memory or device.gib)
  about = {"topology": args.topology, "mesh": args.mesh, "student": args.student}
  if args.find_rows:
    rows = find_rows(options, args.programs, device, args.effort)
    print(json.dumps(about | {"programs": args.programs, "length": args.length, "rows": rows}))
    return []
  lines = []
  for kind in args.programs:
    lines.append(about | report(options, kind, device, args.effort))
    print(json.dumps(lines[-1]), flush=True)
  print(table(lines), file=sys.stderr)
  return lines


if __name__ == "__main__":
  main()
