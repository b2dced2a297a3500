"""An exported student compared with transformers and torch.

bash launch/test.sh -m parity tests/machine        (after: .venv/bin/pip install torch==2.13.0)
"""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import errors, students
from distill_jax.data import tokenizer
from distill_jax.machine import hf_verify, hf_write
from distill_jax.students import families, token_rows
from distill_jax.students.families import layout

SIZES = dict(
  vocab=72, width=24, layers=2, heads=4, kv_heads=4, head_width=6, mlp=40, rope_theta=0.0,
  norm_eps=0.0, tied=True, positions=48,
)  # fmt: skip


def test_without_torch_the_message_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(errors.UserError, match="--verify needs torch: pip install torch") as caught:
    hf_verify.verify(tmp_path, None, positions=48)
  assert caught.value.code == errors.USAGE


def logits(c, params):
  """Our logits: one row per text, with a source for an encoder-decoder."""

  def call(tokens_BL, lengths_B, written_BT):
    model, count = students.of(c), written_BT.shape[1]
    is_encoder_decoder = model is not students.decoder
    size = tokens_BL.shape[1]
    line = np.arange(size + count + 1, dtype=np.int32)
    texts, at = np.zeros((len(lengths_B), len(line)), np.int32), []
    for row, tokens, n, written in zip(texts, tokens_BL, lengths_B, written_BT, strict=True):
      head = [c.start] if is_encoder_decoder else tokens[:n]
      row[: len(head) + count] = [*head, *written]
      at.append(len(head) - 1 + np.arange(count + 1))
    ends = np.array([a[-1] for a in at])
    positions = np.broadcast_to(line, texts.shape)
    rows = token_rows.Rows(texts, positions, np.int32(positions <= ends[:, None]))
    if is_encoder_decoder:
      inside = np.arange(size)[None] < lengths_B[:, None]
      rows = rows._replace(source=tokens_BL, source_segments=np.int32(inside))
    h = model.hidden(c, params, jax.tree.map(jnp.asarray, rows))
    picked = np.take_along_axis(np.asarray(h), np.stack(at)[..., None], axis=1)
    return students.logits(c, params, jnp.asarray(picked))

  return call


@pytest.fixture
def exported(tmp_path):
  words = tmp_path / "tokenizer"
  tokenizer.train(["Question: 12 + 3\nAnswer: 15"] * 3, vocab=300, path=words)

  def call(kind):
    family = families.BY_TYPE[kind]
    c = family.scratch(types.SimpleNamespace(**SIZES))
    params = students.of(c).init(c, jax.random.key(3))
    out = tmp_path / "out"
    hf_write.export(
      out, fields=family.write(c), tensors=family.tensors(c), to_theirs=layout.to_theirs,
      params=params, tokenizer=words, bos=None, eos=1, pad=0, positions=48, card="",
    )  # fmt: skip
    return out, c, params

  return call


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", families.BY_TYPE)
def test_an_exported_student_computes_the_same_in_transformers(kind, exported):
  out, c, params = exported(kind)
  assert hf_verify.verify(out, logits(c, params), positions=48) < 1e-4


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_a_matrix_in_the_wrong_order_is_detected(exported):
  out, c, params = exported("llama")
  params["blocks"]["q"] = params["blocks"]["q"][:, ::-1]
  assert hf_verify.verify(out, logits(c, params), positions=48) > 1e-3


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_transformers_does_not_find_is_rejected(exported):
  out, c, params = exported("llama")
  file = out / "model.safetensors"
  file.write_bytes(file.read_bytes().replace(b"model.norm.weight", b"model.norm.Weight"))
  with pytest.raises(errors.UserError, match=r"missing_keys model\.norm\.weight"):
    hf_verify.verify(out, logits(c, params), positions=48)
