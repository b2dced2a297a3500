"""The answer alone: what a chain of thought is compared with.

Question: Tom has 3 apples and buys 4 more. How many apples does he have?
Answer: 7
"""

from distill_jax import records
from distill_jax.formats import cot, turns


class AnswerOnly(cot.Cot):
  request_kind = ""

  def prompt(self, question: str, shots=(), style: str = "", hint: str = "") -> str:
    """What the student sees; of worked examples only the answer line is shown."""
    turns.reject_unsupported(style=style, hint=hint)
    worked = [f"Question: {q}\n{r.strip().splitlines()[-1]}\n\n" for q, r in shots]
    return "".join(worked) + f"Question: {question}\n"

  def target(self, text: str, answer: str) -> str:
    """The answer line, whatever the text says."""
    return f"Answer: {answer}"

  def examples(self, problem, question, rationale, shots=()):
    """One: any rationale with the right answer will do."""
    target = self.target(rationale.text, rationale.answer or problem.gold)
    return [records.Example(problem.id, self.prompt(question, shots), target)]
