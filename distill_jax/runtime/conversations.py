"""Leads many conversations of a format with students at once: whoever waits for the same student is
answered together."""

from typing import NamedTuple


class Spoken(NamedTuple):
  text: str  # what the conversation returned
  finish: str  # stop | length: whether one of its turns was cut off
  tokens: int  # of all turns
  logprob: float  # nats, of all turns
  turns: tuple[tuple[str, str, str], ...]  # (stage, prompt, text) of each, in order


def lead(conversations, names, *, students, sampled=None, **decoding) -> list[Spoken]:
  """Runs generators (see formats/) to their ends. `names` tell conversations apart: with the number
  of the turn they decide the random numbers.

  students: name -> (student, its weights). decoding: see Student.answer. sampled: stages that are
  sampled at its temperature, while the others are greedy; None for all.
  """
  spoken = [None] * len(conversations)
  heard = [[] for _ in conversations]  # (stage, prompt, answer) of each turn so far
  waiting = {n: next(c) for n, c in enumerate(conversations)}
  while waiting:
    asked = [
      (turn, n, f"{names[n]}/{number}")
      for n, turns in waiting.items()
      for number, turn in enumerate(turns, len(heard[n]))
    ]
    for (turn, n, _), answer in zip(
      asked, _answers(asked, students, sampled, decoding), strict=True
    ):
      heard[n].append((turn.stage, turn.prompt, answer))
    before, waiting = waiting, {}
    for n, turns in before.items():
      try:
        texts = [answer.text for _, _, answer in heard[n][-len(turns) :]]
        waiting[n] = conversations[n].send(texts)
      except StopIteration as end:
        spoken[n] = _spoken(end.value, heard[n])
  return spoken


def _answers(asked, students, sampled, decoding):
  """What (turn, _, name) triples are answered, in order. Equal prompts are put next to each other,
  where they share a prefill."""
  answers, groups, first = [None] * len(asked), {}, {}
  for place, (turn, _, _) in enumerate(asked):
    first.setdefault(turn.prompt, place)
    greedy = sampled is not None and turn.stage not in sampled
    groups.setdefault((turn.student, greedy), []).append(place)
  for (who, greedy), places in sorted(groups.items()):
    places.sort(key=lambda place: first[asked[place][0].prompt])
    student, params = students[who]
    questions = [(asked[place][0].prompt, asked[place][2]) for place in places]
    how = decoding | {"temperature": 0.0} if greedy else decoding
    for place, answer in zip(places, student.answer(params, questions, **how), strict=True):
      answers[place] = answer
  return answers


def _spoken(text: str, heard) -> Spoken:
  answers = [answer for _, _, answer in heard]
  return Spoken(
    text,
    "stop" if all(answer.finish == "stop" for answer in answers) else "length",
    sum(answer.tokens for answer in answers),
    sum(answer.logprob for answer in answers),
    tuple((stage, prompt, answer.text) for stage, prompt, answer in heard),
  )
