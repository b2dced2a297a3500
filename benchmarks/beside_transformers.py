"""Compares the same work in this package and in transformers + torch, on the CPU.

  pip install torch==2.13.0          (in addition to the packages of this project)
  python -m benchmarks.beside_transformers sampling   GPT-2 (4 layers, width 256, vocabulary 8192),
                                                      32 prompts of 64 tokens, 128 new, greedy
  python -m benchmarks.beside_transformers t5         the same with a T5 of the size of T5-small
  python -m benchmarks.beside_transformers step       one training step of that GPT-2: 8 rows of 256
  python -m benchmarks.beside_transformers step124m   one step of GPT-2 124M: 4 rows of 128
  python -m benchmarks.beside_transformers bounds     t5 and step124m, and their matrix products
                                                      alone (products.py)
  python -m benchmarks.beside_transformers exam --student=DIR   an exam with a pretrained student
                                                      (exam_beside_transformers.py)

In all but the last, weights are random, no row ends early, and both sides compute in --dtype.
Prints a line of JSON with median times and `speedup`, how many times as fast this package is. The
sides alternate in one process, so a busy machine slows both, with a pause of a second in which the
other side's threads come to rest.

`bounds` prints milliseconds per decoded token or per step. `share` is the part of the products in
the total time, and gflops is the rate of the products alone, in GFLOP/s.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import exam_beside_transformers, measure, products
from distill_jax import students
from distill_jax.data import batches, encode
from distill_jax.decoding import rollout
from distill_jax.decoding import sampling as choice
from distill_jax.learning import objectives, optim, step
from distill_jax.students import families, sharding

GPT2 = dict(
  model_type="gpt2", vocab_size=8192, n_embd=256, n_layer=4, n_head=4, n_positions=512,
  activation_function="gelu_new", layer_norm_epsilon=1e-5, resid_pdrop=0.0, embd_pdrop=0.0,
  attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, pad_token_id=0,
)  # fmt: skip
GPT2_124M = GPT2 | dict(vocab_size=50257, n_embd=768, n_layer=12, n_head=12)
T5_SMALL = dict(
  model_type="t5", vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6,
  num_decoder_layers=6, num_heads=8, relative_attention_num_buckets=32,
  relative_attention_max_distance=128, dropout_rate=0.0, layer_norm_epsilon=1e-6,
  feed_forward_proj="relu", tie_word_embeddings=True, is_encoder_decoder=True,
  decoder_start_token_id=0, pad_token_id=0, eos_token_id=None,
)  # fmt: skip


def our_model(fields: dict[str, Any], dtype: str) -> tuple[Any, Any]:
  """Returns (config, random parameters) of a model with these config.json fields."""
  config = dataclasses.replace(families.of(fields["model_type"]).read(fields), dtype=dtype)
  init = functools.partial(students.of(config).init, config)
  return config, jax.jit(init)(jax.random.key(0))


def their_model(fields: dict[str, Any], dtype: str) -> Any:
  """Returns a torch model with random weights and these config.json fields."""
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.AutoConfig.for_model(**fields)
  kind = (
    transformers.AutoModelForSeq2SeqLM
    if fields["model_type"] == "t5"
    else transformers.AutoModelForCausalLM
  )
  return kind.from_config(config, dtype=getattr(torch, dtype))


def tokens(fields: dict[str, Any], *shape: int) -> np.ndarray:
  """Returns random tokens, int32."""
  rng = np.random.Generator(np.random.PCG64(0))
  return rng.integers(3, fields["vocab_size"], shape, dtype=np.int32)


def sampling(
  fields: dict[str, Any], dtype: str, *, rows: int = 32, prompt: int = 64, new: int = 128
) -> tuple[Callable[[], Any], Callable[[], Any], int]:
  """Returns greedy decoding on both sides, and the number of new tokens."""
  import torch

  model = their_model(fields, dtype).eval()
  torch_ids = torch.tensor(tokens(fields, rows, prompt), dtype=torch.long)

  @torch.no_grad()
  def run_theirs():
    return model.generate(
      torch_ids, attention_mask=torch.ones_like(torch_ids),
      max_new_tokens=new, min_new_tokens=new, do_sample=False,
    )  # fmt: skip

  ours = our_sampling(fields, dtype, rows=rows, prompt=prompt, new=new)
  return ours, run_theirs, rows * new


def our_sampling(
  fields: dict[str, Any], dtype: str, *, rows: int, prompt: int, new: int
) -> Callable[[], Any]:
  """Returns greedy decoding in this package."""
  config, params = our_model(fields, dtype)
  ids = tokens(fields, rows, prompt)
  keys, sizes = np.zeros((rows, 1, 2), np.uint32), rollout.sizes(rows, 0.25, 1, 1)

  def run():
    opened = rollout.Rollout(
      config, params, choice.sampling(0.0), sizes=sizes, bucket=prompt, max_new_tokens=new,
      eos=(-1,), pad=0,
    )  # fmt: skip
    return rollout.sample(opened, ids.tolist(), list(keys)).tokens

  return run


def sft_step(
  fields: dict[str, Any], dtype: str, *, rows: int, length: int
) -> tuple[Callable[[], Any], Callable[[], Any], int]:
  """Returns a training step on both sides, and the number of tokens."""
  import torch

  ids = tokens(fields, rows, length)
  torch_model = their_model(fields, dtype).train()
  torch_optimizer = torch.optim.AdamW(torch_model.parameters(), lr=1e-4, weight_decay=0.01)
  torch_ids = torch.tensor(ids, dtype=torch.long)

  def run_theirs():
    torch_optimizer.zero_grad(set_to_none=True)
    torch_model(input_ids=torch_ids, labels=torch_ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(torch_model.parameters(), 1.0)
    torch_optimizer.step()

  return our_step(fields, dtype, ids), run_theirs, rows * length


def our_step(fields: dict[str, Any], dtype: str, ids: np.ndarray) -> Callable[[], Any]:
  """Returns a training step in this package, on rows without a prompt."""
  config, params = our_model(fields, dtype)
  rows, length = ids.shape
  objective = objectives.tailored(
    functools.partial(students.of(config).hidden, config),
    functools.partial(students.token_logprobs, config, chunk=256),
    coefficients={"sft": 1.0},
    margin=1.0,
  )
  rate = optim.schedule("constant", peak=1e-4, warmup=0, steps=1000)
  decay = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip_norm=1.0)
  optimizer, mesh = optim.adamw(rate, **decay), sharding.make_mesh()
  model = students.of(config)
  shardings = step.state_shardings(mesh, model.axes(config), model.shapes(config), optimizer)
  update = step.jit_train_step(
    step.make_train_step(objective, optimizer, grad_accum_steps=1), mesh, shardings
  )
  state = jax.device_put(step.init_state(params, optimizer), shardings)
  made = [
    encode.supervised_row(
      row[:1].tolist(), row[1:].tolist(), prompt_weight=0.0, denominator="weights"
    )
    for row in ids
  ]
  arrays = batches.stack(made, batch=rows, length=length, targets=length - 1, pad=0, triplets=0)
  batch = jax.device_put(objectives.as_batch(arrays), sharding.batch(mesh))

  def run():
    nonlocal state
    with jax.set_mesh(mesh):
      state, metrics = update(state, batch, ())
    return metrics

  return run


WORKS = {
  "sampling": functools.partial(sampling, GPT2),
  "t5": functools.partial(sampling, T5_SMALL),
  "step": functools.partial(sft_step, GPT2, rows=8, length=256),
  "step124m": functools.partial(sft_step, GPT2_124M, rows=4, length=128),
}


BOUNDS = {
  "t5": products.t5_decoding(T5_SMALL, rows=32, new=128),
  "step124m": products.gpt2_step(GPT2_124M, rows=4, length=128),
}


def medians(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
  """Returns the median seconds of each function. The functions are called alternately."""
  seconds = {name: [] for name in works}
  for repeat in range(repeats + 1):  # the first one warms up
    for name, work in works.items():
      time.sleep(1)  # the other's threads spin for a while after their work
      start = time.perf_counter()
      jax.block_until_ready(work())
      if repeat:
        seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in seconds.items()}


def bounds(name: str, dtype: str, repeats: int) -> None:
  """Prints the time of a workload and of its products alone, on both sides."""
  chain = BOUNDS[name]
  *complete, _ = WORKS[name](dtype=dtype)
  names = ("ours_products", "theirs_products", "ours", "theirs")
  works = (*products.in_jax_and_torch(chain, dtype), *complete)
  seconds = medians(dict(zip(names, works, strict=True)), repeats)
  line = {
    "benchmark": f"bounds of {name}",
    "dtype": dtype,
    "cpu": measure.cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
  }
  line["gflop"] = round(chain.gflop, 2)
  for side in ("ours", "theirs"):
    alone, total = seconds[f"{side}_products"], seconds[side]
    line |= {
      f"{side}_products_ms": round(1000 * alone / chain.iterations, 2),
      f"{side}_gflops": round(chain.gflop * chain.iterations / alone, 1),
      f"{side}_ms": round(1000 * total / chain.iterations, 2),
      f"{side}_share": round(alone / total, 2),
    }
  line["speedup_limit"] = round(seconds["theirs"] / seconds["ours_products"], 2)
  print(json.dumps(line), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("work", choices=(*WORKS, "bounds", "exam"))
  parser.add_argument("--repeats", type=int, help="default 7; 3 for exam")
  parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
  exam = parser.add_argument_group("exam")
  exam.add_argument("--student", help="a directory in Hugging Face format")
  exam.add_argument("--task", default="arithmetic")
  exam.add_argument("--path", default="")
  exam.add_argument("--questions", type=int, default=64)
  exam.add_argument("--samples", type=int, default=2)
  exam.add_argument("--batches", default="16,32,64,128", help="rows that transformers tries")
  args = parser.parse_args()
  args.repeats = args.repeats or (3 if args.work == "exam" else 7)
  if args.work == "exam":
    if not args.student:
      parser.error("exam needs --student=DIR")
    exam_beside_transformers.run(args)
    return
  if args.work == "bounds":
    for name in BOUNDS:
      bounds(name, args.dtype, args.repeats)
    return
  compare(args.work, WORKS[args.work](dtype=args.dtype), args.repeats, dtype=args.dtype)


def compare(
  name: str, work: tuple[Callable[[], Any], Callable[[], Any], int], repeats: int, **facts: str
) -> None:
  """Times work on both sides and prints a line of JSON; `work` is (ours, theirs, tokens)."""
  ours, theirs, count = work
  seconds = medians({"ours": ours, "theirs": theirs}, repeats)
  line = {
    "benchmark": name,
    **facts,
    "cpu": measure.cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
    "ours_ms": round(1000 * seconds["ours"], 1),
    "theirs_ms": round(1000 * seconds["theirs"], 1),
    "ours_tokens_per_second": round(count / seconds["ours"]),
    "theirs_tokens_per_second": round(count / seconds["theirs"]),
    "speedup": round(seconds["theirs"] / seconds["ours"], 2),
  }
  print(json.dumps(line))


if __name__ == "__main__":
  main()
