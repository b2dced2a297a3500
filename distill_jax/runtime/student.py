"""A student: tokenizer, model, placement on devices, and text generation.

Everything here is a pure function of weights, prompts and names. The random numbers of a row come
from a hash of the seed and the row's name, so neither batching nor restarts nor the number of
devices change a completion.
"""

import contextlib
import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from distill_jax import errors, records, students
from distill_jax.data.batch_size import BatchSize
from distill_jax.data.chat import PLAIN, Chat
from distill_jax.data.template_text import THINKING_MARK
from distill_jax.data.tokenizer import Tokenizer
from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.machine import hf_read
from distill_jax.runtime import base_model
from distill_jax.runtime.completions import (
  Completion,
  Watcher,
  contains,
  cut,
  fit_prompt,
  group_prompts,
  key_data,
)
from distill_jax.settings import Settings
from distill_jax.students import quantized, sharding, t5, trainable

Params = Any  # a pytree of arrays, or of abstract arrays

# Announces a program that is compiled by its first call, as `Console.compiling` does.
Announce = Callable[[str], AbstractContextManager[None]]

_CALLED: set[Hashable] = set()  # decode programs that this process has called

# Rows decoded at a time where rollout.batch is 0. On a CPU, more rows make the matrix products of a
# large student no faster, and a row costs the same whether it is used or not: with few rows, few
# questions cost little. The numbers are fixed because another number rounds matrix products
# differently: the tokens of a row do not depend on how many others there are.
ROWS, CPU_ROWS = 256, 32

# Tokens that contain any stop text that is new since the last check.
TAIL = 2 * rollout.STOP_INTERVAL


class Student:
  """A base model and the part of it that is trained.

  "Trained weights" are the trained tree: all parameters, or the LoRA adapters over frozen ones.

  Attributes:
    tokenizer: The student's tokenizer.
    chat: The chat template it is prompted with; None with plain text.
    base: The model it starts from.
    config: The config of its model.
    mesh: The devices.
    trainable: Which weights are trained.
    shardings: NamedShardings of the trained weights.
    end_tokens: Tokens that end a completion.
  """

  def __init__(
    self,
    settings: Settings,
    tokenizer: Tokenizer,
    base: base_model.BaseModel,
    *,
    announce: Announce = contextlib.nullcontext,
  ):
    """`announce` is called with what is compiled, before the first call of a decode program."""
    lora = settings.student.lora
    self.tokenizer, self.base = tokenizer, base
    self.chat = open_chat(settings, tokenizer)
    self.config, self.mesh = base.config, build_mesh(settings)
    self.trainable = trainable.Trainable(base.config)
    if lora.rank:
      self.trainable = trainable.Trainable(
        base.config, lora.rank, lora.alpha / lora.rank, tuple(sorted(lora.targets)), lora.base
      )
    self.shardings = sharding.of_params(self.mesh, self.trainable.axes, self.trainable.shapes)
    self.end_tokens = tuple(sorted({*base.end_tokens, tokenizer.end, self.end}))
    self._settings, self._announce = settings, announce

  @property
  def rows(self) -> int:
    """The rows that are decoded at a time."""
    on_cpu = self.mesh.devices.flat[0].platform == "cpu"
    return self._settings.rollout.batch or (CPU_ROWS if on_cpu else ROWS)

  @property
  def abstract_params(self) -> Params:
    """The trained weights as shapes with shardings, for restoring a checkpoint."""
    return _with_shardings(self.trainable.shapes, self.shardings)

  def init_params(self) -> Params:
    """Returns the trained weights before training; every shard is created or read in place."""
    if self.base.copy_dir and not self.trainable.rank:
      return self._load(self.abstract_params)
    init = jax.jit(self.trainable.init, out_shardings=self.shardings)
    return init(jax.random.key(self._settings.seed))

  @functools.cached_property
  def frozen(self) -> Params:
    """The weights that are not trained: all of the base under LoRA adapters, () without LoRA."""
    if not self.trainable.rank:
      return ()
    return self.base_params(self.trainable.frozen_shapes)

  def base_params(self, shapes: Params) -> Params:
    """Returns all parameters of the base model, in the dtypes of `shapes` or in 4 bits."""
    abstract = self.abstract_base_params(shapes)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    if self.base.copy_dir:
      return self._load(abstract)

    def init(key: jax.Array) -> Params:
      params = students.of(self.config).init(self.config, key)
      return jax.tree.map(quantized.store, params, shapes)

    return jax.jit(init, out_shardings=shardings)(jax.random.key(self._settings.seed))

  def abstract_base_params(self, shapes: Params, mesh: jax.sharding.Mesh | None = None) -> Params:
    """Returns shapes of all parameters of the base model with their shardings on a mesh.

    Args:
      shapes: Their shapes.
      mesh: The mesh; None: that of the student.
    """
    axes = students.of(self.config).axes(self.config)
    return _with_shardings(shapes, sharding.of_params(mesh or self.mesh, axes, shapes))

  def _load(self, abstract: Params) -> Params:
    family, is_leaf = self.base.family, lambda x: isinstance(x, quantized.Nf4)
    return hf_read.load(
      base_model.weights_dir(self._settings, self.base),
      family.tensors(self.config),
      spare=family.spare(self.config),
      ties=family.ties(self.config),
      prefix=family.PREFIX,
      like=jax.tree.map(quantized.loaded, abstract, is_leaf=is_leaf),
      finish=lambda path, x: quantized.place(x, functools.reduce(operator.getitem, path, abstract)),
    )

  @property
  def end(self) -> int:
    """The token that ends the student's text: the end of its turn, or of a plain text."""
    return self.chat.end if self.chat else self.tokenizer.end

  def encode_prompt(self, prompt: records.Prompt) -> list[int]:
    """Returns the tokens of a prompt as the student reads it.

    Messages are formatted by the chat template. Plain text begins with the tokenizer's start
    tokens; for an encoder, it also ends with the end tokens.
    """
    if not isinstance(prompt, str):
      if self.chat is None:
        raise ValueError("messages for a student that is prompted with plain text")
      return self.chat.encode(prompt)
    t = self.tokenizer
    after = () if self.decoder_start is None else t.suffix_ids
    return [*t.prefix_ids, *t.encode(prompt), *after]

  def encode_target(self, text: str) -> tuple[int, ...]:
    """Returns the tokens of a text the student should write, ending in the end token."""
    if self.chat:
      return tuple(self.chat.encode_reply(text))
    return (*self.tokenizer.encode(text), self.end)

  def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
    """Returns the text of tokens that the student wrote."""
    text = self.tokenizer.decode(tokens)
    return self.chat.reply(text) if self.chat else text

  @property
  def decoder_start(self) -> int | None:
    """The decoder's start token; None without an encoder."""
    return self.config.start if isinstance(self.config, t5.Config) else None

  def generate(
    self,
    params: Params,
    requests: Sequence[tuple[records.Prompt, str]],
    *,
    samples: int = 1,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    watcher: Watcher | None = None,
  ) -> list[Completion]:
    """Completes (prompt, name) pairs, in order.

    A prompt longer than the largest bucket loses text behind its start tokens (or the head of the
    chat), where the worked examples are. Short buckets are decoded before long ones.

    Args:
      params: The trained weights.
      requests: Prompts with the names that seed their random numbers.
      samples: How many neighboring equal prompts share one prefill, at most.
      temperature: 0 is greedy.
      top_p: 1 is off.
      top_k: 0 is off.
      max_new_tokens: Limit of a completion.
      stop: A completion ends before the first of these texts.
      watcher: Follows the progress. Completions that it has stored are not computed again.
    """
    completions: dict[int, Completion] = {}
    if watcher is not None:
      found = {n: watcher.known(name) for n, (_, name) in enumerate(requests)}
      completions = {n: completion for n, completion in found.items() if completion is not None}
      watcher.begin(len(requests) - len(completions))
    left = [n for n in range(len(requests)) if n not in completions]
    # bucket -> [(prompt tokens, indices of the requests)]
    groups: defaultdict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
    for prompt, positions in group_prompts([requests[n] for n in left], samples):
      tokens = self.fit_prompt(prompt)
      indices = [left[position] for position in positions]
      groups[self.bucket(len(tokens))].append((tokens, indices))
    merged = self.prepare(params)
    waiting = len(left)
    for bucket, members in sorted(groups.items()):
      order = [n for _, indices in members for n in indices]
      waiting -= len(order)

      def report(out: rollout.Sampled, now: rollout.Progress, order=order, later=waiting) -> None:
        for row in now.done:
          completions[order[row]] = self._completion(out, row, stop)
        if watcher is not None:
          new = {requests[order[row]][1]: completions[order[row]] for row in now.done}
          watcher.progress(new, now.tokens, now.running, now.waiting + later)

      opened, first_call = self._open(
        merged,
        bucket,
        sampling.sampling(temperature, top_p, top_k),
        samples=samples,
        max_new_tokens=max_new_tokens,
      )
      with first_call, jax.set_mesh(self.mesh):
        rollout.sample(
          opened,
          [tokens for tokens, _ in members],
          [np.stack([self.key(requests[n][1]) for n in indices]) for _, indices in members],
          has_stopped=functools.partial(self.has_stopped, stop=stop) if stop else None,
          on_progress=report,
        )
    return [completions[n] for n in range(len(requests))]

  def prepare(self, params: Params) -> decode_loop.Held:
    """Returns the weights that a rollout reads; `params` are the trained ones."""
    with jax.set_mesh(self.mesh):
      merged = self.trainable.merge(self.frozen, params)
      return decode_loop.prepare(self.config, merged, self._settings.rollout.weights)

  def fit_prompt(self, prompt: records.Prompt) -> list[int]:
    """Returns the tokens of a prompt, cut to the largest bucket; see `generate`."""
    head = self.chat.head if self.chat else len(self.tokenizer.prefix_ids)
    return fit_prompt(self.encode_prompt(prompt), head, max(self._settings.rollout.buckets))

  def bucket(self, length: int) -> int:
    """Returns the length that a prompt of `length` tokens is padded to."""
    return min(bucket for bucket in self._settings.rollout.buckets if bucket >= length)

  def key(self, name: str) -> np.ndarray:
    """Returns the random key, uint32 [2], of the row with this name."""
    return key_data(self._settings.seed, name)

  def open_rollout(
    self,
    merged: decode_loop.Held,
    bucket: int,
    *,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
  ) -> rollout.Rollout:
    """Opens a rollout that prompts of one bucket may join at any time.

    The caller runs its steps with the student's mesh set.

    Args:
      merged: The weights, as `prepare` returns them.
      bucket: See `bucket`.
      temperature: 0 is greedy.
      top_p: 1 is off.
      max_new_tokens: Limit of a completion.
    """
    how = sampling.sampling(temperature, top_p)
    return self._open(merged, bucket, how, samples=1, max_new_tokens=max_new_tokens)[0]

  def _open(
    self,
    merged: decode_loop.Held,
    bucket: int,
    how: sampling.Sampling,
    *,
    samples: int,
    max_new_tokens: int,
  ) -> tuple[rollout.Rollout, contextlib.ExitStack]:
    """Opens a rollout, and announces its programs if they are not compiled.

    The announcement, which is returned too, is closed when they are.
    """
    sizes = self._sizes(samples)
    compiled_for = (self.trainable, self.mesh, sizes, bucket, max_new_tokens, self.end_tokens)
    first_call = contextlib.ExitStack()
    if compiled_for not in _CALLED:
      first_call.enter_context(self._announce(f"the decode programs for prompts of {bucket}"))
      _CALLED.add(compiled_for)
    opened = rollout.Rollout(
      self.config,
      merged,
      how,
      sizes=sizes,
      bucket=bucket,
      max_new_tokens=max_new_tokens,
      eos=self.end_tokens,
      pad=self.tokenizer.pad,
      on_dispatch=first_call.close,
    )
    return opened, first_call

  def _sizes(self, samples: int) -> rollout.Sizes:
    """Returns the sizes of the decode programs."""
    parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    return rollout.sizes(self.rows, self._settings.rollout.refill, samples, parts)

  def has_stopped(self, tokens: Sequence[int] | np.ndarray, *, stop: Sequence[str]) -> bool:
    """Returns whether a row contains a stop text; looks at its last tokens first."""
    return all(contains(self.decode, part, stop) for part in (tokens[-TAIL:], tokens))

  def _completion(self, sampled: rollout.Sampled, row: int, stop: Sequence[str]) -> Completion:
    n = sampled.lengths[row]
    tokens, logprobs, ended = sampled.tokens[row, :n], sampled.logprobs[row, :n], sampled.ended[row]
    return cut(self.decode, tokens, logprobs, ended=bool(ended), stop=stop).completion()


def _with_shardings(shapes: Params, shardings: Params) -> Params:
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings
  )


def open_chat(settings: Settings, tokenizer: Tokenizer) -> Chat | None:
  """Returns the chat template that `student.prompt` selects; None for plain text.

  Raises:
    UserError: There is no template, or it cannot format a question and its reply.
  """
  s = settings.student
  if s.init == base_model.SCRATCH or s.prompt == "plain":
    return None
  if tokenizer.chat_template:
    kept = settings.teacher.thinking == "keep" and settings.format in ("cot", "instruct")
    kept = kept or tokenizer.chat_template.startswith(THINKING_MARK)
    return Chat(tokenizer, system=s.system, thinking=kept)
  if others := ", ".join(tokenizer.other_templates):
    what = f"the chat templates of the student's tokenizer ({others}) have no default"
    raise errors.data(f"{what}; name one of them default in tokenizer_config.json, or, {PLAIN}")
  why = "the tokenizer of this student has no chat template"
  if s.prompt == "chat":
    raise errors.config("student.prompt", "chat", f"plain: {why}", "--config.student.prompt=plain")
  if s.system:
    raise errors.config("student.system", s.system, f"empty: {why}")
  return None


def batch_size(
  settings: Settings, mesh: jax.sharding.Mesh, rows: int, tokens: int = 0
) -> BatchSize:
  """Returns the size of training batches of `rows` rows or, if that is 0, of `tokens` tokens.

  Incomplete batches of a pretrained student shrink: its steps take long, and with few questions
  such batches are frequent.
  """
  parts = mesh.shape["data"] * mesh.shape["fsdp"] * settings.train.grad_accum_steps
  pretrained = settings.student.init != base_model.SCRATCH
  return BatchSize(rows, tokens, multiple=parts, shrinks=pretrained)


def build_mesh(settings: Settings) -> jax.sharding.Mesh:
  """Returns the mesh of the settings. Raises UserError if it does not fit the devices."""
  mesh = settings.mesh
  try:
    return sharding.make_mesh(mesh.data, mesh.fsdp, mesh.tensor)
  except ValueError as error:
    raise errors.config(
      "mesh", (mesh.data, mesh.fsdp, mesh.tensor), f"a mesh over the available devices: {error}"
    ) from None
