"""Batches to steps to a checkpoint: the training that train and prefer have in common."""

import functools
import math

import jax
import numpy as np

from distill_jax import errors, records, students
from distill_jax.learning import objectives, optim, step
from distill_jax.machine import checkpoint
from distill_jax.students import sharding

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"  # the optimizer's; they end with the phase


def optimise(run, number, here, corpus, *, name: str, rates, aim):
  """(steps made, rows of metrics) of the training of student `name` on a corpus. Goes on from the
  newest checkpoint of a killed run; what is finished is not done again.

  rates: settings.Train, with what the phase has of its own put in. aim: what makes the objective;
  it can be hashed, and has `detach` (see students/decoder.py) and objective(hidden, logprobs).
  """
  student, mesh = run.student, run.student.mesh
  log = [m for m in here.rows(METRICS, records.Metrics)] if (here.path / METRICS).exists() else []
  others, log = [m for m in log if m.student != name], [m for m in log if m.student == name]
  weights = checkpoint.Checkpoints(here.path / name, keep=1, warn=run.console.warn)
  if log and weights.latest() == log[-1].step:
    return log[-1].step, log
  steps = rates.steps or sum(len(corpus.batch_order.epoch(e)) for e in range(rates.epochs))
  attention = run.settings.student.attention
  optimizer, places, train_step = machinery(rates, aim, attention, student.learner, mesh, steps)
  store = checkpoint.Checkpoints(here.path / CHECKPOINTS / name, keep=2, warn=run.console.warn)
  label = f"round {number} {here.path.name.partition('_')[2]}"
  label += f" {name}" if len(run.format.students) > 1 else ""
  start = functools.partial(run.start_params, number, name, here.path.name.partition("_")[2])
  state, log = resume(run, start, label, log, store, optimizer, places)
  window = []
  with run.console.progress(label, steps, "steps") as bar, jax.set_mesh(mesh):
    bar.update(int(state.step))
    for n in range(int(state.step), steps):
      state, metrics = train_step(state, arrays(corpus.batch(n), mesh), student.frozen)
      window.append(metrics)
      last, save = n + 1 == steps, (n + 1) % rates.checkpoint_every == 0
      if (n + 1) % rates.log_every == 0 or save or last:
        log.append(row(n + 1, name, jax.device_get(window)))
        window = []
        refuse_divergence(log[-1], here)
        bar.update(n + 1, loss=log[-1].loss)
      if save and not last:
        here.write(METRICS, others + log)
        store.save(n + 1, state)
  here.write(METRICS, others + log)
  weights.save(steps, state.params)
  return steps, log


def refuse_divergence(last: records.Metrics, here) -> None:
  """Raises UserError if the loss or its gradient is no number any more; nothing of it is saved."""
  if not math.isfinite(last.loss + last.grad_norm):
    rate = "prefer.lr" if here.path.name.endswith("prefer") else "train.lr"
    raise errors.data(
      f"{here.path}: the training has diverged: loss {last.loss}, gradient norm {last.grad_norm} "
      f"at step {last.step}; lower --config.{rate}, in a new --workdir"
    )


@functools.lru_cache(maxsize=4)
def machinery(s, aim, attention: str, learner, mesh, steps: int):
  """(optimizer, places of the state, the recipe's compiled step); rounds of equal length share
  them."""
  rate = optim.schedule(s.schedule, peak=s.lr, warmup=min(s.warmup, steps // 2), steps=steps)
  optimizer = optim.adamw(
    rate,
    beta1=s.beta1,
    beta2=s.beta2,
    eps=s.eps,
    weight_decay=s.weight_decay,
    clip=s.grad_clip_norm,
  )
  model, config = students.of(learner.config), learner.config
  objective = aim.objective(
    functools.partial(model.hidden, config, detach=aim.detach, remat=s.remat, path=attention),
    functools.partial(students.token_logprobs, config, chunk=s.logits_chunk),
  )
  places = step.places(mesh, learner.axes, learner.shapes, optimizer)
  frozen = ()
  if learner.rank:
    frozen = sharding.of_params(mesh, model.axes(config), model.shapes(config))
  update = step.make_train_step(objective, optimizer, micro=s.grad_accum_steps, whole=learner.whole)
  return optimizer, places, step.compiled(update, mesh, places, frozen)


def resume(run, start_params, label, log, store, optimizer, places):
  """(state, rows of metrics so far): the newest whole checkpoint, else the weights this phase
  starts from, which start_params() gives."""
  shapes = jax.eval_shape(lambda p: step.start(p, optimizer), run.student.learner.shapes)
  like = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    step.TrainState(places.step, places.params, places.opt_state),
  )
  if found := store.restore(like):
    state, at = found
    run.console.line(f"{label}: going on after step {at}")
    return state, [m for m in log if m.step <= at]
  start = jax.jit(lambda p: step.start(p, optimizer), out_shardings=places)
  return start(start_params()), []


def arrays(batch: dict, mesh) -> objectives.Batch:
  """The batch on its devices, rows split over data and fsdp."""
  return jax.device_put(objectives.batch_of(batch), sharding.batch(mesh))


def row(number: int, name: str, window) -> records.Metrics:
  """Means over the steps since the last row."""
  mean = lambda term: float(np.mean([m[term] for m in window], dtype=np.float64))
  return records.Metrics(step=number, student=name, **{term: mean(term) for term in window[0]})
