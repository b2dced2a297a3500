"""Compares a DPO step in this package and in TRL's DPOTrainer, on the CPU.

  pip install torch==2.13.0 trl==1.16.0     (in addition to the packages of this project)
  python -m benchmarks.beside_trl           precomputed reference log-probabilities on both sides
  python -m benchmarks.beside_trl --live    TRL runs the reference model in each step, its default

GPT-2 with 4 layers, width 256, vocabulary 8192, random weights, float32, AdamW, gradients clipped
at norm 1. A step has 4 pairs with prompts of 128 tokens and responses of 128 (the end token
included), so 256 tokens per side and 2048 per step; tokens per second counts these for both. TRL
computes the prompt once per side. Here both sides share one prompt, so 1536 tokens are computed.
TRL is called as in its training loop: collated batch, training_step, clipping, optimizer,
schedule. Its gradient checkpointing, a default that trades time for memory, is off, and so is
logging.

Prints a line of JSON with median times and `speedup`, measured as in beside_transformers.py. The
first loss of both sides must be log 2.
"""

import argparse
import functools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import beside_transformers, measure
from distill_jax import students
from distill_jax.data import batches, encode
from distill_jax.learning import objectives, optim, step
from distill_jax.students import sharding

PAIRS, PROMPT, SIDE = 4, 128, 128
BETA, RATE, END = 0.1, 1e-6, 1
FIELDS = beside_transformers.GPT2 | {"eos_token_id": END}


def pairs() -> list[list[np.ndarray]]:
  """Returns [(prompt, chosen, rejected)] in tokens; both responses end in the end token."""
  ids = beside_transformers.tokens(FIELDS, PAIRS, PROMPT + 2 * SIDE)
  ids[:, [PROMPT + SIDE - 1, -1]] = END
  return [np.split(row, [PROMPT, PROMPT + SIDE]) for row in ids]


def our_step() -> Callable[[], float]:
  """Returns a function that makes a step and returns its loss."""
  config, params = beside_transformers.our_model(FIELDS, "float32")
  model, pieces = students.of(config), [[x.tolist() for x in three] for three in pairs()]
  hidden = functools.partial(model.hidden, config)
  logprobs = functools.partial(students.token_logprobs, config, chunk=256)
  objective = objectives.preference(
    hidden, logprobs, loss="dpo", coefficients={"preference": 1.0}, beta=BETA, label_smoothing=0.0,
    gamma=0.0, length_normalized=False,
  )  # fmt: skip

  def batch(references):
    made = [
      encode.preference_row(*x, references=y) for x, y in zip(pieces, references, strict=True)
    ]
    length, targets = PROMPT + 2 * SIDE, 2 * SIDE
    return objectives.as_batch(
      batches.stack(made, batch=PAIRS, length=length, targets=targets, pad=0, triplets=0, pairs=1)
    )

  without_references = batch([(0.0, 0.0)] * PAIRS)

  @jax.jit
  def sides(params):
    states = jnp.take_along_axis(
      hidden(params, without_references.rows), without_references.where[..., None], axis=1
    )
    return objectives.sum_sides(
      logprobs(params, states, without_references.labels), without_references
    ).logp[:, 0]

  rate = optim.schedule("linear", peak=RATE, warmup=0, steps=1000)
  decay = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, grad_clip_norm=1.0)
  optimizer, mesh = optim.adamw(rate, **decay), sharding.make_mesh()
  shardings = step.state_shardings(mesh, model.axes(config), model.shapes(config), optimizer)
  update = step.jit_train_step(
    step.make_train_step(objective, optimizer, grad_accum_steps=1), mesh, shardings
  )
  ready = jax.device_put(batch(np.asarray(sides(params)).tolist()), sharding.batch(mesh))
  state = jax.device_put(step.init_state(params, optimizer), shardings)

  def work():
    nonlocal state
    with jax.set_mesh(mesh):
      state, metrics = update(state, ready, ())
    return float(metrics["loss"])

  return work


def their_step(out: str, live: bool) -> Callable[[], float]:
  """Returns a function that makes a step in TRL and returns its loss."""
  import datasets
  import tokenizers
  import transformers
  import trl

  words = {f"w{n}.": n for n in range(FIELDS["vocab_size"])}
  reader = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w2."))
  reader.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=reader, eos_token=f"w{END}.", pad_token="w0."
  )

  def text(ids):
    return "".join(f" w{n}." for n in ids)

  names = ("prompt", "chosen", "rejected")
  rows = [dict(zip(names, map(text, pair), strict=True)) for pair in pairs()]
  args = trl.DPOConfig(
    output_dir=out, per_device_train_batch_size=PAIRS, beta=BETA, learning_rate=RATE,
    max_length=None, max_steps=1000, precompute_ref_log_probs=not live, max_grad_norm=1.0,
    gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], disable_tqdm=True,
    logging_strategy="no", save_strategy="no",
  )  # fmt: skip

  def make_model():
    return beside_transformers.their_model(FIELDS, "float32")  # the same weights each time

  trainer = trl.DPOTrainer(
    make_model(), ref_model=make_model() if live else None, args=args, processing_class=tokenizer,
    train_dataset=datasets.Dataset.from_list(rows),
  )  # fmt: skip
  batch = next(iter(trainer.get_train_dataloader()))
  assert batch["input_ids"].shape == (2 * PAIRS, PROMPT + SIDE), batch["input_ids"].shape
  trainer.create_optimizer_and_scheduler(args.max_steps)
  trainer.current_gradient_accumulation_steps = 1  # as the training loop sets it
  model = trainer.accelerator.prepare(trainer.model)
  model.train()

  def work():
    loss = trainer.training_step(model, batch)
    trainer.accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    model.zero_grad()
    return float(loss)

  return work


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--live", action="store_true")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as out:
    steps = {"ours": our_step(), "theirs": their_step(out, args.live)}
    seconds = {name: [] for name in steps}
    for repeat in range(args.repeats + 1):  # the first one warms up
      for name, step_once in steps.items():
        time.sleep(1)  # the other's threads spin for a while after their work
        start = time.perf_counter()
        loss = step_once()
        if repeat:
          seconds[name].append(time.perf_counter() - start)
        elif not math.isclose(loss, math.log(2), rel_tol=1e-4):
          raise SystemExit(f"{name}: the first loss is {loss}, not log 2")
  medians = {name: statistics.median(values) for name, values in seconds.items()}
  count = 2 * PAIRS * (PROMPT + SIDE)
  line = {
    "benchmark": "dpo step",
    "reference": "run by TRL in each step" if args.live else "precomputed on both sides",
    "cpu": measure.cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
    "ours_ms": round(1000 * medians["ours"], 1),
    "theirs_ms": round(1000 * medians["theirs"], 1),
    "ours_tokens_per_second": round(count / medians["ours"]),
    "theirs_tokens_per_second": round(count / medians["theirs"]),
    "speedup": round(medians["theirs"] / medians["ours"], 2),
  }
  print(json.dumps(line))


if __name__ == "__main__":
  main()
