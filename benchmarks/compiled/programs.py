"""The device programs of a run, traced for a mesh: the same builders that a run uses.

Dimension key: B rows, L tokens of a row, N new tokens.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import students
from distill_jax.config import read, recipes
from distill_jax.data import batches, collate, encode
from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.learning import objectives, step
from distill_jax.phases import prefer, train
from distill_jax.runtime import fit, reference_logprobs
from distill_jax.settings import Settings
from distill_jax.students import sharding, t5, trainable

STEPS = 1000  # of a phase; decides the schedule only


class Options(NamedTuple):
  """What a program is compiled for."""

  config: Any
  mesh: jax.sharding.Mesh
  rows: int
  length: int
  remat: str = "full"
  attention: str = "auto"
  lora: int = 0  # rank
  new: int = 256  # new tokens of a decoded row
  base: str = ""  # of student.lora: nf4
  weights: str = ""  # of rollout: int8
  packing: bool = False  # several examples in a row


class Traced(NamedTuple):
  """A program before compilation."""

  traced: Any  # jax.stages.Traced
  flops: dict[str, np.ndarray] | None  # arrays whose FLOPs the model needs; None: decoding
  backward: bool
  token_bytes: int = 0  # decoding: what a device must read for each token of its rows


def settings(options: Options) -> Settings:
  """Returns the settings of the recipe `tailored` with these options."""
  config = recipes.load("tailored")
  config.train.remat, config.train.batch = options.remat, options.rows
  config.train.packing = options.packing
  config.student.attention, config.student.dtype = options.attention, options.config.dtype
  return read.read_settings(config.to_dict(), teacher=False)


def arrays(options: Options, kind: str) -> dict[str, np.ndarray]:
  """Returns a batch of full rows.

  Half of a row is the prompt. The rest is the target (sft), the target and the three branches of a
  triplet that detaches its prompt (tailored), or the two sides of a pair (prefer, score).
  """
  config, length = options.config, options.length
  start = config.start if isinstance(config, t5.Config) else None
  half = length // 2
  prompt, part = (3,) * half, half // {"sft": 1, "tailored": 4}.get(kind, 2)
  text = (4,) * part
  if kind in ("prefer", "score"):
    pair = encode.EncodedPair("q", prompt, text, text, references=(-1.0, -1.0))
    row = collate.PreferenceCollator(start=start).plain_row(pair)
  else:
    row = encode.supervised_row(prompt, text, prompt_weight=0.0, denominator="weights", start=start)
  if kind == "tailored":
    row = encode.add_triplet(row, text, text, pool="last", detach=True, max_response=length)
  return batches.stack(
    [row] * options.rows,
    batch=options.rows,
    length=length,
    targets=length if kind == "score" else len(row.where),
    pad=0,
    triplets=int(kind == "tailored"),
    pairs=int(kind in ("prefer", "score")),
  )


def _placed(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings
  )


def _on_mesh(options: Options, function: Callable[..., Any], *args: Any, **others: Any) -> Any:
  """Calls a function that traces. Nothing else may run under the mesh: it has no devices."""
  with jax.set_mesh(options.mesh):
    return function(*args, **others)


def _batch(options: Options, batch: dict[str, np.ndarray]) -> objectives.Batch:
  at = sharding.batch(options.mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), objectives.as_batch(batch)
  )


def _trainable(options: Options) -> trainable.Trainable:
  if not options.lora:
    return trainable.Trainable(options.config)
  return trainable.Trainable(options.config, options.lora, 2.0, ("k", "o", "q", "v"), options.base)


def _params(options: Options, dtype: str = "float32") -> Any:
  """Returns the abstract parameters of the whole model, as a run places them."""
  model, config = students.of(options.config), options.config
  shapes = model.shapes(config)
  return _placed(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes),
    sharding.of_params(options.mesh, model.axes(config), shapes),
  )


def _train(options: Options, kind: str) -> Traced:
  s, parameters = settings(options), _trainable(options)
  losses = dataclasses.replace(s.train.losses, triplet=0.5 if kind == "tailored" else 0.0)
  objective = (
    prefer.PreferenceObjective(s.prefer)
    if kind == "prefer"
    else train.TailoredObjective(losses, dataclasses.replace(s.triplet, detach_prompt=True))
  )
  made = fit.build_train_step(
    s.train, objective, options.attention, parameters, options.mesh, STEPS
  )
  shapes = jax.eval_shape(lambda p: step.init_state(p, made.optimizer), parameters.shapes)
  at = made.shardings
  state = _placed(shapes, step.TrainState(at.step, at.params, at.opt_state))
  frozen = ()
  if options.lora:
    frozen = _placed(parameters.frozen_shapes, parameters.frozen_shardings(options.mesh))
  batch = arrays(options, kind)
  return Traced(
    _on_mesh(options, made.update.trace, state, _batch(options, batch), frozen), batch, True
  )


def _score(options: Options, kind: str) -> Traced:
  s, parameters = settings(options), trainable.Trainable(options.config)
  scorer: Any = reference_logprobs.build_scorer(
    parameters, options.attention, s.train.logits_chunk, packed=s.train.packing
  ).side_logprobs
  batch = arrays(options, kind)
  traced = _on_mesh(options, scorer.trace, (), _params(options), _batch(options, batch))
  return Traced(traced, batch, False)


def _array(dtype: Any, *shape: int) -> Any:
  return jax.ShapeDtypeStruct(shape, dtype)


def _sizes(options: Options) -> rollout.Sizes:
  s, mesh = settings(options), options.mesh
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  return rollout.sizes(options.rows, s.rollout.refill, 1, parts)


def _prefill(options: Options, kind: str) -> Traced:
  count = _sizes(options).prompts
  prompts = _array(jnp.int32, count, options.length), _array(jnp.int32, count)
  weights = _weights(options)
  traced = _on_mesh(options, decode_loop.prefill.trace, options.config, weights, *prompts)
  return Traced(traced, None, False)


def _weights(options: Options) -> Any:
  """Returns the abstract weights that a rollout reads."""
  config, params, model = options.config, _params(options), students.of(options.config)
  if options.weights:
    lowered = _on_mesh(options, decode_loop.quantize_once.lower, config, params, options.weights)
  elif _on_mesh(options, sharding.decodes_whole, model.shapes, config):
    lowered = _on_mesh(options, decode_loop.gather_once.lower, config, params)
  else:
    return params
  return _placed(lowered.out_info, lowered.compile().output_shardings)


def _state(options: Options) -> tuple[Any, Any]:
  """Returns the abstract (prefilled prompts, state) of a rollout, as a run places them."""
  sizes, config = _sizes(options), options.config
  prompts = _array(jnp.int32, sizes.prompts, options.length), _array(jnp.int32, sizes.prompts)
  prefilled = _on_mesh(
    options,
    jax.eval_shape,
    lambda params: decode_loop.prefill(config, params, *prompts),
    _params(options),
  )
  state = _on_mesh(
    options,
    jax.eval_shape,
    lambda x: decode_loop.empty_state(x, count=sizes.rows, max_new_tokens=options.new),
    prefilled,
  )
  at = lambda tree: decode_loop.shardings(options.mesh, tree)
  return _placed(prefilled, at(prefilled)), _placed(state, at(state))


def _place(options: Options, kind: str) -> Traced:
  prefilled, state = _state(options)
  count = _sizes(options).refill
  at = _array(jnp.int32, count)
  keys = _array(jnp.uint32, count, 2)
  traced = _on_mesh(options, decode_loop.insert.trace, state, prefilled, at, at, keys)
  return Traced(traced, None, False)


def _decode(options: Options, kind: str) -> Traced:
  _, state = _state(options)
  weights = _weights(options)
  scalar = _array(jnp.int32)
  settings = sampling.Sampling(_array(jnp.float32), _array(jnp.float32), scalar)
  running = _array(jnp.bool_, _sizes(options).rows)
  args = options.config, weights, state, running, settings, scalar, scalar
  traced = _on_mesh(options, decode_loop.decode.trace, *args, eos=(2,))
  return Traced(traced, None, False, _token_bytes(options, weights, state.cache))


def _token_bytes(options: Options, weights: Any, cache: Any) -> int:
  """Returns the bytes of the weights and of a device's part of the cache.

  Tables that are only looked up in do not count, nor does an encoder. The weights are in the
  compute dtype, and whole over fsdp; or as they are quantized.
  """
  config, fsdp = options.config, options.mesh.shape["fsdp"]
  size = np.dtype(config.dtype).itemsize
  lookups = {"encoder", "positions"} | (set() if config.tied else {"embed"})
  total = 0
  if isinstance(weights, decode_loop.Held):
    for x in jax.tree.leaves(weights.unstacked):
      total += x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    weights = {}
  for x in jax.tree.leaves({name: x for name, x in weights.items() if name not in lookups}):
    parts = fsdp if "fsdp" in x.sharding.spec else 1
    total += size * parts * math.prod(x.sharding.shard_shape(x.shape))
  for x in jax.tree.leaves(cache):
    total += x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
  return total


BUILDERS: dict[str, Callable[[Options, str], Traced]] = {
  "sft": _train,
  "tailored": _train,
  "prefer": _train,
  "score": _score,
  "prefill": _prefill,
  "place": _place,
  "decode": _decode,
}


def trace(options: Options, kind: str) -> Traced:
  """Traces a program, one of BUILDERS, for its mesh."""
  return BUILDERS[kind](options, kind)
