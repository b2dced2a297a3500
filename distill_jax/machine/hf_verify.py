"""An exported student in transformers and torch: the second opinion on what it computes."""

import numpy as np

from distill_jax import errors
from distill_jax.machine import hf

LENGTHS = (16, 9, 3)  # tokens of the prompts: the shorter ones are padded
WRITTEN = 32  # tokens each is continued by, greedily


def verify(folder, logits, *, positions: int) -> float:
  """The largest difference of a logit (nats) between ours and those of transformers.

  Prompts of random ids, padded to one length, each continued by what transformers decodes greedily
  from it alone. `logits(tokens_BL, lengths_B, written_BT)` gives ours, float32 [B, T + 1, V]: after
  the prompt and after each token written; rows are padded on the right. At most `positions` tokens
  long. Give it parameters that were loaded from `folder`: those of another type differ by its
  rounding. Raises UserError without torch, or if transformers does not find every tensor.
  """
  refuse_without_torch()
  import torch

  theirs, two_sided = _open(folder, torch)
  written = min(WRITTEN, positions // 2)
  lengths = np.minimum(LENGTHS, positions - written).astype(np.int32)
  rng = np.random.Generator(np.random.PCG64(0))
  tokens = rng.integers(0, theirs.config.vocab_size, (len(lengths), max(lengths)), dtype=np.int32)
  line = np.arange(max(lengths))
  tokens = np.where(line[None] < lengths[:, None], tokens, 0)
  with torch.no_grad():
    prompts = [torch.tensor(row[:n])[None] for row, n in zip(tokens, lengths, strict=True)]
    texts = [_greedy(theirs, prompt.long(), written)[0, -written:].numpy() for prompt in prompts]
    wanted = (_encoded if two_sided else _continued)(theirs, torch, tokens, lengths, texts)
  ours = np.asarray(logits(tokens, lengths, np.stack(texts).astype(np.int32)), np.float32)
  return float(np.max(np.abs(ours - wanted)))


def refuse_without_torch() -> None:
  try:
    import torch  # noqa: F401
  except ImportError:
    raise errors.usage("--verify needs torch: pip install torch") from None


def _open(folder, torch):
  """(the model, in float32; whether it is an encoder-decoder)."""
  import transformers

  fields, *_ = hf.describe(folder)
  two_sided = fields.get("is_encoder_decoder") is True
  kind = transformers.AutoModelForSeq2SeqLM if two_sided else transformers.AutoModelForCausalLM
  transformers.utils.logging.disable_progress_bar()
  model, report = kind.from_pretrained(
    folder, output_loading_info=True, dtype=torch.float32, local_files_only=True,
    trust_remote_code=False, use_safetensors=True,
  )  # fmt: skip
  faults = [f"{what} {hf.some(sorted(map(str, names)))}" for what, names in report.items() if names]
  if faults:
    raise errors.data(f"{folder}: transformers says of its tensors: {'; '.join(faults)}")
  return model.eval(), two_sided


def _greedy(model, prompt, count: int):
  return model.generate(
    prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None,
    pad_token_id=0,
  )  # fmt: skip


def _continued(model, torch, tokens, lengths, texts) -> np.ndarray:
  """Logits of a decoder: prompt and text are one row."""
  count = len(texts[0])
  rows = np.pad(tokens, ((0, 0), (0, count)))
  for row, n, text in zip(rows, lengths, texts, strict=True):
    row[n : n + count] = text
  mask = np.arange(rows.shape[1])[None] < (lengths + count)[:, None]
  out = model(torch.tensor(rows).long(), attention_mask=torch.tensor(mask).long()).logits.numpy()
  return np.stack([x[n - 1 : n + count] for x, n in zip(out, lengths, strict=True)])


def _encoded(model, torch, tokens, lengths, texts) -> np.ndarray:
  """Logits of an encoder-decoder: the prompt is read, the text stands behind a start token."""
  start = model.config.decoder_start_token_id
  targets = np.pad(np.stack(texts), ((0, 0), (1, 0)), constant_values=start)
  mask = np.arange(tokens.shape[1])[None] < lengths[:, None]
  return model(
    input_ids=torch.tensor(tokens).long(),
    attention_mask=torch.tensor(mask).long(),
    decoder_input_ids=torch.tensor(targets).long(),
  ).logits.numpy()
