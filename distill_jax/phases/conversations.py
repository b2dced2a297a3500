"""Leads many conversations of a format with students at once: whoever waits for the same student is
answered together."""

from typing import NamedTuple


class Spoken(NamedTuple):
  text: str  # what the conversation returned
  finish: str  # stop | length: how its last turn ended
  tokens: int  # of all turns
  logprob: float  # nats, of all turns


def lead(conversations, names, *, students, **decoding) -> list[Spoken]:
  """Runs generators (see formats/) to their ends. `names` tell conversations apart: they decide the
  random numbers.

  students: name -> (student, its weights). decoding: see Student.answer.
  """
  spoken = [None] * len(conversations)
  totals = [[0, 0.0] for _ in conversations]
  waiting = {n: next(c) for n, c in enumerate(conversations)}
  turn = 0
  while waiting:
    replies = {}
    for who in sorted({who for who, _ in waiting.values()}):
      numbers = [n for n, (asked, _) in waiting.items() if asked == who]
      student, params = students[who]
      asked = [(waiting[n][1], f"{names[n]}/{turn}") for n in numbers]
      replies |= dict(zip(numbers, student.answer(params, asked, **decoding), strict=True))
    waiting = {}
    for n, reply in replies.items():
      totals[n][0] += reply.tokens
      totals[n][1] += reply.logprob
      try:
        waiting[n] = conversations[n].send(reply.text)
      except StopIteration as end:
        spoken[n] = Spoken(end.value, reply.finish, *totals[n])
    turn += 1
  return spoken
