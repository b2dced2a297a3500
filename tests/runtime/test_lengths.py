"""Lengths of a pretrained student follow from the data; those that are set are kept."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest

from distill_jax import errors, records
from distill_jax.config import recipes
from distill_jax.config.read import read_settings
from distill_jax.data import tokenizer
from distill_jax.machine import hf_write
from distill_jax.runtime import base_model, fit, lengths
from distill_jax.students import decoder, families
from distill_jax.students.families import layout
from distill_jax.tasks import task
from tests.machine import hf_material


def settings(recipe: str = "cot", **changes):
  c = recipes.load(recipe)
  flat = {"student.init": "somewhere", **{k.replace("__", "."): v for k, v in changes.items()}}
  c.update_from_flattened_dict(flat)
  return read_settings(c.to_dict())


FOUND = lengths.Lengths(prompts=[40, 50, 55, 60, 300], gold=[20, 90, 400])


def test_the_longest_prompt_of_a_question_is_measured():
  """Also with worked examples, with a hint, and of every style; nothing is learned from some."""
  problem = records.Problem("q", "train", "12345678", "7", rationale="four")

  def measured(*plan: str, shots: int = 0, styles=("",)) -> lengths.Lengths:
    def context(shown: int) -> types.SimpleNamespace:
      return types.SimpleNamespace(
        task=task.Task("t", lambda split: [problem] if split in ("train", "validation") else []),
        settings=types.SimpleNamespace(
          exam=types.SimpleNamespace(styles=styles),
          evaluate=types.SimpleNamespace(base_shots=shots),
          cross=types.SimpleNamespace(name=""),
          opening=plan,
          each_round=(),
        ),
        student=types.SimpleNamespace(encode_prompt=list, encode_target=list),
        final_problems=dict,
        prompt=lambda p, style="": style + "shot" * shown + p.question,
        with_shots=context,
        conversation=lambda p, hint: iter([[types.SimpleNamespace(prompt=p.question + hint)]]),
      )

    return lengths.measure(context(0))

  assert measured("train") == lengths.Lengths([8, 8], [4, 4], [])
  assert measured("train", styles=("a", "long")).prompts == [12, 12]
  assert measured("rationalize").also == [9, 9]
  assert measured("train", shots=3) == lengths.Lengths([8, 8], [4, 4], [20])


def test_lengths_fit_the_longest_prompt_and_rationale():
  s = lengths.choose(settings(), FOUND, 8192)
  assert s.exam.max_new_tokens == s.evaluate.max_new_tokens == s.triplet.max_response == 448
  assert s.rollout.buckets == (64, 384)
  assert s.train.buckets[0] == 64 and s.train.buckets[-2] < 300 + 448 <= s.train.buckets[-1]
  assert len(lengths.describe(s, FOUND)) == 1, "nothing exceeds them"


def test_fine_buckets_leave_less_padding():
  s = lengths.choose(settings(), FOUND, 8192, fine=True)
  coarse = lengths.choose(settings(), FOUND, 8192)
  assert set(coarse.train.buckets) < set(s.train.buckets)
  assert s.rollout.buckets == coarse.rollout.buckets
  steps = zip(s.train.buckets, s.train.buckets[1:], strict=False)
  assert all(longer <= max(1.25 * shorter, shorter + 32) for shorter, longer in steps)


def test_a_task_that_is_only_tested_adds_a_bucket_for_its_prompts_and_changes_nothing_else():
  alone = lengths.choose(settings(), FOUND, 8192)
  short = lengths.choose(settings(), FOUND._replace(also=[350]), 8192)
  assert short == alone
  long = lengths.choose(settings(), FOUND._replace(also=[350, 700]), 8192)
  assert long.rollout.buckets == (*alone.rollout.buckets, 768)
  assert dataclasses.replace(long, rollout=alone.rollout) == alone


def test_the_limit_of_an_evaluation_changes_nothing_that_is_learned_from():
  """It can change when a run resumes."""
  short, long = (
    lengths.choose(settings(evaluate__max_new_tokens=n), FOUND, 8192) for n in (64, 2000)
  )
  assert long.train.buckets == short.train.buckets
  assert long.rollout.buckets == short.rollout.buckets


def test_lengths_that_are_set_are_kept_and_what_exceeds_them_is_named():
  s = settings(evaluate__max_new_tokens=100, rollout__buckets=(128,), train__buckets=(256,))
  s = lengths.choose(s, FOUND, 8192)
  assert (s.evaluate.max_new_tokens, s.rollout.buckets, s.train.buckets) == (100, (128,), (256,))
  _, prompts, gold = lengths.describe(s, FOUND)
  assert prompts.startswith("1 of 5 prompts are longer than rollout.buckets (128)")
  assert gold.startswith("1 of 3 gold rationales are longer than evaluate.max_new_tokens (100)")


@pytest.mark.parametrize("positions", [128, 512, 1024, 2048])
def test_no_row_is_longer_than_the_positions_of_the_model(positions):
  found = lengths.Lengths(prompts=[30, 100], gold=[900])
  for recipe in ("cot", "socratic", "tailored"):
    s = lengths.choose(settings(recipe), found, positions)
    assert max(s.train.buckets) <= positions
    assert max(s.rollout.buckets) + s.exam.max_new_tokens <= positions
    assert min(s.rollout.buckets) > 0 and s.exam.max_new_tokens > 0


@pytest.mark.parametrize("longest", [450, 511, 512, 3000])
def test_answers_keep_some_tokens_and_the_longest_prompts_are_named(longest):
  found = lengths.Lengths(prompts=[100, longest], gold=[])
  s = lengths.choose(settings(), found, 512)
  assert s.exam.max_new_tokens == s.evaluate.max_new_tokens == s.triplet.max_response == 64
  cut = "1 of 2 prompts are longer than rollout.buckets (448): they lose their beginnings"
  assert lengths.describe(s, found)[1:] == [cut] * (longest > 448)


@pytest.mark.parametrize("name", ["exam", "evaluate"])
def test_answers_that_leave_no_room_for_a_prompt_are_rejected(name):
  changes = {f"{name}__max_new_tokens": 512}
  with pytest.raises(errors.UserError, match=rf"{name}\.max_new_tokens is 512.*below 512"):
    lengths.choose(settings(**changes), FOUND, 512)
  s = lengths.choose(settings(**changes, rollout__buckets=(64,)), FOUND, 512)
  assert s.rollout.buckets == (64,)


@pytest.mark.parametrize("changes", [dict(train__buckets=(1024,)), dict(rollout__buckets=(400,))])
def test_rows_beyond_the_positions_of_the_student_are_named(changes):
  s = lengths.choose(settings(**changes), FOUND, 512)
  *_, line = lengths.describe(s, FOUND, 512)
  longest = 1024 if "train__buckets" in changes else 400 + s.exam.max_new_tokens
  assert line.startswith(f"rows have up to {longest} tokens ") and "made for 512" in line
  assert lengths.describe(s, FOUND, 1024) == lengths.describe(s, FOUND)


@pytest.mark.parametrize(
  ("fields", "positions"),
  [({}, 0), ({"max_position_embeddings": 2048}, 2048), ({"n_positions": 1024}, 1024)],
)
def test_the_positions_of_a_student_are_those_of_its_config_json(fields, positions):
  base = base_model.BaseModel(families.of("llama"), hf_material.config(), fields)
  assert lengths._positions(base) == positions
  table = dataclasses.replace(base.config, rotary=None, learned=66, learned_offset=2)
  assert lengths._positions(dataclasses.replace(base, config=table)) == 64


@pytest.mark.parametrize("value", ["2048", 0, 2048.5])
def test_positions_that_are_no_integer_are_named(value):
  base = base_model.BaseModel(
    families.of("llama"), hf_material.config(), {"max_position_embeddings": value}
  )
  with pytest.raises(errors.UserError, match=r"config\.json: max_position_embeddings is "):
    lengths._positions(base)


def test_a_student_with_a_position_table_opens_before_its_lengths_are_known(tmp_path):
  """Lengths that are set, and exceed the table, are rejected."""
  tokenizer.train(["one two 3"], vocab=300, path=tmp_path / "words")
  family = families.of("gpt2")
  sizes = dict(n_embd=8, n_layer=1, n_head=2, vocab_size=300, n_positions=64)
  config = family.read(sizes)
  hf_write.export(
    tmp_path / "model", fields=family.write(config), tensors=family.tensors(config),
    to_theirs=layout.to_theirs, params=decoder.init(config, jax.random.key(0)),
    tokenizer=tmp_path / "words", bos=None, eos=1, pad=0, positions=64, card="",
  )  # fmt: skip

  def opened(**changes):
    s = settings(student__init=str(tmp_path / "model"), **changes)
    return base_model.open_base(s, tmp_path, started=False, vocab=0)

  assert opened().config == opened(train__buckets=(32, 64)).config
  for changes in (
    dict(train__buckets=(96,)),
    dict(rollout__buckets=(48,), exam__max_new_tokens=17),
  ):
    with pytest.raises(errors.UserError, match="at most 64 tokens a row"):
      opened(**changes)


def test_automatic_answers_and_set_prompts_must_fit_a_position_table(monkeypatch):
  table = hf_material.config(rotary=None, learned=512)
  s = settings(rollout__buckets=(480,))
  ctx = types.SimpleNamespace(
    settings=s,
    given_settings=s,
    base=base_model.BaseModel(families.of("gpt2"), table, {}),
    student=types.SimpleNamespace(mesh=types.SimpleNamespace(devices=np.array(jax.devices()))),
  )
  ctx.set_lengths = functools.partial(setattr, ctx, "settings")
  monkeypatch.setattr(lengths, "measure", lambda _: FOUND)
  with pytest.raises(errors.UserError, match=r"rollout\.buckets is \(480,\).*at most 512 tokens"):
    lengths.settle(ctx)


def test_rates_follow_from_the_student_and_explicit_ones_win():
  scratch = read_settings(recipes.load("tailored").to_dict())
  assert (scratch.train.lr, scratch.train.remat, scratch.exam.max_new_tokens) == (2e-3, "none", 128)
  full, lora = settings("tailored"), settings("tailored", student__lora__rank=8)
  assert full.train.lr < lora.train.lr < scratch.train.lr
  assert full.prefer.lr < lora.prefer.lr < scratch.prefer.lr
  assert settings("tailored", train__lr=0.0).train.lr == 0
  assert settings("tailored:quick", train__lr=3e-3).train.lr == 3e-3


def test_the_head_processes_few_positions_of_a_large_vocabulary():
  assert fit.logits_chunk(256, 512, 32) == 256
  assert fit.logits_chunk(256, 49152, 8) == 64
  assert fit.logits_chunk(256, 262_144, 512) == 1
  assert fit.logits_chunk(16, 49152, 8) == 16
