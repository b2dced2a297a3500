"""Socratic CoT (Shridhar et al. 2023): sub-questions against chains of thought and answers alone.

  python -m distill_jax ablate --config=configs/sweeps/socratic.py --workdir=runs/claims_socratic
  python -m distill_jax ablate --config=configs/sweeps/socratic.py:full --workdir=runs/full_socratic

`claims` (5 seeds): Socratic against the students it is compared with. `full` (3 seeds): one student
or two, whose sub-questions, what the decomposer sees, sizes. At testbed scale:
configs/socratic.py:quick on fewer and shorter questions, with fewer steps. Each student has as many
updates; two students together have twice those of one.
"""

from distill_jax.ablations import sweep

STEPS = 400

COMMON = {
  "world.train": 600,
  "world.test": 300,
  "world.out_of_domain": 200,
  "world.steps_max": 2,
  "task.validation": 150,
  "stop.patience": 0,
  "train.steps": STEPS,
}

CHAIN = {"format": "cot", "evaluate.max_new_tokens": 80}
ALONE = {"format": "answer_only", "demonstrate.source": "gold"}

CLAIMS = {
  "socratic": {},
  "chain_of_thought": CHAIN,
  "chain_of_thought_twice_the_steps": {**CHAIN, "train.steps": 2 * STEPS},
  "answer_only": ALONE,
}

FULL = {
  **CLAIMS,
  "unified": {"socratic.mode": "unified", "evaluate.max_new_tokens": 160},
  "gold_questions": {"socratic.questions": "gold"},
  "gold_annotation": {"demonstrate.source": "gold"},
  "all_questions_at_once": {"socratic.solutions": False},
  "calculator": {"socratic.calculator": True},
  "smaller_student": {"student.scratch.width": 48, "student.scratch.head_width": 12},
  "larger_student": {"student.scratch.width": 144, "student.scratch.head_width": 36},
}

ROWS, SEEDS = {"claims": CLAIMS, "full": FULL}, {"claims": 5, "full": 3}


def get_sweep(which: str = "claims") -> sweep.Sweep:
  claim = lambda text, worse: sweep.Claim(text, "socratic", worse, paper="Shridhar et al. 2023")
  return sweep.Sweep(
    config="configs/socratic.py:quick",
    common=COMMON,
    rows=ROWS[which],
    base="socratic",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      claim("Socratic beats chains of thought for a small student", "chain_of_thought"),
      claim(
        "Socratic beats chains of thought with as many updates", "chain_of_thought_twice_the_steps"
      ),
      claim("Socratic beats the answer alone", "answer_only"),
    ),
  )
