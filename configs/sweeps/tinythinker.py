"""Sweep of TinyThinker (Piao & Park 2025): its stages and its reflection, and the paper's claims.

  distill-jax ablate --config=sweeps/tinythinker --workdir=runs/claims_tinythinker
  distill-jax ablate --config=sweeps/tinythinker:full --workdir=runs/full_tinythinker

`claims` (5 seeds) compares three stages with fewer, and rounds of reflection with none. `full`
(3 seeds) varies what is reflected on, how often, and how. Both use configs/tinythinker.py:quick at
its full size, because with a third of its questions no row beats guessing. All rows take the same
number of supervised training steps.
"""

from typing import Any

from distill_jax.ablations import sweep

COMMON = {"taxonomy.out_of_domain": 200, "stop.patience": 0}


def _stages(*stages: str) -> dict[str, Any]:
  """Overrides for these stages, without reflection."""
  return {"rounds": 0, "staged.stages": stages, "staged.reflect": stages[:-1] or ("summarize",)}


CLAIMS = {
  "tinythinker": {},
  "without_reflection": {"rounds": 0},
  "without_recall": _stages("analyze", "summarize"),
  "without_analyze": _stages("recall", "summarize"),
  "summarize_only": _stages("summarize"),
}

FULL = {
  **CLAIMS,
  "prompting_only": {"opening": (), "each_round": (), "rounds": 0},
  **{f"iterations_{n}": {"rounds": n} for n in (1, 3, 5)},
  "reflect_on_recall": {"staged.reflect": ("recall",)},
  "reflect_on_analyze": {"staged.reflect": ("analyze",)},
  "votes_10": {"evaluate.num_votes": 10},
  "interval_1": {"staged.interval": 1},
  "interval_10": {"staged.interval": 10},
  "options_not_repeated": {"staged.repeat": False},
  "beta_01": {"prefer.beta": 0.1},
  "without_anchor": {"prefer.nll_weight": 0.0},
  "t5": {"student.arch": "t5", "student.scratch.kv_heads": 4},
  "gold_hidden": {"demonstrate.show_gold": False},
  "smaller_student": {"student.scratch.width": 48, "student.scratch.head_width": 12},
}

ROWS, SEEDS = {"claims": CLAIMS, "full": FULL}, {"claims": 5, "full": 3}


def _claim(text: str, better: str, worse: str) -> sweep.Claim:
  return sweep.Claim(text, better, worse, paper="Piao & Park 2025")


def get_sweep(which: str = "claims") -> sweep.Sweep:
  """Returns the sweep `which`: claims or full."""
  return sweep.Sweep(
    config="tinythinker:quick",
    common=COMMON,
    rows=ROWS[which],
    base="tinythinker",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      _claim("Three steps beat the answer alone", "without_reflection", "summarize_only"),
      _claim("Recall helps", "without_reflection", "without_recall"),
      _claim("Analysis helps", "without_reflection", "without_analyze"),
      _claim("Iterations of reflection help", "tinythinker", "without_reflection"),
    ),
  )
