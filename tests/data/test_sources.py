"""Source files: complete, truncated, broken, missing."""

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


def test_a_truncated_last_line_is_skipped_with_a_warning(tmp_path):
  path = _write(tmp_path / "truncated.jsonl", '{"n": 1}\n{"n": 2}\n{"n": 3, "quest')
  warnings = []
  assert sources.read_rows(path, warn=warnings.append) == [{"n": 1}, {"n": 2}]
  assert len(warnings) == 1 and "truncated.jsonl:3" in warnings[0]


def test_the_warning_goes_to_stderr_by_default(tmp_path, capsys):
  sources.read_rows(_write(tmp_path / "truncated.jsonl", '{"n": 1}\n{"n'))
  assert "truncated.jsonl:2" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ('{"n": 1}\n{"n": \n{"n": 3}\n', ":2: not JSON"),
    ('{"n": 1}\n{"n": 2\n', ":2: not JSON"),  # broken, but terminated: not a truncated last line
    ('{"n": 1}\n7\n', ":2 is not a JSON object"),
    ('[{"n": 1}, 3]', "row 2 is not a JSON object"),
    ('[{"n": 1},\n{"n"', ":2: not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[]", "an empty list"),
    ("\n\n", "no rows"),
  ],
)
def test_a_broken_file_is_rejected_with_file_and_line(tmp_path, text, says):
  path = _write(tmp_path / "broken.jsonl", text)
  with pytest.raises(errors.UserError, match=r"broken\.jsonl") as error:
    sources.read_rows(path, warn=pytest.fail)
  assert says in str(error.value) and error.value.code == errors.DATA
  assert "\n" not in str(error.value)


def test_a_missing_file_is_reported_with_the_option_and_the_expected_files(tmp_path):
  with pytest.raises(errors.UserError) as error:
    sources.read_rows(tmp_path / "none.jsonl", option="teacher.path", expected="train.jsonl")
  assert "--config.teacher.path" in str(error.value) and "train.jsonl" in str(error.value)


def test_a_file_that_is_not_utf8_is_rejected(tmp_path):
  path = tmp_path / "latin.jsonl"
  path.write_bytes(b'{"n": "\xe9"}\n')
  with pytest.raises(errors.UserError, match="not UTF-8"):
    sources.read_rows(path)


@pytest.mark.parametrize(
  ("row", "says"),
  [({}, "no field 'x'"), ({"x": 3}, "is int, but must be str"), ({"x": None}, "NoneType")],
)
def test_a_missing_or_wrong_field_is_named(row, says):
  with pytest.raises(errors.UserError, match=r"f\.json: row 3") as error:
    sources.field(row, "x", (str,), "f.json: row 3")
  assert says in str(error.value)


def test_true_is_not_a_number():
  with pytest.raises(errors.UserError):
    sources.field({"x": True}, "x", (int,), "f: row 1")


def test_the_hub_gives_rows_or_a_one_line_error(monkeypatch):
  class Hub:
    @staticmethod
    def load_dataset(name, config, split):
      if name == "offline":
        raise ConnectionError("no route\nto host")
      return [{"name": name, "config": config, "split": split}]

  monkeypatch.setitem(sys.modules, "datasets", Hub)
  assert sources.load_hub("a/b", "", "train") == [{"name": "a/b", "config": None, "split": "train"}]
  with pytest.raises(errors.UserError, match="no route to host") as error:
    sources.load_hub("offline", "main", "train")
  assert "\n" not in str(error.value) and "--config.task.path" in str(error.value)
