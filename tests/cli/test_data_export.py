"""distill-jax data export: what a run kept, in the formats of other trainers."""

import json
import re

import pytest
from pyarrow import parquet

from distill_jax import errors, records
from distill_jax.cli import main
from distill_jax.data import chat_rows, hub
from tests.cli import trainer_schemas
from tests.report import material

TEXTS = {**material.HOSTILE, "plain": "4 + 3 = 7."}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  run = material.write_run(tmp_path_factory.mktemp("export") / "run", TEXTS)
  thought = records.Rationale(
    "t/train/plain", "It is 18.\nAnswer: 18", "18", "thinker", 1, "correct", 0, 0.7, thinking="Hm."
  )
  rationalize = run.phase(1, 4, "rationalize")
  rationalize.write("rationales.jsonl", [thought])
  rationalize.finish({"kept": 1, "dropped": {}})
  pair = run.phase(1, 5, "pair")
  pairs = [
    records.PreferencePair("t/train/plain", "Question: 4 + 3?", "yes", "no", stage, -1.0, -2.0)
    for stage in ("", "recall")
  ]
  pair.write("pairs.jsonl", pairs)
  pair.finish({"pairs": 2})
  return run


def export(run, tmp_path, format: str) -> list[dict]:
  out = tmp_path / format
  words = [f"--workdir={run.path}", f"--format={format}", f"--out={out}"]
  assert main.main(["data", "export", *words]) == 0
  rows = [json.loads(line) for line in (out / "train.jsonl").read_text("utf-8").split("\n")[:-1]]
  table = parquet.read_table(out / "data" / "train.parquet")
  assert without_nulls(table.to_pylist()) == rows
  readme = (out / "README.md").read_text("utf-8")
  assert readme.startswith("---\nlicense: unknown") and f"`{format}`" in readme
  assert "wrong" not in readme.split("dropped before")[0] and "<b>" not in readme
  return rows


def without_nulls(value):
  """Parquet has every field in every message, null where there is none."""
  if isinstance(value, dict):
    return {name: without_nulls(part) for name, part in value.items() if part is not None}
  return [without_nulls(part) for part in value] if isinstance(value, list) else value


# Fields as the trainers document them: TRL "Dataset formats", LLaMA-Factory data/README.md.
def check_messages(messages: list[dict], roles: list[str]) -> None:
  assert [m["role"] for m in messages] == roles
  assert all(isinstance(m["content"], str) for m in messages)


def test_messages_are_conversations_with_thinking_apart(run, tmp_path):
  rows = export(run, tmp_path, "messages")
  for row in rows:
    check_messages(row["messages"], ["user", "assistant"])
  assistant = rows[-1]["messages"][1]
  assert assistant["reasoning_content"] == "Hm." and "Hm." not in assistant["content"]
  assert {row["messages"][1]["reasoning_content"] for row in rows[:-1]} == {""}
  assert rows[-1] | {"messages": 0} == {
    "messages": 0, "id": "t/train/plain", "round": 1, "writer": "thinker", "answer": "18",
  }  # fmt: skip
  assert len({json.dumps(row["messages"]) for row in rows}) == len(rows)


def test_hostile_texts_stay_whole_but_for_lone_surrogates(run, tmp_path):
  rows = export(run, tmp_path, "messages")
  found = {row["messages"][1]["content"] for row in rows}
  for text in TEXTS.values():
    assert chat_rows.clean(f"{text}\nAnswer: 18") in found
  assert chat_rows.clean("a\ud800b \U0001f600") == "a\ufffdb \U0001f600"


def test_prompt_completion_preference_sharegpt_and_alpaca_have_their_fields(run, tmp_path):
  for row in export(run, tmp_path, "prompt_completion"):
    check_messages(row["prompt"], ["user"])
    check_messages(row["completion"], ["assistant"])
  for row in export(run, tmp_path, "sharegpt"):
    assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]
    assert all(isinstance(turn["value"], str) for turn in row["conversations"])
  alpaca = export(run, tmp_path, "alpaca")
  for row in alpaca:
    assert row["input"] == "" and row["instruction"] and row["output"].endswith("Answer: 18")
  assert alpaca[-1]["thinking"] == "Hm."


@pytest.mark.parametrize("format", ("messages", "sharegpt", "alpaca"))
def test_llama_factory_and_axolotl_read_each_question_and_its_rationale(run, tmp_path, format):
  """By the description and the card beside the rows."""
  rows = export(run, tmp_path, format)
  info = json.loads((tmp_path / format / "dataset_info.json").read_text("utf-8"))
  (description,) = info.values()
  assert (tmp_path / format / description["file_name"]).is_file()
  settings = trainer_schemas.axolotl_settings((tmp_path / format / "README.md").read_text("utf-8"))
  want = [
    (row["prompt"][0]["content"], row["completion"][0]["content"])
    for row in export(run, tmp_path, "prompt_completion")
  ]
  assert [trainer_schemas.llama_factory(description, row) for row in rows] == want
  assert [trainer_schemas.axolotl(settings, row) for row in rows] == want


def test_preferences_are_the_pairs_of_the_run_and_its_corrections(run, tmp_path):
  rows = export(run, tmp_path, "preference")
  for row in rows:
    check_messages(row["prompt"], ["user"])
    check_messages(row["chosen"], ["assistant"])
    check_messages(row["rejected"], ["assistant"])
    assert row["chosen"] != row["rejected"]
  whole, stage = rows[-2:]
  assert whole["prompt"][0]["content"] == TEXTS["plain"]  # the question, not the student's prompt
  assert stage["prompt"][0]["content"] == "Question: 4 + 3?"
  assert (whole["chosen"][0]["content"], whole["rejected"][0]["content"]) == ("yes", "no")
  corrected = rows[0]
  assert corrected["rejected"][0]["content"].endswith("!0")


def test_what_cannot_be_exported_is_rejected_in_one_line(run, tmp_path, capsys):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "x").write_text("mine")
  good = [f"--workdir={run.path}", f"--out={tmp_path / 'new'}"]
  for words in (
    ["export", *good, "--format=csv"],
    ["export", f"--workdir={run.path}", f"--out={tmp_path / 'full'}"],
    ["export", f"--workdir={run.path}"],
    ["export", *good, "--push=name"],
    ["import", *good],
  ):
    assert main.main(["data", *words]) == errors.USAGE
  assert capsys.readouterr().err.count("\n") == 5 and not (tmp_path / "new").exists()
  assert (tmp_path / "full" / "x").read_text() == "mine"


def test_nothing_is_uploaded_unless_it_is_asked_for(run, tmp_path, monkeypatch, capsys):
  pushed = []
  monkeypatch.setattr(hub, "push", lambda folder, name: pushed.append(name) or f"hub/{name}")
  export(run, tmp_path, "messages")
  assert pushed == []
  words = [f"--workdir={run.path}", f"--out={tmp_path / 'b'}", "--push=me/data"]
  assert main.main(["data", "export", *words]) == 0
  assert pushed == ["me/data"] and re.search("Uploaded to hub/me/data", capsys.readouterr().out)
