"""Instruction, input, response (Ranaldi & Freitas 2024, after Alpaca).

### Instruction:
Solve the problem.

### Input:
Tom has 3 apples and buys 4 more. How many apples does he have?

### Response:
Let's think step by step.
Tom has 3 + 4 = 7 apples.
Answer: 7

In a chat the user's message is the instruction, the input and the elicitation, in paragraphs.

There are two styles. "cot" elicits a chain of thought with the first line of the response, "plain"
leaves that line out. Training and evaluation use "cot", which is also what "" means. The paper does
not say where its training records have the elicitation.
"""

from distill_jax import records
from distill_jax.formats import cot, turns

STYLES = ("cot", "plain")


class Instruct(cot.Cot):
  """An Alpaca-style record around the question."""

  next_question = "\n### Instruction:"

  def __init__(self, instruction: str, elicitation: str, is_chat: turns.IsChat = turns.never):
    """`instruction` and `elicitation` are texts of the prompt; see config.instruct."""
    super().__init__(is_chat)
    self._instruction, self._elicitation = instruction, elicitation

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The student's prompt. It is zero-shot: worked examples are not supported.

    Raises:
      ValueError: There are shots or a hint, or `style` is not one of STYLES or "".
    """
    turns.reject_unsupported(shots=shots, hint=hint)
    if style not in ("", *STYLES):
      raise ValueError(f"style is {style!r}, but must be one of {', '.join(STYLES)}")
    if self._is_chat():
      parts = (self._instruction, question, "" if style == "plain" else self._elicitation)
      return turns.messages((), "\n\n".join(filter(None, parts)))
    record = f"### Instruction:\n{self._instruction}\n\n### Input:\n{question}\n\n### Response:\n"
    return record if style == "plain" else f"{record}{self._elicitation}\n"
