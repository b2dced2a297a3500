"""Times the parts of a decoding step of a pretrained Llama on a CPU.

  python -m benchmarks.decode_parts --student=DIR
  python -m benchmarks.decode_parts --student=DIR --rows=8 --columns=512

DIR is a student in Hugging Face format. Prints a line of JSON for each of: the whole step without
sampling, its products with weights alone, its attention over a cache of --columns tokens alone, and
the sampling of its tokens. `cpu_ms` above `ms` shows that a part uses several cores.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import exam_beside_transformers, measure
from distill_jax.decoding import decode_loop, sampling
from distill_jax.students import attention, decoder, layers, logprobs
from distill_jax.students.token_rows import Cache

STEPS = 16  # of a timed call


def main() -> None:
  """Times all parts."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--student", required=True)
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--columns", type=int, default=352)
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  args.task, args.path = "arithmetic", ""
  with tempfile.TemporaryDirectory() as workdir:
    with exam_beside_transformers.open_run(args, workdir) as ctx:
      student, params = next(iter(ctx.students(-1).values()))
      held, config = student.prepare(params), student.config
    if not isinstance(config, decoder.Config) or not config.gated:
      raise SystemExit(f"{args.student} is not like a Llama: its parts are not known here")
    with jax.set_mesh(student.mesh):
      for name, (body, state) in parts(config, held, args.rows, args.columns).items():
        report(name, repeated(body), (held, state), args)


Body = Callable[[decode_loop.Held, Any], Any]


def parts(
  config: decoder.Config, held: decode_loop.Held, rows: int, columns: int
) -> dict[str, tuple[Body, Any]]:
  """Returns, for each part, a function (weights, state) -> state and its first state."""
  shape = (rows, config.kv_heads, columns, config.head_width)
  layers_of_zeros = tuple(jnp.zeros(shape) for _ in range(config.layers))
  cache = Cache(layers_of_zeros, layers_of_zeros)
  position_B = jnp.full(rows, columns // 2, jnp.int32)
  mask_B1S = jnp.broadcast_to(jnp.arange(columns) < columns // 2, (rows, 1, columns))

  def step(held: decode_loop.Held, state: Any) -> Any:
    cache, token_B = state
    unstacked: Any = held.unstacked
    logits_BV, cache = decoder.decode_step(
      config, held.params, unstacked, token_B, position_B, cache
    )
    return cache, jnp.int32(logits_BV[:, 0]) % config.vocab

  def products(held: decode_loop.Held, x_B1D: Any) -> Any:
    unstacked: Any = held.unstacked
    modules, head_DV = unstacked
    for module in modules:
      q_B1HK, *_ = layers.qkv_proj(x_B1D, module)
      x_B1D = layers.project(q_B1HK, module.o, 2)
      inner = layers.project(x_B1D, module.gate) * layers.project(x_B1D, module.up)
      x_B1D = layers.project(inner, module.down)
    return x_B1D + logprobs.logits(x_B1D, head_DV)[..., :1]

  def attend(held: decode_loop.Held, state: Any) -> Any:
    cache, q_B1HK = state
    for keys, values in zip(cache.keys, cache.values, strict=True):
      q_B1HK = attention.attend(q_B1HK, keys, values, mask_B1S, scale=config.scale)
    return cache, q_B1HK

  def draw(held: decode_loop.Held, state: Any) -> Any:
    logits_BV, uniform_B = state
    token_B, _ = sampling.sample_tokens(logits_BV, uniform_B, sampling.sampling(1.0))
    return logits_BV + uniform_B[:, None], token_B / config.vocab

  random_BV = jax.random.normal(jax.random.key(0), (rows, config.vocab))
  return {
    "step without sampling": (step, (cache, jnp.zeros(rows, jnp.int32))),
    "products": (products, jnp.ones((rows, 1, config.width))),
    "attention": (attend, (cache, jnp.ones((rows, 1, config.heads, config.head_width)))),
    "sampling": (draw, (random_BV, jnp.full(rows, 0.5))),
  }


def repeated(body: Body) -> Callable[[decode_loop.Held, Any], Any]:
  """Returns a compiled function that applies a part STEPS times."""

  def run(held: decode_loop.Held, state: Any) -> Any:
    return jax.lax.fori_loop(0, STEPS, lambda _, state: body(held, state), state)

  return jax.jit(run)


def report(name: str, run: Callable[..., Any], operands: tuple, args: argparse.Namespace) -> None:
  """Prints the time of a part: that of the fastest of --repeats calls."""
  jax.block_until_ready(run(*operands))
  times = []
  for _ in range(args.repeats):
    start, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(*operands))
    times.append((time.perf_counter() - start, time.process_time() - cpu))
  seconds, cpu_seconds = min(times)
  line = {
    "benchmark": f"decoding: {name}",
    "rows": args.rows,
    "columns": args.columns,
    "cpu": measure.cpu_name(),
    "ms": round(1000 * seconds / STEPS, 1),
    "cpu_ms": round(1000 * cpu_seconds / STEPS, 1),
  }
  print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
