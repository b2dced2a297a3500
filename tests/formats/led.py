"""Leads a conversation by hand."""

from distill_jax import records


def rationale(parts=(), text="", answer="7"):
  return records.Rationale("p", text, answer, "teacher", 0, "", 0, 0.7, parts=parts)


def lead(conversation, reply):
  """(turns, text): `reply(turn)` is what each turn is answered."""
  asked = []
  try:
    turns = next(conversation)
    while True:
      asked += turns
      turns = conversation.send([reply(turn) for turn in turns])
  except StopIteration as end:
    return asked, end.value


def taught(examples):
  """A student that learnt these by heart."""
  targets = {(x.student, x.prompt): x.target for x in examples}
  return lambda turn: targets[turn.student, turn.prompt]


def pairs(examples):
  return [(x.student, x.prompt, x.stage) for x in examples]
