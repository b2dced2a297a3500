"""Memory that a run needs, compared with what the devices have: at the start and before a step.

The memory for weights, gradients, optimizer and frozen weights is known at the start. The rest of a
step (activations, logits) is known once the step is compiled, from the compiler's memory analysis.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from distill_jax import errors, students
from distill_jax.students import trainable

GB = 1e9
REMEDIES = (
  "choose a smaller train.batch or a larger train.grad_accum_steps, shorter train.buckets,"
  " train.remat=full, LoRA (student.lora.rank=16), or a smaller student"
)
PRODUCTS_BYTES = 0.75 * 2**30  # that a device may keep for the backward pass with remat=auto


def capacity() -> int:
  """Returns the bytes of memory of one device; for a CPU, those that this process may use."""
  device = jax.local_devices()[0]
  if device.platform != "cpu":
    return (device.memory_stats() or {}).get("bytes_limit", 0)
  limits = [_meminfo("MemTotal")]
  for file in cgroup_limits():
    with contextlib.suppress(OSError):
      text = file.read_text().strip()
      limits += [int(text)] if text.isdigit() else []
  return min(limit for limit in limits if limit > 0) if any(limits) else 0


def cgroup_limits(
  groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> Iterator[pathlib.Path]:
  """Yields the files with the limits of its own cgroup and those above; they may not exist."""
  try:
    lines = pathlib.Path(groups).read_text().splitlines()
  except OSError:
    return
  for line in lines:
    _, controllers, group = line.split(":", 2)
    if not controllers:  # version 2
      top, name = pathlib.Path(root), "memory.max"
    elif "memory" in controllers.split(","):
      top, name = pathlib.Path(root, "memory"), "memory.limit_in_bytes"
    else:
      continue
    own = pathlib.PurePath(group.strip("/"))
    yield from (top / above / name for above in (own, *own.parents))


def _meminfo(name: str, path: str = "/proc/meminfo") -> int:
  """Returns a line of /proc/meminfo or /proc/self/status, in bytes; 0 if there is none."""
  try:
    lines = pathlib.Path(path).read_text().splitlines()
  except OSError:
    return 0
  return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def process() -> int:
  """Returns the bytes that this process occupies on the host."""
  return _meminfo("VmRSS", "/proc/self/status")


def size(tree: Any) -> int:
  """Returns the bytes of a pytree of arrays or shapes."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def of_training(trained: trainable.Trainable) -> int:
  """Returns the bytes of weights, gradients, both moments of AdamW and frozen weights."""
  frozen = size(trained.frozen_shapes) if trained.rank else 0
  return 4 * size(trained.shapes) + frozen


def of_products(trained: trainable.Trainable, tokens: int) -> int:
  """Returns the bytes of the results of all layers' matrix products for a number of tokens.

  An adapter adds a product of its own; every weight counts as adapted here.
  """
  config: Any = trained.config
  model = students.of(config)
  axes = jax.tree.leaves(model.axes(config), is_leaf=lambda x: isinstance(x, tuple))
  outputs = 0
  for names, shape in zip(axes, jax.tree.leaves(model.shapes(config)), strict=True):
    if names[0] == "layers" and "embed" in names:
      first_output = 2 if names[1] == "embed" else names.index("embed")
      outputs += shape.shape[0] * math.prod(shape.shape[first_output:])
  copies = 2 if trained.rank else 1
  return copies * tokens * outputs * jax.numpy.dtype(config.dtype).itemsize


def recomputation(remat: str, trained: trainable.Trainable, tokens: int) -> str:
  """Returns what the backward pass of a step recomputes: none | dots | full.

  Args:
    remat: The setting; auto keeps the results of products where they take little memory.
    trained: The student.
    tokens: Tokens that a device processes at once.
  """
  if remat != "auto":
    return remat
  return "dots" if of_products(trained, tokens) <= PRODUCTS_BYTES else "full"


def of_decoding(trained: trainable.Trainable, rows: int, columns: int, weights: str = "") -> int:
  """Returns the bytes of weights, their copy by layers, and a cache of keys and values.

  Args:
    trained: The student.
    rows: Rows decoded at a time.
    columns: Tokens of a row, with its prompt.
    weights: config.rollout.weights.
  """
  config: Any = trained.config
  shapes = students.of(config).shapes(config)
  groups = config.kv_heads if students.of(config) is students.decoder else config.heads
  item = jax.numpy.dtype(config.dtype).itemsize
  cache = 2 * config.layers * rows * groups * columns * config.head_width * item
  copy = size(shapes) * (1 if weights == "int8" else item) // 4
  return (size(trained.frozen_shapes) if trained.rank else size(shapes)) + copy + cache


def check_start(
  trained: trainable.Trainable, rows: int, columns: int, shards: int, weights: str = ""
) -> str:
  """Checks the least memory that a run needs.

  Args:
    trained: The student.
    rows: Rows decoded at a time by the devices that share the weights.
    columns: Tokens of a row, with its prompt.
    shards: Devices that share the weights.
    weights: config.rollout.weights.

  Returns:
    A line that describes it.

  Raises:
    UserError: It cannot fit.
  """
  training = of_training(trained) / shards
  decoding = of_decoding(trained, rows, columns, weights) / shards
  room = capacity()
  text = (
    f"at least {training / GB:.2g} GB for weights, gradients and optimizer, "
    f"{decoding / GB:.2g} GB to decode {rows} rows of {columns} tokens"
  )
  if room and max(training, decoding) > room:
    wants = "training needs " if training > room else "decoding needs "
    remedy = (
      "use LoRA (--config.student.lora.rank=16), more devices (mesh.fsdp) or a smaller student"
      if training > room
      else "choose a smaller rollout.batch, or shorter rollout.buckets and max_new_tokens"
    )
    raise errors.data(
      f"{wants}{max(training, decoding) / GB:.1f} GB, but the device has {room / GB:.1f} GB: "
      f"{remedy}"
    )
  return f"memory: {text}; the device has {room / GB:.3g} GB"


def of_step(compiled: Any) -> int:
  """Returns the bytes that a compiled step occupies while it runs; 0 if this is not known."""
  analysis = compiled.memory_analysis()
  if analysis is None:
    return 0
  return int(
    analysis.argument_size_in_bytes
    + analysis.temp_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
  )


def check_step(compiled: Any, held: int) -> str:
  """Checks that a compiled train step fits.

  Args:
    compiled: The step.
    held: Bytes of its arguments that exist already.

  Returns:
    A line that describes it.

  Raises:
    UserError: It cannot fit.
  """
  needed, room = of_step(compiled), capacity()
  if jax.default_backend() == "cpu":
    needed += max(process() - held, 0)  # the rest of the process
  if room and needed > room:
    raise errors.data(
      f"a train step needs about {needed / GB:.1f} GB, but the device has {room / GB:.1f} GB: "
      f"{REMEDIES}"
    )
  return f"memory of a train step: about {needed / GB:.2g} of {room / GB:.3g} GB"
