"""Token ids to rows. Prompt and target are encoded apart and joined: the boundary is a number we
know.

A row with a contrast is a small tree: the target and the two responses hang on one prompt, the
root, which they see and which sees none of them (see students/token_rows.py).

  prompt 10 11 12   target 20 21 1   positive 30 1   negative 40 41 1

  tokens     10 11 12 | 20 21  1 | 30  1 | 40 41  1
  positions   0  1  2 |  3  4  5 |  3  4 |  3  4  5
  segments    1  1  1 |  2  2  2 |  3  3 |  4  4  4
  roots       1  1  1 |  1  1  1 |  1  1 |  1  1  1
  where             2    3  4                         the positions whose next token is a target
  labels           20   21  1
  slots                        1       2          3   0: not pooled; 1, 2, 3: anchor, positive,
  shares                       1       1          1   negative (last; mean: every token of each)

A preference row hangs the two sides on the prompt; both are targets, and each knows its owner:

  chosen 20 21 1   rejected 30 1

  tokens     10 11 12 | 20 21  1 | 30  1
  segments    1  1  1 |  2  2  2 |  3  3
  where             2    3  4
                    2              6                  the prompt's end speaks for either side
  owners            0    0  0
                    1              1

For an encoder-decoder the decoder's start token is the root, and the prompt is the source:

  source     10 11 12      tokens      0 | 20 21  1
  source_segments 1 1 1    segments    1 |  2  2  2
                           where       0    1  2
"""

import dataclasses

PROMPT, TARGET, POSITIVE, NEGATIVE, ANCHOR = 1, 2, 3, 4, 5  # segments of a row
CHOSEN, REJECTED = 2, 3  # of a preference row
ANCHORED = -2  # owner of a target that counts as chosen (it is even), but is of no side


@dataclasses.dataclass(frozen=True)
class EncodedExample:
  """An example in tokens; every target and response ends in the end token."""

  problem: str
  prompt: tuple[int, ...]
  target: tuple[int, ...]
  positives: tuple[tuple[int, ...], ...] = ()
  negatives: tuple[tuple[int, ...], ...] = ()
  stage: str = ""


@dataclasses.dataclass(frozen=True)
class EncodedPair:
  """A preference pair in tokens; both sides end in the end token."""

  problem: str
  prompt: tuple[int, ...]
  chosen: tuple[int, ...]
  rejected: tuple[int, ...]
  references: tuple[float, float]  # log p of chosen and rejected under the reference policy, nats


@dataclasses.dataclass
class Row:
  """One example, or several that lie one behind the other (see pack.py)."""

  tokens: list[int]
  positions: list[int]
  segments: list[int]
  roots: list[int]
  detached: list[int]
  slots: list[int]  # 0, or 1 + 3 * contrast + (0 anchor, 1 positive, 2 negative)
  shares: list[float]  # of this token in the mean of its slot
  where: list[int]
  labels: list[int]
  weights: list[float]
  denominator: float
  triplets: int = 0
  owners: list[int] = dataclasses.field(default_factory=list)  # 2 * pair + (0 chosen, 1 rejected)
  references: list[float] = dataclasses.field(default_factory=list)  # one for each owner
  source: list[int] = dataclasses.field(default_factory=list)
  source_segments: list[int] = dataclasses.field(default_factory=list)

  @property
  def length(self) -> int:
    return max(len(self.tokens), len(self.source))

  @property
  def pairs(self) -> int:
    return len(self.references) // 2


def _root(prompt, start: int | None) -> Row:
  """The prompt on which everything hangs; with a start token, that token, and the prompt as its
  source."""
  if not prompt:
    raise ValueError("an example without a prompt: nothing says its first token")
  tokens, source = ([*prompt], []) if start is None else ([start], [*prompt])
  none = [0] * len(tokens)
  return Row(
    tokens=tokens,
    positions=list(range(len(tokens))),
    segments=[PROMPT] * len(tokens),
    roots=[PROMPT] * len(tokens),
    detached=none,
    slots=none,
    shares=[0.0] * len(tokens),
    where=[],
    labels=[],
    weights=[],
    denominator=0.0,
    source=source,
    source_segments=[PROMPT] * len(source),
  )


def _hang(row: Row, segment: int, response, *, detached: bool = False) -> Row:
  """The row with one more response on its root."""
  root, n = row.segments.count(PROMPT), len(response)
  return dataclasses.replace(
    row,
    tokens=[*row.tokens, *response],
    positions=[*row.positions, *range(root, root + n)],
    segments=row.segments + [segment] * n,
    roots=row.roots + [PROMPT] * n,
    detached=row.detached + [int(detached)] * n,
    slots=row.slots + [0] * n,
    shares=row.shares + [0.0] * n,
  )


def supervised_row(
  prompt, target, *, prompt_weight: float, denominator: str, start: int | None = None
) -> Row:
  """The row of a prompt and its target. `denominator`: what it adds to the mean's, "weights" or
  "all_tokens".

  Raises ValueError if sft.prompt_weight is not 0 where the prompt is a source.
  """
  if start is not None and prompt_weight:
    raise ValueError(
      f"sft.prompt_weight is {prompt_weight}: an encoder-decoder does not write its prompt, so 0"
    )
  root = _root(prompt, start)
  row = _hang(root, TARGET, target)
  last = len(root.tokens) - 1
  first = 0 if prompt_weight else last
  where = list(range(first, len(row.tokens) - 1))
  weights = [prompt_weight if i < last else 1.0 for i in where]
  row.where, row.labels, row.weights = where, row.tokens[first + 1 :], weights
  all_tokens = float(len(prompt) + len(target) - 1)
  row.denominator = sum(weights) if denominator == "weights" else all_tokens
  return row


def add_triplet(row: Row, positive, negative, *, pool: str, detach: bool, max_response: int) -> Row:
  """Hangs a positive and a negative on the row's root (and, when detached, the anchor once
  more)."""
  root = row.segments.count(PROMPT)
  target = row.tokens[root:]
  branches = [(POSITIVE, positive), (NEGATIVE, negative)]
  if detach:
    branches.insert(0, (ANCHOR, target))
  spans = [] if detach else [(root, root + min(len(target), max_response))]
  for segment, response in branches:
    start = len(row.tokens)
    row = _hang(row, segment, response[:max_response], detached=detach)
    spans.append((start, len(row.tokens)))
  for slot, (start, end) in enumerate(spans, start=1):
    start = end - 1 if pool == "last" else start
    row.slots[start:end] = [slot] * (end - start)
    row.shares[start:end] = [1 / (end - start)] * (end - start)
  return dataclasses.replace(row, triplets=1)


def preference_row(
  prompt,
  chosen,
  rejected,
  *,
  references: tuple[float, float],
  start: int | None = None,
  pads: tuple[int, ...] = (),
) -> Row:
  """The row of a preference pair: both sides on one prompt, both as targets of weight 1. `pads`
  behind the chosen side are targets of the anchor, and of nothing else."""
  row = _root(prompt, start)
  last = len(row.tokens) - 1
  for owner, (segment, side) in enumerate(((CHOSEN, chosen), (REJECTED, rejected))):
    first, behind = len(row.tokens), pads if segment == CHOSEN else ()
    row = _hang(row, segment, (*side, *behind))
    row.where += [last, *range(first, first + len(side) + len(behind) - 1)]
    row.labels += (*side, *behind)
    row.owners += [owner] * len(side) + [ANCHORED] * len(behind)
  row.weights = [1.0] * len(row.where)
  row.denominator = float(len(row.where))
  row.references = list(references)
  return row
