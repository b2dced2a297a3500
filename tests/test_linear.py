"""Text from teachers and students is read in linear time, even a megabyte of it.

This covers every compiled pattern of the package, found by inspection, and every reader. Work is
timed at a size and at four times that size. Linear work takes four times as long and quadratic work
sixteen times; the limit is nine. The time is the CPU time of this thread and the least of several
tries, so a busy machine does not matter.

All patterns:  bash launch/test.sh -m heavy tests/test_linear.py
"""

import ast
import functools
import importlib
import pathlib
import re
import time

import pytest

import distill_jax
from distill_jax import console, thinking
from distill_jax.data import edit_distance
from distill_jax.formats import calculator, cot
from distill_jax.tasks import answers, expressions, statements
from distill_jax.teacher.client import verdicts
from distill_jax.teacher.prompts import messages, parsing, schema

SMALL, FACTOR, LIMIT = 2**12, 4, 9
NEGLIGIBLE = 0.02  # seconds; less than this at the larger size is always fast enough
METHODS = ("search", "match", "fullmatch", "finditer", "findall", "sub", "split")

# Functions that compile a pattern when they are called. Those that read text from teachers or
# students are covered by READERS below.
UNTRUSTED_READERS = {
  "tasks/labels.py": {"__init__"},
  "teacher/prompts/parsing.py": {"_verdicts"},
  "formats/calculator.py": {"remove_marks", "_expression_before", "_format_value"},
}
TRUSTED_READERS = {  # these read our own text or the user's, not a teacher's or a student's
  "disk.py": {"file_system"},
  "tasks/columns.py": {"_plain", "_option"},
  "tasks/golds.py": {"_choice"},
  "run_dir/run_dir.py": {"_may_change"},
  "machine/checkpoint.py": {"_save_error"},
  "machine/hf_read.py": {"match", "is_spare"},
  "worlds/drawing.py": {"_step", "content"},
  "worlds/grading.py": {"_patterns", "_wrong_part"},
  "teacher/pool.py": {"_parse_weight"},
  "teacher/builtin/teacher.py": {"corrupt"},
  "teacher/batch/files.py": {"_write"},
}
PUMPS = (
  " ", "\n", "\t", "\r\n", "\n \n", "a", "a ", "A. ", "7", "7,", "1,000", "1 1/2 ", "7.", ". ",
  "-", "=", "(", ")", "[", "{", "<", "<<", "<<1", "<<1+1=", "$", "$ ", "*", "**", "_", "`", "\\",
  "\\frac", "\\frac{", "\\frac1", "\\text{", "\\boxed{", "\\left", "\\(", "\\[", "{,}", "answer",
  "answer ", "answer: ", "answer is ", "answer to the ", "the answer: 7\n", "#", "#1", "#### ",
  "question:", "question 1:\n", "sub-question: a\n", "sub-question 1", "solution: a\n", "1. ",
  "> ", "A is ", "A is correct. ", "A is a", "A ", "a is incorrect because ", "key information",
  "key information:", "explanations:", "Mistake: a\n", "Reasoning:\n", "\x1b", "\x1b[", "\x1b[0",
  "\x1b]", "\x1b ", "</question", "< ", "</", "<question>", "1+1=2 ", "1 + 1 = 2, ", "because ",
  " or ", "(A) ", "(A", "Q:", "\n\nQ", "yes ", "no ", "½", "\u2009", "1\u2009", "x10^", "1e5",
  "e+", "/", "1/", "Option1: ", "\x00", "\ud800",
)  # fmt: skip


def patterns() -> dict[str, tuple[re.Pattern, tuple[str, ...]]]:
  """Returns {module.name: (pattern, the methods it is used with)} of the entire package."""
  used, found, names = {}, {}, []
  root = pathlib.Path(distill_jax.__path__[0])
  for file in sorted(root.rglob("*.py")):
    source = file.read_text()
    if "re.compile(" in source:
      names.append(".".join(["distill_jax", *file.relative_to(root).with_suffix("").parts]))
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, ast.Attribute) and node.attr in METHODS:
        name = getattr(node.value, "id", getattr(node.value, "attr", ""))
        used.setdefault(name, set()).add(node.attr)
  for module in names:
    for name, value in vars(importlib.import_module(module)).items():
      for number, pattern in enumerate(_inside(value)):
        if isinstance(pattern.pattern, str):
          methods = tuple(sorted(used.get(name, ()))) or ("sub",)
          found.setdefault((pattern.pattern, methods), (f"{module}.{name}[{number}]", pattern))
  return {name: (pattern, methods) for (_, methods), (name, pattern) in found.items()}


def _inside(value):
  if isinstance(value, re.Pattern):
    yield value
  elif isinstance(value, tuple | list | set | frozenset):
    for part in value:
      yield from _inside(part)
  elif isinstance(value, dict):
    for part in (*value, *value.values()):
      yield from _inside(part)


def pumps(pattern: str) -> list[str]:
  """Returns strings to repeat, in the hope that they take long: PUMPS and words of the pattern."""
  words = re.findall(r"[a-zA-Z]{3,}", re.sub(r"\\[a-zA-Z]|\(\?P<\w+>", " ", pattern))
  return [*PUMPS, *words, *(f"{word} " for word in words)]


def seconds(work, text: str, tries: int) -> float:
  least = float("inf")
  for _ in range(tries):
    start = time.thread_time()
    work(text)
    least = min(least, time.thread_time() - start)
  return least


def superlinear(work, pump: str, before: str = "", after: str = "") -> str:
  """Returns "" if the time grows no faster than the text, else a description."""

  def text(size: int) -> str:
    return before + pump * (size // len(pump)) + after

  if seconds(work, text(SMALL), 1) < NEGLIGIBLE / LIMIT:
    return ""  # it cannot reach the limit at four times the size
  for tries in (1, 3, 9):
    small, large = (seconds(work, text(size), tries) for size in (SMALL, FACTOR * SMALL))
    if large < max(NEGLIGIBLE, LIMIT * small):
      return ""
  return f"{before!r} {pump!r} {after!r}: {small:.3f} s, then {large:.3f} s"


def calls_of(pattern: re.Pattern, methods):
  calls = {
    "sub": lambda text: pattern.sub("", text),
    "finditer": lambda text: [None for _ in pattern.finditer(text)],
  }
  return [calls.get(method, functools.partial(_call, pattern, method)) for method in methods]


def _call(pattern, method, text):
  return getattr(pattern, method)(text)


def test_a_quadratic_pattern_is_detected_and_a_linear_one_is_not():
  bad, good = re.compile(r"a[^b]*b"), re.compile(r"a[^ab]{0,99}b")
  assert any(
    superlinear(lambda text: bad.findall(text), "a") for _ in range(9)
  )  # a single try may miss it
  assert not superlinear(lambda text: good.findall(text), "a")


@pytest.mark.heavy
def test_every_pattern_is_linear():
  found = patterns()
  assert len(found) > 50 and {p.pattern for p, _ in found.values()} >= {statements.MARKER.pattern}
  complaints = [
    f"{name} {text}"
    for name, (pattern, methods) in found.items()
    for work in calls_of(pattern, methods)
    for pump in pumps(pattern.pattern)
    for before in (("", "7", "a") if pump.isspace() else ("",))
    if (text := superlinear(work, pump, before, "!"))
  ]
  assert not complaints, "\n".join(complaints)


def test_functions_that_compile_patterns_are_listed():
  functions = {}
  root = pathlib.Path(distill_jax.__path__[0])
  for file in root.rglob("*.py"):
    for function in ast.walk(ast.parse(file.read_text())):
      if isinstance(function, ast.FunctionDef) and any(
        _compiles(node) for node in ast.walk(function)
      ):
        functions.setdefault(str(file.relative_to(root)), set()).add(function.name)
  assert functions == UNTRUSTED_READERS | TRUSTED_READERS


def _compiles(node) -> bool:
  call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
  return call and getattr(node.func.value, "id", "") == "re" and node.func.attr != "escape"


LABELS = ("A", "B", "C")
READERS = {
  "read_number": answers.read_number,
  "read_choice": lambda text: answers.read_choice(text, LABELS, ("river", "bank", "park")),
  "read_boolean": answers.read_boolean,
  "read expression": expressions.read_expression,
  "split_correction": parsing.split_correction,
  "split_stages": lambda text: parsing.split_stages(f"Key information: {text}", LABELS),
  "split_steps": parsing.split_steps,
  "a prompt": lambda text: messages.correct(text, text, text),
  "structured in text": lambda text: schema.broken("annotate", f'{{"steps" "answer" {text}'),
  "structured": lambda text: schema.parse_correction(f'{{"mistake": "{text}"'),
  "cot.target": lambda text: cot.target(text, "7"),
  "cot.cut_at_stop": cot.cut_at_stop,
  "calculator.correct_marks": calculator.correct_marks,
  "calculator.add_marks": calculator.add_marks,
  "calculator.remove_marks": calculator.remove_marks,
  "plain": console.plain,
  "verdicts.excerpt": verdicts.excerpt,
  "thinking.split": thinking.split,
  "thinking.split, open": lambda text: thinking.split(f"<think>{text}"),
  "thinking.split, wrapped": lambda text: thinking.split(f"</think>{text}"),
  "thinking.split, harmony": lambda text: thinking.split(f"<|channel|>final<|message|>{text}"),
  "thinking.end": lambda text: thinking.end(f"<think>{text}"),
  "distance": lambda text: edit_distance.within(text, f"{text}b", 3),
}
HOSTILE = (
  "a", " ", "\n", "7", "7,", "answer: ", "answer: 7\n", "1+1=2 ", "<<1+1=", "((((((((1+",
  "(A) or ", "A is incorrect. Because ", "Sub-question: a\nSolution: b\n", "</question>", "<",
  "\x1b[", "\\boxed{", "Mistake:\n", "\x00", "\ud800", "\u2028", "<think>", "</think>", "<think ",
 
  '{"', '{"a":', '{"a":1}', '{"a', "{", '{"a":{"steps":', '[{"a":', '{"\\',
  "</answer>", "<|channel|>", "<|channel|>a<|message|>b", "<|start|>", "◁think▷", "<think></think>",
  "####", "not ", "twenty ", "Question:\n\n", "A or ",
)  # fmt: skip


def test_every_reader_is_linear():
  complaints = [
    f"{name} {text}"
    for name, reader in READERS.items()
    for pump in HOSTILE
    if (text := superlinear(reader, pump))
  ]
  assert not complaints, "\n".join(complaints)
