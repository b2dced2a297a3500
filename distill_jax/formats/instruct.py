"""Instruction, input, response (Ranaldi & Freitas 2024, after Alpaca).

### Instruction:
Solve the problem.

### Input:
Tom has 3 apples and buys 4 more. How many apples does he have?

### Response:
Let's think step by step.
Tom has 3 + 4 = 7 apples.
Answer: 7

Two styles: "cot" elicits a chain of thought by the first line of the response, "plain" does without
it. Training and evaluation ask in the style "cot", which "" stands for; where the paper's training
records have the elicitation is not known.
"""

from distill_jax.formats import cot, turns

STYLES = ("cot", "plain")


class Instruct(cot.Cot):
  def __init__(self, instruction: str, elicitation: str):
    self._instruction, self._elicitation = instruction, elicitation

  def prompt(self, question: str, shots=(), style: str = "", hint: str = "") -> str:
    """What the student sees; no worked examples: it is asked zero-shot."""
    turns.reject_unsupported(shots=shots, hint=hint)
    if style not in ("", *STYLES):
      raise ValueError(f"style {style!r} is none of {', '.join(STYLES)}")
    record = f"### Instruction:\n{self._instruction}\n\n### Input:\n{question}\n\n### Response:\n"
    return record if style == "plain" else f"{record}{self._elicitation}\n"
