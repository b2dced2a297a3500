"""T5 v1.0 and v1.1 compute what transformers computes.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0)
"""

import functools
import json
import re

import jax
import numpy as np
import pytest

from distill_jax.decoding import rollout, sampling
from distill_jax.students import t5, token_rows
from distill_jax.students.families import layout
from distill_jax.students.families import t5 as family

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SIZES = dict(
  model_type="t5", architectures=["T5ForConditionalGeneration"], vocab_size=50, d_model=24, d_kv=6,
  d_ff=40, num_layers=3, num_decoder_layers=2, num_heads=4, relative_attention_num_buckets=8,
  relative_attention_max_distance=12, layer_norm_epsilon=1e-6, initializer_factor=1.0,
  dropout_rate=0.1, is_encoder_decoder=True, pad_token_id=0, eos_token_id=1,
  decoder_start_token_id=0,
)  # fmt: skip
MODELS = {  # config.json as on the hub, and as transformers 5 writes it
  "v1.0": dict(),
  "v1.0 again": dict(
    feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True
  ),
  "v1.1": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
  "v1.1 again": dict(
    feed_forward_proj="gated-gelu", tie_word_embeddings=True, scale_decoder_outputs=False
  ),
}
LENGTHS = np.int32([30, 7, 1])  # tokens: longer and shorter than the relative distance, 12
NEW = 64


def ours(directory, arrays):
  """Returns (Config, parameters) from the directory's config.json and tensors."""
  config = family.read(json.loads((directory / "config.json").read_text()))
  names = {tensor.name for tensor in family.tensors(config)}
  beside = [name for name in arrays if name not in names]
  assert all(re.fullmatch(family.spare(config), name) for name in beside), beside
  params = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), t5.shapes(config))
  for tensor in family.tensors(config):
    leaf = params
    for name in tensor.path:
      leaf = leaf[name]
    leaf[... if tensor.layer is None else tensor.layer] = layout.to_ours(
      tensor, arrays[tensor.name]
    )
  return config, params


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
  """(transformers' model, our config, our parameters), read from the same directory."""
  import safetensors.numpy
  import safetensors.torch
  import torch
  import transformers

  torch.manual_seed(0)
  directory, wanted = tmp_path_factory.mktemp("model"), SIZES | MODELS[request.param]
  fresh = transformers.T5ForConditionalGeneration(transformers.T5Config(**wanted))
  arrays = {name: x.clone() for name, x in fresh.state_dict().items()}
  for name, x in arrays.items():  # norms and biases that matter
    if "norm" in name or "relative" in name:
      arrays[name] = x + torch.randn(x.shape) * 0.5
  if "v1.1" in request.param:
    arrays["lm_head.weight"] = torch.randn(arrays["lm_head.weight"].shape) * 0.3
  (directory / "config.json").write_text(json.dumps(wanted))
  safetensors.torch.save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
  theirs, report = transformers.T5ForConditionalGeneration.from_pretrained(
    directory, output_loading_info=True
  )
  assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  assert (theirs.lm_head.weight is theirs.shared.weight) == ("v1.0" in request.param)
  config, params = ours(directory, safetensors.numpy.load_file(directory / "model.safetensors"))
  return theirs.eval(), config, params


def batch(seed: int = 0):
  """Returns sources padded on the right, and the decoder's tokens: the start token and 39 more."""
  draw = np.random.Generator(np.random.PCG64(seed))
  source = draw.integers(2, SIZES["vocab_size"], (len(LENGTHS), LENGTHS.max()), dtype=np.int32)
  inside = np.int32(np.arange(LENGTHS.max())[None] < LENGTHS[:, None])
  tokens = draw.integers(2, SIZES["vocab_size"], (len(LENGTHS), 40), dtype=np.int32)
  tokens[:, 0] = SIZES["decoder_start_token_id"]
  return source * inside, inside, tokens


def rows(source, inside, tokens):
  line, ones = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape), np.ones_like(tokens)
  return token_rows.Rows(tokens, line, ones, source=source, source_segments=inside)


def test_logits_and_log_probabilities_equal_transformers(both):
  import torch

  theirs, config, params = both
  source, inside, tokens = batch()
  states = jax.jit(functools.partial(t5.hidden, config))(params, rows(source, inside, tokens))
  logits = np.asarray(states @ t5.head(config, params))
  with torch.no_grad():
    as_torch = lambda x: torch.tensor(x, dtype=torch.long)
    want = theirs(
      input_ids=as_torch(source), attention_mask=as_torch(inside),
      decoder_input_ids=as_torch(tokens),
    ).logits  # fmt: skip
    labels = as_torch(tokens[:, 1:])[..., None]
    summed = want[:, :-1].log_softmax(-1).gather(-1, labels).sum((1, 2)).numpy()
  np.testing.assert_allclose(logits, want.numpy(), atol=1e-4)
  ours = jax.nn.log_softmax(logits[:, :-1])
  chosen = np.take_along_axis(np.asarray(ours), tokens[:, 1:, None], axis=-1).sum((1, 2))
  np.testing.assert_allclose(chosen, summed, rtol=1e-5)


def test_a_written_model_computes_the_same_in_transformers(both, tmp_path):
  import safetensors.numpy
  import torch
  import transformers

  theirs, config, params = both
  arrays = {}
  for tensor in family.tensors(config):
    stack = functools.reduce(lambda node, name: node[name], tensor.path, params)
    ours = stack if tensor.layer is None else stack[tensor.layer]
    arrays[tensor.name] = layout.to_theirs([tensor], [ours])
  (tmp_path / "config.json").write_text(json.dumps(family.write(config)))
  safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
  again, report = transformers.T5ForConditionalGeneration.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  assert family.read(again.config.to_dict()) == config
  source, inside, tokens = (torch.tensor(x, dtype=torch.long) for x in batch(2))
  given = dict(input_ids=source, attention_mask=inside, decoder_input_ids=tokens)
  with torch.no_grad():
    torch.testing.assert_close(again.eval()(**given).logits, theirs(**given).logits)


def test_greedy_tokens_are_those_of_generate(both):
  import torch

  theirs, config, params = both
  source, inside, _ = batch(1)
  as_torch = lambda x: torch.tensor(x, dtype=torch.long)
  greedy = theirs.generate(
    as_torch(source), attention_mask=as_torch(inside), max_new_tokens=NEW, min_new_tokens=NEW,
    do_sample=False, eos_token_id=None, pad_token_id=0,
  )  # fmt: skip
  prompts = [row[:length].tolist() for row, length in zip(source, LENGTHS, strict=True)]
  rows = rollout.Rollout(
    config, params, sampling.sampling(0.0), sizes=rollout.sizes(2, 0.5, 1, 1), bucket=32,
    max_new_tokens=NEW, eos=(-1,), pad=0,
  )  # fmt: skip
  sampled = rollout.sample(rows, prompts, [np.zeros((1, 2), np.uint32)] * len(prompts))
  assert greedy.shape == (len(LENGTHS), 1 + NEW)
  np.testing.assert_array_equal(greedy[:, 1:].numpy(), sampled.tokens)
