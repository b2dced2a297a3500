"""Data sets of arithmetic and mathematics: row parsers for each published layout.

gsm8k       Cobbe et al. 2021, github.com/openai/grade-school-math. Its Socratic files are the same
            with a sub-question before each step, and are preferred if they exist.
svamp       Patel et al. 2021, github.com/arkilpatel/SVAMP: one-step problems with misleading words.
multiarith  Roy and Roth 2015.
addsub      Hosseini et al. 2014.
singleeq    Koncel-Kedziorski et al. 2015.
asdiv       Miao et al. 2020, github.com/chaochun/nlu-asdiv-dataset. Questions whose answer is not a
            single number (names, times of day, ratios, several numbers) are left out.
aqua        Ling et al. 2017, github.com/google-deepmind/AQuA: multiple choice, with rationales.
math500     Lightman et al. 2023: 500 problems of MATH; answers are expressions.
"""

import re

from distill_jax import errors
from distill_jax.data import sources
from distill_jax.tasks import answers, choices, expressions, published, shots

# A calculator mark of GSM8K: <<3+4=7>>.
_CALCULATOR = re.compile(r"<<[^<>\n]{0,400}>>")
# A single number with an optional unit in parentheses: "12 (apples)".
_ONE_NUMBER = re.compile(r"\s*+(-?[0-9][0-9.,]*+(?:/[0-9]++)?+)\s*+(?:\([^()]*+\))?+\s*+")
# An option of AQuA with its letter: "A)21", "(B) 3.5".
_LETTERED = re.compile(r"\s*\(?([A-E])\s*[).:]\s*(.*)", re.DOTALL)
# A line of a rationale that only states the letter: "So the correct answer is B."
_CLOSING = re.compile(
  r"\W*(?:(?:so|thus|hence|therefore|the|correct|right|final|our|answer|ans|option|choice|is)\b\W*)*"
  r"[A-E]\b\W*(?:(?:is|the|correct|right|answer|option|choice)\b\W*)*",
  re.IGNORECASE,
)


def gsm8k(row: dict, where: str) -> dict:
  """GSM8K. Drops calculator marks and turns "#### N" into "Answer: N".

  A sub-question without a solution (there are two) is left out.
  """
  solution, mark, stated = sources.field(row, "answer", (str,), where).rpartition("####")
  gold = answers.canonical_number(stated) if mark else None
  if gold is None:
    raise errors.data(f"{where}: field 'answer' must end in \"#### NUMBER\"")
  lines = [line.strip() for line in _CALCULATOR.sub("", solution).splitlines() if line.strip()]
  parts = [f"{line} ".partition(" ** ") for line in lines]
  is_socratic = bool(parts) and all(mark for _, mark, _ in parts)
  pairs = tuple((ask.strip(), step.strip()) for ask, _, step in parts if step.strip())
  steps = [step for _, step in pairs] if is_socratic else lines
  return {
    "question": sources.field(row, "question", (str,), where).strip(),
    "gold": gold,
    "rationale": "\n".join([*steps, f"Answer: {gold}"]),
    "decomposition": pairs if is_socratic else (),
  }


def word_problem(row: dict, where: str) -> dict | None:
  """A question and a number, under any of the field names of the simple data sets.

  Returns None if the answer is not a single number.
  """
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
  match = _ONE_NUMBER.fullmatch(str(stated))
  gold = answers.canonical_number(match[1]) if match else None
  return None if gold is None else {"question": " ".join(question.split()), "gold": gold}


def aqua(row: dict, where: str) -> dict:
  """AQuA. Splits off the letter of an option ("A)21") and replaces the rationale's closing line."""
  pairs = []
  for option in sources.field(row, "options", (list,), where):
    match = _LETTERED.fullmatch(option) if isinstance(option, str) else None
    if match is None:
      raise errors.data(f"{where}: option {option!r} must begin with its letter")
    pairs.append((match[1], match[2].strip()))
  question = sources.field(row, "question", (str,), where)
  fields = choices.choice_fields(question, pairs, row.get("correct"), "correct", where)
  lines = sources.field(row, "rationale", (str,), where).strip().splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  if lines and _CLOSING.fullmatch(lines[-1][:120]):
    lines.pop()
  return fields | {"rationale": "\n".join([*lines, f"Answer: {fields['gold']}"])}


def math(row: dict, where: str) -> dict:
  """MATH. The gold answer is kept as published."""
  gold = sources.field(row, "answer", (str,), where).strip()
  if not expressions.normalize(gold):
    raise errors.data(
      f"{where}: field 'answer' is empty or longer than {expressions.LONGEST} characters"
    )
  solution = sources.field(row, "solution", (str,), where).strip()
  return {
    "question": sources.field(row, "problem", (str,), where).strip(),
    "gold": gold,
    "rationale": f"{solution}\nAnswer: {gold}",
  }


_TRAIN_TEST = {"train": "train", "test": "test"}
_TRAIN_VALIDATION_TEST = {**_TRAIN_TEST, "validation": "validation"}
_FILES = {"train": ("train.json", "train.jsonl"), "test": ("test*.json", "test.jsonl")}

SOURCES = {
  "gsm8k": published.Source(
    gsm8k,
    {
      "train": ("train_socratic.jsonl", "train.jsonl"),
      "test": ("test_socratic.jsonl", "test.jsonl"),
    },
    "openai/gsm8k:main",
    _TRAIN_TEST,
  ),
  "svamp": published.Source(
    word_problem, _FILES, "ChilleD/SVAMP", _TRAIN_TEST, single=("SVAMP.json",)
  ),
  "multiarith": published.Source(
    word_problem, _FILES, "ChilleD/MultiArith", _TRAIN_TEST, single=("MultiArith.json",)
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
    _TRAIN_VALIDATION_TEST,
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
    kind="expression",
  ),
}
