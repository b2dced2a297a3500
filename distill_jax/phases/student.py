"""A student: its tokenizer, its shape, where its weights lie, and how it answers.

Everything here is a pure function of weights, prompts and names: a row's random numbers come from a
hash of who is asked what for which time, so that neither batches nor restarts nor the number of
devices change an answer.
"""

import hashlib
from collections import defaultdict
from typing import NamedTuple

import jax
import numpy as np

from distill_jax import errors
from distill_jax.data import order
from distill_jax.decoding import choice, sampler
from distill_jax.learning import sharding
from distill_jax.students import decoder


class Answer(NamedTuple):
  text: str
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed


class Student:
  def __init__(self, settings, tokenizer):
    s = settings.student
    self.tokenizer, self.rollout = tokenizer, settings.rollout
    self.config = decoder.Config(
      vocab=tokenizer.vocab,
      width=s.width,
      layers=s.layers,
      heads=s.heads,
      kv_heads=s.kv_heads,
      head_width=s.head_width,
      mlp=s.mlp,
      rope_theta=s.rope_theta,
      norm_eps=s.norm_eps,
      tied=s.tied,
      dtype=s.dtype,
    )
    self.mesh = mesh_of(settings)
    self.axes, self.shapes = decoder.axes(self.config), decoder.shapes(self.config)
    self.places = sharding.of_params(self.mesh, self.axes, self.shapes)
    self._seed = settings.seed

  @property
  def like(self):
    """The parameters as shapes that know where they belong: what a checkpoint is restored onto."""
    put = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    return jax.tree.map(put, self.shapes, self.places)

  def fresh(self):
    """The untrained student; every shard is made where it belongs."""
    init = lambda key: decoder.init(self.config, key)
    return jax.jit(init, out_shardings=self.places)(jax.random.key(self._seed))

  def answer(self, params, asked, *, samples=1, temperature, top_p=1.0, top_k=0, new_tokens):
    """Answers (prompt, name) pairs, in order. Equal prompts next to each other share one prefill,
    up to `samples` of them.

    Prompts too long for the largest bucket are cut at the front, where the worked examples stand.
    """
    longest = max(self.rollout.buckets)
    groups = defaultdict(list)  # (bucket, samples) -> [(prompt tokens, numbers)]
    for prompt, numbers in _runs(asked, min(samples, self.rollout.batch)):
      tokens = self.tokenizer.encode(prompt)[-longest:]
      groups[order.bucket_of(len(tokens), self.rollout.buckets), len(numbers)].append(
        (tokens, numbers)
      )
    answers, settings = [None] * len(asked), choice.sampling(temperature, top_p, top_k)
    for (bucket, samples), members in sorted(groups.items(), key=lambda item: item[0]):
      size = self._prompts_at_a_time(samples)
      for start in range(0, len(members), size):
        part = members[start : start + size]
        out = self._sample(
          params, part, [name for _, name in asked], bucket, samples, size, settings, new_tokens
        )
        for row, number in enumerate(n for _, numbers in part for n in numbers):
          answers[number] = self._read(out, row)
    return answers

  def _prompts_at_a_time(self, samples: int) -> int:
    """Fixed by the settings, not by how much there is to do: a row's arithmetic must not depend on
    its batch."""
    rows = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    return max(-(-max(self.rollout.batch // samples, 1) // rows) * rows, rows)

  def _sample(self, params, part, names, bucket, samples, size, settings, new_tokens):
    tokens = np.full((size, bucket), self.tokenizer.pad, np.int32)
    lengths, keys = np.zeros(size, np.int32), np.zeros((size * samples, 2), np.uint32)
    for n, (prompt, numbers) in enumerate(part):
      tokens[n, : len(prompt)], lengths[n] = prompt, len(prompt)
      for k, number in enumerate(numbers):
        keys[n * samples + k] = _key(self._seed, names[number])
    put = lambda x: jax.device_put(x, sharding.batch(self.mesh))
    with jax.set_mesh(self.mesh):
      out = sampler.sample(
        self.config,
        params,
        put(tokens),
        put(lengths),
        put(keys),
        settings,
        samples=samples,
        new_tokens=new_tokens,
        eos=(self.tokenizer.end,),
        pad=self.tokenizer.pad,
      )
    return jax.device_get(out)

  def _read(self, out, row: int) -> Answer:
    length = int(out.lengths[row])
    return Answer(
      text=self.tokenizer.decode(out.tokens[row, :length]),
      finish="stop" if out.ended[row] else "length",
      tokens=length,
      logprob=float(np.sum(out.logprobs[row, :length], dtype=np.float64)),
    )


def mesh_of(settings) -> jax.sharding.Mesh:
  """The devices as the settings want them. Raises Refusal if those there are do not make it up."""
  try:
    return sharding.make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
  except ValueError as error:
    raise errors.config(
      "mesh", str(error), "a mesh over the devices there are", "--config.mesh.data=-1"
    ) from None


def _runs(asked, limit: int):
  """(prompt, numbers of the at most `limit` neighbours that share it)."""
  runs = []
  for number, (prompt, _) in enumerate(asked):
    if runs and runs[-1][0] == prompt and len(runs[-1][1]) < limit:
      runs[-1][1].append(number)
    else:
      runs.append((prompt, [number]))
  return runs


def _key(seed: int, name: str) -> np.ndarray:
  """Two words of randomness from a name."""
  return np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], np.uint32)
