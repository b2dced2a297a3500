"""The phases of a plan: one module each.

`phases/NAME.py` has `run(ctx, round_index, out)`. It reads what came before through `ctx`, writes
records into its directory `out`, and ends with `out.finish(facts)`. What others need to know about
a phase before it is loaded is in `distill_jax.plan`. Loading a phase imports jax.
"""

import importlib


def asked(name: str, run, number: int):
  """Two lists of rationales.Wanted: what a phase that asks the teacher would ask, and what it may
  ask at the most beside that, depending on what is not known yet."""
  return importlib.import_module(f"{__name__}.{name}").asked(run, number)


def run_phase(name: str, run, number: int, here) -> None:
  """Runs the phase in NAME.py: one of `plan.PHASES`, or evaluate, which ends every round."""
  importlib.import_module(f"{__name__}.{name}").run(run, number, here)
