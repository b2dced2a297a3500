"""Recall, analyze each option, summarize (Piao & Park 2025, TinyThinker), all by one student.

Question: Where would you find light at night?
(A) a cave (B) a lamp, lit          one a line
Recall: | Lamps give light.
Analyze: For option A, | it is dark.
For option B, | it shines.
Summarize: | So the answer is option B.

At each | the student goes on, in one line; an analysis does not see the others. What separates the
parts are words: a tokenizer that folds line ends into spaces loses nothing. Options come from the
problem, in its order, and are never read out of a text (released defects 1 and 5).
"""

from collections.abc import Generator

from distill_jax import errors, records
from distill_jax.formats import turns
from distill_jax.tasks import answers


class Staged:
  students = ("student",)
  stop = ("\n",)

  def __init__(
    self,
    stages=("recall", "analyze", "summarize"),
    repeat=False,
    split_on_commas=False,
    teachers_order=False,
  ):
    """`stages`: recall and analyze may be left out. `repeat`: is an option's text said again where
    it is analyzed ("For option B (a lamp, lit),")? Not so in the paper. The other two are released
    defects 1 and 5, see config.compat.tinythinker."""
    self.stages, self._repeat = tuple(stages), repeat
    self._split, self._teachers_order = split_on_commas, teachers_order
    self.request_kind = "stage" if len(self.stages) > 1 else ""

  def prompt(self, question: str, shots=(), style: str = "") -> str:
    """The first prompt; where that is the first option's analysis, the option is A."""
    turns.reject_unsupported(shots=shots, style=style)
    return self._prompt(question, self.stages[0], (), "A", {})

  def conversation(
    self, problem: records.Problem, question: str, shots=(), *, style="", given=()
  ) -> Generator[tuple[turns.Turn, ...], list[str], str]:
    """Recall, then the options at once, then the summary; `given`: ("recall", text) and
    (label, text) of what stands already.

    Returns the whole transcript. If the summary names no option, the attempt has no answer, and
    the summary alone is returned, so that no option an analysis speaks of is taken for one.
    Raises errors.UserError for a problem without options.
    """
    turns.reject_unsupported(shots=shots, style=style)
    question, labels, options = self._shown(problem, question)
    known = {name: turns.one_line(text) for name, text in given}
    if unknown := set(known) - {"recall", *labels}:
      raise ValueError(f"given: no such stage or option: {', '.join(sorted(unknown))}")
    for stage in self.stages[:-1]:
      names = [name for name in (labels if stage == "analyze" else [stage]) if name not in known]
      if names:
        asked = [self._prompt(question, stage, known, name, options) for name in names]
        texts = yield tuple(turns.Turn("student", text, stage) for text in asked)
        known |= zip(names, map(turns.one_line, texts), strict=True)
    parts = [(name, known[name]) for name in ("recall", *labels) if name in known]
    last = self._prompt(question, "summarize", parts, "", options)
    (text,) = yield (turns.Turn("student", last, "summarize"),)
    summary = turns.one_line(text)
    whole = f"{self._laid(parts, options)}Summarize: {summary}"
    same = answers.read_choice(whole, labels) == answers.read_choice(summary, labels)
    return whole if same else summary

  def target(self, text: str, answer: str) -> str:
    """The transcript `text` with a summary that states this answer."""
    return f"{text.partition('Summarize:')[0]}Summarize: {summary(answer)}"

  def examples(
    self, problem: records.Problem, question: str, rationale: records.Rationale, shots=()
  ) -> list[records.Example]:
    """One for each stage and option; what several rationales share is the caller's to remove."""
    turns.reject_unsupported(shots=shots)
    said = {name: turns.one_line(text) for name, text in rationale.parts}
    question, labels, options = self._shown(problem, question)
    if self._teachers_order:
      order = [name for name, _ in rationale.parts]
      labels = tuple(sorted(labels, key=lambda label: order.index(label) if label in order else 0))
    wanted = [name for s in self.stages[:-1] for name in (labels if s == "analyze" else (s,))]
    if missing := [name for name in wanted if not said.get(name)]:
      raise ValueError(f"{problem.id}: a rationale without {', '.join(missing)}")
    parts = [(name, said[name]) for name in wanted]
    found = []
    for name, text in parts:
      stage = name if name == "recall" else "analyze"
      prompt = self._prompt(question, stage, said if "recall" in wanted else (), name, options)
      found.append(records.Example(problem.id, prompt, text, stage=stage))
    last = self._prompt(question, "summarize", parts, "", options)
    right = summary(rationale.answer or problem.gold)
    return [*found, records.Example(problem.id, last, right, stage="summarize")]

  def _shown(self, problem: records.Problem, question: str):
    """(question, labels, options) as the student sees them."""
    labels = labels_of(problem)
    if not self._split:
      return question, labels, dict(problem.choices)
    pieces = ", ".join(f"{label}. {text}" for label, text in problem.choices).split(", ")
    lines = [f"({piece[:1]}) {piece[3:]}" for piece in pieces]
    options = {piece[:1]: piece[3:] for piece in pieces}
    return "\n".join([problem.question, *lines]), labels, options

  def _prompt(self, question: str, stage: str, known, label: str, options: dict) -> str:
    """A stage's prompt after the (name, text) parts it may see."""
    known = dict(known)
    if stage == "recall":
      return f"Question: {question}\nRecall:\n"
    if stage == "analyze":
      before = [("recall", known["recall"])] if "recall" in known else []
      laid = self._laid(before, options)
      return f"Question: {question}\n{laid}Analyze: {self._option(label, options)}\n"
    return f"Question: {question}\n{self._laid(known.items(), options)}Summarize:\n"

  def _option(self, label: str, options: dict) -> str:
    """How an analysis begins."""
    repeated = f" ({options[label]})" if self._repeat and label in options else ""
    return f"For option {label}{repeated},"

  def _laid(self, parts, options: dict) -> str:
    """Recall and analyses as the stages after them see them."""
    parts = dict(parts)
    lines = [f"Recall: {parts.pop('recall')}\n"] if "recall" in parts else []
    analyses = [f"{self._option(label, options)} {text}\n" for label, text in parts.items()]
    return "".join([*lines, "Analyze: " * bool(analyses), *analyses])


def labels_of(problem: records.Problem) -> tuple[str, ...]:
  """In the problem's order. Raises errors.UserError if there is none."""
  if not problem.choices:
    raise errors.usage(
      'format staged needs options: below the question, one a line, "(A) text", "(B) text"'
    )
  return tuple(label for label, _ in problem.choices)


def summary(label: str) -> str:
  return f"So the answer is option {label}."
