"""Edits of the files of a copied tokenizer."""

import datetime
import json
import pathlib
from typing import Any

from distill_jax.data import template_text

_SETTINGS, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


def state_date(directory: pathlib.Path) -> None:
  """Makes chat templates state today's date for good: a restart later has the same prompts."""
  today = datetime.date.today()
  template = _read_text(directory / _TEMPLATE)
  if (stated := template_text.with_date(template, today)) != template:
    (directory / _TEMPLATE).write_text(stated, encoding="utf-8")
  settings = _read(directory / _SETTINGS)
  templates = settings.get("chat_template")
  if isinstance(templates, str):
    settings["chat_template"] = template_text.with_date(templates, today)
  elif isinstance(templates, list):
    for named in templates:
      if isinstance(named, dict) and isinstance(named.get("template"), str):
        named["template"] = template_text.with_date(named["template"], today)
  if settings != _read(directory / _SETTINGS):
    _write(directory / _SETTINGS, settings)


def _read(file: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file; an empty one if there is none."""
  try:
    contents = json.loads(_read_text(file))
  except (ValueError, RecursionError):
    return {}
  return contents if isinstance(contents, dict) else {}


def _read_text(file: pathlib.Path) -> str:
  """The text of a file; "" if there is none, which is reported when it is needed."""
  try:
    return file.read_text(encoding="utf-8")
  except (OSError, ValueError):
    return ""


def _write(file: pathlib.Path, contents: dict[str, Any]) -> None:
  file.write_text(json.dumps(contents, ensure_ascii=False, indent=2), encoding="utf-8")
