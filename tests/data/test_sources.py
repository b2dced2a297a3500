"""Files as people have them: whole, torn, broken, missing."""

import json
import sys

import pytest

from distill_jax import errors
from distill_jax.data import sources

ROWS = [{"question": "a\u2028b", "n": 1}, {"question": "c", "n": 2}]


def _write(path, text: str):
  path.write_text(text, encoding="utf-8")
  return path


def test_a_json_list_and_jsonl_under_any_suffix_give_the_same_rows(tmp_path):
  lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
  for name, text in (
    ("list.json", json.dumps(ROWS, indent=2)),
    ("lines.jsonl", lines + "\n"),
    ("lines.json", lines + "\n"),
    ("dos.jsonl", lines.replace("\n", "\r\n") + "\r\n\r\n"),
    ("mark.jsonl", "\ufeff" + lines),
  ):
    assert sources.read_rows(_write(tmp_path / name, text), warn=pytest.fail) == ROWS


def test_a_torn_last_line_is_set_aside_with_a_warning(tmp_path):
  path = _write(tmp_path / "torn.jsonl", '{"n": 1}\n{"n": 2}\n{"n": 3, "quest')
  said = []
  assert sources.read_rows(path, warn=said.append) == [{"n": 1}, {"n": 2}]
  assert len(said) == 1 and "torn.jsonl:3" in said[0]


def test_the_warning_goes_to_stderr_unless_told_otherwise(tmp_path, capsys):
  sources.read_rows(_write(tmp_path / "torn.jsonl", '{"n": 1}\n{"n'))
  assert "torn.jsonl:2" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ('{"n": 1}\n{"n": \n{"n": 3}\n', ":2: not JSON"),
    ('{"n": 1}\n{"n": 2\n', ":2: not JSON"),  # broken, but its line is ended: not torn
    ('{"n": 1}\n7\n', ":2: not a JSON object"),
    ('[{"n": 1}, 3]', "row 2 is not a JSON object"),
    ('[{"n": 1},\n{"n"', ":2: not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[]", "an empty list"),
    ("\n\n", "no rows"),
  ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, says):
  path = _write(tmp_path / "broken.jsonl", text)
  with pytest.raises(errors.UserError, match=r"broken\.jsonl") as refusal:
    sources.read_rows(path, warn=pytest.fail)
  assert says in str(refusal.value) and refusal.value.code == errors.DATA
  assert "\n" not in str(refusal.value)


def test_a_missing_file_names_the_option_and_what_is_expected(tmp_path):
  with pytest.raises(errors.UserError) as refusal:
    sources.read_rows(tmp_path / "none.jsonl", option="teacher.path", expected="train.jsonl")
  assert "--config.teacher.path" in str(refusal.value) and "train.jsonl" in str(refusal.value)


def test_what_is_not_utf8_is_refused(tmp_path):
  path = tmp_path / "latin.jsonl"
  path.write_bytes(b'{"n": "\xe9"}\n')
  with pytest.raises(errors.UserError, match="not UTF-8"):
    sources.read_rows(path)


@pytest.mark.parametrize(
  ("row", "says"),
  [({}, "no field 'x'"), ({"x": 3}, "is int, but must be str"), ({"x": None}, "NoneType")],
)
def test_a_missing_or_wrong_field_is_named(row, says):
  with pytest.raises(errors.UserError, match=r"f\.json: row 3") as refusal:
    sources.field(row, "x", (str,), "f.json: row 3")
  assert says in str(refusal.value)


def test_true_is_no_number():
  with pytest.raises(errors.UserError):
    sources.field({"x": True}, "x", (int,), "f: row 1")


def test_the_hub_gives_rows_or_one_refusal(monkeypatch):
  class Hub:
    @staticmethod
    def load_dataset(name, config, split):
      if name == "offline":
        raise ConnectionError("no route\nto host")
      return [{"name": name, "config": config, "split": split}]

  monkeypatch.setitem(sys.modules, "datasets", Hub)
  assert sources.load_hub("a/b", "", "train") == [{"name": "a/b", "config": None, "split": "train"}]
  with pytest.raises(errors.UserError, match="no route to host") as refusal:
    sources.load_hub("offline", "main", "train")
  assert "\n" not in str(refusal.value) and "--config.task.path" in str(refusal.value)
