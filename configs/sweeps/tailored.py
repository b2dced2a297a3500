"""Tailored learning (Wang et al. 2023): what each part of it is good for, and the paper's claims.

  python -m distill_jax ablate --config=configs/sweeps/tailored.py --workdir=runs/claims_tailored
  python -m distill_jax ablate --config=configs/sweeps/tailored.py:full --workdir=runs/full_tailored

`claims` (5 seeds): do rounds beat a single one at no fewer replies and equal steps, does
self-reflection help, does the teacher's view of the mistakes help? `full` (3 seeds): every part
switched off or turned, one at a time. Both at testbed scale: configs/quickstart.py on fewer
questions, with fewer steps.

The teacher demonstrates a third of the questions; every exam is on all of them, so that feedback
goes where the student fails. The single round gets its replies in two ways: several rationales of
the same third, or two each of more questions. How many replies each row came to stands in the
table. No run stops early, so that all have their steps.
"""

from distill_jax.ablations import sweep

QUESTIONS, ROUNDS, STEPS = 300, 2, 150
REPLIES = 1350  # of a single round, or more; the three tailored ones of seed 0 came to 1346

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
  "one_round_more_rationales": {**ONE_ROUND, "demonstrate.rationales": -(-REPLIES // QUESTIONS)},
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


def get_sweep(which: str = "claims") -> sweep.Sweep:
  claim = lambda text, worse: sweep.Claim(text, "tailored", worse, paper="Wang et al. 2023")
  return sweep.Sweep(
    config="configs/quickstart.py",
    common=COMMON,
    rows=ROWS[which],
    base="tailored",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      claim(
        "Tailored rounds beat one round at no fewer replies and equal steps: rationales",
        "one_round_more_rationales",
      ),
      claim(
        "Tailored rounds beat one round at no fewer replies and equal steps: questions",
        "one_round_more_questions",
      ),
      claim("Self-reflection helps", "without_self_reflection"),
      claim("Rationales written for a mistake beat as many written blindly", "blind_teacher"),
    ),
  )
