r"""The reader of expressions against math-verify, on rewritten answers of MATH-500.

MATH500=FILE bash launch/test.sh -m parity tests/parity/test_math_verify.py
(after: .venv/bin/pip install "math-verify[antlr4_13_2]";
FILE: test.jsonl of HuggingFaceH4/MATH-500)
"""

import json
import os
import random
import re
from collections.abc import Callable

import pytest

from distill_jax.tasks import expressions

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

_FRACTION = re.compile(r"\\frac\{(\w+)\}\{(\w+)\}")
# {name: rewrites an answer; some keep its meaning, others change it}.
REWRITINGS: dict[str, Callable[[str], str]] = {
  "dfrac": lambda g: g.replace(r"\frac", r"\dfrac"),
  "no space": lambda g: g.replace(" ", ""),
  "parentheses": lambda g: rf"\left({g}\right)",
  "unit": lambda g: g + r"\text{ cm}",
  "square unit": lambda g: g + r"\,\text{cm}^2",
  "plain unit": lambda g: g + " units",
  "equation": lambda g: "x=" + g,
  "plus": lambda g: "+" + g,
  "minus": lambda g: "-" + g,
  "percent": lambda g: g + r"\%",
  "or": lambda g: g + r"\text{ or }5",
  "digit behind": lambda g: g + "5",
  "square": lambda g: g + "^2",
  "digit before": lambda g: "2" + g,
  "letter behind": lambda g: g + "x",
  "million": lambda g: g + r"\text{ million}",
  "power of ten": lambda g: g + r" \times 10^2",
  "negative fraction": lambda g: _FRACTION.sub(r"\\frac{-\1}{\2}", g),
  "inverse fraction": lambda g: _FRACTION.sub(r"\\frac{\2}{\1}", g),
  "no cdot": lambda g: g.replace(r"\cdot", ""),
  "cdot": lambda g: re.sub(r"(\d)(\\sqrt|[a-z(])", r"\1\\cdot \2", g),
  "bracket": lambda g: g.replace("(", "[", 1),
  "no comma": lambda g: g.replace(",", ""),
  "sign": lambda g: g.replace("-", "+", 1),
  "no root": lambda g: g.replace(r"\sqrt", ""),
  "no pi": lambda g: g.replace(r"\pi", ""),
  "factor in front": lambda g: r"\frac{1}{2}" + g,
  "no braces": lambda g: g.replace("{", "").replace("}", ""),
  "reversed": lambda g: ",".join(reversed(g.split(","))),
  "last term dropped": lambda g: re.sub(r"[+-][^+-]*$", "", g),
}

# Where the two differ and a person agrees with this project, in kinds ...
WORDS = re.compile(r"\\text\{[^{}]*\}")  # math-verify compares golds that are words as text
# It reads 10,080 with "x=", a sign or a unit as a list.
SEPARATED = re.compile(r"\d,(?:\\! ?)?\d{3}")
NUMBER = re.compile(r"(?:x=)?[-0-9,.]+(?:\^\\circ)?")  # -50\% is -50, as 50\% is 50
# ... and one by one: (rewriting, gold).
RIGHT = {
  *(("cdot", gold) for gold in ("6 - 5i", "6+9i", "-2 + 7i", "1+274i", "1+2i", "1 - 12i")),
  ("plain unit", r"\frac{270}7\text{ degrees}"),
  ("plain unit", r"864 \mbox{ inches}^2"),
  ("plain unit", r"5.4 \text{ cents}"),
  ("plain unit", r"15\mbox{ cm}^2"),
  ("plus", r"x \in [-2,7]"),
  ("plus", r"\{1\pm\sqrt{5},-2\}"),
  ("plus", r"\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]"),
}


def settled(name: str, gold: str) -> bool:
  """Whether a difference is one of those that are listed above."""
  if WORDS.fullmatch(gold) or SEPARATED.search(gold) or (name, gold) in RIGHT:
    return True
  return name == "percent" and NUMBER.fullmatch(gold) is not None


def rewritten(golds: list[str]) -> list[tuple[str, str, str]]:
  """Returns (rewriting, answer, gold), without answers that are the gold."""
  draw = random.Random(0)
  found = []
  for gold in golds:
    found += [(name, rewrite(gold), gold) for name, rewrite in REWRITINGS.items()]
    found.append(("of another question", draw.choice(golds), gold))
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if digits:
      at = draw.choice(digits)
      changed = str((int(gold[at]) + 1) % 10)
      found.append(("changed digit", gold[:at] + changed + gold[at + 1 :], gold))
      found.append(("dropped digit", gold[:at] + gold[at + 1 :], gold))
  return [row for row in found if row[1] and row[1] != row[2]]


def test_no_answer_is_accepted_that_math_verify_rejects():
  math_verify = pytest.importorskip("math_verify")
  with open(os.environ["MATH500"], encoding="utf-8") as file:
    golds = [json.loads(line)["answer"] for line in file]
  rows = rewritten(golds)
  ours = {
    row: expressions.read_expression(rf"\boxed{{{row[1]}}}") == expressions.normalize(row[2])
    for row in rows
  }
  accepted = [row for row in rows if ours[row]]
  assert len(rows) > 8000 and len(accepted) > 2000

  def equal(answer: str, gold: str) -> bool:
    parsed = [math_verify.parse(rf"\boxed{{{text}}}") for text in (gold, answer)]
    return math_verify.verify(*parsed)

  different = [row for row in accepted if not equal(row[1], row[2])]
  assert [row for row in different if not settled(row[0], row[2])] == []
  assert len(different) < 0.04 * len(accepted)
