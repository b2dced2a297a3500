"""The same tiny models in transformers and torch. Nothing here is imported without them."""

import numpy as np
import torch
import transformers

from tests.golden import cases

torch.set_num_threads(1)  # products are tiny: more threads would only wait for each other


def model(fields: dict):
  """Returns transformers' model of a config.json, with the weights of cases.py."""
  fields = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | fields
  config = transformers.AutoConfig.for_model(**fields)
  config._attn_implementation = "eager"
  kinds = (transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM)
  out = kinds[config.is_encoder_decoder].from_config(config).eval()
  if config.is_encoder_decoder and not fields.get("tie_word_embeddings", True):
    # transformers 5 ties every T5 that is not loaded from a file.
    out.lm_head.weight = torch.nn.Parameter(torch.empty_like(out.lm_head.weight))
  with torch.no_grad():
    for name, value in out.named_parameters():
      value.copy_(torch.from_numpy(cases.weight(name, tuple(value.shape))))
  return out


def to_the_left(tokens, mask):
  """Returns the batch with its padding on the left."""
  shifts = mask.shape[1] - mask.sum(axis=1)
  moved = [np.roll(row, shift) for row, shift in zip(tokens, shifts, strict=True)]
  return np.stack(moved), np.stack([np.roll(m, n) for m, n in zip(mask, shifts, strict=True)])


@torch.no_grad()
def logits(model, tokens, mask, source=None, inside=None):
  """Returns logits, float32 [B, L, V], with the positions that generate() derives from the mask.

  An encoder-decoder needs a source and its mask [B, E].
  """
  if source is not None:
    arrays = (source, inside, tokens, mask)
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    given = {name: torch.tensor(x).long() for name, x in zip(names, arrays, strict=True)}
    return model(**given).logits.float().numpy()
  mask = torch.from_numpy(mask).long()
  positions = (mask.cumsum(-1) - 1).clamp(min=0)
  tokens = torch.from_numpy(tokens).long()
  return model(tokens, attention_mask=mask, position_ids=positions).logits.float().numpy()


@torch.no_grad()
def greedy(model, tokens, mask, new: int):
  """Returns tokens, int32 [B, new], and the smallest lead of a best token, in nats."""
  tokens, mask = to_the_left(tokens, mask)
  out = model.generate(
    torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(mask).long(),
    max_new_tokens=new, min_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0,
    return_dict_in_generate=True, output_logits=True,
  )  # fmt: skip
  best = torch.stack(out.logits).topk(2, dim=-1).values
  lead = float((best[..., 0] - best[..., 1]).min())
  return np.int32(out.sequences[:, -new:].numpy()), lead


def summed(logits, tokens, mask):
  """Returns log p of each row's tokens after the first, nats, float64 [B]."""
  x = np.float64(logits)
  x -= x.max(axis=-1, keepdims=True)
  logp = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
  taken = np.take_along_axis(logp[:, :-1], np.int64(tokens)[:, 1:, None], axis=-1)[..., 0]
  return (taken * mask[:, 1:] * mask[:, :-1]).sum(axis=1)
