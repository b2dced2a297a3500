"""The attempts of the round's exam become preference pairs with reference log-probabilities.

Which attempts are paired: config.pair.policy; how they are matched: data/pairing.py. The reference
policy has the weights that `prefer` starts from. Losses without a reference (SimPO, ORPO) get 0.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from distill_jax import records
from distill_jax.data import collate, encode, pairing
from distill_jax.learning import losses
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import reference_logprobs, results
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.student import Student

PAIRS = results.PAIRS

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class PairTexts(Protocol):
  """The texts of a preference pair."""

  @property
  def problem(self) -> str:
    """The id of the question."""
    ...

  @property
  def prompt(self) -> records.Prompt:
    """The prompt that both sides answer."""
    ...

  @property
  def chosen(self) -> str:
    """The preferred text."""
    ...

  @property
  def rejected(self) -> str:
    """The other text."""
    ...


def run(ctx: RunContext, round_index: int, out: phase_dir.PhaseDir) -> None:
  """Writes pairs.jsonl. Facts: pairs, questions (with a pair), too_long (pairs left out)."""
  exam = ctx.run_dir.find(round_index, "exam")
  attempts = exam.rows(phase_dir.ATTEMPTS, records.Attempt)
  unscored = list(dict.fromkeys(build_pairs(ctx, round_index, attempts)))
  encoded = [encode_pair(ctx.student, pair) for pair in unscored]
  collator = collate.PreferenceCollator(start=ctx.student.decoder_start)
  longest = max(ctx.settings.train.buckets)
  fits = [collator.plain_row(pair).length <= longest for pair in encoded]
  kept = list(itertools.compress(unscored, fits))
  if ctx.settings.prefer.loss in losses.WITHOUT_REFERENCE:
    scores = [(0.0, 0.0)] * len(kept)
  else:
    _, params = ctx.students(round_index)["student"]
    scored = list(itertools.compress(encoded, fits))
    scores = reference_logprobs.score(ctx, params, scored, f"round {round_index} references")
  out.write(PAIRS, [pairing.add_references(p, *s) for p, s in zip(kept, scores, strict=True)])
  out.finish(
    {
      "pairs": len(kept),
      "questions": len({p.problem for p in kept}),
      "too_long": len(unscored) - len(kept),
    }
  )


def encode_pair(
  student: Student, pair: PairTexts, references: tuple[float, float] = (0.0, 0.0)
) -> encode.EncodedPair:
  """Returns the pair in tokens; both sides end in the end token."""
  return encode.EncodedPair(
    pair.problem,
    tuple(student.encode_prompt(pair.prompt)),
    student.encode_target(pair.chosen),
    student.encode_target(pair.rejected),
    references,
  )


def build_pairs(
  ctx: RunContext, round_index: int, attempts: Sequence[records.Attempt]
) -> Iterator[pairing.UnscoredPair]:
  """Yields all pairs, question by question."""
  pair = ctx.settings.pair
  rules = {"max_pairs": pair.max_pairs_per_prompt, "fill": pair.fill}
  targets = teacher_targets(ctx, round_index)
  for problem_id, group in _group_by(attempts, lambda a: a.problem):
    problem = ctx.problem(problem_id)
    if ctx.settings.format == "staged":
      yield from _stage_pairs(problem, group, targets, rules)
      continue
    style = pair.style if ctx.settings.format == "instruct" else ""
    prompt = ctx.prompt(problem, style)
    if pair.policy == "right_over_wrong":
      same_style = [a for a in group if a.style == style]
      if same_style:
        spare = targets.get(prompt, ())
        yield from pairing.by_outcome(same_style, prompt, spare=spare, **rules)
    else:
      yield from pairing.by_style(group, prompt, outcome=pair.policy == "both", **rules)


def _stage_pairs(
  problem: records.Problem,
  attempts: Sequence[records.Attempt],
  targets: Mapping[records.Prompt, Sequence[str]],
  rules: Mapping[str, Any],
) -> Iterator[pairing.UnscoredPair]:
  """Yields the pairs of one question in format staged."""
  labels = [label for label, _ in problem.choices]
  for stage, of_stage in _group_by(attempts, lambda a: a.stage):
    if stage == "analyze":
      # Attempts with the same recall, and the correct attempts that the recall comes from.
      sources = [a for a in attempts if a.stage != "analyze" and a.correct]
      for prompt, of_recall in _group_by(of_stage, _analysis_prompt):
        spare = [a for a in sources if _analysis_prompt(a) == prompt]
        yield from pairing.by_option(of_recall, problem.gold, labels, spare=spare, **rules)
    else:
      turn = next(n for n, (name, *_) in enumerate(of_stage[0].turns) if name == stage)
      prompt = of_stage[0].turns[turn][1]
      spare = targets.get(prompt, ())
      yield from pairing.by_outcome(of_stage, prompt, spare=spare, stage=stage, turn=turn, **rules)


def _analysis_prompt(attempt: records.Attempt) -> records.Prompt:
  """Returns the prompt of the first analysis, which contains the recall."""
  return next(prompt for stage, prompt, _ in attempt.turns if stage == "analyze")


def _group_by(
  items: Iterable[Item], key: Callable[[Item], Key]
) -> Iterable[tuple[Key, list[Item]]]:
  """Groups items by key, in the order in which the keys first occur."""
  groups: dict[Key, list[Item]] = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return groups.items()


def teacher_targets(ctx: RunContext, round_index: int) -> dict[records.Prompt, list[str]]:
  """Returns {prompt: targets the teacher wrote for it}, over all rounds so far."""
  targets: dict[records.Prompt, list[str]] = {}
  for example in ctx.examples(ctx.rationales(range(round_index + 1))):
    targets.setdefault(example.prompt, []).append(example.target)
  return targets
