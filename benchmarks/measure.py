"""Shared by the benchmarks: students of named sizes, timing, peak memory and compilations."""

import contextlib
import json
import logging
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from distill_jax.students import decoder

SIZES: dict[str, dict[str, Any]] = {
  # The student of configs/quickstart.py.
  "quickstart": dict(vocab=512, width=96, layers=2, heads=4, kv_heads=2, head_width=24, mlp=256),
  "mini": dict(vocab=8192, width=256, layers=4, heads=4, kv_heads=4, head_width=64, mlp=1024),
  # For accelerators: Llamas with about this many parameters; all sizes are multiples of 128.
  "0.1B": dict(vocab=32768, width=768, layers=12, heads=6, kv_heads=2, head_width=128, mlp=2048),
  "0.5B": dict(vocab=32768, width=1536, layers=16, heads=12, kv_heads=4, head_width=128, mlp=4864),
  "1.5B": dict(vocab=32768, width=2048, layers=28, heads=16, kv_heads=4, head_width=128, mlp=6656),
}


def student(size: str, dtype: str) -> decoder.Config:
  """Returns the config of a student of a named size."""
  sizes = SIZES[size]
  rotary = decoder.Rotary(10_000.0, width=sizes["head_width"])
  return decoder.Config(**sizes, rotary=rotary, norm_eps=1e-5, tied=True, dtype=dtype)


def peak_mib() -> float:
  """Returns peak memory in MiB: of the first device if it reports it, else of this process."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / 2**20
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_name() -> str:
  """Returns the model name of this machine's CPU."""
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
  return next(named, platform.processor() or platform.machine())


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
  """Yields a list to which the name of each program compiled in the context is appended."""
  names = []

  class Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
      if "Compiling" in record.getMessage():
        names.append(record.getMessage().split()[1])

  logger, listener = logging.getLogger("jax"), Listener()
  logger.addHandler(listener)
  before, logger.propagate = logger.propagate, False
  try:
    with jax.log_compiles():
      yield names
  finally:
    logger.removeHandler(listener)
    logger.propagate = before


def time_calls(
  work: Callable[..., Any], repeats: int, prepare: Callable[[], tuple[Any, ...]] = tuple
) -> list[float]:
  """Returns the seconds of each of `repeats` calls work(*prepare()), after one warm-up call.

  The time of `prepare` is not counted.
  """
  seconds = []
  for _ in range(repeats + 1):
    arguments = jax.block_until_ready(prepare())
    start = time.perf_counter()
    jax.block_until_ready(work(*arguments))
    seconds.append(time.perf_counter() - start)
  return seconds[1:]


def report(name: str, seconds: list[float], tokens: float, **facts: Any) -> None:
  """Prints a line of JSON: median time, tokens per second, and the device."""
  median = statistics.median(seconds)
  print(
    json.dumps(
      {
        "benchmark": name,
        "device": jax.devices()[0].device_kind,
        "host": platform.machine(),
        "milliseconds": round(1000 * median, 2),
        "fastest": round(1000 * min(seconds), 2),
        "tokens_per_second": round(tokens / median),
        "peak_mib": round(peak_mib()),
        **facts,
      }
    ),
    flush=True,
  )
