"""The training loop that the phases `train` and `prefer` share."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

from distill_jax import errors, records, students, together
from distill_jax.console import Console, ProgressBar
from distill_jax.data.batches import Corpus
from distill_jax.learning import objectives, optim, step
from distill_jax.machine import checkpoint
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime import memory, stop_request
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.results import METRICS
from distill_jax.runtime.student import Params
from distill_jax.runtime.weights import digest
from distill_jax.settings import Train
from distill_jax.students import sharding, trainable
from distill_jax.students.token_rows import Rows

LOGITS_BYTES = 128 * 2**20  # of the float32 logits of one chunk
CHECKPOINTS = "checkpoints"  # of the optimizer; removed when the phase is finished


class ObjectiveConfig(Protocol):
  """A hashable description of an objective: equal ones share a compiled train step."""

  @property
  def detach(self) -> bool:
    """Whether branches of a row see its prompt without gradient; see students/decoder.py."""
    ...

  def build(self, hidden: Callable, logprobs: Callable) -> objectives.Objective:
    """Builds the objective; for `hidden` and `logprobs` see learning/objectives.py."""
    ...


class TrainStep(NamedTuple):
  """A train step with its optimizer, shardings and compiled programs."""

  optimizer: optax.GradientTransformation
  shardings: step.TrainState  # NamedShardings of the train state
  update: Callable  # (state, batch, frozen) -> (state, metrics)
  compiled: dict[tuple, Callable]  # `update` compiled, by the shapes of the batches


class Fitted(NamedTuple):
  """A trained student."""

  steps: int  # optimizer steps taken
  log: list[records.Metrics]  # its rows of metrics.jsonl
  weights: str  # digest of its weights


def fit(
  ctx: RunContext,
  round_index: int,
  out: PhaseDir,
  corpus: Corpus,
  *,
  name: str,
  train: Train,
  objective: ObjectiveConfig,
) -> Fitted:
  """Trains one student on `corpus`, resuming from its latest checkpoint.

  Returns immediately if this student has already been trained in this phase. Metrics are written
  during training. Checkpoints are saved at the steps and after the minutes of the settings, and
  when the process is asked to stop. They are saved only at rows of metrics.jsonl, so a resumed
  training writes the same rows as an uninterrupted one.

  Args:
    ctx: The run context.
    round_index: The round.
    out: The phase's directory: gets metrics.jsonl and the weights, under the student's name.
    corpus: The batches of every step.
    name: Which of the format's students to train.
    train: Optimizer and schedule settings, with the phase's overrides applied.
    objective: The loss.

  Raises:
    UserError: The loss or the gradient norm became non-finite. No checkpoint is written.
    KeyboardInterrupt: The process was asked to stop; a checkpoint or, after the last step, the
      weights have been saved.
  """
  student, mesh = ctx.student, ctx.student.mesh
  saved = out.rows(METRICS, records.Metrics)
  others = [m for m in saved if m.student != name]
  log = [m for m in saved if m.student == name]
  weights = checkpoint.Checkpoints(out.path / name, keep=1, warn=ctx.console.warn)
  if (
    log and weights.latest() == log[-1].step and (done := weights.restore(student.abstract_params))
  ):
    return Fitted(log[-1].step, log, digest(done[0]))
  steps = train.steps or sum(len(corpus.batch_order.epoch(e)) for e in range(train.epochs))
  attention = ctx.settings.student.attention
  train_step = build_train_step(train, objective, attention, student.trainable, mesh, steps)
  store = checkpoint.Checkpoints(out.path / CHECKPOINTS / name, keep=2, warn=ctx.console.warn)
  phase = out.path.name.partition("_")[2]
  label = f"round {round_index} {phase}"
  if len(ctx.format.students) > 1:
    label += f" {name}"
  initial_params = functools.partial(ctx.initial_params, round_index, name, phase)
  state, log = restore_or_init(ctx, label, log, store, train_step, initial_params)
  out.write(METRICS, others + log)
  with ctx.console.progress(label, steps, "steps") as bar:
    state, stopped = run_steps(
      ctx, out, corpus, name=name, train=train, train_step=train_step, state=state, steps=steps,
      log=log, store=store, bar=bar,
    )  # fmt: skip
  weights.save(steps, state.params)
  if stopped:
    raise KeyboardInterrupt
  return Fitted(steps, log, digest(state.params))


def run_steps(
  ctx: RunContext,
  out: PhaseDir,
  corpus: Corpus,
  *,
  name: str,
  train: Train,
  train_step: TrainStep,
  state: step.TrainState,
  steps: int,
  log: list[records.Metrics],
  store: checkpoint.Checkpoints,
  bar: ProgressBar,
) -> tuple[step.TrainState, bool]:
  """Takes the remaining steps; see `fit`. Adds rows to `log`.

  Returns:
    The last state, and whether the process was asked to stop in the last steps.
  """
  student = ctx.student
  window: list[dict[str, Any]] = []
  saved_at, stopped = time.monotonic(), False
  with stop_request.watch() as stop, jax.set_mesh(student.mesh):
    bar.update(int(state.step))
    check_memory(ctx, corpus, train, train_step, state)
    for n in range(int(state.step), steps):
      arrays = corpus.batch(n)
      batch = put_batch(arrays, student.mesh)
      update = compile_step(ctx.console, train_step, arrays, (state, batch, student.frozen))
      state, metrics = update(state, batch, student.frozen)
      if window:  # at most one step is computed while the next is prepared
        jax.block_until_ready(window[-1])
        bar.update(n, **facts_of(log))
      window.append(metrics)
      last = n + 1 == steps
      save = train.checkpoint_every > 0 and (n + 1) % train.checkpoint_every == 0
      if not ((n + 1) % train.log_every == 0 or save or last):
        continue
      log.append(mean_metrics(n + 1, name, jax.device_get(window)))
      window = []
      raise_if_diverged(log[-1], out)
      out.append(METRICS, log[-1:])
      ctx.tracking.metrics(f"{out.path.parent.name}/{out.path.name}", log[-1])
      bar.update(n + 1, **facts_of(log))
      minutes = (time.monotonic() - saved_at) / 60
      due = 0 < train.checkpoint_minutes <= minutes
      due, stopped = together.told("log row", (due, stop.made))
      if not last and (save or due or stopped):
        store.save(n + 1, state)
        saved_at = time.monotonic()
      if not last and stopped:
        raise KeyboardInterrupt
  return state, stopped


def check_memory(
  ctx: RunContext, corpus: Corpus, train: Train, train_step: TrainStep, state: step.TrainState
) -> None:
  """Compiles the step for the largest batch and checks that it fits into memory.

  Larger batches may recompute more, and then need less memory than smaller ones. Therefore, the
  largest batch of each kind of recomputation is checked.

  Raises:
    UserError: A step does not fit.
  """
  student = ctx.student
  step_of_shape = {corpus.shape(n): n for n in range(len(corpus.batch_order.epoch(0)))}
  largest = {}
  for shape in sorted(step_of_shape, key=lambda shape: (math.prod(shape), shape)):
    arrays = corpus.batch(step_of_shape[shape])
    tokens = math.prod(shape) * (2 if "source" in arrays else 1) // train.grad_accum_steps
    largest[recomputation(train, student.trainable, student.mesh, tokens)] = arrays
  lines: dict[int, str] = {}
  for arrays in largest.values():
    operands = (state, put_batch(arrays, student.mesh), student.frozen)
    compiled = compile_step(ctx.console, train_step, arrays, operands)
    lines[memory.of_step(compiled)] = memory.check_step(compiled, memory.size(operands))
  if max(lines) > memory.GB:
    ctx.console.line(lines[max(lines)])


def recomputation(
  train: Train, parameters: trainable.Trainable, mesh: jax.sharding.Mesh, tokens: int
) -> str:
  """Returns what the backward pass of a micro-batch of `tokens` tokens recomputes."""
  return memory.recomputation(train.remat, parameters, math.ceil(tokens / mesh.size))


def compile_step(
  console: Console, train_step: TrainStep, arrays: dict[str, np.ndarray], operands: tuple
) -> Callable:
  """Returns the step for a batch of these shapes; announces and times its compilation."""
  shapes = tuple((name, array.shape) for name, array in arrays.items())
  if shapes not in train_step.compiled:
    rows, length = arrays["tokens"].shape
    with console.compiling(f"the train step for {rows} rows of {length}"):
      train_step.compiled[shapes] = train_step.update.lower(*operands).compile()
  return train_step.compiled[shapes]


def facts_of(log: Sequence[records.Metrics]) -> dict[str, float]:
  """Returns what the progress bar shows beside the steps."""
  return {"loss": log[-1].loss} if log else {}


def raise_if_diverged(last: records.Metrics, out: PhaseDir) -> None:
  """Raises UserError if the loss or the gradient norm is not finite."""
  if not math.isfinite(last.loss + last.grad_norm):
    rate = "prefer.lr" if out.path.name.endswith("prefer") else "train.lr"
    raise errors.data(
      f"{out.path}: training diverged at step {last.step} (loss {last.loss}, gradient norm "
      f"{last.grad_norm}): lower --config.{rate} and use a new --workdir"
    )


@functools.lru_cache(maxsize=4)
def build_train_step(
  train: Train,
  objective: ObjectiveConfig,
  attention: str,
  parameters: trainable.Trainable,
  mesh: jax.sharding.Mesh,
  steps: int,
) -> TrainStep:
  """Builds the train step, which its first call compiles; rounds of equal length share it."""
  rate = optim.schedule(
    train.schedule, peak=train.lr, warmup=min(train.warmup, steps // 2), steps=steps
  )
  optimizer = optim.adamw(
    rate,
    beta1=train.beta1,
    beta2=train.beta2,
    eps=train.eps,
    weight_decay=train.weight_decay,
    grad_clip_norm=train.grad_clip_norm,
  )
  config: Any = parameters.config
  model = students.of(config)

  def hidden(params: Params, rows: Rows) -> jax.Array:
    read = rows.tokens.size + (0 if rows.source is None else rows.source.size)
    return model.hidden(
      config,
      params,
      rows,
      detach=objective.detach,
      remat=recomputation(train, parameters, mesh, read),
      path=attention,
      packed=train.packing,
    )

  def logprobs(params: Params, hidden_BTD: jax.Array, labels_BT: jax.Array) -> jax.Array:
    rows = math.ceil(len(labels_BT) / mesh.size)  # logits are split over all devices
    chunk = logits_chunk(train.logits_chunk, config.vocab, rows)
    return students.token_logprobs(config, params, hidden_BTD, labels_BT, chunk=chunk)

  loss = objective.build(hidden, logprobs)
  shardings = step.state_shardings(mesh, parameters.axes, parameters.shapes, optimizer)
  frozen = parameters.frozen_shardings(mesh)
  update = step.make_train_step(
    loss, optimizer, grad_accum_steps=train.grad_accum_steps, merge=parameters.merge
  )
  train_step = step.jit_train_step(update, mesh, shardings, frozen)
  return TrainStep(optimizer, shardings, train_step, {})


def logits_chunk(most: int, vocab: int, rows: int) -> int:
  """Returns how many positions of each row the head processes at a time.

  Their logits take at most LOGITS_BYTES. With the vocabulary of a pretrained student, they could
  otherwise take more memory than its weights.

  Args:
    most: The maximum number of positions.
    vocab: The size of the vocabulary.
    rows: Rows that are processed at once.
  """
  fitting = LOGITS_BYTES // (4 * vocab * rows)
  return max(min(most, 1 << max(fitting.bit_length() - 1, 0)), 1)


def restore_or_init(
  ctx: RunContext,
  label: str,
  log: list[records.Metrics],
  store: checkpoint.Checkpoints,
  train_step: TrainStep,
  initial_params: Callable[[], Params],
) -> tuple[step.TrainState, list[records.Metrics]]:
  """Returns (state, metrics rows so far) of the newest undamaged checkpoint.

  Without a checkpoint, the state starts from `initial_params()` and there are no rows.
  """
  shapes = jax.eval_shape(
    lambda p: step.init_state(p, train_step.optimizer), ctx.student.trainable.shapes
  )
  shardings = train_step.shardings
  abstract = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    shapes,
    step.TrainState(shardings.step, shardings.params, shardings.opt_state),
  )
  if restored := store.restore(abstract):
    state, at = restored
    ctx.console.line(f"{label}: resuming after step {at}")
    return state, [m for m in log if m.step <= at]
  start = jax.jit(lambda p: step.init_state(p, train_step.optimizer), out_shardings=shardings)
  return start(initial_params()), []


def put_batch(arrays: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> objectives.Batch:
  """Puts a batch on the devices, rows split over the data and fsdp axes."""
  return sharding.put(objectives.as_batch(arrays), sharding.batch(mesh))


def mean_metrics(step_index: int, name: str, window: Sequence[dict[str, Any]]) -> records.Metrics:
  """Returns the means over the steps since the last row."""
  means = {
    term: float(np.mean([metrics[term] for metrics in window], dtype=np.float64))
    for term in window[0]
  }
  return records.Metrics(step=step_index, student=name, **means)
