"""Attempts to preference pairs: which answer to a prompt is better than which. Pure functions.

Sets of texts are kept in the order of the attempts, so that equal attempts give equal pairs.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from distill_jax import records


class UnscoredPair(NamedTuple):
  """A preference pair without what the reference policy thinks of it."""

  problem: str
  prompt: str
  chosen: str
  rejected: str
  stage: str


def match(
  chosen, rejected, *, spare=(), max_pairs: int, fill: bool, key: str
) -> list[tuple[str, str]]:
  """(chosen, rejected) pairs of texts of one prompt (Piao & Park 2025, as their code has it).

  A text on both sides is on neither. With `fill` the shorter side is filled up: the chosen one with
  texts of `spare`, the rejected one by drawing from itself again, as `key` decides. At most `most`
  pairs; 0: all. None if a side is empty.
  """
  both = set(chosen) & set(rejected)
  right, wrong = (
    [t for t in dict.fromkeys(side) if t and t not in both] for side in (chosen, rejected)
  )
  if not wrong:
    return []
  if fill and len(right) < len(wrong):
    new = [t for t in dict.fromkeys(spare) if t not in both.union(right, wrong)]
    right += new[: len(wrong) - len(right)]
  if fill and 0 < len(wrong) < len(right):
    drawn = _rng(key).integers(len(wrong), size=len(right) - len(wrong))
    wrong += [wrong[n] for n in drawn]
  return list(zip(right, wrong, strict=False))[: max_pairs or None]


def by_outcome(attempts, prompt: str, *, spare=(), stage: str = "", turn=None, **rules):
  """Right attempts over wrong ones at one prompt. `turn`: number of the turn whose text is meant;
  None: all that was said. An attempt that was cut off is never chosen."""
  said = lambda a: a.text if turn is None or not a.turns else a.turns[turn][2]
  right = [said(a) for a in attempts if a.correct and a.finish == "stop"]
  wrong = [said(a) for a in attempts if not a.correct]
  problem = attempts[0].problem
  pairs = match(right, wrong, spare=spare, key=f"{problem} {prompt}", **rules)
  return [UnscoredPair(problem, prompt, c, r, stage) for c, r in pairs]


def by_style(attempts, prompt: str, *, outcome: bool, **rules):
  """Chains of thought over plain answers to one question (Ranaldi & Freitas 2024, DPO_CoT). With
  `outcome`, right ones over wrong ones only."""
  chosen = [
    a.text
    for a in attempts
    if a.style == "cot" and a.finish == "stop" and (a.correct or not outcome)
  ]
  rejected = [a.text for a in attempts if a.style == "plain" and not (outcome and a.correct)]
  pairs = match(chosen, rejected, key=f"{attempts[0].problem} {prompt}", **rules)
  return [UnscoredPair(attempts[0].problem, prompt, c, r, "") for c, r in pairs]


def by_option(attempts, gold: str, labels, *, spare=(), max_pairs: int, fill: bool):
  """Analyses of runs that ended right over those of runs that ended wrong, all from one recall.

  Each match of a right and a wrong run gives two pairs: the analyses of the right option, and those
  of the option the wrong run chose. A run that chose no option is left out, and one that was cut
  off is never chosen. `spare`: attempts that count as right ones if there are none (their analyses
  are the recall's own). Of two analyses of which either would be better than the other, none is.
  """
  analyses = lambda a: tuple((p, text) for stage, p, text in a.turns if stage == "analyze")
  whole = lambda some: [a for a in some if a.correct and a.finish == "stop"]
  right = whole(attempts) or whole(spare)
  wrong = [a for a in attempts if not a.correct and a.answer in labels]
  chose = {analyses(a): a.answer for a in wrong}
  key = f"{attempts[0].problem} {analyses(attempts[0])[0][0]}"
  pairs = match(
    list(map(analyses, right)), list(map(analyses, wrong)), max_pairs=max_pairs, fill=fill, key=key
  )
  out = []
  for better, worse in pairs:
    for option in dict.fromkeys((gold, chose[worse])):
      (prompt, text), (_, other) = better[labels.index(option)], worse[labels.index(option)]
      if text and other and text != other:
        out.append(UnscoredPair(attempts[0].problem, prompt, text, other, "analyze"))
  reverse = {c._replace(chosen=c.rejected, rejected=c.chosen) for c in out}
  return [c for c in dict.fromkeys(out) if c not in reverse]


def add_references(couple: UnscoredPair, chosen: float, rejected: float) -> records.PreferencePair:
  return records.PreferencePair(
    **couple._asdict(), reference_chosen=chosen, reference_rejected=rejected
  )


def _rng(key: str):
  words = np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(), np.uint32)
  return np.random.Generator(np.random.PCG64(words.tolist()))
