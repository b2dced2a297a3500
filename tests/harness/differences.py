"""Texts on which the verdicts of this project and of flexible-extract differ, from the docs."""

import pathlib
import re

from distill_jax import records
from distill_jax.tasks import harness

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "serving.md"
ROW = re.compile(r"\| `([^`\n]+)` \| `([^`\n]+)` \| (right|wrong) \| (right|wrong) \|")
# Texts on which they agree: (text, gold).
SAME = [
  ("Tom has 3 + 4 = 7 apples.\nAnswer: 7", "7"),
  ("Tom has 3 + 4 = 7 apples.\nAnswer: 7", "8"),
  ("Answer: 1,200", "1200"),
  ("Answer: $18", "18"),
  ("Answer: 18.", "18"),
  ("Answer: **18**", "18"),
  ("Answer: 18%", "18"),
  ("Answer: -3", "-3"),
  ("Answer: 0.5", "0.5"),
  ("Answer: 3 * 6 = 18", "18"),
  ("So the answer is 18 boxes.", "18"),
  ("He pays 5 dollars.\n#### 18", "18"),
  ("In 2 weeks Tom earns 40 dollars.", "40"),
  ("I do not know.", "18"),
  ("", "18"),
]


def listed() -> list[tuple[str, str, bool]]:
  """Returns (text, gold, whether this project accepts it); flexible-extract decides otherwise."""
  rows = []
  for text, gold, ours, theirs in ROW.findall(DOCS.read_text("utf-8")):
    assert ours != theirs, text
    rows.append((text.replace("\\n", "\n"), gold, ours == "right"))
  return rows


def verdict(text: str, gold: str) -> bool:
  problem = records.Problem("p", "test", "?", gold)
  return harness.verdict(records.dump(problem), text)[1]
