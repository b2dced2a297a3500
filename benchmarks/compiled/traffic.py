"""Bytes that a loop of a compiled program reads from the memory of a device, each time around.

An array counts once for each operation that reads it. Of arrays that are only sliced or looked up
in, the parts count; of the operands of a hand-written kernel, the blocks that its grid visits.
Arrays that the compiler keeps in on-chip memory do not count.
"""

import math
import re
from typing import Any

import jax.numpy as jnp

from benchmarks.compiled import flops, hlo

_READS = (
  "fusion", "copy", "copy-start", "slice-start", "dot", "convolution", "custom-call", "reduce",
  "gather", "dynamic-slice", "scatter", "select", "transpose", "concatenate", "pad",
)  # fmt: skip
_PARTS = ("dynamic-slice", "gather", "slice")
_ON_CHIP = re.compile(r"[:)]S\(\d+\)")  # of a layout: {1,0:T(8,128)S(1)}


def read_by_loop(program: hlo.Program, body: str, kernels: dict[str, int]) -> int:
  """Returns the bytes that the body of a loop reads; of what it calls, fusions only.

  Args:
    program: The program.
    body: The computation.
    kernels: Bytes that one call of a kernel reads, by the name of the kernel.
  """
  operations = program.of_computation(body)
  made = {x.name: x for x in operations}
  total = 0
  for operation in operations:
    if operation.opcode not in _READS:
      continue
    kernel = next((n for name, n in kernels.items() if name in operation.op_name), None)
    if operation.opcode == "custom-call" and kernel is not None:
      total += kernel
      continue
    parts = _parts(program, operation)
    for number, name in enumerate(operation.operands):
      source = made.get(name)
      if source is not None and not _ON_CHIP.search(source.result):
        total += parts.get(number, sum(shape.bytes for shape in source.shapes))
  return total


def _parts(program: hlo.Program, operation: hlo.Operation) -> dict[int, int]:
  """Returns the bytes of operands, by number, of which only parts are read."""
  if operation.opcode in _PARTS:
    return {0: sum(shape.bytes for shape in operation.shapes)}
  found: dict[int, int] = {}
  inside = program.of_computation(operation.callee) if operation.opcode == "fusion" else ()
  for parameter in inside:
    if parameter.opcode != "parameter":
      continue
    users = [x for x in inside if parameter.name in x.operands]
    if users and all(x.opcode in _PARTS for x in users):
      number = int(parameter.line.rpartition("parameter(")[2].partition(")")[0])
      found[number] = sum(shape.bytes for x in users for shape in x.shapes)
  return found


def kernel_bytes(jaxpr: Any) -> dict[str, int]:
  """Returns the bytes that one call of each kernel reads on a device, by name of the kernel."""
  found: dict[str, int] = {}
  for equation in flops.equations(jaxpr):
    if equation.primitive.name == "pallas_call":
      mapping = equation.params["grid_mapping"]
      steps = math.prod(n for n in mapping.grid if isinstance(n, int))
      blocks = mapping.block_mappings[: mapping.num_inputs]
      found[equation.params["name"]] = steps * sum(_block_bytes(block) for block in blocks)
  return found


def _block_bytes(block: Any) -> int:
  shape = block.transformed_block_aval.shape
  return math.prod(shape) * jnp.dtype(block.array_aval.dtype).itemsize
