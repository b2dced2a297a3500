"""A student: its tokenizer, its shape, where its weights lie, and how it answers.

Everything here is a pure function of weights, prompts and names: a row's random numbers come from a
hash of who is asked what for which time, so that neither batches nor restarts nor the number of
devices change an answer.
"""

import bisect
import functools
import hashlib
from collections import defaultdict
from typing import NamedTuple

import jax
import numpy as np

from distill_jax import errors, students
from distill_jax.data import row_order
from distill_jax.decoding import rollout, sampling
from distill_jax.machine import hf_read
from distill_jax.runtime import base_model as bases
from distill_jax.students import sharding, trainable

TAIL = 2 * rollout.LOOK  # tokens in which a stop text that is new since the last look must stand


class Answer(NamedTuple):
  text: str
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed


class Student:
  """A base, and what of it is trained. Weights go in and out as the trained tree: all parameters,
  or low-rank updates of frozen ones."""

  def __init__(self, settings, tokenizer, base: bases.Base):
    lora = settings.student.lora
    self.tokenizer, self.rollout, self.base = tokenizer, settings.rollout, base
    self.config, self.mesh = base.config, mesh_of(settings)
    self.learner = trainable.Learner(base.config)
    if lora.rank:
      self.learner = trainable.Learner(
        base.config, lora.rank, lora.alpha / lora.rank, tuple(sorted(lora.targets))
      )
    self.places = sharding.of_params(self.mesh, self.learner.axes, self.learner.shapes)
    self.ends = tuple(sorted({*base.ends, tokenizer.end}))
    self._settings, self._seed = settings, settings.seed

  @property
  def like(self):
    """The trained tree as shapes that know their places: what a checkpoint is restored onto."""
    return _placed(self.learner.shapes, self.places)

  def fresh(self):
    """The trained tree before any training; every shard is made, or read, where it belongs."""
    if self.base.folder and not self.learner.rank:
      return self._loaded(self.like)
    return jax.jit(self.learner.fresh, out_shardings=self.places)(jax.random.key(self._seed))

  @functools.cached_property
  def frozen(self):
    """The weights that training leaves alone: () or, beneath low-rank updates, all of the base."""
    if not self.learner.rank:
      return ()
    return self.unadapted(self.learner.frozen_shapes)

  def unadapted(self, shapes):
    """The base itself, in the dtypes of `shapes`."""
    like = self.placed(shapes)
    if self.base.folder:
      return self._loaded(like)
    cast = lambda x, to: x.astype(to.dtype)
    init = lambda key: jax.tree.map(cast, students.of(self.config).init(self.config, key), shapes)
    places = jax.tree.map(lambda x: x.sharding, like)
    return jax.jit(init, out_shardings=places)(jax.random.key(self._seed))

  def placed(self, shapes):
    """Shapes of all the parameters, with where they belong."""
    model = students.of(self.config)
    places = sharding.of_params(self.mesh, model.axes(self.config), model.shapes(self.config))
    return _placed(shapes, places)

  def _loaded(self, like):
    family = self.base.family
    return hf_read.load(
      bases.source(self._settings, self.base), family.tensors(self.config),
      spare=family.spare(self.config), prefix=family.PREFIX, like=like,
    )  # fmt: skip

  def whole(self, trained):
    """The parameters to compute with."""
    return self.learner.whole(self.frozen, trained)

  def read(self, prompt: str) -> list[int]:
    """A prompt's tokens as this student begins and, if it has an encoder, ends what it reads."""
    t = self.tokenizer
    return [*t.prefix_ids, *t.encode(prompt), *(t.suffix_ids if self.start is not None else ())]

  @property
  def start(self) -> int | None:
    """The decoder's first token; None without an encoder."""
    return self.config.start if isinstance(self.config, students.t5.Config) else None

  def answer(
    self, params, asked, *, samples=1, temperature, top_p=1.0, top_k=0, max_new_tokens, stop=()
  ):
    """Answers (prompt, name) pairs, in order. Equal prompts next to each other share one prefill,
    up to `samples` of them.

    Prompts too long for the largest bucket are cut at the front, where the worked examples stand.
    An answer ends before the first of the texts `stop`.
    """
    buckets = self.rollout.buckets
    groups = defaultdict(list)  # bucket -> [(prompt tokens, numbers)]
    for prompt, numbers in _runs(asked, samples):
      tokens = self._fitting(self.read(prompt))
      groups[row_order.bucket_of(len(tokens), buckets)].append((tokens, numbers))
    answers, settings = [None] * len(asked), sampling.sampling(temperature, top_p, top_k)
    whole = self.whole(params)
    for bucket, members in sorted(groups.items()):
      keys = [np.stack([_key(self._seed, asked[n][1]) for n in numbers]) for _, numbers in members]
      prompts = [tokens for tokens, _ in members]
      out = self._sample(whole, prompts, keys, bucket, samples, settings, max_new_tokens, stop)
      for row, number in enumerate(n for _, numbers in members for n in numbers):
        answers[number] = self._read(out, row, stop)
    return answers

  def _fitting(self, tokens: list[int]) -> list[int]:
    """What the largest bucket holds of a prompt: the start token, if there is one, and the end."""
    start = len(self.tokenizer.prefix_ids)
    over = len(tokens) - max(self.rollout.buckets)
    return tokens[:start] + tokens[start + max(over, 0) :]

  def _sample(self, params, prompts, keys, bucket, samples, settings, max_new_tokens, stop):
    holds = lambda tokens: _cut(self.tokenizer.decode(tokens), stop) is not None
    said = lambda tokens: holds(tokens[-TAIL:]) and holds(tokens)
    parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    with jax.set_mesh(self.mesh):
      return rollout.sample(
        self.config,
        params,
        prompts,
        keys,
        settings,
        sizes=rollout.sizes(self.rollout.batch, self.rollout.refill, samples, parts),
        bucket=bucket,
        max_new_tokens=max_new_tokens,
        eos=self.ends,
        pad=self.tokenizer.pad,
        stopped=said if stop else None,
      )

  def _read(self, out, row: int, stop) -> Answer:
    tokens, ended = out.tokens[row, : out.lengths[row]], out.ended[row]
    text = self.tokenizer.decode(tokens)
    if _cut(text, stop) is not None:
      # The first token at which the text holds a stop text, however far the row has been decoded.
      holds = lambda n: _cut(self.tokenizer.decode(tokens[:n]), stop) is not None
      tokens = tokens[: bisect.bisect_left(range(len(tokens)), True, key=holds)]
      text, ended = _cut(self.tokenizer.decode(tokens), stop), True
    return Answer(
      text=text,
      finish="stop" if ended else "length",
      tokens=len(tokens),
      logprob=float(np.sum(out.logprobs[row, : len(tokens)], dtype=np.float64)),
    )


def _placed(shapes, places):
  put = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
  return jax.tree.map(put, shapes, places)


def mesh_of(settings) -> jax.sharding.Mesh:
  """The devices as the settings want them. Raises UserError if those there are do not make it up."""
  try:
    return sharding.make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
  except ValueError as error:
    m = settings.mesh
    raise errors.config(
      "mesh", (m.data, m.fsdp, m.tensor), f"a mesh over the devices there are: {error}"
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


def _cut(text: str, stop) -> str | None:
  """What stands before the first of the texts `stop`; None if there is none of them."""
  places = [place for s in stop if (place := text.find(s)) >= 0]
  return text[: min(places)] if places else None


def _key(seed: int, name: str) -> np.ndarray:
  """Two words of randomness from a name."""
  return np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], np.uint32)
