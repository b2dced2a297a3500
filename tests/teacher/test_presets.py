"""A vendor's model is one setting and a key in the environment, and has a price."""

import dataclasses
import re

import pytest

from configs import cot, quickstart
from distill_jax import errors, settings
from distill_jax.cli import args
from distill_jax.config import rules_teacher
from distill_jax.config.read import read_settings
from distill_jax.teacher import presets
from distill_jax.teacher.client import patience

VENDORS = [name for name, vendor in presets.VENDORS.items() if not vendor.free]


def read(*words, recipe="quickstart"):
  """The settings of a command line."""
  config, _, _ = args.parse([f"--config={recipe}", *words], {}, config="required")
  return read_settings(config)


@pytest.fixture
def keys(monkeypatch):
  for vendor in presets.VENDORS.values():
    monkeypatch.setenv(vendor.key_env, "sk-test-1234567890")


@pytest.mark.parametrize("name", VENDORS)
def test_one_setting_fills_in_what_the_vendor_needs(keys, name):
  words = ("--config.teacher.prices.input=1", "--config.teacher.prices.output=2")
  teacher = read(f"--config.teacher.model={name}/some/Model-7B", *words).teacher
  vendor = presets.VENDORS[name]
  assert (teacher.kind, teacher.model) == ("openai", "some/Model-7B")
  assert (teacher.base_url, teacher.key_env) == (vendor.base_url, vendor.key_env)
  assert teacher.max_tokens_field == vendor.max_tokens_field
  assert presets.fill_in(teacher) == teacher


def test_a_server_on_this_machine_may_be_slow(keys):
  words = ("--config.teacher.prices.input=1", "--config.teacher.prices.output=2")
  vendor, local = "--config.teacher.model=openai/m", "--config.teacher.model=llamacpp/m"
  assert read(vendor, *words).teacher.timeout == patience.TIMEOUT
  assert read(local).teacher.timeout == patience.LOCAL_TIMEOUT
  assert read(local, "--config.teacher.timeout=5").teacher.timeout == 5


def test_a_missing_key_is_one_line_that_names_its_variable(monkeypatch):
  monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
  with pytest.raises(errors.UserError, match=r"^[^\n]*ANTHROPIC_API_KEY[^\n]*$") as caught:
    read("--config.teacher.model=anthropic/claude-sonnet-4-5")
  assert caught.value.code == errors.CONFIG


def test_every_field_that_is_set_counts(keys, monkeypatch):
  monkeypatch.setenv("OTHER", "sk-test-1234567890")
  teacher = read(
    "--config.teacher.model=openai/gpt-4o-mini",
    "--config.teacher.key_env=OTHER",
    "--config.teacher.max_tokens_field=max_tokens",
    "--config.teacher.prices.output=7",
  ).teacher
  assert (teacher.key_env, teacher.max_tokens_field) == ("OTHER", "max_tokens")
  assert teacher.prices == settings.Prices(input=0.15, output=7.0, cached=0.075)
  set_input = read("--config.teacher.model=openai/gpt-4o-mini", "--config.teacher.prices.input=3")
  assert set_input.teacher.prices == settings.Prices(input=3.0, output=0.6, cached=-1.0)


def test_a_model_at_an_address_is_sent_as_it_is():
  words = ("--config.teacher.kind=openai", "--config.teacher.base_url=http://localhost:8000/v1")
  for model in ("openai/gpt-oss-20b", "meta-llama/Llama-3.1-8B", "vllm:x"):
    teacher = read(f"--config.teacher.model={model}", *words).teacher
    assert (teacher.model, teacher.base_url) == (model, "http://localhost:8000/v1")
    assert teacher.prices == settings.Prices(0.0, 0.0, -1.0)


@pytest.mark.parametrize(
  ("model", "base_url", "name"),
  [
    ("vllm:http://127.0.0.1:8123", "http://127.0.0.1:8123/v1", ""),
    ("vllm:localhost:8123/v1#Qwen/Qwen3-8B", "http://localhost:8123/v1", "Qwen/Qwen3-8B"),
    ("vllm/Qwen/Qwen3-8B", "http://localhost:8000/v1", "Qwen/Qwen3-8B"),
    ("llamacpp:http://localhost:9/v1", "http://localhost:9/v1", "default"),
    ("llamacpp", "http://localhost:8080/v1", "default"),
    ("ollama/qwen3:8b", "http://localhost:11434/v1", "qwen3:8b"),
  ],
)
def test_a_server_of_ones_own_needs_no_key_and_costs_nothing(model, base_url, name, monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  teacher = read(f"--config.teacher.model={model}").teacher
  assert (teacher.base_url, teacher.model, teacher.kind) == (base_url, name, "openai")
  assert teacher.prices == settings.Prices(0.0, 0.0, -1.0)


def test_a_vendor_without_a_model_and_a_model_without_a_vendor_are_explained():
  with pytest.raises(errors.UserError, match=r"ollama/MODEL"):
    read("--config.teacher.model=ollama/")
  for model in ("opnai/gpt-4o-mini", "vlm:http://localhost:1"):
    name = model.partition("/")[0].partition(":")[0]
    with pytest.raises(errors.UserError, match=f"begins with '{name}', which is no vendor; .*groq"):
      read(f"--config.teacher.model={model}")
  with pytest.raises(errors.UserError, match=r"VENDOR/MODEL such as openai/gpt-4o-mini"):
    read("--config.teacher.model=meta-llama/Llama-3.1-8B")


def test_further_teachers_may_have_other_vendors(keys):
  others = (
    "{'strong': {'model': 'anthropic/claude-sonnet-4-5'}, 'own': {'model': 'vllm:localhost:1#m'}}"
  )
  made = read("--config.teacher.model=openai/gpt-4o-mini", f"--config.teachers={others}")
  assert made.teachers["strong"].base_url == "https://api.anthropic.com/v1"
  assert made.teachers["strong"].prices.output == 15.0
  assert made.teachers["own"].base_url == "http://localhost:1/v1"
  assert made.teachers["own"].prices.output == 0.0


@pytest.mark.parametrize(
  ("model", "prices"),
  [
    ("openai/gpt-4o-mini", (0.15, 0.6, 0.075)),
    ("openai/gpt-4o-mini-2024-07-18", (0.15, 0.6, 0.075)),
    ("openai/gpt-4o", (2.5, 10.0, 1.25)),
    ("anthropic/claude-sonnet-4-5-20250929", (3.0, 15.0, 0.3)),
    ("gemini/gemini-2.5-flash", (0.3, 2.5, 0.03)),
    ("openrouter/anthropic/claude-sonnet-4.5", (3.0, 15.0, 0.3)),
  ],
)
def test_known_models_have_prices(keys, model, prices):
  assert dataclasses.astuple(read(f"--config.teacher.model={model}").teacher.prices) == prices


def test_a_known_model_has_its_price_at_the_vendors_address_too(keys):
  words = ("--config.teacher.kind=openai", "--config.teacher.base_url=https://api.openai.com/v1/")
  teacher = read("--config.teacher.model=gpt-4o-mini", *words).teacher
  assert teacher.prices.input == 0.15 and "genai-prices" in presets.describe_prices(teacher)


def test_a_model_without_a_known_price_must_be_given_one(keys):
  with pytest.raises(errors.UserError, match=r"price of gpt-99 .* not known.*prices.input=DOLLARS"):
    rules_teacher.check_prices(read("--config.teacher.model=openai/gpt-99"))
  free = ("--config.teacher.prices.input=0", "--config.teacher.prices.output=0")
  free_of_charge = read("--config.teacher.model=openai/gpt-99", *free)
  rules_teacher.check_prices(free_of_charge)
  assert free_of_charge.teacher.prices.output == 0.0


def test_the_table_of_prices_is_whole_and_says_where_it_is_from():
  exact, beginnings = presets._table()
  assert len(exact) > 1000 and {vendor for vendor, _ in exact} <= set(presets.VENDORS)
  assert re.fullmatch(r"# genai-prices [0-9.]+, 20[0-9]{2}(-[0-9]{2}){2}; .*", presets._lines()[0])
  for prices in (*exact.values(), *beginnings.values()):
    assert prices.input >= 0 and prices.output >= 0 and prices.cached >= -1


def test_a_recipe_may_name_the_vendor():
  c = cot.get_config()
  c.teacher.model = "llamacpp"
  assert read_settings(c.to_dict()).teacher.kind == "openai"
  assert read_settings(quickstart.get_config().to_dict()).teacher.kind == "builtin"


@pytest.mark.parametrize(
  ("changes", "vendor"),
  [
    ({"model": "gpt-4o"}, "openai"),
    ({"model": "openai/gpt-4o"}, "openai"),
    ({"model": "my-own-7b"}, ""),
    ({"model": "gpt-4o", "prices": settings.Prices(1.0, 2.0)}, ""),
    ({"model": "gpt-4o", "base_url": "https://api.openai.com/v1"}, ""),
  ],
)
def test_a_proxy_on_this_machine_that_counts_as_free_is_named(changes, vendor):
  given = {"kind": "openai", "base_url": "http://localhost:4000/v1", "model": "m"}
  filled = presets.fill_in(settings.Teacher(**{**given, **changes}))
  assert rules_teacher.hidden_vendor(filled) == vendor
