"""What the benchmarks share: a student of a named size, medians, peak memory, and how often
something was compiled."""

import contextlib
import json
import logging
import pathlib
import platform
import statistics
import time

import jax

from distill_jax.students import decoder

SIZES = {
  # The student of configs/quickstart.py.
  "quickstart": dict(vocab=512, width=96, layers=2, heads=4, kv_heads=2, head_width=24, mlp=256),
  # The shape of a 4-layer 256-wide model with a vocabulary of 8192.
  "mini": dict(vocab=8192, width=256, layers=4, heads=4, kv_heads=4, head_width=64, mlp=1024),
  # For accelerators: Llamas of about so many parameters, everything a multiple of 128.
  "0.1B": dict(vocab=32768, width=768, layers=12, heads=6, kv_heads=2, head_width=128, mlp=2048),
  "0.5B": dict(vocab=32768, width=1536, layers=16, heads=12, kv_heads=4, head_width=128, mlp=4864),
  "1.5B": dict(vocab=32768, width=2048, layers=28, heads=16, kv_heads=4, head_width=128, mlp=6656),
}


def student(size: str, dtype: str) -> decoder.Config:
  sizes = SIZES[size]
  rotary = decoder.Rotary(10_000.0, width=sizes["head_width"])
  return decoder.Config(**sizes, rotary=rotary, norm_eps=1e-5, tied=True, dtype=dtype)


def peak_mib() -> float:
  """Peak resident memory of this process, MiB (VmHWM; device memory where the device tells)."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / 2**20
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextlib.contextmanager
def compilations():
  """Yields a list that gets a name for every program compiled inside."""
  names = []

  class Listener(logging.Handler):
    def emit(self, record):
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


def median_seconds(work, repeats: int, prepare=tuple) -> list[float]:
  """Seconds of each of `repeats` calls work(*prepare()), after one that warms up; those of
  `prepare` are not counted."""
  out = []
  for _ in range(repeats + 1):
    given = jax.block_until_ready(prepare())
    begun = time.perf_counter()
    jax.block_until_ready(work(*given))
    out.append(time.perf_counter() - begun)
  return out[1:]


def report(name: str, seconds: list[float], tokens: float, **facts) -> None:
  """One line of JSON: medians, tokens a second, and where it ran."""
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
