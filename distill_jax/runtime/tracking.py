"""Sends metrics to experiment trackers, if config.track names any.

metrics.jsonl and summary.json stay the record of a run; a tracker only shows them. A resumed run
continues the same tracker run: tracking.json has its id and the last step that was sent of each
training. A tracker that fails is reported once and left out for the rest of the process.
"""

import dataclasses
import importlib.util
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from distill_jax import console, errors, records, together
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir

STATE = "tracking.json"  # in the run directory
EVENTS = "tensorboard"  # directory of TensorBoard's event files in the run directory
PROJECT = "distill_jax"
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
  """Receives numbers."""

  def log(self, values: Mapping[str, float], step: int) -> None:
    """Sends numbers by name, as of a step."""
    ...

  def close(self) -> None:
    """Sends the remaining values and closes the tracker."""
    ...


class TensorBoard:
  """Event files in the run directory."""

  def __init__(self, run_dir: RunDir, run_id: str):
    import tensorboardX  # pyright: ignore[reportMissingImports]

    del run_id
    # Unique: a file that another process has begun in the same second would be overwritten.
    suffix = f".{uuid.uuid4().hex[:8]}"
    self._writer = tensorboardX.SummaryWriter(str(run_dir.path / EVENTS), filename_suffix=suffix)

  def log(self, values: Mapping[str, float], step: int) -> None:
    """See Tracker."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)
    self._writer.flush()

  def close(self) -> None:
    """See Tracker."""
    self._writer.close()


class WandB:
  """A run of Weights & Biases."""

  def __init__(self, run_dir: RunDir, run_id: str):
    import wandb  # pyright: ignore[reportMissingImports]

    self._run = wandb.init(
      project=PROJECT, name=run_dir.path.name, id=run_id, resume="allow", dir=str(run_dir.path)
    )

  def log(self, values: Mapping[str, float], step: int) -> None:
    """See Tracker. The step is a value of its own: it starts again in every training."""
    self._run.log({**values, "step": step})

  def close(self) -> None:
    """See Tracker."""
    self._run.finish()


class Trackio:
  """A run of trackio, in its local database."""

  def __init__(self, run_dir: RunDir, run_id: str):
    import trackio  # pyright: ignore[reportMissingImports]

    name = f"{run_dir.path.name}-{run_id[:8]}"
    self._trackio = trackio
    trackio.init(project=PROJECT, name=name, resume="allow", embed=False)

  def log(self, values: Mapping[str, float], step: int) -> None:
    """See Tracker."""
    self._trackio.log({**values, "step": step})

  def close(self) -> None:
    """See Tracker."""
    self._trackio.finish()


BACKENDS: dict[str, Callable[[RunDir, str], Tracker]] = {
  "tensorboard": TensorBoard,
  "wandb": WandB,
  "trackio": Trackio,
}


@together.on_first
def check(names: tuple[str, ...]) -> None:
  """Raises UserError if the package of a tracker is not installed."""
  for name in names:
    if importlib.util.find_spec(PACKAGES[name]) is None:
      raise errors.config(
        "track", names, f"trackers that are installed: pip install {PACKAGES[name]}"
      )


class Tracking:
  """The trackers of a run. No method raises, and without trackers no method does anything."""

  def __init__(self, names: tuple[str, ...], run_dir: RunDir, screen: console.Console):
    """`names`: config.track."""
    self._run_dir, self._console = run_dir, screen
    self._trackers: dict[str, Tracker] = {}
    self._id, self._sent = uuid.uuid4().hex, {}
    if not names or not together.is_first():
      return
    self._read()
    for name in names:
      self._guarded(name, lambda name=name: self._open(name))

  def _open(self, name: str) -> None:
    self._trackers[name] = BACKENDS[name](self._run_dir, self._id)

  def metrics(self, phase: str, row: records.Metrics) -> None:
    """Sends a row of metrics.jsonl, unless it has been sent.

    Args:
      phase: Directories of round and phase, such as round_01/2_train.
      row: The row.
    """
    values = dataclasses.asdict(row)
    prefix = f"{phase}/{values.pop('student')}"
    self._send(prefix, values, values.pop("step"))

  def round(self, row: Mapping[str, Any]) -> None:
    """Sends the row of a round: accuracies, what was kept, and what it cost."""
    teacher, exam = row["teacher"], row["exam"] or {}
    values = {f"teacher_{name}": value for name, value in teacher.items()}
    values |= {name: row[name] for name in ("kept", "contrasts", "pairs", "steps", "loss")}
    values |= {f"exam_{name}": exam.get(name) for name in ("accuracy", "mistakes")}
    if validation := row["validation"]:
      values |= {f"validation_{name}": validation[name] for name in ("accuracy", "low", "high")}
    self._send("rounds", values, row["round"])

  def close(self) -> None:
    """Closes the trackers."""
    for name, tracker in list(self._trackers.items()):
      self._guarded(name, tracker.close)
    self._trackers = {}

  def _send(self, prefix: str, values: Mapping[str, Any], step: int) -> None:
    if not self._trackers or step <= self._sent.get(prefix, -1):
      return
    numbers = {
      f"{prefix}/{name}": float(value)
      for name, value in values.items()
      if value is not None and math.isfinite(value)
    }
    for name, tracker in list(self._trackers.items()):
      self._guarded(name, lambda tracker=tracker: tracker.log(numbers, step))
    self._sent[prefix] = step
    self._guarded(STATE, self._write)

  def _guarded(self, name: str, call: Callable[[], None]) -> None:
    """Calls a tracker; if that fails, it is left out from now on, with one warning."""
    try:
      call()
    except Exception as error:  # a library's, a server's or a disk's
      first = (str(error) or type(error).__name__).splitlines()[0]
      self._console.warn(f"track: {name} is left out from now on ({first})")
      self._trackers.pop(name, None)

  def _read(self) -> None:
    """Reads tracking.json; a missing or damaged one starts a new tracker run."""
    file = self._run_dir.path / STATE
    try:
      state = phase_dir.read_json(file) if file.exists() else {}
      self._id = str(state.get("id") or self._id)
      self._sent = {str(prefix): int(step) for prefix, step in state.get("sent", {}).items()}
    except (errors.UserError, AttributeError, TypeError, ValueError):
      self._console.warn(f"track: {file} is damaged; a new tracker run begins")

  def _write(self) -> None:
    """Writes tracking.json. Only process 0 has trackers, so the others must not wait for it."""
    phase_dir.write_json(self._run_dir.path / STATE, {"id": self._id, "sent": self._sent})
