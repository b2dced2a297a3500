"""Writes what is derived from the declarations of the settings.

python -m distill_jax.config.generate          # configs/base.py and docs/configuration.md
python -m distill_jax.config.generate --check  # fails if either is stale
"""

import json
import sys
import textwrap
from collections.abc import Iterable
from typing import cast

from distill_jax import declare
from distill_jax.config import choices, recipes, values
from distill_jax.declare import Condition, Group, Key
from distill_jax.settings import Settings

WIDTH = 100
BASE = '''"""Every key of the configuration with its default. Recipes start from here.

Generated from distill_jax/settings*.py by `python -m distill_jax.config.generate`; do not edit.
Override any key on the command line: --config.train.lr=1e-3 --config.rounds=1
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  c = ConfigDict()
'''
PAGE = """# Configuration

Every key of the configuration. Set a key in a recipe (`c.train.lr = 1e-3`) or on the command line
(`--config.train.lr=1e-3`; tuples as `--config.train.buckets=64,128`). The column *on resume* marks
keys that you can change when you resume a run. The column *used* says when a key has an effect;
setting a key that has none is an error.

This page is generated from the declarations in `distill_jax/settings*.py` by
`python -m distill_jax.config.generate`.
"""


def base() -> str:
  """The text of configs/base.py."""
  lines: list[str] = []
  for found in declare.walk(Settings):
    if isinstance(found, Group):
      lines += ["", f"  # {found.declaration.doc}", f"  c.{found.path} = ConfigDict()"]
    else:
      lines += _assignment(found)
  return BASE + "\n".join(lines) + "\n  return c\n"


def _assignment(key: Key) -> list[str]:
  """One key: its value, with its meaning behind it or, if that is too long, above it."""
  value = "ConfigDict()" if isinstance(key.default, dict) else _python(key.default)
  line, meaning = f"  c.{key.path} = {value}", _meaning(key)
  if len(line) + len(meaning) + 4 <= WIDTH:
    return [f"{line}  # {meaning}"]
  return [*textwrap.wrap(meaning, WIDTH, initial_indent="  # ", subsequent_indent="  # "), line]


def _python(value: object) -> str:
  if isinstance(value, str):
    return json.dumps(value, ensure_ascii=False)
  if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
    return f"{value:_}"
  if isinstance(value, tuple):
    parts = cast("tuple[object, ...]", value)
    inner = ", ".join(map(_python, parts))
    return f"({inner},)" if len(parts) == 1 else f"({inner})"
  return repr(value)


def _meaning(key: Key) -> str:
  """The doc of a key, with its choices if the doc does not list them."""
  doc, allowed = key.declaration.doc, choices.of(key.declaration)
  if not allowed or all(choice in doc for choice in allowed):
    return doc
  return f"{doc} Choices: {' '.join(choice or 'empty' for choice in allowed)}."


def page() -> str:
  """The text of docs/configuration.md."""
  sections = [PAGE, "## Top level\n", *_table([k for k in values.KEYS if "." not in k.path])]
  groups = [g for g in declare.walk(Settings) if isinstance(g, Group)]
  for group in groups:
    own = [k for k in values.KEYS if k.path.rpartition(".")[0] == group.path]
    above = group.declaration.when
    note = f" Used {_conditions(above)}." if above else ""
    sections += [f"\n## {group.path}\n", f"{group.declaration.doc}{note}\n", *_table(own, above)]
  return "\n".join(sections) + "\n"


def _table(keys: list[Key], above: tuple[Condition, ...] = ()) -> list[str]:
  """One row a key, without the conditions of its group, which stand above the table."""
  if not keys:
    return []
  rows = ["| key | default | meaning | allowed | on resume | used |", f"|{' --- |' * 6}"]
  for key in keys:
    declaration = key.declaration
    allowed = ", ".join(f"`{c}`" if c else "empty" for c in choices.of(declaration))
    cells = (
      f"`{key.path}`",
      f"`{_python(key.default)}`",
      declaration.doc,
      allowed or declaration.allowed or _type(key),
      "can change" if declaration.mutable else "",
      _conditions(c for c in declaration.when if c not in above),
    )
    rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
  return rows


def _conditions(conditions: Iterable[Condition]) -> str:
  return " and ".join(dict.fromkeys(condition.text for condition in conditions))


def _type(key: Key) -> str:
  element = declare.element_type(key.type)
  if isinstance(key.default, dict):
    return "groups"
  return key.type.__name__ if element is None else f"tuple of {element.__name__}"


def main(words: list[str]) -> int:
  """Writes the files, or with --check compares them. Returns the exit code."""
  root = recipes.directory().parent
  texts = {root / "configs" / "base.py": base(), root / "docs" / "configuration.md": page()}
  stale = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
  if words == ["--check"]:
    for file in stale:
      print(f"{file} is stale: run python -m distill_jax.config.generate", file=sys.stderr)
    return 1 if stale else 0
  for file in stale:
    file.parent.mkdir(exist_ok=True)
    file.write_text(texts[file])
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
