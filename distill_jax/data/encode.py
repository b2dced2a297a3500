"""Token ids to rows. Prompt and target are encoded apart and joined: the boundary is a number we
know.

A row with a contrast is a small tree: the target and the two responses hang on one prompt (see
students/decoder.py).

  prompt 10 11 12   target 20 21 1   positive 30 1   negative 40 41 1

  tokens     10 11 12 | 20 21  1 | 30  1 | 40 41  1
  positions   0  1  2 |  3  4  5 |  3  4 |  3  4  5
  segments    1  1  1 |  2  2  2 |  3  3 |  4  4  4
  roots       1  1  1 |  1  1  1 |  1  1 |  1  1  1
  where             2    3  4                         the positions whose next token is a target
  labels           20   21  1
  pool                         a       p          n   (last; mean: all positions of that response)
"""

import dataclasses

PROMPT, TARGET, POSITIVE, NEGATIVE, ANCHOR = 1, 2, 3, 4, 5  # segments of a row


@dataclasses.dataclass(frozen=True)
class Encoded:
  """An example in tokens; every target and response ends in the end token."""

  problem: str
  prompt: tuple[int, ...]
  target: tuple[int, ...]
  positives: tuple[tuple[int, ...], ...] = ()
  negatives: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass
class Row:
  tokens: list[int]
  positions: list[int]
  segments: list[int]
  detached: list[int]
  where: list[int]
  labels: list[int]
  weights: list[float]
  denominator: float
  pool: tuple[list[int], ...] = ()  # positions pooled for anchor, positive, negative


def plain(prompt, target, *, prompt_weight: float, denominator: str) -> Row:
  """The row of a prompt and its target. `denominator`: what it adds to the mean's, "weights" or
  "all_tokens"."""
  tokens = [*prompt, *target]
  first = 0 if prompt_weight else len(prompt) - 1
  where = list(range(first, len(tokens) - 1))
  weights = [prompt_weight if i < len(prompt) - 1 else 1.0 for i in where]
  return Row(
    tokens=tokens,
    positions=list(range(len(tokens))),
    segments=[PROMPT] * len(prompt) + [TARGET] * len(target),
    detached=[0] * len(tokens),
    where=where,
    labels=tokens[first + 1 :],
    weights=weights,
    denominator=sum(weights) if denominator == "weights" else float(len(tokens) - 1),
  )


def with_contrast(
  row: Row, positive, negative, *, pool: str, detach: bool, max_response: int
) -> Row:
  """Hangs a positive and a negative on the row's prompt (and, when detached, the anchor once
  more)."""
  prompt = row.segments.count(PROMPT)
  target = row.tokens[prompt:]
  branches = [(POSITIVE, positive), (NEGATIVE, negative)]
  if detach:
    branches.insert(0, (ANCHOR, target))
  spans = [] if detach else [(prompt, prompt + min(len(target), max_response))]
  tokens, positions = list(row.tokens), list(row.positions)
  segments, detached = list(row.segments), list(row.detached)
  for segment, response in branches:
    response = response[:max_response]
    spans.append((len(tokens), len(tokens) + len(response)))
    tokens += response
    positions += range(prompt, prompt + len(response))
    segments += [segment] * len(response)
    detached += [int(detach)] * len(response)
  pooled = tuple([end - 1] if pool == "last" else list(range(start, end)) for start, end in spans)
  return dataclasses.replace(
    row, tokens=tokens, positions=positions, segments=segments, detached=detached, pool=pooled
  )
