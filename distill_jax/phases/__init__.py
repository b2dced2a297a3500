"""The phases of a plan: one module each.

`phases/NAME.py` has `run(ctx, round_index, out)`. It reads what came before through `ctx`, writes
records into its directory `out`, and ends with `out.finish(facts)`. What other modules need to know
about a phase before it is loaded is in `distill_jax.plan`. Loading a phase imports jax.
"""

import importlib

from distill_jax import plan, together
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.rationales import TeacherRequest


def planned_requests(
  name: str, ctx: RunContext, round_index: int
) -> tuple[list[TeacherRequest], list[TeacherRequest]]:
  """Returns the requests that a phase would send to the teacher.

  Returns:
    (requests that it will send, requests that it may send, depending on results still unknown).
  """
  return importlib.import_module(f"{__name__}.{name}").planned_requests(ctx, round_index)


def run_phase(name: str, ctx: RunContext, round_index: int, out: PhaseDir) -> None:
  """Runs the phase in NAME.py: one of `plan.PHASES`, or `evaluate`, which ends every round.

  A phase that asks a teacher computes nothing on the devices itself; process 0 runs it.
  """
  phase = importlib.import_module(f"{__name__}.{name}")
  if name in plan.ASKERS:
    together.once(f"phase {name}", lambda: phase.run(ctx, round_index, out))
  else:
    phase.run(ctx, round_index, out)
