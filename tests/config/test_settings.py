"""Invalid settings are rejected in one line that names the field."""

import importlib

import pytest

from configs import quickstart
from distill_jax import errors
from distill_jax.cli import args
from distill_jax.config.read import read_settings
from distill_jax.run_dir import run_dir
from distill_jax.runtime import context


def changed(**changes) -> dict:
  config = quickstart.get_config().to_dict()
  for path, value in changes.items():
    *groups, name = path.split("__")
    group = config
    for g in groups:
      group = group[g]
    group[name] = value
  return config


def rejection(config: dict) -> errors.UserError:
  with pytest.raises(errors.UserError) as caught:
    read_settings(config)
  assert caught.value.code == errors.CONFIG
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_the_quickstart_passes():
  assert read_settings(changed()).recipe == "quickstart"


def test_an_unknown_and_a_missing_key_are_named():
  assert "config.train.lrr" in rejection(changed(train__lrr=1.0))
  config = changed()
  del config["train"]["lr"]
  assert "config.train.lr is missing" in rejection(config)


@pytest.mark.parametrize(
  "field, value",
  [
    ("train__steps", 1.5),
    ("train__steps", True),
    ("train__lr", "fast"),
    ("train__buckets", 64),
    ("train__buckets", (64, "x")),
    ("triplet__detach_prompt", 1),
    ("train", 3),
    ("task__path", None),
  ],
)
def test_a_wrong_type_is_rejected(field, value):
  assert field.replace("__", ".") in rejection(changed(**{field: value}))


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"format": "haiku"}, "config.format"),
    ({"task__name": "gsm9k"}, "config.task.name"),
    ({"opening": ("demonstrate", "exam")}, "config.opening"),
    ({"opening": ("demonstrate", "nap", "train")}, "config.opening"),
    ({"each_round": ("feedback", "exam", "train")}, "config.each_round"),
    ({"each_round": ("exam", "train", "train")}, "config.each_round"),
    (
      {"opening": ("demonstrate", "train"), "each_round": ("train",)},
      "config.train.losses.triplet",
    ),
    ({"exam__temperature": 0.0}, "config.exam.samples"),
    ({"teacher__batch": "later"}, "config.teacher.batch"),
    ({"teacher__batch": "api"}, "config.teacher.batch is set, but nothing reads it"),
    ({"teacher__batch_poll": 0.0}, "config.teacher.batch_poll is 0.0, but must be above 0"),
    ({"teacher__batch_discount": 1.0}, "config.teacher.batch_discount"),
    ({"teacher__batch_size": 0}, "config.teacher.batch_size"),
    ({"student__scratch__kv_heads": 3}, "config.student.scratch.kv_heads"),
    ({"student__scratch__head_width": 7}, "config.student.scratch.head_width"),
    ({"student__scratch__vocab": 100}, "config.student.scratch.vocab"),
    ({"train__epochs": 2}, "config.train.steps"),
    ({"train__steps": 0}, "config.train.steps"),
    ({"train__grad_accum_steps": 5}, "config.train.grad_accum_steps"),
    ({"train__losses__sft": 0.0, "train__losses__triplet": 0.0}, "config.train.losses.sft"),
    ({"train__buckets": (128, 64)}, "config.train.buckets"),
    ({"rollout__buckets": (0, 8)}, "config.rollout.buckets"),
    ({"rollout__refill": 0.0}, "config.rollout.refill"),
    ({"rollout__refill": 1.5}, "config.rollout.refill"),
    ({"world__steps_max": 6}, "config.world.steps_max"),
    ({"world__operand_max": 5}, "config.world.operand_max"),
    ({"world__distractors": 1.5}, "config.world.distractors"),
    ({"teacher__builtin__error_rate": -0.1}, "config.teacher.builtin.error_rate"),
    ({"task__name": "svamp", "task__path": "/nowhere/at/all"}, "config.task.path"),
    ({"task__name": "svamp"}, "config.task.path"),
    ({"teacher__kind": "openai"}, "config.teacher.base_url"),
    ({"teacher__kind": "replay"}, "config.teacher.replay.path"),
    (
      {"teacher__kind": "replay", "teacher__replay__path": ("/nowhere.json",)},
      "config.teacher.replay.path",
    ),
    ({"rounds": -1}, "config.rounds"),
    ({"teacher__temperature": 0.0, "feedback__rationales": 2}, "config.feedback.rationales"),
    ({"opening": ("exam", "train", "demonstrate")}, "config.opening"),
    ({"contrast__positives": 0}, "config.contrast.positives"),
    ({"contrast__negatives": 0}, "config.contrast.negatives"),
    ({"train__lr": float("inf")}, "config.train.lr"),
    ({"train__beta2": 1.0}, "config.train.beta2"),
    ({"triplet__margin": float("nan")}, "config.triplet.margin"),
    ({"triplet__margin": 10**400}, "config.triplet.margin"),
    ({"teacher__cache": "a\0b"}, "config.teacher.cache"),
    ({"teacher__max_dollars": float("inf")}, "config.teacher.max_dollars"),
    ({"teacher__timeout": -1.0}, "config.teacher.timeout"),
    ({"student__scratch__norm_eps": -1.0}, "config.student.scratch.norm_eps"),
    ({"seed": 10**30}, "config.seed"),
    ({"exam__top_k": 10**12}, "config.exam.top_k"),
    ({"world__families": -1}, "config.world.families"),
    ({"train__batch": 0}, "config.train.batch"),
    ({"train__batch_tokens": 2048}, "config.train.batch=0"),
    ({"exam__top_p": 1.1}, "config.exam.top_p"),
    ({"teacher__min_reply_rate": 1.1}, "config.teacher.min_reply_rate"),
    ({"teacher__prices__cached": -2.0}, "config.teacher.prices.cached"),
  ],
)
def test_an_invalid_value_is_rejected_by_name(changes, named):
  assert named in rejection(changed(**changes))


def test_a_vendor_without_a_key_is_rejected_before_anything_is_paid(monkeypatch):
  monkeypatch.delenv("NO_SUCH_KEY", raising=False)
  changes = {
    "teacher__kind": "openai",
    "teacher__base_url": "https://example.com/v1",
    "teacher__key_env": "NO_SUCH_KEY",
  }
  assert "export NO_SUCH_KEY" in rejection(changed(**changes))
  monkeypatch.setenv("NO_SUCH_KEY", "x")
  assert read_settings(changed(**changes)).teacher.kind == "openai"


def test_a_password_in_the_address_is_rejected_and_not_repeated():
  said = rejection(
    changed(teacher__kind="openai", teacher__base_url="http://me:secret@localhost/v1")
  )
  assert "config.teacher.base_url" in said and "secret" not in said


def test_an_api_key_in_a_config_is_rejected_and_not_repeated(monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  key = "sk-proj-0123456789abcdefghij"
  assert key not in rejection(changed(teacher__key_env=key))  # whoever teaches
  assert key not in rejection(changed(teacher__key=key))
  vendor = {"teacher__kind": "openai", "teacher__base_url": "https://example.com/v1"}
  said = rejection(changed(**vendor, teacher__key_file="/nowhere/key"))
  assert "/nowhere/key" in said and "No such file" in said
  assert "insecure_http" in rejection(
    changed(**vendor | {"teacher__base_url": "http://10.0.0.1/v1"})
  )


def test_an_error_is_one_printable_line_whatever_it_quotes():
  said = str(errors.data("column \x1b[31mred\r\nsecond line \u2028 \ud800"))
  assert said.isprintable() and "second line" in said


def test_reading_a_run_needs_no_key(monkeypatch):
  monkeypatch.delenv("NO_SUCH_KEY", raising=False)
  changes = {"teacher__kind": "openai", "teacher__base_url": "https://example.com/v1"}
  config = changed(**changes, teacher__key_env="NO_SUCH_KEY")
  assert read_settings(config, teacher=False).teacher.kind == "openai"


def of_recipe(recipe: str, **changes) -> dict:
  c = importlib.import_module(f"configs.{recipe}").get_config()
  c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return c.to_dict()


@pytest.mark.parametrize(
  "recipe, changes, named",
  [
    ("self_refine", {"each_round": ("pair", "prefer")}, "config.each_round"),
    ("self_refine", {"each_round": ("exam", "prefer")}, "config.each_round"),
    ("self_refine", {"each_round": ("prefer", "exam", "pair")}, "config.each_round"),
    ("self_refine", {"each_round": ("exam", "pair", "train", "prefer")}, "config.each_round"),
    ("self_refine", {"each_round": ("exam", "exam", "pair", "prefer")}, "config.each_round"),
    ("self_refine", {"opening": ("demonstrate",)}, "config.opening"),
    ("self_refine", {"opening": ("exam", "pair", "prefer", "train")}, "config.opening"),
    ("self_refine", {"exam__styles": ()}, "config.exam.styles"),
    ("self_refine", {"exam__styles": ("cot", "cot")}, "config.exam.styles"),
    ("self_refine", {"exam__styles": ("haiku",)}, "config.exam.styles"),
    ("self_refine", {"exam__styles": ("cot",)}, "config.pair.policy"),
    (
      "self_refine",
      {"exam__styles": ("plain",), "pair__policy": "right_over_wrong"},
      "config.pair.style",
    ),
    ("self_refine", {"cot__shots": 1}, "config.cot.shots"),
    ("self_refine", {"demonstrate__show_gold": True}, "config.demonstrate.show_gold"),
    (
      "self_refine",
      {"prefer__loss": "kto", "train__grad_accum_steps": 2},
      "config.train.grad_accum_steps",
    ),
    (
      "self_refine",
      {"train__grad_accum_steps": 16, "prefer__batch": 24},
      "config.train.grad_accum_steps",
    ),
    ("self_refine", {"prefer__epochs": 2}, "config.prefer.steps"),
    ("self_refine", {"prefer__loss": "ipo", "prefer__beta": 0.0}, "config.prefer.beta"),
    ("self_refine", {"cross__path": "."}, "config.cross.path"),
    ("tailored", {"format": "answer_only"}, "config.each_round"),
    ("self_refine", {"compat__tinythinker__teachers_order": True}, "compat.tinythinker.teachers"),
    (
      "cot",
      {"demonstrate__source": "gold", "demonstrate__rationales": 2},
      "demonstrate.rationales",
    ),
    ("cot", {"demonstrate__source": "gold", "demonstrate__passes": 2}, "config.demonstrate.passes"),
    ("cot", {"demonstrate__source": "gold", "demonstrate__distance": 3}, "demonstrate.distance"),
    ("cot", {"demonstrate__source": "gold", "demonstrate__relabel": "drop"}, "demonstrate.relabel"),
    ("socratic", {"demonstrate__source": "gold", "demonstrate__show_gold": True}, "show_gold"),
    ("self_refine", {"prefer__steps": 0}, "config.prefer.steps"),
    (
      "self_refine",
      {"prefer__loss": "ipo", "prefer__label_smoothing": 0.1},
      "config.prefer.label_smoothing",
    ),
    (
      "self_refine",
      {"prefer__loss": "robust", "prefer__label_smoothing": 0.5},
      "config.prefer.label_smoothing",
    ),
    ("self_refine", {"cross__name": "arithmetic"}, "config.cross.name"),
    ("self_refine", {"cross__name": "svamp"}, "config.cross.path"),
    ("cot", {"evaluate__also__name": "svamp"}, "config.evaluate.also.path"),
    ("cot", {"evaluate__also__name": "arithmetic"}, "config.evaluate.also.name"),
    ("cot", {"evaluate__also__test": 5}, "config.evaluate.also.test"),
    (
      "self_refine",
      {"cross__name": "taxonomy", "each_round": ("demonstrate", "train")},
      "config.each_round",
    ),
    (
      "self_refine",
      {"evaluate__num_votes": 3, "evaluate__temperature": 0.0},
      "config.evaluate.num_votes",
    ),
    ("tinythinker", {"staged__stages": ("recall",)}, "config.staged.stages"),
    ("tinythinker", {"staged__stages": ("analyze", "recall", "summarize")}, "config.staged.stages"),
    ("tinythinker", {"staged__stages": ("analyze", "summarize")}, "config.staged.reflect"),
    ("tinythinker", {"staged__reflect": ()}, "config.staged.reflect"),
    ("tinythinker", {"staged__reflect": ("recall", "recall")}, "config.staged.reflect"),
    ("tinythinker", {"exam__styles": ("cot",)}, "config.exam.styles"),
    ("tinythinker", {"pair__policy": "both"}, "config.pair.policy"),
    ("tinythinker", {"train__losses__triplet": 0.5}, "config.train.losses.triplet"),
    ("tinythinker", {"each_round": ("exam", "feedback", "train")}, "config.each_round"),
    ("tinythinker", {"demonstrate__source": "gold"}, "config.demonstrate.source"),
    (
      "socratic",
      {"socratic__mode": "unified", "socratic__questions": "gold"},
      "socratic.questions",
    ),
    ("socratic", {"socratic__mode": "unified", "socratic__solutions": False}, "socratic.solutions"),
    ("socratic", {"socratic__max_steps": 0}, "config.socratic.max_steps"),
    ("socratic", {"rounds": 1}, "config.rounds"),
    ("socratic", {"each_round": ("exam", "pair", "prefer")}, "config.format"),
    ("star", {"format": "instruct", "cot__shots": 0, "exam__styles": ("cot",)}, "config.format"),
    ("star", {"each_round": ("rationalize", "train")}, "config.each_round"),
  ],
)
def test_an_invalid_combination_is_rejected_by_the_name_of_what_to_change(recipe, changes, named):
  assert named in rejection(of_recipe(recipe, **changes))


@pytest.mark.parametrize(
  "recipe, changes",
  [
    ("self_refine", {"opening": ("exam", "pair", "prefer"), "rounds": 0}),
    ("self_refine", {"rounds": 0}),
    ("self_refine", {"cross__name": "taxonomy"}),
    ("self_refine", {"pair__policy": "right_over_wrong", "exam__styles": ("cot",)}),
    ("tinythinker", {"staged__stages": ("summarize",), "rounds": 0}),
    ("tinythinker", {"staged__stages": ("analyze", "summarize"), "staged__reflect": ("analyze",)}),
    ("socratic", {"format": "cot"}),
    ("socratic", {"format": "answer_only", "demonstrate__source": "gold"}),
  ],
)
def test_the_changes_that_recipes_document_are_valid(recipe, changes):
  words = [f"--config.{k.replace('__', '.')}={v}" for k, v in changes.items()]
  config, _, _ = args.parse([f"--config={recipe}", *words], {}, config="required")
  assert read_settings(config).recipe == recipe


@pytest.mark.parametrize("size", ["pretrained", "pretrained_lora"])
def test_a_size_for_pretrained_students_asks_for_one(size):
  config = importlib.import_module("configs.cot").get_config(size).to_dict()
  error = rejection(config)
  assert str(error).startswith("config.student.init is ''") and "--config.student.init=" in str(
    error
  )


def test_stages_need_a_task_with_options_in_the_later_rounds_too(tmp_path):
  config = of_recipe("tinythinker", task__name="taxonomy", cross__name="arithmetic")
  config["world"] |= {"train": 4, "test": 1, "out_of_domain": 0}
  config["task"]["validation"] = 1
  with pytest.raises(errors.UserError, match=r"config\.format.*task arithmetic has no options"):
    context.RunContext(read_settings(config), run_dir.RunDir(tmp_path), None)


@pytest.mark.parametrize(
  "field", ["max_tokens_retry_limit", "requests_per_minute", "tokens_per_minute", "deadline"]
)
def test_a_teachers_limits_are_not_negative(field):
  value = -1.0 if field == "deadline" else -1
  assert f"config.teacher.{field} is {value}" in rejection(changed(**{f"teacher__{field}": value}))


def test_the_retry_limit_of_tokens_is_at_least_the_first_limit():
  said = rejection(changed(teacher__max_tokens=512, teacher__max_tokens_retry_limit=256))
  assert "config.teacher.max_tokens_retry_limit" in said and "512" in said
  read_settings(changed(teacher__max_tokens=512, teacher__max_tokens_retry_limit=512))
