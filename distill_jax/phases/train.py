"""Examples to batches to steps to a checkpoint: one round's training of the student."""

import functools
import math
import shutil

import jax
import numpy as np

from distill_jax import errors, records, students
from distill_jax.data import batches, encode, kinds
from distill_jax.learning import objectives, optim, sharding, step
from distill_jax.machine import checkpoint

METRICS, EXAMPLES, CONTRASTS = "metrics.jsonl", "examples.jsonl", "contrasts.jsonl"


def run(run, number, here):
  """Trains from the weights of the round before (or the base) on what the teacher wrote and the
  student got wrong.

  Writes examples, contrasts, metrics.jsonl and the student's weights. Facts: steps, loss, examples,
  contrasts, too_long, lost_contrasts (rows without room for theirs). A round without anything to
  train on leaves the student as it is (steps 0); in the opening that is refused.
  """
  examples, contrasts = material(run, number)
  here.write(EXAMPLES, examples)
  here.write(CONTRASTS, contrasts)
  corpus = corpus_of(run, number, examples, contrasts)
  facts = {"examples": len(examples), "contrasts": len(contrasts), "too_long": corpus.too_long}
  if not corpus.examples:
    if number == 0:
      raise errors.data(
        f"{here.path}: no rationale to train on was kept ({len(examples)} written, "
        f"{corpus.too_long} too "
        "long for train.buckets); see why under `dropped` in the teacher phase's manifest.json"
      )
    return here.finish({**facts, "steps": 0, "loss": None})
  if run.settings.train.losses.triplet and not contrasts:
    run.console.line(
      f"round {number} train: no question has two right texts and a mistake, so that "
      "the triplet loss is 0"
    )
  steps, loss = optimise(run, number, here, corpus)
  facts["lost_contrasts"] = corpus.lost_contrasts
  here.finish({**facts, "steps": steps, "loss": loss})
  # The optimizer's state ends with the round.
  shutil.rmtree(here.path / "checkpoints", ignore_errors=True)


def material(run, number):
  """(examples, contrasts) of a round: from its own records, or (carry="append") from all so far."""
  examples, positives = [], {}
  problems = {p.id: p for p in run.task.problems("train")}
  for rationale in run.rationales(number):
    prompt = run.prompt(problems[rationale.problem])
    examples.append(records.Example(rationale.problem, prompt, rationale.text))
    positives.setdefault(rationale.problem, {})[rationale.text] = None
  negatives = {}
  for attempt in run.attempts(number):
    if not attempt.correct and attempt.text:
      negatives.setdefault(attempt.problem, {})[attempt.text] = None
  limit = run.settings.contrast
  contrasts = [
    records.Contrast(p, tuple(texts)[: limit.positives], tuple(negatives[p])[: limit.negatives])
    for p, texts in positives.items()
    if len(texts) > 1 and p in negatives
  ]
  return examples, [c for c in contrasts if c.positives and c.negatives]


def corpus_of(run, number, examples, contrasts) -> batches.Corpus:
  s, student = run.settings, run.student
  read = functools.cache(lambda text: tuple(student.read(text)))
  ended = functools.cache(lambda text: (*student.tokenizer.encode(text), student.tokenizer.end))
  sides = {
    c.problem: (tuple(map(ended, c.positives)), tuple(map(ended, c.negatives))) for c in contrasts
  }
  encoded = [
    encode.Encoded(x.problem, read(x.prompt), ended(x.target), *sides.get(x.problem, ((), ())))
    for x in examples
  ]
  contrast = s.train.losses.triplet > 0
  return batches.Corpus(
    encoded,
    kinds.Tailored(s.sft, s.triplet, contrast=contrast, start=student.start),
    batch=s.train.batch,
    buckets=s.train.buckets,
    seed=s.seed * 1000 + number,
    pad=student.tokenizer.pad,
    packed=s.train.pack,
  )


def optimise(run, number, here, corpus):
  """(steps made, mean loss of the last logged stretch). Goes on from the newest checkpoint of a
  killed run."""
  s, student, mesh = run.settings.train, run.student, run.student.mesh
  steps = s.steps or sum(len(corpus.order.epoch(e)) for e in range(s.epochs))
  optimizer, places, train_step = machinery(
    s, run.settings.triplet, run.settings.student.attention, student.learner, mesh, steps
  )
  store = checkpoint.Checkpoints(here.path / "checkpoints", keep=2, warn=run.console.warn)
  state, log = resume(run, number, here, store, optimizer, places)
  window = []
  with run.console.progress(f"round {number} train", steps, "steps") as bar, jax.set_mesh(mesh):
    bar.update(int(state.step))
    for n in range(int(state.step), steps):
      state, metrics = train_step(state, arrays(corpus.batch(n), mesh), student.frozen)
      window.append(metrics)
      last, save = n + 1 == steps, (n + 1) % s.checkpoint_every == 0
      if (n + 1) % s.log_every == 0 or save or last:
        log.append(row(n + 1, jax.device_get(window)))
        window = []
        refuse_divergence(log[-1], here)
        bar.update(n + 1, loss=log[-1].loss)
      if save and not last:
        here.write(METRICS, log)
        store.save(n + 1, state)
  here.write(METRICS, log)
  checkpoint.Checkpoints(here.path / "student", keep=1, warn=run.console.warn).save(
    steps, state.params
  )
  return steps, log[-1].loss


def refuse_divergence(last: records.Metrics, here) -> None:
  """Raises Refusal if the loss or its gradient is no number any more; nothing of it is saved."""
  if not math.isfinite(last.loss + last.grad_norm):
    raise errors.data(
      f"{here.path}: the training has diverged: loss {last.loss}, gradient norm {last.grad_norm} "
      f"at step {last.step}; lower --config.train.lr, in a new --workdir"
    )


@functools.lru_cache(maxsize=4)
def machinery(s, triplet, attention: str, learner, mesh, steps: int):
  """(optimizer, places of the state, the recipe's compiled step); rounds of equal length share
  them."""
  rate = optim.schedule(s.schedule, peak=s.lr, warmup=min(s.warmup, steps // 2), steps=steps)
  optimizer = optim.adamw(
    rate, beta1=s.beta1, beta2=s.beta2, eps=s.eps, weight_decay=s.weight_decay, clip=s.clip
  )
  model, config = students.of(learner.config), learner.config
  detach = triplet.detach_prompt and s.losses.triplet > 0
  objective = objectives.tailored(
    functools.partial(model.hidden, config, detach=detach, remat=s.remat, path=attention),
    functools.partial(students.token_logprobs, config, chunk=s.chunk),
    share={"sft": s.losses.sft, "triplet": s.losses.triplet},
    margin=triplet.margin,
  )
  places = step.places(mesh, learner.axes, learner.shapes, optimizer)
  frozen = ()
  if learner.rank:
    frozen = sharding.of_params(mesh, model.axes(config), model.shapes(config))
  update = step.make_train_step(objective, optimizer, micro=s.micro, whole=learner.whole)
  return optimizer, places, step.compiled(update, mesh, places, frozen)


def resume(run, number, here, store, optimizer, places):
  """(state, rows of metrics so far): the newest whole checkpoint, else the weights this round
  starts from."""
  shapes = jax.eval_shape(lambda p: step.start(p, optimizer), run.student.learner.shapes)
  like = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    step.TrainState(places.step, places.params, places.opt_state),
  )
  if found := store.restore(like):
    state, at = found
    log = [m for m in here.rows(METRICS, records.Metrics) if m.step <= at]
    run.console.line(f"round {number} train: going on after step {at}")
    return state, log
  start = jax.jit(lambda p: step.start(p, optimizer), out_shardings=places)
  return start(run.start_params(number)), []


def arrays(batch: dict, mesh) -> objectives.Batch:
  """The batch on its devices, rows split over data and fsdp."""
  return jax.device_put(objectives.batch_of(batch), sharding.batch(mesh))


def row(number: int, window) -> records.Metrics:
  """Means over the steps since the last row."""
  mean = lambda name: (
    float(np.mean([m[name] for m in window], dtype=np.float64)) if name in window[0] else None
  )
  return records.Metrics(
    step=number,
    loss=mean("loss"),
    sft=mean("sft"),
    triplet=mean("triplet"),
    grad_norm=mean("grad_norm"),
  )
