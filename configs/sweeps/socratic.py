"""Sweep of Socratic CoT (Shridhar et al. 2023): sub-questions against its baselines.

  distill-jax ablate --config=sweeps/socratic --workdir=runs/claims_socratic
  distill-jax ablate --config=sweeps/socratic:full --workdir=runs/full_socratic

`claims` (5 seeds) compares Socratic with chains of thought and with the answer alone. `full`
(3 seeds) varies the number of students, the source of the sub-questions, what the decomposer sees,
and the size. Both are small: configs/socratic.py:quick with fewer and shorter questions and fewer
steps. Every student is trained for the same number of steps, so two students together have twice as
many.
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
  "prompting_only": {"opening": ()},
  "unified": {"socratic.mode": "unified", "evaluate.max_new_tokens": 160},
  "gold_questions": {"socratic.questions": "gold"},
  "gold_annotation": {"demonstrate.source": "gold"},
  "all_questions_at_once": {"socratic.solutions": False},
  "calculator": {"socratic.calculator": True},
  "smaller_student": {"student.scratch.width": 48, "student.scratch.head_width": 12},
  "larger_student": {"student.scratch.width": 144, "student.scratch.head_width": 36},
}

ROWS, SEEDS = {"claims": CLAIMS, "full": FULL}, {"claims": 5, "full": 3}


def _claim(text: str, worse: str) -> sweep.Claim:
  return sweep.Claim(text, "socratic", worse, paper="Shridhar et al. 2023")


def get_sweep(which: str = "claims") -> sweep.Sweep:
  """Returns the sweep `which`: claims or full."""
  return sweep.Sweep(
    config="socratic:quick",
    common=COMMON,
    rows=ROWS[which],
    base="socratic",
    seeds=tuple(range(SEEDS[which])),
    claims=(
      _claim("Socratic beats chains of thought for a small student", "chain_of_thought"),
      _claim(
        "Socratic beats chains of thought with as many updates", "chain_of_thought_twice_the_steps"
      ),
      _claim("Socratic beats the answer alone", "answer_only"),
    ),
  )
