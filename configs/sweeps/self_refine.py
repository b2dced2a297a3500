"""Self-refine (Ranaldi & Freitas 2024): what the preference step adds, and the paper's claims.

  python -m distill_jax ablate --config=configs/sweeps/self_refine.py \
    --workdir=runs/claims_self_refine
  python -m distill_jax ablate --config=configs/sweeps/self_refine.py:full \
    --workdir=runs/full_self_refine

`claims` (5 seeds): tuning and DPO against tuning alone, in domain and out of it. `full` (3 seeds):
which pairs, which loss, how much data. At testbed scale: configs/self_refine.py:quick on fewer
questions, with fewer steps. A student from scratch has nothing for DPO alone to refine: that claim
of the paper's wants --config.student.init.
"""

from distill_jax.ablations import sweep

COMMON = {
  "world.train": 600,
  "world.test": 300,
  "world.out_of_domain": 200,
  "world.steps_max": 1,
  "task.validation": 150,
  "exam.questions": 300,
  "exam.max_new_tokens": 40,
  "stop.patience": 0,
  "train.steps": 200,
  "prefer.steps": 150,
}

CLAIMS = {
  "self_refine": {},
  "tuning_alone": {"rounds": 0},
  "tuning_alone_more_steps": {"rounds": 0, "train.steps": 350},
}

MEANS = {"prefer.length_normalized": True}  # as the papers of these losses define them

FULL = {
  **CLAIMS,
  "cot_over_plain": {"pair.policy": "cot_over_plain"},
  "right_cot_over_wrong_plain": {"pair.policy": "both"},
  "pairs_on_the_plain_prompt": {"pair.style": "plain"},
  **{name: {"prefer.loss": name} for name in ("robust", "hinge", "kto")},
  "ipo": {"prefer.loss": "ipo", **MEANS},
  "simpo": {"prefer.loss": "simpo", **MEANS},
  "orpo": {"prefer.loss": "orpo", **MEANS},
  "preferences_alone": {"opening": ("exam", "pair", "prefer"), "rounds": 0},
  "preferences_on_another_task": {"cross.name": "taxonomy"},
  "without_anchor": {"prefer.nll_weight": 0.0},
  "beta_01": {"prefer.beta": 0.1},
  "sampled_at_1": {"exam.temperature": 1.0},
  "smoothed": {"prefer.label_smoothing": 0.1},
  "length_normalized": {"prefer.length_normalized": True},
  "half_of_the_data": {"world.train": 300},
  "a_quarter_of_the_data": {"world.train": 150},
  "two_refinements": {"rounds": 2},
  "lora": {"student.lora.rank": 8},
}

ROWS, SEEDS = {"claims": CLAIMS, "full": FULL}, {"claims": 5, "full": 3}


def get_sweep(which: str = "claims") -> sweep.Sweep:
  claim = lambda text, worse, split: sweep.Claim(
    text, "self_refine", worse, split, paper="Ranaldi & Freitas 2024"
  )
  return sweep.Sweep(
    config="configs/self_refine.py:quick",
    common=COMMON,
    rows=ROWS[which],
    base="self_refine",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      claim("Tuning and DPO beat tuning", "tuning_alone", "test"),
      claim("Tuning and DPO beat tuning with as many steps", "tuning_alone_more_steps", "test"),
      claim("Tuning and DPO beat tuning out of domain", "tuning_alone", "out_of_domain"),
    ),
  )
