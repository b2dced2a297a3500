"""Edits of the files of a copied tokenizer."""

import datetime
import json
import pathlib
import re
from typing import Any

import transformers

from distill_jax import thinking
from distill_jax.data import template_text

_VOCABULARY, _SETTINGS, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
# What a template puts around messages. Other added tokens are pieces of text, such as spaces.
_SHAPE = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_PAIR = re.compile(r"<(?P<end>/?)(?P<name>[^<>/|]+)>")
_TEXTS = {"system": "Be brief.", "user": "How many?", "assistant": "Tom has 3 apples, so 7."}
_PROBES = (("user",), ("user", "assistant", "user"), ("system", "user", "assistant"))


def state_date(directory: pathlib.Path) -> None:
  """Fixes the date in chat templates to today's, so that a later restart has the same prompts."""
  today = datetime.date.today()
  template = _read_text(directory / _TEMPLATE)
  if (stated := template_text.with_date(template, today)) != template:
    (directory / _TEMPLATE).write_text(stated, encoding="utf-8")
  fields = _read(directory / _SETTINGS)
  templates = fields.get("chat_template")
  if isinstance(templates, str):
    fields["chat_template"] = template_text.with_date(templates, today)
  elif isinstance(templates, list):
    for named in templates:
      if isinstance(named, dict) and isinstance(named.get("template"), str):
        named["template"] = template_text.with_date(named["template"], today)
  if fields != _read(directory / _SETTINGS):
    _write(directory / _SETTINGS, fields)


def mark_turns(directory: pathlib.Path) -> None:
  """Makes the added tokens special that a chat template puts around messages.

  In some tokenizers <|im_end|> is not. A question could then end its own turn, and a reply would
  neither end in it nor stop at it. Marks of thinking, and pairs such as <tool_call> and
  </tool_call>, stay text: they are a part of what a student writes.
  """
  try:
    fast = transformers.AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    added = fast.added_tokens_decoder.values()
  except Exception:  # two libraries; reported when the tokenizer is used
    return
  texts = {t.content for t in added}
  ordinary = {t.content for t in added if not t.special and _is_mark(t.content, texts)}
  frame = _around_messages(fast) if ordinary else ""
  marks = {text for text in ordinary if text in frame}
  for name, key in ((_VOCABULARY, "added_tokens"), (_SETTINGS, "added_tokens_decoder")):
    contents = _read(directory / name)
    listed = contents.get(key, [])
    tokens = listed.values() if isinstance(listed, dict) else listed
    if found := [token for token in tokens if token["content"] in marks]:
      for token in found:
        token["special"] = True
      _write(directory / name, contents)


def _is_mark(text: str, texts: set[str]) -> bool:
  """Whether an added token may separate turns, and does not enclose a part of a message."""
  if not _SHAPE.fullmatch(text) or thinking.is_mark(text):
    return False
  pair = _PAIR.fullmatch(text)
  return pair is None or f"<{'' if pair['end'] else '/'}{pair['name']}>" not in texts


def _around_messages(fast: Any) -> str:
  """What the template renders besides messages, in conversations that it accepts."""
  out = ""
  for roles in _PROBES:
    messages = [{"role": role, "content": _TEXTS[role]} for role in roles]
    try:
      text = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # jinja2's, and whatever a template calls; chat.py reports it
      continue
    for said in _TEXTS.values():
      text = text.replace(said, "\n")
    out += text
  return out


def _read(file: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file; {} if there is none."""
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
