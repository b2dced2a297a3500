"""Rows out of published files: JSON lists, JSONL, XML, or the Hugging Face hub by name."""

import json
import pathlib
import sys
from collections.abc import Callable
from xml.parsers import expat

from distill_jax import errors

_NAMES = {(dict,): "a JSON object", (dict, str): "a JSON object or a text"}


def to_stderr(message: str) -> None:
  print(message, file=sys.stderr)


def read_rows(
  path,
  *,
  kinds: tuple[type, ...] = (dict,),
  warn: Callable[[str], None] = to_stderr,
  option: str = "task.path",
  expected: str = "",
) -> list:
  """The objects of a .json list or of a JSONL file (whatever its suffix), in the file's order.

  `kinds` is what a row may be: dict, str. A last line that is cut short (no line end, not JSON) is
  set aside and reported through `warn`. `option` and `expected` are what the refusal of a missing
  file names. Raises errors.UserError.
  """
  path = pathlib.Path(path)
  text = _text(path, option, expected)
  if text.lstrip()[:1] == "[":
    return _whole(path, text, kinds)
  lines = text.split("\n")
  found = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    torn = number == len(lines)  # what follows the last line end, if anything
    row = _line(path, number, line, kinds, warn if torn else None)
    if row is not None:
      found.append(row)
  if not found:
    raise errors.data(f"{path}: no rows in it; expected a JSON list or one JSON object a line")
  return found


def read_xml(path, tag: str, *, expected: str = "") -> list[dict]:
  """The elements of that name of an XML file as rows: attribute or child element -> its text.

  A document type declaration is refused, and with it every entity but the five of XML itself.
  Raises errors.UserError.
  """
  text = _text(pathlib.Path(path), "task.path", expected)
  found, open_tags = [], []

  def refuse_doctype(*_):
    raise errors.data(f"{path}: has a document type declaration; remove it, nothing here needs one")

  def start(name, attributes):
    open_tags.append(name)
    if name == tag:
      found.append(dict(attributes))

  def characters(data):
    if len(open_tags) > 1 and open_tags[-2] == tag:
      found[-1][open_tags[-1]] = found[-1].get(open_tags[-1], "") + data

  parser = expat.ParserCreate()
  parser.buffer_text = True
  parser.StartDoctypeDeclHandler = refuse_doctype
  parser.StartElementHandler, parser.CharacterDataHandler = start, characters
  parser.EndElementHandler = lambda _: open_tags.pop()
  try:
    parser.Parse(text, True)
  except (expat.ExpatError, ValueError) as error:
    raise errors.data(f"{path}: not XML ({error}); the file is broken, fetch it again") from None
  if not found:
    raise errors.data(f"{path}: no element <{tag}> in it")
  return found


def read_lines(path) -> list[str]:
  """The lines of a text file, without blank ones at its end. Raises errors.UserError."""
  return [line.strip() for line in _text(pathlib.Path(path), "task.path", "").rstrip().split("\n")]


def load_hub(name: str, config: str, split: str) -> list[dict]:
  """The rows of a split of a data set of the Hugging Face hub; "" is the default config.

  Raises errors.UserError if it cannot be had, for whatever reason (network, name, disk).
  """
  try:
    import datasets

    loaded = datasets.load_dataset(name, config or None, split=split)
    return [dict(row) for row in loaded]
  except Exception as error:
    reason = " ".join(str(error).split())[:200]
    raise errors.data(
      f"data set {name!r} (config {config!r}, split {split!r}) could not be loaded from the hub"
      f" ({type(error).__name__}: {reason}); check the name and the network,"
      " or give its files with --config.task.path=DIRECTORY"
    ) from None


def field(row: dict, name: str, kinds: tuple[type, ...], where: str):
  """The value of a field of a row; `where` ("file:row 3") names the row in the refusal."""
  if name not in row:
    raise errors.data(f"{where}: no field {name!r}; it has {', '.join(sorted(row)) or 'none'}")
  value = row[name]
  if not isinstance(value, kinds) or isinstance(value, bool) > (bool in kinds):
    allowed = " or ".join(kind.__name__ for kind in kinds)
    raise errors.data(f"{where}: field {name!r} is {type(value).__name__}, but must be {allowed}")
  return value


def _text(path: pathlib.Path, option: str, expected: str) -> str:
  wanted = f"; expected {expected}" if expected else ""
  if not path.is_file():
    raise errors.data(f"no file {path}; set --config.{option} to where the files are{wanted}")
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise errors.data(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8") from None
  except OSError as error:
    raise errors.data(f"{path}: cannot be read ({error.strerror}); mend its permissions") from None


def _parse(text: str):
  """The JSON value of a text; nesting too deep for the parser is bad JSON like any other."""
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError("nested too deep") from None


def _whole(path: pathlib.Path, text: str, kinds: tuple[type, ...]) -> list:
  try:
    value = _parse(text)
  except json.JSONDecodeError as error:
    raise errors.data(
      f"{path}:{error.lineno}: not JSON ({error.msg}); the file is broken or cut, fetch it again"
    ) from None
  except ValueError as error:
    raise errors.data(f"{path}:1: not JSON ({error}); fetch the file again") from None
  for number, row in enumerate(value, start=1):
    if not isinstance(row, kinds):
      raise errors.data(f"{path}: row {number} is not {_NAMES[kinds]} but {type(row).__name__}")
  if not value:
    raise errors.data(f"{path}: an empty list; expected a list of JSON objects")
  return value


def _line(path, number: int, line: str, kinds, warn: Callable[[str], None] | None):
  """The row in one line; None (after a warning) if `warn` is given and the line is torn."""
  try:
    row = _parse(line)
  except ValueError as error:
    if warn is not None:
      warn(f"{path}:{number}: the last line is cut short; it is left out, the rest is used")
      return None
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    raise errors.data(f"{path}:{number}: not JSON ({reason}); mend or remove this line") from None
  if not isinstance(row, kinds):
    raise errors.data(f"{path}:{number}: not {_NAMES[kinds]} but {type(row).__name__}")
  return row
