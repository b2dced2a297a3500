"""Data files in every usual format give the same rows; what is no data is named in one line."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from distill_jax import errors
from distill_jax.data import tables

ROWS = [{"question": "How, then?", "answer": "7"}, {"question": 'He "said"\nso', "answer": "8"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'question,answer\n"How, then?",7\n"He ""said""\nso",8\n'


def _read(path, content: bytes):
  path.write_bytes(content)
  return tables.read(path, warn=pytest.fail)


def _parquet() -> bytes:
  sink = pyarrow.BufferOutputStream()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
  return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("rows.jsonl", LINES.encode()),
    ("rows.json", json.dumps(ROWS, indent=1).encode()),
    ("wrapped.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
    ("one_line.json", json.dumps({"examples": ROWS}).encode()),
    ("columns.json", json.dumps({k: [row[k] for row in ROWS] for k in ROWS[0]}).encode()),
    ("pandas.json", json.dumps(
      {k: {str(n): row[k] for n, row in enumerate(ROWS)} for k in ROWS[0]}).encode()),
    ("pretty.jsonl", "".join(json.dumps(row, indent=2) + "\n" for row in ROWS).encode()),
    ("rows.csv", CSV.encode()),
    ("sheet.csv", ("sep=,\n" + CSV).encode()),
    ("rows.tsv", CSV.replace(",7", "\t7").replace(",8", "\t8").replace("n,a", "n\ta").encode()),
    ("semicolons.csv", CSV.replace("n,a", "n;a").replace(",7", ";7").replace(",8", ";8").encode()),
    ("rows.txt", CSV.encode()),
    ("mark.jsonl", ("\ufeff" + LINES).encode()),
    ("dos.jsonl", LINES.replace("\n", "\r\n").encode()),
    ("wide.csv", CSV.encode("utf-16")),
    ("packed.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
    ("packed.jsonl", gzip.compress(LINES.encode(), mtime=0)),
    ("packed.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
  ],
)  # fmt: skip
def test_every_format_gives_the_same_rows(tmp_path, name, content):
  assert [row.value for row in _read(tmp_path / name, content)] == ROWS


def test_rows_by_their_ids_keep_them(tmp_path):
  content = json.dumps({"q1": ROWS[0], "q2": ROWS[1]}).encode()
  found = [row.value for row in _read(tmp_path / "by_id.json", content)]
  assert found == [{"id": "q1"} | ROWS[0], {"id": "q2"} | ROWS[1]]


def test_nan_is_a_missing_value(tmp_path):
  assert _read(tmp_path / "nan.jsonl", b'{"a": NaN}\n')[0].value == {"a": None}


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_parquet_is_recognized_by_its_content(tmp_path, name):
  assert [row.value for row in _read(tmp_path / name, _parquet())] == ROWS


def test_an_object_of_splits_names_the_split_of_each_row(tmp_path):
  content = json.dumps({"train": ROWS, "heldout": ROWS[:1]}).encode()
  rows = _read(tmp_path / "a.json", content)
  assert [row.split for row in rows] == ["train", "train", "heldout"]


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    (
      "pointer.jsonl",
      b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
      "git lfs pull",
    ),
    ("page.jsonl", b"\n<!DOCTYPE html><html></html>", "an HTML page"),
    ("page.parquet", b"<html><body>404</body></html>", "an HTML page"),
    ("sheet.csv", b"PK\x03\x04rest", "save it as CSV"),
    ("latin.csv", "question,answer\na,b\ncaf\xe9,1\n".encode("latin-1"), ":3: not UTF-8"),
    ("cut.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-12], "damaged gzip"),
    ("cut.parquet", b"PAR1abc", "damaged Parquet"),
    ("picture.png", b"\x89PNG\r\n\x1a\n\x00\x00", "a binary file"),
    ("half.csv", "question,é\n1,2\n".encode("utf-16-le"), "UTF-16 without its mark"),
    ("empty.jsonl", b"", "no rows"),
    ("empty.json", b"[]", "an empty list"),
    ("none.json", b'{"data": []}', "an empty list"),
    ("header.csv", b"question,answer\n", "no rows below the header"),
    ("twice.csv", b"a,a\n1,2\n", "two columns are named 'a'"),
    ("long.csv", b"a,b\n1,2\n1,2,3\n", ":3: 3 cells"),
    ("quote.csv", b'a,b\n1,2\n1,"2\n3,4\n5,6\n', ":3: not CSV"),
    ("pretty.json", b'{\n"a": 1\n}\n{\n"a" 2\n}\n', ":5: not JSON"),
    ("digits.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", "a number of thousands of digits"),
    ("bad.jsonl", b'{"a": 1}\n{"a": \n{"a": 2}\n', ":2: not JSON"),
    ("bad.json", b'[{"a": 1},\n{"a": 2]', ":2: not JSON"),
    ("uneven.json", b'{"a": [1], "b": [1, 2]}', "lists of different lengths (a 1, b 2)"),
  ],
)
def test_what_is_no_data_is_named_in_one_line(tmp_path, name, content, says):
  with pytest.raises(errors.UserError) as error:
    _read(tmp_path / name, content)
  text = str(error.value)
  assert says in text and name in text and "\n" not in text and error.value.code == errors.DATA
