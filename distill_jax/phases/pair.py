"""Attempts of the round's exam become preference pairs, and what the reference policy thinks of
either side is written into them.

Which pairs: config.pair.policy; how they are matched: data/pairing.py. The reference are the
weights that `prefer` starts from; for losses without a reference (SimPO, ORPO) the numbers are 0.
"""

import itertools

from distill_jax import records
from distill_jax.data import collate, encode, pairing
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import reference_logprobs

PAIRS = "pairs.jsonl"
WITHOUT_REFERENCE = ("simpo", "orpo")


def run(run, number, here):
  """Writes pairs.jsonl. Facts: pairs, questions (that have one), too_long (left out)."""
  attempts = run.folder.find(number, "exam").rows(phase_dir.ATTEMPTS, records.Attempt)
  couples = list(dict.fromkeys(couples_of(run, number, attempts)))
  encoded = [encoded_pair(run.student, c) for c in couples]
  kind, longest = (
    collate.PreferenceCollator(start=run.student.start),
    max(run.settings.train.buckets),
  )
  fits = [kind.plain_row(p).length <= longest for p in encoded]
  kept = list(itertools.compress(couples, fits))
  wanted = list(itertools.compress(encoded, fits))
  if run.settings.prefer.loss in WITHOUT_REFERENCE:
    scores = [(0.0, 0.0)] * len(kept)
  else:
    _, params = run.students(number)["student"]
    scores = reference_logprobs.score(run, params, wanted, f"round {number} references")
  here.write(PAIRS, [pairing.add_references(c, *s) for c, s in zip(kept, scores, strict=True)])
  here.finish(
    {
      "pairs": len(kept),
      "questions": len({c.problem for c in kept}),
      "too_long": len(couples) - len(kept),
    }
  )


def encoded_pair(student, pair, references=(0.0, 0.0)) -> encode.EncodedPair:
  """In tokens; either side ends in the end token."""
  ended = lambda text: (*student.tokenizer.encode(text), student.tokenizer.end)
  return encode.EncodedPair(
    pair.problem, tuple(student.read(pair.prompt)), ended(pair.chosen), ended(pair.rejected),
    references,
  )  # fmt: skip


def couples_of(run, number, attempts):
  """All pairs, question by question."""
  rules = {"max_pairs": run.settings.pair.max_pairs_per_prompt, "fill": run.settings.pair.fill}
  taught = taught_texts(run, number)
  for name, group in _grouped(attempts, lambda a: a.problem):
    problem = run.problem(name)
    if run.settings.format == "staged":
      yield from _of_stages(run, problem, group, taught, rules)
      continue
    style = run.settings.pair.style if run.settings.format == "instruct" else ""
    prompt = run.prompt(problem, style)
    if run.settings.pair.policy == "right_over_wrong":
      same = [a for a in group if a.style == style]
      if same:
        yield from pairing.by_outcome(same, prompt, spare=taught.get(prompt, ()), **rules)
    else:
      both = run.settings.pair.policy == "both"
      yield from pairing.by_style(group, prompt, outcome=both, **rules)


def _of_stages(run, problem, group, taught, rules):
  labels = [label for label, _ in problem.choices]
  for stage, same in _grouped(group, lambda a: a.stage):
    if stage == "analyze":
      # The runs with the same recall, and the right run the recall comes from.
      whole = [a for a in group if a.stage != "analyze" and a.correct]
      for start, runs in _grouped(same, _first_analysis):
        spare = [a for a in whole if _first_analysis(a) == start]
        yield from pairing.by_option(runs, problem.gold, labels, spare=spare, **rules)
    else:
      turn = next(n for n, (name, *_) in enumerate(same[0].turns) if name == stage)
      prompt = same[0].turns[turn][1]
      spare = taught.get(prompt, ())
      yield from pairing.by_outcome(same, prompt, spare=spare, stage=stage, turn=turn, **rules)


def _first_analysis(attempt) -> str:
  """Its prompt, which has the recall in it."""
  return next(prompt for stage, prompt, _ in attempt.turns if stage == "analyze")


def _grouped(items, key):
  """(key, items) in the order in which the keys first occur."""
  groups = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return groups.items()


def taught_texts(run, number) -> dict[str, list[str]]:
  """{prompt: what the teacher would have said there}."""
  texts = {}
  for example in run.examples(run.written(range(number + 1))):
    texts.setdefault(example.prompt, []).append(example.target)
  return texts
