"""TinyThinker (Piao & Park 2025): what each stage and the reflection add, and the paper's claims.

  python -m distill_jax ablate --config=configs/sweeps/tinythinker.py \
    --workdir=runs/claims_tinythinker
  python -m distill_jax ablate --config=configs/sweeps/tinythinker.py:full \
    --workdir=runs/full_tinythinker

`claims` (5 seeds): three steps against fewer, and iterations of reflection against none. `full` (3
seeds): what is reflected on, how often, and how. At testbed scale, configs/tinythinker.py:quick: on
a third of its questions no row gets beyond guessing. All rows have as many updates of the first
phase.
"""

from distill_jax.ablations import sweep

COMMON = {"taxonomy.out_of_domain": 200, "stop.patience": 0}

# Without reflection, so that stages are compared with stages.
STAGES = lambda *stages: {
  "rounds": 0,
  "staged.stages": stages,
  "staged.reflect": stages[:-1] or ("summarize",),
}

CLAIMS = {
  "tinythinker": {},
  "without_reflection": {"rounds": 0},
  "without_recall": STAGES("analyze", "summarize"),
  "without_analyze": STAGES("recall", "summarize"),
  "summarize_only": STAGES("summarize"),
}

FULL = {
  **CLAIMS,
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


def get_sweep(which: str = "claims") -> sweep.Sweep:
  claim = lambda text, better, worse: sweep.Claim(text, better, worse, paper="Piao & Park 2025")
  return sweep.Sweep(
    config="configs/tinythinker.py:quick",
    common=COMMON,
    rows=ROWS[which],
    base="tinythinker",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      claim("Three steps beat the answer alone", "without_reflection", "summarize_only"),
      claim("Recall helps", "without_reflection", "without_recall"),
      claim("Analysis helps", "without_reflection", "without_analyze"),
      claim("Iterations of reflection help", "tinythinker", "without_reflection"),
    ),
  )
