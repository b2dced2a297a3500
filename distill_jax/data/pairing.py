"""Preference pairs from attempts: which answer to a prompt is better than which.

Pure functions. Sets of texts keep the order of the attempts, so equal attempts give equal pairs.
"""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from distill_jax import records

Side = TypeVar("Side", bound=Hashable)


class UnscoredPair(NamedTuple):
  """A preference pair without the log-probabilities under the reference policy."""

  problem: str
  prompt: records.Prompt
  chosen: str
  rejected: str
  stage: str


def match(
  chosen: Iterable[Side],
  rejected: Iterable[Side],
  *,
  spare: Iterable[Side] = (),
  max_pairs: int,
  fill: bool,
  key: str,
) -> list[tuple[Side, Side]]:
  """Matches chosen and rejected answers to one prompt (Piao & Park 2025, as in their code).

  Duplicates and empty answers are dropped. An answer on both sides counts for neither.

  Args:
    chosen: Better answers.
    rejected: Worse answers.
    spare: More chosen answers, used only to fill up the chosen side.
    max_pairs: Limit on the number of pairs; 0 for no limit.
    fill: Whether to fill up the shorter side: the chosen one from `spare`, the rejected one by
      drawing from itself again.
    key: Seed of those draws.

  Returns:
    (chosen, rejected) pairs; [] if a side is empty.
  """
  chosen, rejected = list(chosen), list(rejected)
  both = set(chosen) & set(rejected)
  right = [x for x in dict.fromkeys(chosen) if x and x not in both]
  wrong = [x for x in dict.fromkeys(rejected) if x and x not in both]
  if not wrong:
    return []
  if fill and len(right) < len(wrong):
    new = [x for x in dict.fromkeys(spare) if x not in both.union(right, wrong)]
    right += new[: len(wrong) - len(right)]
  if fill and 0 < len(wrong) < len(right):
    drawn = _rng(key).integers(len(wrong), size=len(right) - len(wrong))
    wrong += [wrong[n] for n in drawn]
  return list(zip(right, wrong, strict=False))[: max_pairs or None]


def by_outcome(
  attempts: Sequence[records.Attempt],
  prompt: records.Prompt,
  *,
  spare: Iterable[str] = (),
  stage: str = "",
  turn: int | None = None,
  max_pairs: int,
  fill: bool,
) -> list[UnscoredPair]:
  """Right attempts over wrong ones at one prompt. A truncated attempt is never chosen.

  Args:
    attempts: Attempts at one problem; not empty.
    prompt: The prompt they answer.
    spare: See `match`.
    stage: Stage recorded in the pairs.
    turn: Index of the turn whose text is compared; None compares the whole text.
    max_pairs: See `match`.
    fill: See `match`.
  """
  right = [_text(a, turn) for a in _right(attempts)]
  wrong = [_text(a, turn) for a in attempts if not a.correct]
  problem = attempts[0].problem
  pairs = match(
    right, wrong, spare=spare, max_pairs=max_pairs, fill=fill, key=f"{problem} {prompt}"
  )
  return [UnscoredPair(problem, prompt, c, r, stage) for c, r in pairs]


def by_style(
  attempts: Sequence[records.Attempt],
  prompt: records.Prompt,
  *,
  outcome: bool,
  max_pairs: int,
  fill: bool,
) -> list[UnscoredPair]:
  """Chains of thought over plain answers (Ranaldi & Freitas 2024, DPO_CoT).

  A truncated attempt is never chosen.

  Args:
    attempts: Attempts at one problem, in both styles; not empty.
    prompt: The prompt of the pairs.
    outcome: Whether the chosen one must also be right and the rejected one wrong.
    max_pairs: See `match`.
    fill: See `match`.
  """
  chosen = [
    a.text
    for a in attempts
    if a.style == "cot" and a.finish == "stop" and (a.correct or not outcome)
  ]
  rejected = [a.text for a in attempts if a.style == "plain" and not (outcome and a.correct)]
  problem = attempts[0].problem
  pairs = match(chosen, rejected, max_pairs=max_pairs, fill=fill, key=f"{problem} {prompt}")
  return [UnscoredPair(problem, prompt, c, r, "") for c, r in pairs]


def by_option(
  attempts: Sequence[records.Attempt],
  gold: str,
  labels: Sequence[str],
  *,
  spare: Sequence[records.Attempt] = (),
  max_pairs: int,
  fill: bool,
) -> list[UnscoredPair]:
  """Analyses of right attempts over those of wrong attempts, all from one recall.

  Each match of a right and a wrong attempt gives up to two pairs: the analyses of the right option,
  and the analyses of the option that the wrong attempt chose. An attempt that chose no option is
  left out, and a truncated one is never chosen. If two analyses would each be better than the
  other, neither pair is kept.

  Args:
    attempts: Attempts at one problem, in the staged format; not empty.
    gold: Label of the right option.
    labels: Labels of all options, in the order of the analyses.
    spare: Attempts that count as right if none of `attempts` is (their analyses are the ones that
      belong to the recall).
    max_pairs: See `match`.
    fill: See `match`.
  """
  right = _right(attempts) or _right(spare)
  wrong = [a for a in attempts if not a.correct and a.answer in labels]
  choice_of = {_analyses(a): str(a.answer) for a in wrong}
  problem = attempts[0].problem
  key = f"{problem} {_analyses(attempts[0])[0][0]}"
  matches = match(
    [_analyses(a) for a in right],
    [_analyses(a) for a in wrong],
    max_pairs=max_pairs,
    fill=fill,
    key=key,
  )
  pairs = []
  for better, worse in matches:
    for option in dict.fromkeys((gold, choice_of[worse])):
      (prompt, text), (_, other) = better[labels.index(option)], worse[labels.index(option)]
      if text and other and text != other:
        pairs.append(UnscoredPair(problem, prompt, text, other, "analyze"))
  reversed_pairs = {p._replace(chosen=p.rejected, rejected=p.chosen) for p in pairs}
  return [p for p in dict.fromkeys(pairs) if p not in reversed_pairs]


def _text(attempt: records.Attempt, turn: int | None) -> str:
  return attempt.text if turn is None or not attempt.turns else attempt.turns[turn][2]


def _right(attempts: Iterable[records.Attempt]) -> list[records.Attempt]:
  """Right attempts that were not truncated."""
  return [a for a in attempts if a.correct and a.finish == "stop"]


def _analyses(attempt: records.Attempt) -> tuple[tuple[records.Prompt, str], ...]:
  """(prompt, text) of each analysis."""
  return tuple((prompt, text) for stage, prompt, text in attempt.turns if stage == "analyze")


def add_references(pair: UnscoredPair, chosen: float, rejected: float) -> records.PreferencePair:
  """The pair with the log-probabilities of both sides under the reference policy, in nats."""
  return records.PreferencePair(
    **pair._asdict(), reference_chosen=chosen, reference_rejected=rejected
  )


def _rng(key: str) -> np.random.Generator:
  words = np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(), np.uint32)
  return np.random.Generator(np.random.PCG64(words.tolist()))
