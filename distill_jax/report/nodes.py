"""Builds HTML and SVG. Text is escaped where it becomes markup, and nowhere else.

`tag` escapes every child and attribute value that is not `Html`; only `tag` and `join` make `Html`.
"""

import html
import unicodedata
from collections.abc import Iterable

# Invisible characters that are shown as they are: joiners inside words and emoji, soft hyphens.
JOINERS = frozenset("\u00ad\u200c\u200d")
VOID = frozenset(("br", "col", "input", "link", "meta"))
HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")  # Unicode categories that are shown as escapes


class Html(str):
  """Markup: it is inserted as it is."""

  __slots__ = ()


Child = str | int | float | None  # Html is a str; None inserts nothing


def visible(text: str) -> str:
  r"""Returns the text with control, bidirectional and other hidden characters as escapes (\u202e).

  Line ends and tabs are kept. The result is valid UTF-8.
  """
  text = text.replace("\r\n", "\n")
  if text.replace("\n", "").isprintable():
    return text
  return "".join(map(_visible, text))


def unprintable(c: str) -> bool:
  """Whether a character is shown as an escape."""
  return c not in "\n\t" and c not in JOINERS and unicodedata.category(c) in HIDDEN


def _visible(c: str) -> str:
  if not unprintable(c):
    return c
  code = ord(c)
  return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def text(value: Child) -> Html:
  """Returns a value as escaped text."""
  if isinstance(value, Html):
    return value
  return Html("" if value is None else html.escape(visible(str(value))))


def join(children: Iterable[Child], separator: str = "") -> Html:
  """Returns the children one after the other."""
  return Html(text(separator).join(map(text, children)))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
  """Returns an element.

  Args:
    name: Its name.
    *children: Its content; what is not Html is escaped.
    **attributes: Its attributes: `class_` is class, `data_x` is data-x. True stands for an
      attribute without a value; False and None leave it out.
  """
  parts = [name]
  for key, value in attributes.items():
    key = key.rstrip("_").replace("_", "-")
    if value is True:
      parts.append(key)
    elif value is not None and value is not False:
      shown = f"{value:.6g}" if isinstance(value, float) else value
      parts.append(f'{key}="{text(str(shown))}"')
  start = f"<{' '.join(parts)}>"
  return Html(start) if name in VOID else Html(f"{start}{join(children)}</{name}>")
