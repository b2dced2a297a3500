"""Data sets of arithmetic and mathematics: what a published row says, in each layout there is.

gsm8k       Cobbe et al. 2021, github.com/openai/grade-school-math. Its Socratic files are the same
            with a sub-question before each step, and are preferred where they are.
svamp       Patel et al. 2021, github.com/arkilpatel/SVAMP: one-step problems, worded to mislead.
multiarith  Roy and Roth 2015. addsub: Hosseini et al. 2014. singleeq: Koncel-Kedziorski et al.
            2015.
asdiv       Miao et al. 2020, github.com/chaochun/nlu-asdiv-dataset. Questions whose answer is not
            one number (names, times of day, ratios, several numbers) are left out.
aqua        Ling et al. 2017, github.com/google-deepmind/AQuA: multiple choice, with rationales.
math500     Lightman et al. 2023: 500 problems of MATH; answers are expressions.
"""

import re

from distill_jax import errors
from distill_jax.data import sources
from distill_jax.tasks import answers, choices, expressions, published, shots

_CALCULATOR = re.compile(r"<<[^<>\n]{0,400}>>")
_ONE_NUMBER = re.compile(r"\s*+(-?[0-9][0-9.,]*+(?:/[0-9]++)?+)\s*+(?:\([^()]*+\))?+\s*+")
_LETTERED = re.compile(r"\s*\(?([A-E])\s*[).:]\s*(.*)", re.DOTALL)
_CLOSING = re.compile(
  r"\W*(?:(?:so|thus|hence|therefore|the|correct|right|final|our|answer|ans|option|choice|is)\b\W*)*"
  r"[A-E]\b\W*(?:(?:is|the|correct|right|answer|option|choice)\b\W*)*",
  re.IGNORECASE,
)


def gsm8k(row: dict, where: str) -> dict:
  """Calculator marks are dropped, "#### N" becomes "Answer: N", a sub-question without a solution
  (there are two) is left out."""
  solution, mark, stated = sources.field(row, "answer", (str,), where).rpartition("####")
  gold = answers.canonical_number(stated) if mark else None
  if gold is None:
    raise errors.data(f"{where}: field 'answer' has no \"#### NUMBER\" at its end")
  lines = [line.strip() for line in _CALCULATOR.sub("", solution).splitlines() if line.strip()]
  parts = [f"{line} ".partition(" ** ") for line in lines]
  socratic = bool(parts) and all(mark for _, mark, _ in parts)
  pairs = tuple((asked.strip(), step.strip()) for asked, _, step in parts if step.strip())
  told = [step for _, step in pairs] if socratic else lines
  return {
    "question": sources.field(row, "question", (str,), where).strip(),
    "gold": gold,
    "rationale": "\n".join([*told, f"Answer: {gold}"]),
    "decomposition": pairs if socratic else (),
  }


def word_problem(row: dict, where: str) -> dict | None:
  """A question and a number, under any of the names that the simple sets have for them."""
  if "Body" in row or "body" in row:
    parts = ("Body", "Question") if "Body" in row else ("body", "question")
  else:
    parts = ("sQuestion",) if "sQuestion" in row else ("question",)
  question = " ".join(sources.field(row, part, (str,), where) for part in parts)
  names = ("Answer", "answer", "final_ans", "lSolutions")
  name = next((name for name in names if name in row), names[0])
  stated = sources.field(row, name, (str, int, float, list), where)
  if isinstance(stated, list):
    stated = stated[0] if len(stated) == 1 else ""
  found = _ONE_NUMBER.fullmatch(str(stated))
  gold = answers.canonical_number(found[1]) if found else None
  return None if gold is None else {"question": " ".join(question.split()), "gold": gold}


def aqua(row: dict, where: str) -> dict:
  """The letter in front of an option ("A)21") is split off; the closing line becomes ours."""
  pairs = []
  for option in sources.field(row, "options", (list,), where):
    found = _LETTERED.fullmatch(option) if isinstance(option, str) else None
    if found is None:
      raise errors.data(f"{where}: option {option!r} does not begin with its letter")
    pairs.append((found[1], found[2].strip()))
  made = choices.choice_fields(
    sources.field(row, "question", (str,), where), pairs, row.get("correct"), "correct", where
  )
  lines = sources.field(row, "rationale", (str,), where).strip().splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  if lines and _CLOSING.fullmatch(lines[-1][:120]):
    lines.pop()
  return made | {"rationale": "\n".join([*lines, f"Answer: {made['gold']}"])}


def math(row: dict, where: str) -> dict:
  """The gold answer stays as it is published."""
  gold = sources.field(row, "answer", (str,), where).strip()
  if not expressions.normalize(gold):
    raise errors.data(f"{where}: field 'answer' is empty, or too long to be compared")
  solution = sources.field(row, "solution", (str,), where).strip()
  return {
    "question": sources.field(row, "problem", (str,), where).strip(),
    "gold": gold,
    "rationale": f"{solution}\nAnswer: {gold}",
  }


_TWO = {"train": "train", "test": "test"}
_THREE = {**_TWO, "validation": "validation"}
_FILES = {"train": ("train.json", "train.jsonl"), "test": ("test*.json", "test.jsonl")}

SOURCES = {
  "gsm8k": published.Source(
    gsm8k,
    {
      "train": ("train_socratic.jsonl", "train.jsonl"),
      "test": ("test_socratic.jsonl", "test.jsonl"),
    },
    "openai/gsm8k:main",
    _TWO,
  ),
  "svamp": published.Source(word_problem, _FILES, "ChilleD/SVAMP", _TWO, single=("SVAMP.json",)),
  "multiarith": published.Source(
    word_problem, _FILES, "ChilleD/MultiArith", _TWO, single=("MultiArith.json",)
  ),
  "asdiv": published.Source(
    word_problem, {}, "EleutherAI/asdiv", {"all": "validation"}, single=("ASDiv.xml",)
  ),
  "addsub": published.Source(word_problem, {}, "NAME", {"all": "train"}, single=("AddSub.json",)),
  "singleeq": published.Source(
    word_problem, {}, "NAME", {"all": "train"}, single=("SingleEq.json", "questions.json")
  ),
  "aqua": published.Source(
    aqua,
    {"train": ("train.json",), "validation": ("dev.json",), "test": ("test.json",)},
    "deepmind/aqua_rat:raw",
    _THREE,
    shots=shots.AQUA,
    kind="choice",
  ),
  "math500": published.Source(
    math,
    {},
    "HuggingFaceH4/MATH-500",
    {"all": "test"},
    single=("test.jsonl", "math500.jsonl"),
    shots=shots.MATH,
    kind="text",
  ),
}
