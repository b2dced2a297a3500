"""Rows of a data file in any of the usual formats: JSON, JSON lines, CSV, TSV, Parquet, gzipped.

The content decides the format, not the suffix.
"""

import csv
import io
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from distill_jax import errors
from distill_jax.data import contents

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# Names of the list of rows in a JSON object.
_WRAPPERS = ("data", "rows", "examples", "questions", "instances", "items", "problems", "records")
# Splits by their usual names.
SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
SPLITS |= {"val": "validation", "dev": "validation", "test": "test", "testing": "test"}
SPLITS |= {"eval": "test", "evaluation": "test", "heldout": "test"}
_MARKS = "\t,;|"  # separators of cells, the likeliest first
# Where an object that is spread over lines ends and the next begins.
_NEXT_OBJECT = re.compile(r"(?<=\n\})\n+(?=\{)")


class Row(NamedTuple):
  """A row of a file.

  Attributes:
    where: Names it in errors: "FILE:LINE" or "FILE: row N".
    value: A JSON object, or another JSON value for the caller to judge.
    split: The key of the JSON object whose list it is in ("train"); "" elsewhere.
  """

  where: str
  value: Any
  split: str = ""


def read(
  path: pathlib.Path, *, warn: Callable[[str], None], option: str = "task.path", expected: str = ""
) -> list[Row]:
  """Reads the rows of a file, in file order.

  A truncated last line of JSON lines (no line end, not JSON) is skipped with a warning.

  Args:
    path: The file.
    warn: Receives the warning about a truncated last line.
    option: Config key to name in the error if the file does not exist.
    expected: The files to name in that error.

  Raises:
    errors.UserError: The file does not exist, is not readable, or is no such file.
  """
  content = contents.read(path, option, expected)
  if content[:4] == b"PAR1":
    return _parquet(path, content)
  text = contents.decode(path, content)
  start = text.lstrip()[:1]
  stem_suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix.lower()
  if stem_suffix in (".csv", ".tsv") or (start not in ("[", "{") and _looks_delimited(text)):
    return _delimited(path, text)
  if start == "[":
    return _json_list(path, _parse_whole(path, text))
  if start == "{" and (rows := _json_object(path, text)) is not None:
    return rows
  return _json_lines(path, text, warn)


def parse_json(text: str) -> Any:
  """Parses JSON, with None for NaN: a missing value.

  Nesting too deep for the parser and a number too long for it are a ValueError, as invalid JSON is.
  """
  try:
    return json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))
  except RecursionError:
    raise ValueError("nested too deep") from None
  except json.JSONDecodeError:
    raise
  except ValueError:
    raise ValueError("a number of thousands of digits") from None


def _parse_whole(path: pathlib.Path, text: str) -> Any:
  try:
    return parse_json(text)
  except json.JSONDecodeError as error:
    raise errors.data(
      f"{path}:{error.lineno}: not JSON ({error.msg}); fix it, or if it is truncated,"
      " download it again"
    ) from None
  except ValueError as error:
    raise errors.data(f"{path}:1: not JSON ({error}); download the file again") from None


def _json_list(path: pathlib.Path, value: list[Any], split: str = "") -> list[Row]:
  if not value:
    raise errors.data(f"{path}: an empty list; expected a list of JSON objects")
  at = f"{path}: {split} row" if split else f"{path}: row"
  return [Row(f"{at} {number}", row, split) for number, row in enumerate(value, start=1)]


def _json_object(path: pathlib.Path, text: str) -> list[Row] | None:
  """The rows of a file that is one JSON object; None if it has one object per line."""
  try:
    parse_json(text.lstrip().partition("\n")[0])
    is_line = "\n" in text.strip()
  except ValueError:
    is_line = False
  if is_line:
    return None
  try:
    value = parse_json(text)
  except ValueError:
    # JSON lines with a broken first line, unless the object is spread over lines.
    if text.lstrip().partition("\n")[0].strip() not in ("{", ""):
      return None
    return _json_list(path, _json_objects(path, text))
  lists = {key: rows for key, rows in value.items() if isinstance(rows, list)}
  splits = [key for key in lists if key.lower() in SPLITS]
  if splits:
    return [row for key in splits for row in _json_list(path, lists[key], key.lower())]
  wrapper = next((key for key in value if key.lower() in _WRAPPERS and key in lists), None)
  if wrapper is not None:
    return _json_list(path, lists[wrapper])
  return _json_by_id(path, value) or _json_columns(path, value) or [Row(f"{path}: row 1", value)]


def _json_objects(path: pathlib.Path, text: str) -> list[Any]:
  """The objects of a file that stand one after another, each over several lines."""
  parts = _NEXT_OBJECT.split(text)
  if len(parts) == 1:
    return [_parse_whole(path, text)]
  objects: list[Any] = []
  line = 1
  for part in parts:
    try:
      objects.append(parse_json(part))
    except ValueError as error:
      at, reason = (
        (error.lineno - 1, error.msg) if isinstance(error, json.JSONDecodeError) else (0, error)
      )
      raise errors.data(f"{path}:{line + at}: not JSON ({reason}); fix this object") from None
    line += part.count("\n") + 1
  return objects


def _json_by_id(path: pathlib.Path, value: dict[str, Any]) -> list[Row] | None:
  """The rows of {ID: {"question": ..., ...}, ...}, with their ids; None for another object.

  Columns of pandas have the numbers of the rows inside: {"question": {"0": ...}, ...}.
  """
  if len(value) < 2 or not all(isinstance(row, dict) and row for row in value.values()):
    return None
  if all(key.isdigit() for row in value.values() for key in row):
    return None
  return _json_list(path, [{"id": key} | row for key, row in value.items()])


def _json_columns(path: pathlib.Path, value: dict[str, Any]) -> list[Row] | None:
  """The rows of an object of columns, {"question": [...], ...}; None for a single row."""
  columns = {
    key: list(column.values()) if isinstance(column, dict) else column
    for key, column in value.items()
  }
  if len(columns) < 2 or not all(isinstance(column, list) for column in columns.values()):
    return None
  lengths = {key: len(column) for key, column in columns.items()}
  if len(set(lengths.values())) != 1:
    counts = ", ".join(f"{key} {length}" for key, length in lengths.items())
    raise errors.data(
      f"{path}: an object with lists of different lengths ({counts}); expected a list of rows, or"
      ' {"data": [...]}'
    )
  rows = zip(*columns.values(), strict=True)
  return _json_list(path, [dict(zip(columns, row, strict=True)) for row in rows])


def _json_lines(path: pathlib.Path, text: str, warn: Callable[[str], None]) -> list[Row]:
  lines = text.split("\n")
  rows: list[Row] = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      rows.append(Row(f"{path}:{number}", parse_json(line)))
    except ValueError as error:
      if number == len(lines) and rows:
        warn(f"{path}:{number}: the last line is truncated and was skipped")
        continue
      reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
      raise errors.data(f"{path}:{number}: not JSON ({reason}); fix or remove this line") from None
  if not rows:
    raise errors.data(
      f"{path}: the file has no rows; expected a JSON list, JSON lines, CSV or Parquet"
    )
  return rows


def _looks_delimited(text: str) -> bool:
  """Whether a text that is not JSON begins with a header of CSV or TSV."""
  header = text.lstrip().partition("\n")[0]
  return any(mark in header for mark in ",;\t") and not header.startswith('"{')


def _delimited(path: pathlib.Path, text: str) -> list[Row]:
  header, _, rest = text.lstrip("\n").partition("\n")
  if header.strip(" ") in [f"sep={mark}" for mark in _MARKS]:  # a line for spreadsheets
    return _delimited(path, f"\n{rest}")
  mark = max(_MARKS, key=header.count)
  csv.field_size_limit(2**27)
  reader = csv.reader(io.StringIO(text.replace("\x00", "")), delimiter=mark, strict=True)
  rows: list[Row] = []
  names: list[str] = []
  end = 0  # the last line of the row before
  try:
    for cells in reader:
      end = reader.line_num
      if not any(cell.strip() for cell in cells):
        continue
      if not names:
        names = [cell.strip() for cell in cells]
        repeated = next((name for name in names if name and names.count(name) > 1), None)
        if repeated:
          raise errors.data(f"{path}:1: two columns are named {repeated!r}; rename one")
        continue
      if len(cells) != len(names):
        raise errors.data(
          f"{path}:{reader.line_num}: {len(cells)} cells, but the header has {len(names)};"
          " quote cells that contain the separator"
        )
      value = {name: cell for name, cell in zip(names, cells, strict=True) if name}
      rows.append(Row(f"{path}:{reader.line_num}", value))
  except csv.Error as error:
    is_open = reader.line_num > end + 1  # the row goes on over lines: a quote that is never closed
    why = "a quote that is opened here is not closed as it must be" if is_open else str(error)
    raise errors.data(f"{path}:{end + 1}: not CSV ({why}); fix this line") from None
  if not rows:
    raise errors.data(f"{path}: no rows below the header ({', '.join(names) or 'empty file'})")
  return rows


def _parquet(path: pathlib.Path, content: bytes) -> list[Row]:
  import pyarrow
  import pyarrow.parquet

  try:
    values = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
  except (pyarrow.ArrowException, OSError, ValueError) as error:
    reason = " ".join(str(error).split())[:120]
    raise errors.data(f"{path}: damaged Parquet file ({reason}); download it again") from None
  if not values:
    raise errors.data(f"{path}: a Parquet file without rows")
  return _json_list(path, values)
