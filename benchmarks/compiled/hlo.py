"""Facts of a compiled program, read from its text: loops, collectives, kernels, buffers."""

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

BYTES = dict(
  pred=1, s4=1, u4=1, s8=1, u8=1, f8e4m3fn=1, f8e5m2=1, s16=2, u16=2, bf16=2, f16=2, s32=4, u32=4,
  f32=4, s64=8, u64=8, f64=8,
)  # fmt: skip
COLLECTIVES = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
  "ragged-all-to-all",
)  # fmt: skip

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(")
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
_CALLEES = re.compile(r"\b(calls|body|condition|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_KERNEL = re.compile(r'custom_call_target="([^"]+)"')
_ALONE = re.compile(r"replica_groups=\{(\{\d+\},?)+\}")  # groups of one device: nothing is sent
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_RUNS = ("while", "conditional", "call", "async-start")  # operations that run computations
_NOT_BUFFERS = ("parameter", "tuple", "while", "get-tuple-element", "conditional", "bitcast")


class Shape(NamedTuple):
  """An array in the text."""

  dtype: str
  dims: tuple[int, ...]

  @property
  def elements(self) -> int:
    """How many numbers it holds."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Its bytes, without padding."""
    return BYTES[self.dtype] * self.elements

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Operation(NamedTuple):
  """One line of the text."""

  name: str
  opcode: str
  shapes: tuple[Shape, ...]  # of the result
  computation: str
  line: str

  @property
  def result(self) -> str:
    """Its result, as written: shapes and layouts."""
    return self.line.partition(f" {self.opcode}(")[0]

  @property
  def operands(self) -> tuple[str, ...]:
    """The names of its operands."""
    rest, depth = self.line.partition(f" {self.opcode}(")[2], 1
    for end, letter in enumerate(rest):
      depth += (letter == "(") - (letter == ")")
      if not depth:
        return tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
    return ()

  @property
  def callee(self) -> str:
    """The computation of a fusion."""
    return dict(_CALLEES.findall(self.line)).get("calls", "").lstrip("%")

  @property
  def op_name(self) -> str:
    """Where it comes from in the traced program."""
    match = _OP_NAME.search(self.line)
    return match.group(1) if match else ""


class Collective(NamedTuple):
  """A collective operation."""

  kind: str
  shapes: tuple[Shape, ...]  # what each device receives
  loops: tuple[int | None, ...]  # trips of the loops around it, innermost first; None: unknown

  @property
  def times(self) -> int:
    """How often it runs; loops of unknown length count once."""
    return math.prod(n or 1 for n in self.loops)

  @property
  def bytes(self) -> int:
    """Bytes that a device receives each time."""
    return sum(shape.bytes for shape in self.shapes)


def shapes_of(text: str) -> tuple[Shape, ...]:
  """Returns all arrays that a text names."""
  return tuple(
    Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
    for dtype, dims in _SHAPE.findall(text)
    if dtype in BYTES
  )


class Program:
  """The text of a compiled program."""

  def __init__(self, text: str):
    self.operations: list[Operation] = []
    self.trips: dict[str, int | None] = {}  # of each loop, by the name of its body
    self._callers: dict[str, set[str]] = collections.defaultdict(set)
    self._lines: dict[str, list[str]] = {}
    for name, line in _lines(text):
      self._lines.setdefault(name, []).append(line)
      for _, found in _CALLEES.findall(line):
        for callee in re.findall(r"[\w.\-]+", found):
          self._callers[callee].add(name)
      if match := _OPERATION.match(line):
        made = Operation(match.group(1), match.group(3), shapes_of(match.group(2)), name, line)
        self.operations.append(made)
    for operation in self.operations:
      if operation.opcode == "while":
        self._note_loop(operation)

  @functools.cached_property
  def _parts_of_operations(self) -> set[str]:
    found: set[str] = set()
    for operation in self.operations:
      if operation.opcode not in _RUNS:
        for _, callees in _CALLEES.findall(operation.line):
          found.update(re.findall(r"[\w.\-]+", callees))
    return found

  def is_inside(self, computation: str) -> bool:
    """Returns whether a computation is a part of operations: fused, or applied to elements."""
    return computation in self._parts_of_operations

  def _note_loop(self, operation: Operation) -> None:
    called = dict(_CALLEES.findall(operation.line))
    body, condition = called["body"].lstrip("%"), called["condition"].lstrip("%")
    known = _TRIPS.search(operation.line)
    if known:
      self.trips[body] = int(known.group(1))
      return
    limits = [
      int(n)
      for line in self._lines.get(condition, ())
      for n in re.findall(r"constant\((\d+)\)", line)
    ]
    compares = sum(" compare(" in line for line in self._lines.get(condition, ()))
    self.trips[body] = max(limits) if limits and compares == 1 else None

  @functools.cached_property
  def _by_computation(self) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in self.operations:
      found[operation.computation].append(operation)
    return dict(found)

  def of_computation(self, name: str) -> list[Operation]:
    """Returns the operations of a computation, in order."""
    return self._by_computation.get(name, [])

  @functools.cache  # noqa: B019 (a program lives as long as its report)
  def loops(self, computation: str) -> tuple[int | None, ...]:
    """Returns the trips of the loops around a computation, innermost first."""
    return self._loops(computation, ())

  def _loops(self, name: str, seen: tuple[str, ...]) -> tuple[int | None, ...]:
    outer: tuple[int | None, ...] = ()
    for caller in self._callers.get(name, ()):
      if caller not in seen:
        outer = max(outer, self._loops(caller, (*seen, name)), key=len)
    return ((self.trips[name],) if name in self.trips else ()) + outer

  def collectives(self) -> list[Collective]:
    """Returns all collectives; one that is started and ended apart, or fused, counts once."""
    found: dict[tuple[Any, ...], Collective] = {}
    for operation in self.operations:
      kind = operation.opcode.removesuffix("-start")
      if kind not in COLLECTIVES or _ALONE.search(operation.line):
        continue
      shapes = operation.shapes
      if operation.opcode.endswith("-start") and kind != "all-reduce":
        arrays = tuple(x for x in shapes if x.dims or x.dtype != "u32")  # the others are flags
        shapes = arrays[len(arrays) // 2 :]  # the operands come first
      channel = re.search(r"channel_id=(\d+)", operation.line)
      key = (kind, shapes, operation.op_name, channel.group(1) if channel else operation.name)
      if key[-1] == "1":  # what shard_map writes for all of them
        key = (kind, operation.name)
      new = Collective(kind, shapes, self.loops(operation.computation))
      if key not in found or len(new.loops) > len(found[key].loops):
        found[key] = new
    return list(found.values())

  def kernels(self) -> collections.Counter[str]:
    """Returns hand-written kernels by name: Pallas (Mosaic, Triton) and cuDNN."""
    names: collections.Counter[str] = collections.Counter()
    for operation in self.operations:
      match = _KERNEL.search(operation.line) if operation.opcode.startswith("custom-call") else None
      if match and match.group(1) in ("tpu_custom_call", "__gpu$xla.gpu.triton"):
        names[re.sub(r"\.\d+$", "", operation.name)] += 1
      elif match and "cudnn" in match.group(1).lower():
        names[match.group(1).lstrip("_$")] += 1
    return names

  def largest(self, count: int) -> list[tuple[Shape, str]]:
    """Returns the largest different arrays and where they come from."""
    origin: dict[Shape, str] = {}
    for operation in self.operations:
      if operation.opcode not in _NOT_BUFFERS and "fused" not in operation.computation:
        for shape in operation.shapes:
          origin.setdefault(shape, f"{operation.opcode} {operation.op_name}"[-90:])
    return sorted(origin.items(), key=lambda pair: pair[0].bytes, reverse=True)[:count]


def _lines(text: str) -> Iterator[tuple[str, str]]:
  """Yields (computation, line); the metadata of a kernel may continue a line after a line break."""
  name, line = "", ""
  for part in text.splitlines():
    if not name:
      match = _COMPUTATION.match(part)
      name = match.group(1) if match else ""
    elif part.rstrip() == "}" or part.startswith("  "):
      if line:
        yield name, line
      line = part if part.startswith("  ") else ""
      name = name if line else ""
    else:
      line += part
