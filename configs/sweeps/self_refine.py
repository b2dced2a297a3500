"""Sweep of self-refine (Ranaldi & Freitas 2024): the preference step, and the paper's claims.

  distill-jax ablate --config=sweeps/self_refine --workdir=runs/claims_self_refine
  distill-jax ablate --config=sweeps/self_refine:full --workdir=runs/full_self_refine

`claims` (5 seeds) compares tuning and DPO with tuning alone, in domain and out of domain. `full`
(3 seeds) varies the pairs, the loss and the amount of data. Both are small: self_refine:quick with
fewer questions and steps. A student from scratch has nothing that DPO alone could refine; testing
that claim of the paper needs --config.student.init.
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

MEANS = {"prefer.length_normalized": True}  # as in the papers of these losses

FULL = {
  **CLAIMS,
  "prompting_only": {"opening": (), "each_round": (), "rounds": 0},
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


def _claim(text: str, worse: str, split: str) -> sweep.Claim:
  return sweep.Claim(text, "self_refine", worse, split, paper="Ranaldi & Freitas 2024")


def get_sweep(which: str = "claims") -> sweep.Sweep:
  """Returns the sweep `which`: claims or full."""
  return sweep.Sweep(
    config="self_refine:quick",
    common=COMMON,
    rows=ROWS[which],
    base="self_refine",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      _claim("Tuning and DPO beat tuning", "tuning_alone", "test"),
      _claim("Tuning and DPO beat tuning with as many steps", "tuning_alone_more_steps", "test"),
      _claim("Tuning and DPO beat tuning out of domain", "tuning_alone", "out_of_domain"),
    ),
  )
