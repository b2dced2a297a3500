"""Data sets of common sense and science: row parsers for each published layout.

csqa        CommonsenseQA, Talmor et al. 2019. The official test set has no answers, so the official
            dev set is the test set and validation is held out from train.
openbookqa  Mihaylov et al. 2018.
arc         Clark et al. 2018 (hub: ARC-Challenge unless :ARC-Easy).
piqa        Bisk et al. 2020. Tested on the official dev set, like csqa.
social_iqa  Sap et al. 2019. Tested on the official dev set, like csqa.
strategyqa  Geva et al. 2021: yes or no, with facts and the sub-questions that lead to the answer.

Choices are data. Their labels become A, B, C, ... in the order given, whatever they were (some rows
of ARC have 1 to 4). In the JSON of LLM-Adapters (Hu et al. 2023) choices are part of the
instruction; it is split at its own marks ("Answer1: ... Answer2: ...") or rejected.
"""

import re
import string
from collections.abc import Callable, Sequence

from distill_jax import errors
from distill_jax.data import sources
from distill_jax.tasks import published, shots

# The instruction of LLM-Adapters' rows, before the question.
_INSTRUCTION = re.compile(r"Please choose the correct \w+ to the question: ", re.IGNORECASE)
# The mark before a choice: "Answer1: ".
_MARK = re.compile(r"(?:^|\s)(?:Answer|Solution|Option)([1-9]): ")


def choice_fields(
  question: str, pairs: Sequence[tuple[object, str]], gold: object, field: str, where: str
) -> dict:
  """The fields of a multiple-choice problem.

  Args:
    question: The question.
    pairs: (published label, text) of each choice.
    gold: Published label of the right choice.
    field: The row's field that holds `gold`, for errors.
    where: Names the row in errors, e.g. "file: row 3".

  Returns:
    question, choices and gold, with the labels A, B, C, ...

  Raises:
    errors.UserError: `gold` is not one of the labels, or there are too few or too many choices.
  """
  labels = [str(label).strip() for label, _ in pairs]
  gold = str(gold).strip()
  if labels.count(gold) != 1 or len(pairs) < 2:
    raise errors.data(
      f"{where}: field {field!r} is {gold!r}, but must be one of {', '.join(labels) or 'none'}"
      " (the official test files of some data sets have no answers)"
    )
  letters = string.ascii_uppercase
  if len(pairs) > len(letters):
    raise errors.data(f"{where}: {len(pairs)} choices, but at most {len(letters)} are supported")
  return {
    "question": " ".join(question.split()),
    "choices": tuple((letters[n], " ".join(text.split())) for n, (_, text) in enumerate(pairs)),
    "gold": letters[labels.index(gold)],
  }


def science(row: dict, where: str) -> dict:
  """CommonsenseQA, OpenBookQA and ARC: AI2's JSONL, or the columns on the hub."""
  if "instruction" in row:
    return adapters(row, where)
  inner, name = row, "question_stem" if "question_stem" in row else "question"
  if isinstance(row.get("question"), dict):
    inner, name = row["question"], "stem"
  question = sources.field(inner, name, (str,), where)
  listed = sources.field(inner, "choices", (list, dict), where)
  if isinstance(listed, dict):
    labels, texts = (sources.field(listed, column, (list,), where) for column in ("label", "text"))
    if len(labels) != len(texts):
      raise errors.data(f"{where}: {len(labels)} labels for {len(texts)} choices")
    listed = [{"label": a, "text": b} for a, b in zip(labels, texts, strict=True)]
  pairs = []
  for choice in listed:
    if not isinstance(choice, dict):
      raise errors.data(f"{where}: a choice is {type(choice).__name__}, not a label and a text")
    label = sources.field(choice, "label", (str,), where)
    pairs.append((label, sources.field(choice, "text", (str,), where)))
  fields = choice_fields(question, pairs, row.get("answerKey"), "answerKey", where)
  fields["facts"] = (row["fact1"].strip(),) if isinstance(row.get("fact1"), str) else ()
  return fields


def piqa(row: dict, where: str) -> dict:
  """PIQA: goal, sol1, sol2 and the label, 0 or 1."""
  if "instruction" in row:
    return adapters(row, where)
  goal, *solutions = (sources.field(row, f, (str,), where) for f in ("goal", "sol1", "sol2"))
  label = sources.field(row, "label", (str, int), where)
  return choice_fields(goal, list(enumerate(solutions)), label, "label", where)


def social_iqa(row: dict, where: str) -> dict:
  """SocialIQA: context, question, answerA to answerC; label 1 to 3, or correct A to C (v1.4)."""
  if "instruction" in row:
    return adapters(row, where)
  question = " ".join(sources.field(row, f, (str,), where) for f in ("context", "question"))
  texts = [sources.field(row, f"answer{letter}", (str,), where) for letter in "ABC"]
  if "correct" in row:
    pairs = list(zip("ABC", texts, strict=True))
    return choice_fields(question, pairs, row["correct"], "correct", where)
  label = sources.field(row, "label", (str, int), where)
  return choice_fields(question, list(enumerate(texts, start=1)), label, "label", where)


def adapters(row: dict, where: str) -> dict:
  """LLM-Adapters' JSON: an instruction that holds question and choices, and "answerN"."""
  instruction = sources.field(row, "instruction", (str,), where)
  preamble = _INSTRUCTION.match(instruction)
  body = instruction[preamble.end() :] if preamble else instruction
  question, *marked = _MARK.split(body.rsplit("Answer format:", 1)[0])
  numbers, texts = marked[::2], marked[1::2]
  if numbers != [str(n) for n in range(1, len(numbers) + 1)]:
    raise errors.data(
      f"{where}: field 'instruction' must mark its choices as Answer1:, Answer2:, ..."
    )
  gold = sources.field(row, "answer", (str,), where).strip()
  pairs = list(zip(numbers, texts, strict=True))
  return choice_fields(question, pairs, gold[-1:], "answer", where)


def strategyqa(row: dict, where: str) -> dict:
  """StrategyQA. The gold rationale is made of the facts.

  Sub-questions have no solutions and may refer to earlier answers ("#1").
  """
  answer = row.get("answer")
  if not isinstance(answer, bool):
    raise errors.data(f"{where}: field 'answer' is {answer!r}, but must be true or false")
  gold = "yes" if answer else "no"
  facts, sub_questions = (_texts(row, name, where) for name in ("facts", "decomposition"))
  return {
    "question": " ".join(sources.field(row, "question", (str,), where).split()),
    "gold": gold,
    "rationale": "\n".join([*facts, f"Answer: {gold}"]) if facts else "",
    "facts": facts,
    "decomposition": tuple((question, "") for question in sub_questions),
  }


def _texts(row: dict, name: str, where: str) -> tuple[str, ...]:
  """A field with texts: a list, a single text, or absent."""
  value = row.get(name) or []
  value = [value] if isinstance(value, str) else value
  if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
    raise errors.data(f"{where}: field {name!r} must be a text or a list of texts")
  return tuple(" ".join(text.split()) for text in value if text.strip())


def _source(
  problem: Callable[[dict, str], dict | None],
  hub: str,
  *,
  train: tuple[str, ...],
  test: tuple[str, ...],
  validation: tuple[str, ...] = (),
) -> published.Source:
  """A multiple-choice data set. Without validation files it is tested on the official dev set."""
  files, splits = {"train": train, "test": test}, {"train": "train", "test": "validation"}
  if validation:
    files["validation"] = validation
    splits |= {"validation": "validation", "test": "test"}
  return published.Source(problem, files, hub, splits, shots=shots.CHOICE, kind="choice")


SOURCES = {
  "csqa": _source(
    science,
    "tau/commonsense_qa",
    train=("train_rand_split.jsonl", "train.jsonl"),
    test=("dev_rand_split.jsonl", "dev.jsonl"),
  ),
  "openbookqa": _source(
    science,
    "allenai/openbookqa:main",
    train=("train_complete.jsonl", "train.jsonl", "train.json"),
    test=("test_complete.jsonl", "test.jsonl", "test.json"),
    validation=("dev_complete.jsonl", "dev.jsonl"),
  ),
  "arc": _source(
    science,
    "allenai/ai2_arc:ARC-Challenge",
    train=("ARC-*-Train.jsonl", "train.json"),
    test=("ARC-*-Test.jsonl", "test.json"),
    validation=("ARC-*-Dev.jsonl",),
  ),
  "piqa": _source(
    piqa,
    "ybisk/piqa",
    train=("train.jsonl", "train.json"),
    test=("valid.jsonl", "dev.jsonl", "test.json"),
  ),
  "social_iqa": _source(
    social_iqa,
    "allenai/social_i_qa",
    train=("train.jsonl", "socialIQa*_trn.jsonl", "train.json"),
    test=("dev.jsonl", "socialIQa*_dev.jsonl", "test.json"),
  ),
  "strategyqa": published.Source(
    strategyqa,
    {"train": ("train.json",), "test": ("dev.json", "test.json")},
    "ChilleD/StrategyQA",
    {"train": "train", "test": "test"},
    single=("strategyqa_train.json",),
    shots=shots.BOOLEAN,
    kind="boolean",
  ),
}
