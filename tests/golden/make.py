"""Writes <case>.npz beside this file: the results of transformers for every model of cases.py.

  python -m tests.golden.make       (needs torch and transformers 5; written with 2.13 and 5.23)
  python -m tests.golden.make t5    (only these cases)

  config         the text of its config.json
  tokens mask    int32 [B, L], padded on the right
  logits         float32 [B, L, V], 0 at padding
  greedy         int32 [B, 64], the greedy continuation of each row
  logprobs       float64 [B], of each row's tokens after the first, nats
  source inside  int32 [B, E], for encoder-decoders: the source and its mask; greedy follows it, and
                 tokens begin with the decoder's start token

Weights are not stored: tests/golden/cases.py derives them from their names.
"""

import json
import pathlib
import sys

import numpy as np

from tests.golden import cases
from tests.parity import reference

LEAD = 1e-3  # nats by which the best token must win, above the rounding error of logits


def main() -> None:
  every = cases.CASES | cases.ENCODER_DECODERS
  for case in sys.argv[1:] or every:
    fields, read = every[case], {}
    model = reference.model(fields)
    tokens, mask = prompts = cases.batch(case)
    if case in cases.ENCODER_DECODERS:
      tokens, mask = cases.targets(case)
      read = dict(zip(("source", "inside"), prompts, strict=True))
    logits = reference.logits(model, tokens, mask, **read) * mask[..., None]
    greedy, lead = reference.greedy(model, *prompts, cases.NEW)
    if lead < LEAD:
      raise SystemExit(f"{case}: two tokens are {lead} apart; give it another seed in cases.py")
    np.savez_compressed(
      pathlib.Path(__file__).parent / f"{case}.npz",
      config=json.dumps(fields),
      tokens=tokens,
      mask=mask,
      logits=np.float32(logits),
      greedy=greedy,
      logprobs=reference.summed(logits, tokens, mask),
      **read,
    )


if __name__ == "__main__":
  main()
