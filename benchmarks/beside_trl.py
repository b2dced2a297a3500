"""A DPO step here and in TRL's DPOTrainer, turn by turn in one process on this CPU.

  pip install torch==2.13.0 trl==1.16.0     (beside this project's own packages)
  python -m benchmarks.beside_trl           reference log-probabilities are data on both sides
  python -m benchmarks.beside_trl --live    as TRL comes: it runs the reference in each step

GPT-2 of 4 layers, width 256, vocabulary 8192, random weights, float32, AdamW, clipping at 1. A step
has 4 pairs: prompts of 128 tokens, sides of 128, the end token included, so 256 tokens a side and
2048 a step, which is what tokens a second counts for both. TRL computes the prompt once for each
side; here the sides hang on one prompt, and 1536 tokens are computed. TRL is called as its loop
does it: its collated batch, training_step, clipping, the optimizer, the schedule; its gradient
checkpointing, a default that saves memory and costs time, is off, and so is logging.

Prints a line of JSON: medians, and by how much the median of ours is faster. Turns as in
beside_transformers.py. The first losses of both are log 2, and are compared.
"""

import argparse
import functools
import json
import math
import os
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import beside_transformers
from distill_jax import students
from distill_jax.data import batches, encode
from distill_jax.learning import objectives, optim, step
from distill_jax.students import sharding

PAIRS, PROMPT, SIDE = 4, 128, 128
BETA, RATE, END = 0.1, 1e-6, 1
FIELDS = beside_transformers.GPT2 | {"eos_token_id": END}


def texts():
  """[(prompt, chosen, rejected)] in tokens; sides end in the end token."""
  ids = beside_transformers.tokens(FIELDS, PAIRS, PROMPT + 2 * SIDE)
  ids[:, [PROMPT + SIDE - 1, -1]] = END
  return [np.split(row, [PROMPT, PROMPT + SIDE]) for row in ids]


def here():
  """() -> the loss of a step."""
  config, params = beside_transformers.ours(FIELDS, "float32")
  model, pieces = students.of(config), [[x.tolist() for x in three] for three in texts()]
  hidden = functools.partial(model.hidden, config)
  logprobs = functools.partial(students.token_logprobs, config, chunk=256)
  objective = objectives.preference(
    hidden, logprobs, loss="dpo", share={"preference": 1.0}, beta=BETA, label_smoothing=0.0,
    gamma=0.0, length_normalized=False,
  )  # fmt: skip

  def batch(references):
    made = [
      encode.preference_row(*x, references=y) for x, y in zip(pieces, references, strict=True)
    ]
    length, targets = PROMPT + 2 * SIDE, 2 * SIDE
    return objectives.batch_of(
      batches.stack(made, batch=PAIRS, length=length, targets=targets, pad=0, triplets=0, pairs=1)
    )

  bare = batch([(0.0, 0.0)] * PAIRS)

  @jax.jit
  def sides(params):
    states = jnp.take_along_axis(hidden(params, bare.rows), bare.where[..., None], axis=1)
    return objectives.sides(logprobs(params, states, bare.labels), bare).logp[:, 0]

  rate = optim.schedule("linear", peak=RATE, warmup=0, steps=1000)
  decay = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, clip=1.0)
  optimizer, mesh = optim.adamw(rate, **decay), sharding.make_mesh()
  places = step.places(mesh, model.axes(config), model.shapes(config), optimizer)
  update = step.compiled(step.make_train_step(objective, optimizer, micro=1), mesh, places)
  ready = jax.device_put(batch(np.asarray(sides(params)).tolist()), sharding.batch(mesh))
  state = jax.device_put(step.start(params, optimizer), places)

  def work():
    nonlocal state
    with jax.set_mesh(mesh):
      state, metrics = update(state, ready, ())
    return float(metrics["loss"])

  return work


def there(folder: str, live: bool):
  """() -> the loss of a step."""
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
  said = lambda ids: "".join(f" w{n}." for n in ids)
  names = ("prompt", "chosen", "rejected")
  rows = [dict(zip(names, map(said, three), strict=True)) for three in texts()]
  args = trl.DPOConfig(
    output_dir=folder, per_device_train_batch_size=PAIRS, beta=BETA, learning_rate=RATE,
    max_length=None, max_steps=1000, precompute_ref_log_probs=not live, max_grad_norm=1.0,
    gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], disable_tqdm=True,
    logging_strategy="no", save_strategy="no",
  )  # fmt: skip
  model = lambda: beside_transformers.theirs(FIELDS, "float32")  # the same weights each time
  trainer = trl.DPOTrainer(
    model(), ref_model=model() if live else None, args=args, processing_class=tokenizer,
    train_dataset=datasets.Dataset.from_list(rows),
  )  # fmt: skip
  batch = next(iter(trainer.get_train_dataloader()))
  assert batch["input_ids"].shape == (2 * PAIRS, PROMPT + SIDE), batch["input_ids"].shape
  trainer.create_optimizer_and_scheduler(args.max_steps)
  trainer.current_gradient_accumulation_steps = 1  # as its loop sets it
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


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--live", action="store_true")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    works = {"ours": here(), "theirs": there(folder, args.live)}
    seconds = {name: [] for name in works}
    for turn in range(args.repeats + 1):  # the first one warms up
      for name, work in works.items():
        time.sleep(1)  # the other's threads spin for a while after their work
        begun = time.perf_counter()
        loss = work()
        if turn:
          seconds[name].append(time.perf_counter() - begun)
        elif not math.isclose(loss, math.log(2), rel_tol=1e-4):
          raise SystemExit(f"{name}: the first loss is {loss}, not log 2")
  medians = {name: statistics.median(values) for name, values in seconds.items()}
  count = 2 * PAIRS * (PROMPT + SIDE)
  line = {
    "benchmark": "dpo step",
    "reference": "run by TRL in each step" if args.live else "data on both sides",
    "cores": os.cpu_count(),
    "ours_ms": round(1000 * medians["ours"], 1),
    "theirs_ms": round(1000 * medians["theirs"], 1),
    "ours_tokens_per_second": round(count / medians["ours"]),
    "theirs_tokens_per_second": round(count / medians["theirs"]),
    "times_as_fast": round(medians["theirs"] / medians["ours"], 2),
  }
  print(json.dumps(line))


if __name__ == "__main__":
  main()
