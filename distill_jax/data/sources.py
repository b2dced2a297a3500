"""Rows of published files, elements of XML, and data sets of the Hugging Face hub."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any
from xml.parsers import expat

from distill_jax import errors
from distill_jax.data import contents, tables

_TYPE_NAMES: dict[tuple[type, ...], str] = {
  (dict,): "a JSON object",
  (dict, str): "a JSON object or a string",
}


def to_stderr(message: str) -> None:
  """Prints a warning to stderr."""
  print(message, file=sys.stderr)


def read_rows(
  path: str | pathlib.Path,
  *,
  row_types: tuple[type, ...] = (dict,),
  warn: Callable[[str], None] = to_stderr,
  option: str = "task.path",
  expected: str = "",
) -> list:
  """Reads the rows of a JSON, JSONL, CSV, TSV or Parquet file, in file order.

  The content decides the format, not the suffix; see `tables`. A truncated last line (no line end,
  not JSON) is skipped with a warning.

  Args:
    path: The file.
    row_types: Allowed types of a row: dict, str.
    warn: Receives the warning about a truncated last line.
    option: Config key to name in the error if the file does not exist.
    expected: The files to name in that error.

  Raises:
    errors.UserError: The file does not exist, is not readable, or is not such a file.
  """
  rows = tables.read(pathlib.Path(path), warn=warn, option=option, expected=expected)
  for row in rows:
    if not isinstance(row.value, row_types):
      name = _TYPE_NAMES[row_types]
      raise errors.data(f"{row.where} is not {name} but {type(row.value).__name__}")
  return [row.value for row in rows]


def read_xml(path: str | pathlib.Path, tag: str, *, expected: str = "") -> list[dict[str, str]]:
  """Reads the elements named `tag` of an XML file.

  A document type declaration is rejected, and with it every entity but the five predefined ones.

  Args:
    path: The file.
    tag: Name of the elements.
    expected: The files to name in the error if the file does not exist.

  Returns:
    One dict per element, from the names of its attributes and child elements to their text.

  Raises:
    errors.UserError: The file does not exist, is not readable, or is not such a file.
  """
  text = _read_text(pathlib.Path(path), "task.path", expected)
  elements: list[dict[str, str]] = []
  open_tags: list[str] = []

  def reject_doctype(*_: object) -> None:
    raise errors.data(f"{path}: document type declarations are not allowed; remove it")

  def start(name: str, attributes: dict[str, str]) -> None:
    open_tags.append(name)
    if name == tag:
      elements.append(dict(attributes))

  def end(_: str) -> None:
    open_tags.pop()

  def characters(data: str) -> None:
    if len(open_tags) > 1 and open_tags[-2] == tag:
      elements[-1][open_tags[-1]] = elements[-1].get(open_tags[-1], "") + data

  parser = expat.ParserCreate()
  parser.buffer_text = True
  parser.StartDoctypeDeclHandler = reject_doctype
  parser.StartElementHandler, parser.EndElementHandler = start, end
  parser.CharacterDataHandler = characters
  try:
    parser.Parse(text, True)
  except (expat.ExpatError, ValueError) as error:
    raise errors.data(f"{path}: not XML ({error}); download the file again") from None
  if not elements:
    raise errors.data(f"{path}: no element <{tag}> in it")
  return elements


def read_lines(path: str | pathlib.Path) -> list[str]:
  """Reads the stripped lines of a text file, without blank lines at its end.

  Raises:
    errors.UserError: The file does not exist or is not readable.
  """
  text = _read_text(pathlib.Path(path), "task.path", "")
  return [line.strip() for line in text.rstrip().split("\n")]


def load_hub(name: str, config: str, split: str) -> list[dict]:
  """Loads the rows of a data set of the Hugging Face hub.

  Args:
    name: Name on the hub, "OWNER/NAME", or a local directory in the hub's layout.
    config: Configuration of the data set; "" for the default one.
    split: Split of the data set.

  Raises:
    errors.UserError: The data set cannot be loaded, for any reason (network, name, disk).
  """
  return [dict(row) for row in _load(name, config, split)]


def load_hub_splits(name: str, config: str) -> dict[str, list[dict]]:
  """Loads the rows of every split of a data set of the Hugging Face hub; see `load_hub`."""
  return {split: [dict(row) for row in rows] for split, rows in _load(name, config, None).items()}


def _load(name: str, config: str, split: str | None) -> Any:
  try:
    import datasets

    return datasets.load_dataset(name, config or None, split=split)
  except Exception as error:
    reason = " ".join(str(error).split())[:200]
    wanted = f"config {config!r}, split {split!r}" if split else f"config {config!r}"
    raise errors.data(
      f"data set {name!r} ({wanted}) could not be loaded from the hub"
      f" ({type(error).__name__}: {reason}); check the name and the network, or download the files"
      " and set --config.task.path=DIRECTORY"
    ) from None


def field(row: dict, name: str, types: tuple[type, ...], where: str) -> Any:
  """Returns the value of a field of a row.

  Args:
    row: The row.
    name: Name of the field.
    types: Allowed types. A bool is not an int.
    where: Names the row in errors, e.g. "file: row 3".

  Raises:
    errors.UserError: The field is missing or has another type.
  """
  if name not in row:
    raise errors.data(f"{where}: no field {name!r}; it has {', '.join(sorted(row)) or 'none'}")
  value = row[name]
  is_forbidden_bool = isinstance(value, bool) and bool not in types
  if not isinstance(value, types) or is_forbidden_bool:
    allowed = " or ".join(t.__name__ for t in types)
    raise errors.data(f"{where}: field {name!r} is {type(value).__name__}, but must be {allowed}")
  return value


def _read_text(path: pathlib.Path, option: str, expected: str) -> str:
  return contents.decode(path, contents.read(path, option, expected))
