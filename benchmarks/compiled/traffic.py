"""Bytes between a device and its memory, from the text of a compiled program.

An array counts once for each operation that reads it, and once when it is written. Of arrays that
are only sliced, looked up in or updated in place, the parts count; of the operands of a
hand-written kernel, the blocks that its grid visits. Arrays that the compiler keeps in on-chip
memory do not count.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from benchmarks.compiled import flops, hlo

_READS = (
  "fusion", "copy", "copy-start", "slice-start", "dot", "convolution", "custom-call", "reduce",
  "gather", "dynamic-slice", "scatter", "select", "transpose", "concatenate", "pad",
)  # fmt: skip
_PARTS = ("dynamic-slice", "gather", "slice")
_UPDATE = "dynamic-update-slice"
_ON_CHIP = re.compile(r"[:)]S\(\d+\)")  # of a layout: {1,0:T(8,128)S(1)}
_ARRAY = re.compile(r"[a-z][a-z0-9]*\[[0-9,]*\](?:\{[^}]*\})?")  # with its layout
# Operations that name arrays, or wait for them, without moving them.
_NAMES = (
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
  "after-all", "opt-barrier", "async-start", "async-update",
)  # fmt: skip


def read_by_loop(program: hlo.Program, body: str, kernels: dict[str, int]) -> int:
  """Returns the bytes that the body of a loop reads; of what it calls, fusions only.

  Args:
    program: The program.
    body: The computation.
    kernels: Bytes that one call of a kernel reads, by the name of the kernel.
  """
  operations = program.of_computation(body)
  made = {x.name: x for x in operations}
  read = (_read(program, x, made, kernels) for x in operations if x.opcode in _READS)
  return sum(read)


def moved(program: hlo.Program) -> int:
  """Returns the bytes that a run of a program reads and writes at least, loops multiplied out.

  Loops of unknown length count once, and so does each branch of a condition. Operands of a kernel
  count once for each call.
  """
  made = {x.name: x for x in program.operations}
  total = 0
  for operation in program.operations:
    if operation.opcode in _NAMES or operation.opcode.endswith("-done"):
      continue
    if not program.is_inside(operation.computation):
      times = math.prod(n or 1 for n in program.loops(operation.computation))
      total += times * (_read(program, operation, made, {}) + _written(program, operation))
  return total


def _read(
  program: hlo.Program,
  operation: hlo.Operation,
  made: dict[str, hlo.Operation],
  kernels: dict[str, int],
) -> int:
  """Returns the bytes that an operation reads; `made` are those that make its operands, by name."""
  kernel = next((n for name, n in kernels.items() if name in operation.op_name), None)
  if operation.opcode == "custom-call" and kernel is not None:
    return kernel
  parts, total = _parts(program, operation), 0
  for number, name in enumerate(operation.operands):
    source = made.get(name)
    if source is not None and not _ON_CHIP.search(source.result):
      total += parts.get(number, sum(shape.bytes for shape in source.shapes))
  return total


def _written(program: hlo.Program, operation: hlo.Operation) -> int:
  """Returns the bytes that an operation writes; of arrays that it updates in place, the update."""
  updates: dict[tuple[str, int], int] = {}
  for x, made in _inside(program, operation):
    if x.opcode == _UPDATE:
      (whole,), update = x.shapes, made.get(x.operands[1])
      updates[whole.dtype, whole.elements] = sum(s.bytes for s in update.shapes) if update else 0
  arrays = _ARRAY.findall(operation.result.partition(" = ")[2])
  if operation.opcode.endswith("-start"):
    arrays = arrays[:1]  # the others are its operands and flags
  total = 0
  for array in arrays:
    for shape in hlo.shapes_of(array):
      if not _ON_CHIP.search(array):
        total += updates.get((shape.dtype, shape.elements), shape.bytes)
  return total


def _inside(
  program: hlo.Program, operation: hlo.Operation
) -> Iterator[tuple[hlo.Operation, dict[str, hlo.Operation]]]:
  """Yields an operation, or those that are fused in it, each with its neighbors by name."""
  if operation.opcode != "fusion":
    yield operation, {x.name: x for x in program.of_computation(operation.computation)}
    return
  fused = program.of_computation(operation.callee)
  made = {x.name: x for x in fused}
  for x in fused:
    if x.opcode == "fusion":
      yield from _inside(program, x)
    yield x, made


def _parts(program: hlo.Program, operation: hlo.Operation) -> dict[int, int]:
  """Returns the bytes of operands, by number, of which only parts are read."""
  if operation.opcode in _PARTS:
    return {0: sum(shape.bytes for shape in operation.shapes)}
  if operation.opcode == _UPDATE:
    return {0: 0}
  if operation.opcode != "fusion":
    return {}
  numbers = range(len(operation.operands))
  parts = {number: _part_of_operand(program, operation, number) for number in numbers}
  return {number: part for number, part in parts.items() if part is not None}


def _part_of_operand(program: hlo.Program, fusion: hlo.Operation, number: int) -> int | None:
  """Returns the bytes that a fusion reads of an operand; None: all of them."""
  mark = f"parameter({number})"
  inside = program.of_computation(fusion.callee)
  parameter = next((x for x in inside if x.opcode == "parameter" and mark in x.line), None)
  return None if parameter is None else _part(program, parameter)


def _part(program: hlo.Program, value: hlo.Operation) -> int | None:
  """Returns the bytes that a fusion reads of a value; None: all of them."""
  users = [x for x in program.of_computation(value.computation) if value.name in x.operands]
  total = 0 if users else None
  for user in users:
    read = _part_of_user(program, user, value.name)
    total = None if read is None or total is None else total + read
  return total


def _part_of_user(program: hlo.Program, user: hlo.Operation, name: str) -> int | None:
  """Returns the bytes that an operation inside a fusion reads of a value; None: all of them."""
  if user.opcode in _PARTS:
    return sum(shape.bytes for shape in user.shapes)
  if user.opcode == "bitcast":
    return _part(program, user)
  if user.opcode == "fusion" and user.operands.count(name) == 1:
    return _part_of_operand(program, user, user.operands.index(name))
  return 0 if user.opcode == _UPDATE and user.operands[0] == name else None


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
