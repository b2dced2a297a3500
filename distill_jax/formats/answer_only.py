"""The answer alone: the baseline for a chain of thought.

Question: Tom has 3 apples and buys 4 more. How many apples does he have?
Answer: 7
"""

from distill_jax import records
from distill_jax.formats import cot, turns


class AnswerOnly(cot.Cot):
  """The student writes only the answer line. In a chat the user's message is the question."""

  request_kind = ""

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The student's prompt. Only the answer line of a worked example is shown."""
    turns.reject_unsupported(style=style, hint=hint)
    worked = [(q, r.strip().splitlines()[-1]) for q, r in shots]
    if self._is_chat():
      return turns.messages(worked, question)
    return "".join(f"Question: {q}\n{a}\n\n" for q, a in worked) + f"Question: {question}\n"

  def target(self, text: str, answer: str) -> str:
    """The answer line, whatever the text."""
    return f"Answer: {answer}"

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
    """One example, with the answer of the rationale, or gold if it has none."""
    target = self.target(rationale.text, rationale.answer or problem.gold)
    return [records.Example(problem.id, self.prompt(question, shots), target)]
