"""Edits of the text of chat templates, which are in Jinja as transformers sets it up."""

import datetime

PLAIN_MARK = "{#- distill_jax: plain prompt -#}"  # begins the template of a plain student's export
THINKING_MARK = "{#- distill_jax: thinks -#}"  # begins that of a student trained with its thinking
_FREEZE = "{%- macro strftime_now(format) -%}"
_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnprRStTuUVwWxXyYzZ"  # of strftime


def prefixed(prefix: str, template: str) -> str:
  """Returns a template with tags before it that renders the same text as without them.

  Args:
    prefix: Tags; the last one strips the white space after it.
    template: The template. transformers removes white space between the beginning of a line and
      the tag of a block; after a prefix, the first line would keep it.
  """
  if not prefix:
    return template
  rest = template.lstrip()
  space = template[: len(template) - len(rest)]
  tag, sign = rest[:2], rest[2:3]
  if sign == "-" and tag in ("{%", "{#", "{{"):
    space = ""
  elif sign != "+" and tag in ("{%", "{#"):
    space = space[: space.rfind("\n") + 1]
  return prefix + (f"{{{{- {literal(space)} -}}}}" if space else "") + rest


def with_date(template: str, date: datetime.date) -> str:
  """Returns a template that states `date`, on whatever day it is rendered."""
  if "strftime_now" not in template or _FREEZE in template:
    return template
  values = {f"%-{c}": date.strftime(f"%-{c}") for c in "dHIjmMSUwWy"}
  values |= {f"%{c}": date.strftime(f"%{c}") for c in _DIRECTIVES} | {"%%": "%"}
  replaced = "".join(f".replace({literal(k)}, {literal(v)})" for k, v in values.items())
  return prefixed(f"{_FREEZE}{{{{- format{replaced} -}}}}{{%- endmacro -%}}", template)


def literal(text: str) -> str:
  """Returns a text as a string of a template."""
  escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
  escaped = escaped.replace("\r", "\\r")
  return f"'{escaped}'"
