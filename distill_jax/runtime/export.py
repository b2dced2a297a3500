"""A student leaves as a Hugging Face directory, and meets itself in transformers."""

import dataclasses

import jax
import numpy as np

from distill_jax import errors, students
from distill_jax.machine import hf_read, hf_verify, hf_write
from distill_jax.runtime import base_model as bases
from distill_jax.students import lora
from distill_jax.students import token_rows as students_rows
from distill_jax.students.families import layout

# Of the config.json a student began as: what says where code is, or who wrote the file.
LEFT = ("auto_map", "_name_or_path", "transformers_version")
CLOSE = 1e-3  # nats; what two orders of summation make of float32 logits is smaller


def write(what, number: int, name: str, *, out: str, dtype: str, card: str) -> None:
  """Writes the student `name` of a round; low-rank updates are merged. Raises UserError: see
  hf_write."""
  student, trained = what.students(number)[name]
  base, family, tokenizer = student.base, student.base.family, student.tokenizer
  bos = base.fields["bos_token_id"] if "bos_token_id" in base.fields else None
  hf_write.export(
    out,
    fields={k: v for k, v in base.fields.items() if k not in LEFT} | family.write(student.config),
    tensors=family.tensors(student.config),
    to_theirs=layout.to_theirs,
    params=merged(student, trained),
    tokenizer=what.folder.path / "tokenizer",
    bos=tokenizer.prefix_ids[0] if bos is None and tokenizer.prefix_ids else bos,
    end=student.ends,
    pad=tokenizer.pad,
    positions=bases.longest(what.settings),
    card=card,
    dtype=dtype,
  )


def merged(student, trained):
  """Plain parameters, float32."""
  if not student.learner.rank:
    return trained
  exact = students.of(student.config).shapes(student.config)
  return jax.jit(lora.merge)(student.learner.whole(student.unadapted(exact), trained))


def verify(what, out: str) -> float:
  """The largest difference of a logit between the directory `out`, read back, and the same in
  transformers and torch. Raises UserError if it is not small, or without torch."""
  student, family = what.student, what.student.base.family
  config = dataclasses.replace(student.config, dtype="float32")  # as transformers computes
  params = hf_read.load(
    out, family.tensors(config), spare=family.spare(config), prefix=family.PREFIX,
    like=student.placed(students.of(config).shapes(config)),
  )  # fmt: skip
  found = hf_verify.verify(
    out,
    lambda *texts: np.asarray(logits(config, student.start, params, *texts)),
    positions=bases.longest(what.settings),
  )
  if not found < CLOSE:
    raise errors.data(
      f"{out}: a logit differs by {found:.2g} from what transformers computes: do not use it"
    )
  return found


def logits(config, start: int | None, params, tokens_BL, lengths_B, written_BT):
  """Logits after each prompt, padded on the right, and after each token written behind it, float32
  [B, T + 1, V]. `start`: the decoder's first token; None without an encoder."""
  batch, count = written_BT.shape
  prompts = [row[:n] for row, n in zip(tokens_BL, lengths_B, strict=True)]
  heads = prompts if start is None else [[start]] * batch
  texts = [np.concatenate([h, w]) for h, w in zip(heads, written_BT, strict=True)]
  rows = students_rows.Rows(*padded(texts))
  if start is not None:
    source, _, segments = padded(prompts)
    rows = rows._replace(source=source, source_segments=segments)
  where_BT = np.array([len(h) - 1 for h in heads])[:, None] + np.arange(count + 1)
  states_BLD = students.of(config).hidden(config, params, rows)
  here_BTD = np.take_along_axis(np.asarray(states_BLD), where_BT[..., None], axis=1)
  return students.logits(config, params, here_BTD)


def padded(texts) -> tuple[np.ndarray, ...]:
  """(tokens, positions, segments), int32 [B, L], of texts of different lengths."""
  shape = (len(texts), max(map(len, texts)))
  tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for n, text in enumerate(texts):
    tokens[n, : len(text)], segments[n, : len(text)] = text, 1
  return tokens, np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape), segments
