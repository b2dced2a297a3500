"""Recall, analyze each option, summarize (Piao & Park 2025, TinyThinker), all by one student.

Question: Where would you find light at night?
(A) a cave (B) a lamp, lit          one per line
Recall: | Lamps give light.
Analyze: For option A, | it is dark.
For option B, | it shines.
Summarize: | So the answer is option B.

At each | the student continues, in one line. In a chat each part is a turn: the user writes the cue
("Recall:", "Analyze: For option A,", "Summarize:"), after the question in the first turn.

An analysis does not see the other analyses. Parts are separated by words, so a tokenizer that turns
line ends into spaces loses nothing. Options come from the problem, in its order, and are never read
from a text (the released code does otherwise: defects 1 and 5).
"""

from collections.abc import Iterable, Mapping, Sequence

from distill_jax import errors, records
from distill_jax.formats import turns
from distill_jax.tasks import answers


class Staged:
  """One student that is prompted stage by stage."""

  students = ("student",)
  stop = ("\n",)

  def __init__(
    self,
    stages: Sequence[str] = ("recall", "analyze", "summarize"),
    repeat: bool = False,
    split_on_commas: bool = False,
    teachers_order: bool = False,
    is_chat: turns.IsChat = turns.never,
  ):
    """Configures the conversation.

    Args:
      stages: The stages in order. Recall and analyze may be left out.
      repeat: Whether an analysis repeats its option's text ("For option B (a lamp, lit),"). The
        paper does not.
      split_on_commas: Defect 1 of the released code; see config.compat.tinythinker.
      teachers_order: Defect 5 of the released code; see config.compat.tinythinker.
      is_chat: Whether the student is prompted with messages.
    """
    self.stages, self._repeat = tuple(stages), repeat
    self._split_on_commas, self._teachers_order = split_on_commas, teachers_order
    self._is_chat = is_chat
    self.request_kind = "stage" if len(self.stages) > 1 else ""

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The first prompt; if that is an analysis, it is the one of option A."""
    turns.reject_unsupported(shots=shots, style=style, hint=hint)
    return self._prompt(question, self.stages[0], (), "A", {})

  def conversation(
    self,
    problem: records.Problem,
    question: str,
    shots: turns.Shots = (),
    *,
    style: str = "",
    given: Sequence[tuple[str, str]] = (),
    hint: str = "",
  ) -> turns.Conversation:
    """Recall, then all options at once, then the summary; returns the whole transcript.

    If the summary names no option, the attempt has no answer. Then only the summary is returned, so
    no option named in an analysis is taken for the answer.

    Args:
      problem: The problem.
      question: The rendered question.
      shots: Not supported.
      style: Not supported.
      given: Parts that exist already and are not sampled: ("recall", text), (label, text).
      hint: Not supported.

    Raises:
      errors.UserError: The problem has no options.
      ValueError: `given` names neither a stage nor an option.
    """
    turns.reject_unsupported(shots=shots, style=style, hint=hint)
    question, labels, options = self._shown(problem, question)
    known = {name: turns.one_line(text) for name, text in given}
    if unknown := set(known) - {"recall", *labels}:
      raise ValueError(f"given: no such stage or option: {', '.join(sorted(unknown))}")
    for stage in self.stages[:-1]:
      parts_of_stage = labels if stage == "analyze" else (stage,)
      names = [name for name in parts_of_stage if name not in known]
      if names:
        prompts = [self._prompt(question, stage, known, name, options) for name in names]
        texts = yield tuple(turns.Turn("student", prompt, stage) for prompt in prompts)
        known |= zip(names, map(turns.one_line, texts), strict=True)
    parts = {name: known[name] for name in ("recall", *labels) if name in known}
    last_prompt = self._prompt(question, "summarize", parts, "", options)
    (text,) = yield (turns.Turn("student", last_prompt, "summarize"),)
    summary = turns.one_line(text)
    transcript = f"{self._transcript(parts, options)}Summarize: {summary}"
    if answers.read_choice(transcript, labels) == answers.read_choice(summary, labels):
      return transcript
    return summary

  def target(self, text: str, answer: str) -> str:
    """The transcript `text` with a summary that states `answer`."""
    return f"{text.partition('Summarize:')[0]}Summarize: {summary(answer)}"

  def written(self, rationale: records.Rationale) -> str:
    """The text of the rationale; thinking is left out."""
    return rationale.text

  def examples(
    self,
    problem: records.Problem,
    question: str,
    rationale: records.Rationale,
    shots: turns.Shots = (),
  ) -> list[records.Example]:
    """One example per stage, and per option in the analyze stage.

    Several rationales may share an example; the caller removes duplicates.

    Raises:
      errors.UserError: The problem has no options.
      ValueError: The rationale lacks a part.
    """
    turns.reject_unsupported(shots=shots)
    texts = {name: turns.one_line(text) for name, text in rationale.parts}
    question, labels, options = self._shown(problem, question)
    if self._teachers_order:
      order = [name for name, _ in rationale.parts]
      labels = tuple(sorted(labels, key=lambda label: order.index(label) if label in order else 0))
    names = [name for s in self.stages[:-1] for name in (labels if s == "analyze" else (s,))]
    if missing := [name for name in names if not texts.get(name)]:
      raise ValueError(f"{problem.id}: the rationale has no {', '.join(missing)}")
    parts = {name: texts[name] for name in names}
    examples = []
    for name, text in parts.items():
      stage = name if name == "recall" else "analyze"
      known = texts if "recall" in names else {}
      prompt = self._prompt(question, stage, known, name, options)
      examples.append(records.Example(problem.id, prompt, text, stage=stage))
    last_prompt = self._prompt(question, "summarize", parts, "", options)
    last = summary(rationale.answer or problem.gold)
    return [*examples, records.Example(problem.id, last_prompt, last, stage="summarize")]

  def _shown(
    self, problem: records.Problem, question: str
  ) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Returns (question, labels, text of each option) as the student sees them."""
    labels = labels_of(problem)
    if not self._split_on_commas:
      return question, labels, dict(problem.choices)
    pieces = ", ".join(f"{label}. {text}" for label, text in problem.choices).split(", ")
    lines = [f"({piece[:1]}) {piece[3:]}" for piece in pieces]
    options = {piece[:1]: piece[3:] for piece in pieces}
    return "\n".join([problem.question, *lines]), labels, options

  def _prompt(
    self,
    question: str,
    stage: str,
    known: Mapping[str, str] | Iterable[tuple[str, str]],
    label: str,
    options: Mapping[str, str],
  ) -> records.Prompt:
    """The prompt of a stage, given the texts of the parts it may see."""
    known = dict(known)
    if self._is_chat():
      return self._messages(question, stage, known, label, options)
    if stage == "recall":
      return f"Question: {question}\nRecall:\n"
    if stage == "analyze":
      visible = [("recall", known["recall"])] if "recall" in known else []
      shown = self._transcript(visible, options)
      return f"Question: {question}\n{shown}Analyze: {self._option(label, options)}\n"
    return f"Question: {question}\n{self._transcript(known, options)}Summarize:\n"

  def _messages(
    self,
    question: str,
    stage: str,
    known: Mapping[str, str],
    label: str,
    options: Mapping[str, str],
  ) -> records.Messages:
    """The prompt of a stage as messages: each part that it may see is an exchange."""
    names = {"recall": (), "analyze": ("recall",)}.get(stage, known)
    exchanges = [(self._cue(name, options), known[name]) for name in names if name in known]
    part = "recall" if stage == "recall" else label
    cue = "Summarize:" if stage == "summarize" else self._cue(part, options)
    return turns.after_question(question, exchanges, cue)

  def _cue(self, part: str, options: Mapping[str, str]) -> str:
    """The user's text before a part: the recall, or the analysis of an option."""
    return "Recall:" if part == "recall" else f"Analyze: {self._option(part, options)}"

  def _option(self, label: str, options: Mapping[str, str]) -> str:
    """The start of an analysis."""
    repeated = f" ({options[label]})" if self._repeat and label in options else ""
    return f"For option {label}{repeated},"

  def _transcript(
    self, parts: Mapping[str, str] | Iterable[tuple[str, str]], options: Mapping[str, str]
  ) -> str:
    """Recall and analyses as the later stages see them."""
    parts = dict(parts)
    recall = f"Recall: {parts.pop('recall')}\n" if "recall" in parts else ""
    analyses = [f"{self._option(label, options)} {text}\n" for label, text in parts.items()]
    return recall + ("Analyze: " if analyses else "") + "".join(analyses)


def labels_of(problem: records.Problem) -> tuple[str, ...]:
  """The labels of a problem's options, in its order.

  Raises:
    errors.UserError: The problem has no options.
  """
  if not problem.choices:
    raise errors.usage(
      'format staged needs options below the question, one per line: "(A) text", "(B) text"'
    )
  return tuple(label for label, _ in problem.choices)


def summary(label: str) -> str:
  """The summary that states an option."""
  return f"So the answer is option {label}."
