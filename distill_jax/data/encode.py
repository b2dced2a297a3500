"""Token rows: prompt and target ids joined into one row, with the training signal of each token.

Prompt and target are encoded separately and joined, so the boundary between them is known exactly.

A row with a triplet is a small tree. The target and the two responses branch off one prompt, the
root. Each branch attends to the root but not to the other branches, and the root attends to none of
them (see students/token_rows.py).

  prompt 10 11 12   target 20 21 1   positive 30 1   negative 40 41 1

  tokens     10 11 12 | 20 21  1 | 30  1 | 40 41  1
  positions   0  1  2 |  3  4  5 |  3  4 |  3  4  5
  segments    1  1  1 |  2  2  2 |  3  3 |  4  4  4
  roots       1  1  1 |  1  1  1 |  1  1 |  1  1  1
  where             2    3  4                         positions whose next token is a target
  labels           20   21  1
  slots                        1       2          3   1, 2, 3: anchor, positive, negative; 0: not
  shares                       1       1          1   pooled. Here pool="last"; "mean" pools all
                                                      tokens of a branch

A preference row has its two sides as branches. Both are targets, and each target has an owner:

  chosen 20 21 1   rejected 30 1

  tokens     10 11 12 | 20 21  1 | 30  1
  segments    1  1  1 |  2  2  2 |  3  3
  where             2    3  4
                    2              6                  the prompt's last token predicts both sides
  owners            0    0  0
                    1              1

For an encoder-decoder the decoder's start token is the root, and the prompt is the source:

  source     10 11 12      tokens      0 | 20 21  1
  source_segments 1 1 1    segments    1 |  2  2  2
                           where       0    1  2
"""

import dataclasses
from collections.abc import Sequence

PROMPT, TARGET, POSITIVE, NEGATIVE, ANCHOR = 1, 2, 3, 4, 5  # segment numbers in a supervised row
CHOSEN, REJECTED = 2, 3  # segment numbers in a preference row
# Owner of a target that counts toward the chosen side's NLL but toward neither side's
# log-probability. It is even because the owners of chosen targets are even.
ANCHORED = -2


@dataclasses.dataclass(frozen=True)
class EncodedExample:
  """A tokenized example. The target and every response end in the end token."""

  problem: str
  prompt: tuple[int, ...]
  target: tuple[int, ...]
  positives: tuple[tuple[int, ...], ...] = ()
  negatives: tuple[tuple[int, ...], ...] = ()
  stage: str = ""


@dataclasses.dataclass(frozen=True)
class EncodedPair:
  """A tokenized preference pair. Both sides end in the end token."""

  problem: str
  prompt: tuple[int, ...]
  chosen: tuple[int, ...]
  rejected: tuple[int, ...]
  references: tuple[float, float]  # log p of chosen and rejected under the reference policy, nats


@dataclasses.dataclass
class Row:
  """One example, or several examples packed one after another (see pack.py)."""

  tokens: list[int]
  positions: list[int]
  segments: list[int]
  roots: list[int]
  detached: list[int]  # 1 where a token attends to the root without gradient
  slots: list[int]  # 0, or 1 + 3 * triplet + (0 anchor, 1 positive, 2 negative)
  shares: list[float]  # weight of this token in the mean of its slot
  where: list[int]
  labels: list[int]
  weights: list[float]
  denominator: float
  triplets: int = 0
  owners: list[int] = dataclasses.field(default_factory=list)  # 2 * pair + (0 chosen, 1 rejected)
  references: list[float] = dataclasses.field(default_factory=list)  # one per owner, nats
  source: list[int] = dataclasses.field(default_factory=list)
  source_segments: list[int] = dataclasses.field(default_factory=list)

  @property
  def length(self) -> int:
    """Number of tokens of the row or of its source, whichever is longer."""
    return max(len(self.tokens), len(self.source))

  @property
  def pairs(self) -> int:
    """Number of preference pairs."""
    return len(self.references) // 2


def _root(prompt: Sequence[int], start: int | None) -> Row:
  """The row of the prompt alone; with a `start` token, that token with the prompt as its source."""
  if not prompt:
    raise ValueError("an example has an empty prompt, so nothing predicts its first token")
  tokens, source = ([*prompt], []) if start is None else ([start], [*prompt])
  zeros = [0] * len(tokens)
  return Row(
    tokens=tokens,
    positions=list(range(len(tokens))),
    segments=[PROMPT] * len(tokens),
    roots=[PROMPT] * len(tokens),
    detached=zeros,
    slots=zeros,
    shares=[0.0] * len(tokens),
    where=[],
    labels=[],
    weights=[],
    denominator=0.0,
    source=source,
    source_segments=[PROMPT] * len(source),
  )


def _add_branch(row: Row, segment: int, response: Sequence[int], *, detached: bool = False) -> Row:
  """The row with `response` as one more branch of its root."""
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
  prompt: Sequence[int],
  target: Sequence[int],
  *,
  prompt_weight: float,
  denominator: str,
  start: int | None = None,
) -> Row:
  """The row of a prompt and its target.

  Args:
    prompt: Token ids; not empty.
    target: Token ids; each has weight 1.
    prompt_weight: Weight of the prompt's own tokens as targets; 0 leaves them out.
    denominator: What the row adds to the denominator of the mean loss: "weights", the sum of its
      weights, or "all_tokens", the number of its predicted tokens.
    start: The decoder's start token for an encoder-decoder, else None.

  Raises:
    ValueError: The prompt is empty, or `prompt_weight` is not 0 for an encoder-decoder.
  """
  if start is not None and prompt_weight:
    raise ValueError(
      f"sft.prompt_weight is {prompt_weight}, but must be 0 for an encoder-decoder, which does not"
      " generate its prompt"
    )
  root = _root(prompt, start)
  row = _add_branch(root, TARGET, target)
  last = len(root.tokens) - 1
  first = 0 if prompt_weight else last
  where = list(range(first, len(row.tokens) - 1))
  weights = [prompt_weight if i < last else 1.0 for i in where]
  row.where, row.labels, row.weights = where, row.tokens[first + 1 :], weights
  all_tokens = float(len(prompt) + len(target) - 1)
  row.denominator = sum(weights) if denominator == "weights" else all_tokens
  return row


def add_triplet(
  row: Row,
  positive: Sequence[int],
  negative: Sequence[int],
  *,
  pool: str,
  detach: bool,
  max_response: int,
) -> Row:
  """Adds a positive and a negative as branches of a supervised row; the anchor is its target.

  Args:
    row: A row of `supervised_row`.
    positive: Token ids of the positive.
    negative: Token ids of the negative.
    pool: "last" pools the last token of a response, "mean" all of its tokens.
    detach: Whether the pooled branches attend to the root without gradient. The anchor then gets
      its own branch, since the target's branch keeps its gradient.
    max_response: Number of tokens to which pooled responses are truncated.
  """
  root = row.segments.count(PROMPT)
  target = row.tokens[root:]
  branches: list[tuple[int, Sequence[int]]] = [(POSITIVE, positive), (NEGATIVE, negative)]
  if detach:
    branches.insert(0, (ANCHOR, target))
  spans = [] if detach else [(root, root + min(len(target), max_response))]
  for segment, response in branches:
    start = len(row.tokens)
    row = _add_branch(row, segment, response[:max_response], detached=detach)
    spans.append((start, len(row.tokens)))
  for slot, (start, end) in enumerate(spans, start=1):
    start = end - 1 if pool == "last" else start
    row.slots[start:end] = [slot] * (end - start)
    row.shares[start:end] = [1 / (end - start)] * (end - start)
  return dataclasses.replace(row, triplets=1)


def preference_row(
  prompt: Sequence[int],
  chosen: Sequence[int],
  rejected: Sequence[int],
  *,
  references: tuple[float, float],
  start: int | None = None,
  pads: tuple[int, ...] = (),
) -> Row:
  """The row of a preference pair: both sides branch off one prompt, as targets of weight 1.

  Args:
    prompt: Token ids; not empty.
    chosen: Token ids of the chosen side.
    rejected: Token ids of the rejected side.
    references: Log-probabilities of the two sides under the reference policy, in nats.
    start: The decoder's start token for an encoder-decoder, else None.
    pads: Token ids appended to the chosen side as targets of the NLL term only.
  """
  row = _root(prompt, start)
  last = len(row.tokens) - 1
  for owner, (segment, side) in enumerate(((CHOSEN, chosen), (REJECTED, rejected))):
    first, padding = len(row.tokens), pads if segment == CHOSEN else ()
    row = _add_branch(row, segment, (*side, *padding))
    row.where += [last, *range(first, first + len(side) + len(padding) - 1)]
    row.labels += (*side, *padding)
    row.owners += [owner] * len(side) + [ANCHORED] * len(padding)
  row.weights = [1.0] * len(row.where)
  row.denominator = float(len(row.where))
  row.references = list(references)
  return row
