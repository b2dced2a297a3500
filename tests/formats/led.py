"""Runs a conversation with scripted replies."""

from distill_jax import records


def rationale(parts=(), text="", answer="7"):
  """A teacher's rationale with these parts."""
  return records.Rationale("p", text, answer, "teacher", 0, "", 0, 0.7, parts=parts)


def lead(conversation, reply):
  """Runs a conversation and returns (its turns, its text); `reply(turn)` answers each turn."""
  asked = []
  try:
    turns = next(conversation)
    while True:
      asked += turns
      turns = conversation.send([reply(turn) for turn in turns])
  except StopIteration as end:
    return asked, end.value


def taught(examples):
  """Replies of a student that has memorized these examples."""
  targets = {(x.student, x.prompt): x.target for x in examples}
  return lambda turn: targets[turn.student, turn.prompt]


def pairs(examples):
  """(student, prompt, stage) of each example."""
  return [(x.student, x.prompt, x.stage) for x in examples]
