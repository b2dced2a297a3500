"""Reads the text and the thinking of a chat message, in every vendor's spelling.

content              a string, or a list of parts (Mistral, Anthropic's and OpenAI's content blocks)
reasoning_content    DeepSeek, older vLLM, SGLang, llama-server, xAI
reasoning            OpenRouter, Groq, newer vLLM
thinking             Ollama's own API, some proxies
reasoning_details    OpenRouter; thinking_blocks: litellm
marks in the text    see `distill_jax.thinking`

Messages are untrusted: every part is checked.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from distill_jax import thinking

FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "thoughts")
LISTS = ("reasoning_details", "thinking_blocks")
MAX_DEPTH = 8  # of nested parts
_THOUGHTS = ("think", "reason", "thought", "analysis")  # occur in the types of thinking parts
_TEXTS = ("text", "output_text", "input_text", "summary_text", "reasoning_text", "reasoning.text")
_INNER = ("thinking", "reasoning", "text", "content", "summary", "output_text")


class Raw(NamedTuple):
  """A message as it came, before marks in the text are read.

  Attributes:
    text: Its content.
    thinking: What came in fields or parts of its own.
    refusal: What the server says instead of a reply; "" if there is one.
  """

  text: str
  thinking: str
  refusal: str


def read_message(message: dict[str, Any]) -> Raw | None:
  """Reads a message; None if it is malformed.

  A reply that is all in the field for thinking, as of a server that looks for marks which its model
  does not write, is taken for the text.
  """
  content, refusal = message.get("content"), message.get("refusal")
  if not isinstance(content, str | list | None) or not isinstance(refusal, str | None):
    return None
  refusals = [refusal] if refusal else []
  texts: list[str] = []
  thoughts: list[str] = []
  if isinstance(content, str):
    texts.append(content)
  elif content is not None:
    for kind, parts in itertools.groupby(_parts(content), key=lambda part: part[0]):
      text = "".join(text for _, text in parts)  # a stream cuts a thought into many parts
      {"thinking": thoughts, "refusal": refusals}.get(kind, texts).append(text)
  fields = _fields(message, FIELDS) or _fields(message, LISTS)
  thought = thinking.join([*fields, *thoughts])
  text = "".join(texts)
  if not text.strip() and thought and not refusals:
    return Raw(thought, "", "")
  return Raw(text, thought, "\n".join(refusals))


def separate(text: str, thought: str = "") -> thinking.Split:
  """Separates a message's text from all of its thinking.

  Args:
    text: `Raw.text`.
    thought: `Raw.thinking`.
  """
  found = thinking.split(text)
  return thinking.Split(found.text, thinking.join([thought, found.thinking]))


def _fields(message: dict[str, Any], names: Iterable[str]) -> list[str]:
  """The texts in some fields of a message."""
  return [text for name in names if name in message for _, text in _parts(message[name])]


def _parts(value: Any, kind: str = "text", depth: int = 0) -> Iterator[tuple[str, str]]:
  """("text", "thinking" or "refusal", text) of each part of a value; unknown parts are left out."""
  if isinstance(value, str):
    yield kind, value
  elif depth < MAX_DEPTH and isinstance(value, list):
    for part in value:
      yield from _parts(part, kind, depth + 1)
  elif depth < MAX_DEPTH and isinstance(value, dict):
    name = value.get("type", "text")
    if name == "refusal":
      yield from _parts(value.get("refusal"), "refusal", depth + 1)
    elif isinstance(name, str) and (name in _TEXTS or _is_thought(name)):
      kind = "thinking" if _is_thought(name) else kind
      inner = next((value[field] for field in _INNER if value.get(field)), None)
      yield from _parts(inner, kind, depth + 1)


def _is_thought(name: str) -> bool:
  return any(word in name.lower() for word in _THOUGHTS)
