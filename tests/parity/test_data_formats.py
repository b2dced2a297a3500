"""Exported data sets in the libraries that they are for: datasets and the trainers of TRL.

bash launch/test.sh -m parity tests/parity/test_data_formats.py
(after: .venv/bin/pip install torch==2.13.0 trl==1.16.0 accelerate datasets)
"""

import json

import numpy as np
import pytest

from distill_jax.cli import main
from distill_jax.data import tokenizer
from tests.cli.test_data_export import run  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

FORMATS = ("messages", "prompt_completion", "preference", "sharegpt", "alpaca")
TEMPLATE = (
  "{% for m in messages %}<|{{ m['role'] }}|>"
  "{% if m['role'] == 'assistant' %}{% generation %}"
  "{% if m.get('reasoning_content') %}[{{ m['reasoning_content'] }}]{% endif %}"
  "{{ m['content'] }}<|end|>{% endgeneration %}"
  "{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
POSITIONS = 2048


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory):  # noqa: F811
  """{format: the directory of a data set}; a run with hostile texts and thinking."""
  path = tmp_path_factory.mktemp("formats")
  for name in FORMATS:
    words = [f"--workdir={run.path}", f"--format={name}", f"--out={path / name}"]
    assert main.main(["data", "export", *words]) == 0
  return {name: path / name for name in FORMATS}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
  """(a Llama of 2 layers with random weights, its tokenizer)."""
  import torch
  import transformers

  path = tmp_path_factory.mktemp("student")
  tokenizer.train(["Question: 12 + 3\nAnswer: 15"] * 3, vocab=320, path=path)
  words = transformers.AutoTokenizer.from_pretrained(path)
  words.chat_template = TEMPLATE
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=POSITIONS,
  )  # fmt: skip
  transformers.LlamaForCausalLM(config).save_pretrained(path)  # DPO loads its reference from here
  return transformers.AutoModelForCausalLM.from_pretrained(path), words


def loaded(folder, *, parquet: bool):
  """Returns the rows as `datasets` loads them: by the card of the directory, or from JSON lines."""
  import datasets

  cache = str(folder.parent / "cache")
  if parquet:
    return datasets.load_dataset(str(folder), split="train", cache_dir=cache)
  files = str(folder / "train.jsonl")
  return datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)


def short(rows):
  """Rows that fit into the student."""
  return rows.filter(lambda row: len(json.dumps(row)) < POSITIONS // 2)


@pytest.mark.parametrize("format", FORMATS)
def test_datasets_loads_the_same_rows_from_the_card_and_from_json_lines(folders, format):
  pytest.importorskip("datasets")
  lines = (folders[format] / "train.jsonl").read_text("utf-8").split("\n")[:-1]
  want = [json.loads(line) for line in lines]
  for parquet in (True, False):
    rows = loaded(folders[format], parquet=parquet)
    assert [strip(row) for row in rows] == [strip(row) for row in want]


def strip(value):
  """Without fields that are null or empty, which either file may leave out."""
  if isinstance(value, dict):
    return {name: strip(part) for name, part in value.items() if part not in (None, "")}
  return [strip(part) for part in value] if isinstance(value, list) else value


def test_trls_helpers_take_the_conversations_for_what_they_are(folders, student):
  data_utils = pytest.importorskip("trl.data_utils")
  _, words = student
  for name in ("messages", "prompt_completion", "preference"):
    for row in loaded(folders[name], parquet=True):
      assert data_utils.is_conversational(row)
      text = data_utils.apply_chat_template(row, words)
      if name == "messages":
        asked, answered = row["messages"]
        thinking = answered.get("reasoning_content")
        target = (f"[{thinking}]" if thinking else "") + answered["content"]
        expected = f"<|user|>{asked['content']}<|end|><|assistant|>{target}<|end|>"
        assert text["text"] == expected
        continue
      assert text["prompt"] == f"<|user|>{row['prompt'][0]['content']}<|end|><|assistant|>"
      for part in ("completion",) if name == "prompt_completion" else ("chosen", "rejected"):
        assert text[part].endswith(row[part][0]["content"] + "<|end|>")


@pytest.mark.parametrize("format", ("messages", "prompt_completion"))
def test_trls_sft_trainer_trains_on_the_rationale_alone(folders, student, tmp_path, format):
  trl = pytest.importorskip("trl")
  model, words = student
  rows = short(loaded(folders[format], parquet=True))
  options = {"assistant_only_loss": True} if format == "messages" else {}
  trainer = trl.SFTTrainer(
    model=model,
    args=trl.SFTConfig(
      output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, use_cpu=True,
      report_to="none", max_length=POSITIONS, disable_tqdm=True, eos_token=words.eos_token,
      **options,
    ),
    processing_class=words,
    train_dataset=rows,
  )  # fmt: skip
  prepared = list(trainer.train_dataset)
  assert len(prepared) == len(rows) > 3
  batch = trainer.data_collator(prepared)
  for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
    answer = (row["messages"][1:] if format == "messages" else row["completion"])[0]
    trained = words.decode(ids[np.asarray(labels) >= 0])
    assert answer["content"] in trained and "<|user|>" not in trained
  assert np.isfinite(trainer.train().training_loss)


def test_trls_dpo_trainer_prefers_the_chosen_rationale(folders, student, tmp_path):
  trl = pytest.importorskip("trl")
  model, words = student
  rows = short(loaded(folders["preference"], parquet=True))
  trainer = trl.DPOTrainer(
    model=model,
    args=trl.DPOConfig(
      output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, use_cpu=True,
      report_to="none", max_length=POSITIONS, disable_tqdm=True,
    ),
    processing_class=words,
    train_dataset=rows,
  )  # fmt: skip
  prepared = list(trainer.train_dataset)
  assert len(prepared) == len(rows) > 3
  for row, ids in zip(rows, prepared, strict=True):
    for part in ("chosen", "rejected"):
      assert row[part][0]["content"] in words.decode(ids[f"{part}_ids"])
  assert np.isfinite(trainer.train().training_loss)
