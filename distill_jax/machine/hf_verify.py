"""Compares an exported student with transformers and torch."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill_jax import errors
from distill_jax.machine import hf

PROMPT_LENGTHS = (16, 9, 3)  # tokens; the shorter prompts are padded
CONTINUATION = 32  # tokens that each prompt is continued by, greedily

Path = str | os.PathLike[str]


def verify(
  directory: Path,
  logits: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
  *,
  positions: int,
) -> float:
  """Returns the largest difference of a logit, in nats, between ours and those of transformers.

  The inputs are prompts of random tokens, padded to one length. Each is continued by the tokens
  that transformers decodes greedily from it alone.

  Args:
    directory: The exported model.
    logits: `logits(tokens_BL, lengths_B, written_BT)` returns our logits, float32 [B, T + 1, V],
      after the prompt and after each token written. Rows are padded on the right. Its parameters
      must be loaded from `directory`: if they have another type, its rounding adds to the result.
    positions: The longest row that the model supports.

  Raises:
    UserError: torch is not installed, or transformers does not find every tensor.
  """
  torch = require_torch()
  model, is_encoder_decoder = _load(directory, torch)
  written = min(CONTINUATION, positions // 2)
  lengths = np.minimum(PROMPT_LENGTHS, positions - written).astype(np.int32)
  rng = np.random.Generator(np.random.PCG64(0))
  tokens = rng.integers(0, model.config.vocab_size, (len(lengths), max(lengths)), dtype=np.int32)
  columns = np.arange(max(lengths))
  tokens = np.where(columns[None] < lengths[:, None], tokens, 0)
  with torch.no_grad():
    prompts = [torch.tensor(row[:n])[None] for row, n in zip(tokens, lengths, strict=True)]
    texts = [_generate(model, prompt.long(), written)[0, -written:].numpy() for prompt in prompts]
    reference = _encoder_decoder_logits if is_encoder_decoder else _decoder_logits
    expected = reference(torch, model, tokens, lengths, texts)
  ours = np.asarray(logits(tokens, lengths, np.stack(texts).astype(np.int32)), np.float32)
  return float(np.max(np.abs(ours - expected)))


def require_torch() -> Any:
  """Returns the module torch. Raises UserError if it is not installed."""
  try:
    import torch  # pyright: ignore[reportMissingImports] (an optional dependency)
  except ImportError:
    raise errors.usage("--verify needs torch: pip install torch") from None
  return torch


def _load(directory: Path, torch: Any) -> tuple[Any, bool]:
  """(the model in float32, whether it is an encoder-decoder)."""
  import transformers

  fields, *_ = hf.describe(directory)
  is_encoder_decoder = fields.get("is_encoder_decoder") is True
  auto: Any = (
    transformers.AutoModelForSeq2SeqLM if is_encoder_decoder else transformers.AutoModelForCausalLM
  )
  transformers.utils.logging.disable_progress_bar()
  model, report = auto.from_pretrained(
    directory,
    output_loading_info=True,
    dtype=torch.float32,
    local_files_only=True,
    trust_remote_code=False,
    use_safetensors=True,
  )
  faults = [f"{k} {hf.shorten(sorted(map(str, names)))}" for k, names in report.items() if names]
  if faults:
    raise errors.data(f"{directory}: transformers reports {'; '.join(faults)}")
  return model.eval(), is_encoder_decoder


def _generate(model: Any, prompt: Any, count: int) -> Any:
  """Decodes `count` tokens greedily."""
  return model.generate(
    prompt,
    max_new_tokens=count,
    min_new_tokens=count,
    do_sample=False,
    eos_token_id=None,
    pad_token_id=0,
  )


def _decoder_logits(
  torch: Any, model: Any, tokens: np.ndarray, lengths: np.ndarray, texts: Sequence[np.ndarray]
) -> np.ndarray:
  """Logits of a decoder-only model: prompt and text are one row."""
  count = len(texts[0])
  rows = np.pad(tokens, ((0, 0), (0, count)))
  for row, n, text in zip(rows, lengths, texts, strict=True):
    row[n : n + count] = text
  mask = np.arange(rows.shape[1])[None] < (lengths + count)[:, None]
  out = model(torch.tensor(rows).long(), attention_mask=torch.tensor(mask).long()).logits.numpy()
  return np.stack([x[n - 1 : n + count] for x, n in zip(out, lengths, strict=True)])


def _encoder_decoder_logits(
  torch: Any, model: Any, tokens: np.ndarray, lengths: np.ndarray, texts: Sequence[np.ndarray]
) -> np.ndarray:
  """Logits of an encoder-decoder: the prompt is encoded, the text follows a start token."""
  start = model.config.decoder_start_token_id
  targets = np.pad(np.stack(texts), ((0, 0), (1, 0)), constant_values=start)
  mask = np.arange(tokens.shape[1])[None] < lengths[:, None]
  return model(
    input_ids=torch.tensor(tokens).long(),
    attention_mask=torch.tensor(mask).long(),
    decoder_input_ids=torch.tensor(targets).long(),
  ).logits.numpy()
