"""The time that a program takes at least, and so the share of a device's peak that it can reach.

A device computes, moves bytes between itself and its memory, and receives bytes from others. Each
takes at least its amount divided by the rate in the data sheet. Together they take at least as long
as the longest, if the others overlap with it perfectly. A run is slower: little overlaps perfectly,
and few operations reach the rates. This is a bound, not a forecast.
"""

import re
from typing import NamedTuple

from benchmarks.compiled import hlo, traffic


class Rates(NamedTuple):
  """What a device can do in a second, by its data sheet."""

  flops: float  # dense products in 16 bits
  memory: float  # bytes
  links: float  # bytes received: over two links of a TPU, as at the corner of a slice; NVLink; PCIe


# By device_kind.
RATES = (
  ("NVIDIA H200", Rates(989e12, 4.8e12, 450e9)),
  ("NVIDIA H100 80GB HBM3", Rates(989e12, 3.35e12, 450e9)),
  ("NVIDIA A100.*80GB.*", Rates(312e12, 2.0e12, 300e9)),
  ("NVIDIA A100.*40GB", Rates(312e12, 1.555e12, 300e9)),
  ("NVIDIA L4", Rates(121e12, 300e9, 32e9)),
  ("NVIDIA GeForce RTX 4090", Rates(165e12, 1.008e12, 32e9)),
  ("TPU v4", Rates(275e12, 1.228e12, 90e9)),
  ("TPU v5 lite|TPU v5e", Rates(197e12, 819e9, 90e9)),
  ("TPU v5|TPU v5p", Rates(459e12, 2.765e12, 180e9)),
  ("TPU v6 lite|TPU v6e", Rates(918e12, 1.64e12, 180e9)),
)


class Bound(NamedTuple):
  """Milliseconds that a device needs at least."""

  compute: float
  memory: float
  links: float


def rates(kind: str) -> Rates | None:
  """Returns the rates of a device by its device_kind; None if unknown."""
  return next((x for pattern, x in RATES if re.fullmatch(pattern, kind)), None)


def bound(device: Rates, text: hlo.Program, products: float) -> Bound:
  """Returns the least time of one run of a program.

  Args:
    device: What a device can do.
    text: The compiled program.
    products: FLOPs of its products on one device.
  """
  moved = traffic.moved(text)
  received = sum(x.bytes * x.times for x in text.collectives())
  return Bound(
    1e3 * products / device.flops, 1e3 * moved / device.memory, 1e3 * received / device.links
  )


def share(device: Rates, least: Bound, needed: float) -> float:
  """Returns the largest share of peak FLOP/s that a program can reach.

  Args:
    device: What a device can do.
    least: The bound of the program.
    needed: FLOPs of one device that the model needs, without recomputation.
  """
  return 1e3 * needed / device.flops / max(least)
