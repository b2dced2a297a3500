"""Exports a student to Hugging Face format and verifies it against transformers.

Dimension key: B rows, L tokens of a row, T tokens written, D model width, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import errors, records, students, together
from distill_jax.data import prompt_template as template_source
from distill_jax.machine import hf_read, hf_verify, hf_write
from distill_jax.runtime import base_model
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.student import Params, Student
from distill_jax.students import lora, sharding, token_rows
from distill_jax.students.families import layout

# Fields of the base model's config.json that are about its code, its source or its library version.
DROPPED_FIELDS = ("auto_map", "_name_or_path", "transformers_version")
_SUB_QUESTION = "\ue000sub-question\ue000"  # stands for a sub-question in a prompt
TOLERANCE = 1e-3  # nats; two summation orders of float32 logits differ by less


def write(ctx: RunContext, round_index: int, name: str, *, out: str, dtype: str, card: str) -> None:
  """Writes a round's student `name` to the directory `out`, with LoRA adapters merged.

  Raises:
    UserError: See hf_write.export.
  """
  student, trained = ctx.students(round_index)[name]
  base, family, tokenizer = student.base, student.base.family, student.tokenizer
  bos = base.fields.get("bos_token_id")
  if bos is None and tokenizer.prefix_ids:
    bos = tokenizer.prefix_ids[0]
  fields = {k: v for k, v in base.fields.items() if k not in DROPPED_FIELDS}
  params, template = merged_params(student, trained), prompt_template(ctx, name)
  hf_write.take_part(params)
  export = functools.partial(
    hf_write.export,
    out,
    fields=fields | family.write(student.config),
    tensors=family.tensors(student.config),
    to_theirs=layout.to_theirs,
    params=params,
    tokenizer=ctx.run_dir.path / "tokenizer",
    bos=bos,
    eos=student.end_tokens,
    pad=tokenizer.pad,
    positions=base_model.max_row_length(ctx.settings),
    card=card,
    template=template,
    dtype=dtype,
  )
  together.once("export", export)


def prompt_template(ctx: RunContext, name: str) -> str:
  """Returns a chat template that renders the prompts of the student `name` from a user's message.

  The message is the question. For a student that does not start the conversation, it is the
  question and, on the next line, "Sub-question: ...".
  """
  student, tokenizer = ctx.student, ctx.student.tokenizer
  prompt = first_prompt(ctx, name, template_source.QUESTION, _SUB_QUESTION)
  if student.chat and not isinstance(prompt, str):
    messages = tuple((role, _join_questions(text)) for role, text in student.chat.full(prompt))
    thinking = student.chat.thinking
    return template_source.chat(tokenizer.chat_template, messages, thinking=thinking)
  end = () if student.decoder_start is None else tokenizer.suffix_ids
  return template_source.plain(
    _join_questions(str(prompt)),
    start=tokenizer.decode_all(tokenizer.prefix_ids),
    end=tokenizer.decode_all(end),
  )


def _join_questions(text: str) -> str:
  """A prompt in which one QUESTION stands for the question and the sub-question after it."""
  start, end = text.find(template_source.QUESTION), text.find(_SUB_QUESTION)
  if end < 0:
    return text
  return text[:start] + template_source.QUESTION + text[end + len(_SUB_QUESTION) :]


def first_prompt(ctx: RunContext, name: str, question: str, sub_question: str) -> records.Prompt:
  """Returns the first prompt of the student `name` about a question.

  A student that does not start the conversation is prompted after another's `sub_question`.
  """
  problem = records.Problem("", "", question, "", decomposition=((sub_question, ""),))
  if name == ctx.format.students[0]:
    return ctx.prompt(problem)
  conversation = ctx.conversation(problem)
  turns = next(conversation)
  while turns[0].student != name:
    turns = conversation.send([sub_question])
  return turns[0].prompt


def shown_prompt(ctx: RunContext, name: str) -> str:
  """Returns the first prompt of the student `name`, with its special tokens, for a model card."""
  prompt = first_prompt(ctx, name, "QUESTION", "SUB-QUESTION")
  return ctx.student.tokenizer.decode_all(ctx.student.encode_prompt(prompt))


def merged_params(student: Student, trained: Params) -> Params:
  """Returns all parameters in float32, with LoRA adapters merged.

  Weights that were stored in 4 bits during training are the dequantized ones.
  """
  if not student.trainable.rank:
    return trained
  config = dataclasses.replace(student.config, dtype="float32")
  exact = dataclasses.replace(student.trainable, config=config)
  base = student.base_params(exact.frozen_shapes)
  return jax.jit(lora.merge)(exact.merge(base, trained))


def verify(ctx: RunContext, out: str) -> float:
  """Compares the exported directory `out`, read back, with transformers and torch.

  With several processes, process 0 does this on its own devices.

  Returns:
    The largest difference of a logit, in nats.

  Raises:
    UserError: The difference is not small, or torch is not installed.
  """
  student, family = ctx.student, ctx.student.base.family
  config = dataclasses.replace(student.config, dtype="float32")  # as transformers computes
  mesh = student.mesh
  if together.count() > 1:
    mesh = sharding.make_mesh(1, -1, 1, devices=jax.local_devices())
  params = hf_read.load(
    out,
    family.tensors(config),
    spare=family.spare(config),
    ties=family.ties(config),
    prefix=family.PREFIX,
    like=student.abstract_base_params(students.of(config).shapes(config), mesh),
  )

  def exported_logits(
    tokens_BL: np.ndarray, lengths_B: np.ndarray, written_BT: np.ndarray
  ) -> np.ndarray:
    return np.asarray(
      logits(config, student.decoder_start, params, tokens_BL, lengths_B, written_BT)
    )

  difference = hf_verify.verify(
    out, exported_logits, positions=base_model.max_row_length(ctx.settings)
  )
  if not difference < TOLERANCE:
    raise errors.data(
      f"{out}: a logit differs by {difference:.2g} from that of transformers: do not use it"
    )
  return difference


def logits(
  config: Any,
  start: int | None,
  params: Params,
  tokens_BL: np.ndarray,
  lengths_B: np.ndarray,
  written_BT: np.ndarray,
) -> jax.Array:
  """Returns logits after each prompt and after each token written behind it.

  Args:
    config: The config of the model.
    start: The decoder's start token; None without an encoder.
    params: All parameters.
    tokens_BL: The prompts, int32, padded on the right.
    lengths_B: Their lengths.
    written_BT: The tokens written, int32.

  Returns:
    float32 [B, T + 1, V].
  """
  batch, count = written_BT.shape
  prompts = [row[:n] for row, n in zip(tokens_BL, lengths_B, strict=True)]
  starts = prompts if start is None else [np.array([start])] * batch
  texts = [np.concatenate([s, w]) for s, w in zip(starts, written_BT, strict=True)]
  tokens, positions, segments = map(jnp.asarray, pad_texts(texts))
  rows = token_rows.Rows(tokens, positions, segments)
  if start is not None:
    source, _, source_segments = map(jnp.asarray, pad_texts(prompts))
    rows = rows._replace(source=source, source_segments=source_segments)
  where_BT = np.array([len(s) - 1 for s in starts])[:, None] + np.arange(count + 1)
  states_BLD = students.of(config).hidden(config, params, rows)
  at_BTD = np.take_along_axis(np.asarray(states_BLD), where_BT[..., None], axis=1)
  return students.logits(config, params, jnp.asarray(at_BTD))


def pad_texts(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pads texts on the right; returns (tokens, positions, segments), int32 [B, L]."""
  shape = (len(texts), max(map(len, texts)))
  tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for n, text in enumerate(texts):
    tokens[n, : len(text)], segments[n, : len(text)] = text, 1
  return tokens, np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape), segments
