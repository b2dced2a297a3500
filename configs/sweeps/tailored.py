"""Sweep of tailored learning (Wang et al. 2023): its parts, and the paper's claims.

  distill-jax ablate --config=sweeps/tailored --workdir=runs/claims_tailored
  distill-jax ablate --config=sweeps/tailored:full --workdir=runs/full_tailored

`claims` (5 seeds): do several rounds beat a single round with at least as many replies and the same
number of steps, does self-reflection help, and does it help that the teacher sees the mistakes?
`full` (3 seeds) removes or changes one part at a time. Both are small: configs/quickstart.py with
fewer questions and steps.

The teacher demonstrates a third of the questions, but every exam covers all of them, so feedback
goes to the questions that the student gets wrong. The single round gets its replies in two ways:
several rationales for each question of that third, or two for each of more questions. The table
shows how many replies each row used. No run stops early, so all rows take the same number of steps.
"""

import math

from distill_jax.ablations import sweep

QUESTIONS, ROUNDS, STEPS = 300, 2, 150
# At least this many replies in the single round; the tailored rounds of seed 0 used 1346.
REPLIES = 1350

COMMON = {
  "world.train": 3 * QUESTIONS,
  "world.test": 300,
  "world.out_of_domain": 200,
  "world.steps_max": 1,
  "task.validation": 150,
  "demonstrate.questions": QUESTIONS,
  "exam.max_new_tokens": 40,
  "rounds": ROUNDS,
  "stop.patience": 0,
  "train.steps": STEPS,
}

ONE_ROUND = {"rounds": 0, "train.steps": STEPS * (1 + ROUNDS)}

CLAIMS = {
  "tailored": {},
  "without_self_reflection": {"train.losses.triplet": 0.0},
  "blind_teacher": {"feedback.kind": "blind"},
  "one_round_more_rationales": {
    **ONE_ROUND,
    "demonstrate.rationales": math.ceil(REPLIES / QUESTIONS),
  },
  "one_round_more_questions": {
    **ONE_ROUND,
    "demonstrate.questions": REPLIES // 2,
    "demonstrate.rationales": 2,
  },
}

FULL = {
  **CLAIMS,
  "answer_only": {
    **ONE_ROUND,
    "format": "answer_only",
    "demonstrate.source": "gold",
    "opening": ("demonstrate", "train"),
    "each_round": (),
    "train.losses.triplet": 0.0,
  },
  "prompting_only": {"rounds": 0, "opening": (), "each_round": (), "train.losses.triplet": 0.0},
  "star": {
    "opening": ("exam", "rationalize", "train"),
    "each_round": ("exam", "rationalize", "train"),
    "accumulate_rationales": False,
    "train.losses.triplet": 0.0,
  },
  "rounds_0": {"rounds": 0},
  "rounds_1": {"rounds": 1},
  "rounds_3": {"rounds": 3},
  "without_self_reflection_or_feedback": {"train.losses.triplet": 0.0, "feedback.kind": "blind"},
  "gold_hidden": {"feedback.show_gold": False},
  "two_mistakes": {"feedback.mistakes": 2},
  "half_of_the_demonstrations": {"demonstrate.questions": QUESTIONS // 2},
  "triplet_weight_01": {"train.losses.triplet": 0.1},
  "triplet_weight_2": {"train.losses.triplet": 2.0},
  "margin_03": {"triplet.margin": 0.3},
  "margin_2": {"triplet.margin": 2.0},
  "pool_mean": {"triplet.pool": "mean"},
  "prompt_detached": {"triplet.detach_prompt": True},
  "negatives_1": {"contrast.negatives": 1},
  "negatives_8": {"contrast.negatives": 8},
  "positives_1": {"contrast.positives": 1},
  "prompt_weight_01": {"sft.prompt_weight": 0.1, "sft.denominator": "all_tokens"},
  "prompt_weight_1": {"sft.prompt_weight": 1.0, "sft.denominator": "all_tokens"},
  "self_reflection_alone": {"train.losses.sft": 0.0},
  "one_shot": {"cot.shots": 1},
  "replace": {"accumulate_rationales": False},
  "from_base": {"start_from": "base"},
  "smaller_student": {"student.scratch.width": 48, "student.scratch.head_width": 12},
  "larger_student": {"student.scratch.width": 144, "student.scratch.head_width": 36},
}

ROWS, SEEDS = {"claims": CLAIMS, "full": FULL}, {"claims": 5, "full": 3}


def _claim(text: str, worse: str) -> sweep.Claim:
  return sweep.Claim(text, "tailored", worse, paper="Wang et al. 2023")


def get_sweep(which: str = "claims") -> sweep.Sweep:
  """Returns the sweep `which`: claims or full."""
  return sweep.Sweep(
    config="quickstart",
    common=COMMON,
    rows=ROWS[which],
    base="tailored",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      _claim(
        "Tailored rounds beat one round at no fewer replies and equal steps: rationales",
        "one_round_more_rationales",
      ),
      _claim(
        "Tailored rounds beat one round at no fewer replies and equal steps: questions",
        "one_round_more_questions",
      ),
      _claim("Self-reflection helps", "without_self_reflection"),
      _claim("Rationales written for a mistake beat as many written blindly", "blind_teacher"),
    ),
  )
