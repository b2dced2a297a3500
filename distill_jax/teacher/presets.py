"""Vendors of models: config.teacher.model=VENDOR/MODEL or VENDOR:URL#MODEL fills in the rest.

A preset fills in fields that have their default; every field can be set, and then counts. If the
address (base_url) is set, the model is sent as it is: VENDOR/MODEL may then be a name on the hub.
"""

import dataclasses
import functools
import importlib.resources
import re
import urllib.parse
from typing import Any, NamedTuple

from distill_jax import errors, settings
from distill_jax.teacher.client import credentials, patience

PRICES = "prices.csv"
UNKNOWN = -1.0  # a price that is not set
AUTO = "auto"


class Vendor(NamedTuple):
  """How a vendor is reached.

  Attributes:
    base_url: Address of its chat-completions API.
    key_env: Environment variable with the key, as its documentation names it.
    max_tokens_field: The request field for the length of a reply.
    source: Where its documentation says so.
    date: When it was read.
    free: It runs on one's own machine.
    model: The model that is meant if none is named; None if one must be named.
  """

  base_url: str
  key_env: str
  max_tokens_field: str
  source: str
  date: str
  free: bool = False
  model: str | None = None


_SHORT, _LONG = "max_tokens", "max_completion_tokens"
VENDORS: dict[str, Vendor] = {
  "openai": Vendor(
    "https://api.openai.com/v1",
    "OPENAI_API_KEY",
    _LONG,
    "https://platform.openai.com/docs/api-reference/chat/create",
    "2026-11",
  ),
  "anthropic": Vendor(
    "https://api.anthropic.com/v1",
    "ANTHROPIC_API_KEY",
    _SHORT,
    "https://docs.anthropic.com/en/api/openai-sdk",
    "2026-11",
  ),
  "gemini": Vendor(
    "https://generativelanguage.googleapis.com/v1beta/openai",
    "GEMINI_API_KEY",
    _SHORT,
    "https://ai.google.dev/gemini-api/docs/openai",
    "2026-11",
  ),
  "mistral": Vendor(
    "https://api.mistral.ai/v1", "MISTRAL_API_KEY", _SHORT, "https://docs.mistral.ai/api", "2026-11"
  ),
  "groq": Vendor(
    "https://api.groq.com/openai/v1",
    "GROQ_API_KEY",
    _LONG,
    "https://console.groq.com/docs/openai",
    "2026-11",
  ),
  "together": Vendor(
    "https://api.together.xyz/v1",
    "TOGETHER_API_KEY",
    _SHORT,
    "https://docs.together.ai/docs/openai-api-compatibility",
    "2026-11",
  ),
  "openrouter": Vendor(
    "https://openrouter.ai/api/v1",
    "OPENROUTER_API_KEY",
    _SHORT,
    "https://openrouter.ai/docs/api-reference/overview",
    "2026-11",
  ),
  "deepseek": Vendor(
    "https://api.deepseek.com/v1",
    "DEEPSEEK_API_KEY",
    _SHORT,
    "https://api-docs.deepseek.com",
    "2026-11",
  ),
  "xai": Vendor(
    "https://api.x.ai/v1", "XAI_API_KEY", _LONG, "https://docs.x.ai/docs/api-reference", "2026-11"
  ),
  "fireworks": Vendor(
    "https://api.fireworks.ai/inference/v1",
    "FIREWORKS_API_KEY",
    _SHORT,
    "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
    "2026-11",
  ),
  "cerebras": Vendor(
    "https://api.cerebras.ai/v1",
    "CEREBRAS_API_KEY",
    _LONG,
    "https://inference-docs.cerebras.ai/resources/openai",
    "2026-11",
  ),
  "cohere": Vendor(
    "https://api.cohere.ai/compatibility/v1",
    "COHERE_API_KEY",
    _SHORT,
    "https://docs.cohere.com/docs/compatibility-api",
    "2026-11",
  ),
  "perplexity": Vendor(
    "https://api.perplexity.ai",
    "PERPLEXITY_API_KEY",
    _SHORT,
    "https://docs.perplexity.ai/guides/chat-completions-guide",
    "2026-11",
  ),
  "moonshot": Vendor(
    "https://api.moonshot.ai/v1",
    "MOONSHOT_API_KEY",
    _SHORT,
    "https://platform.moonshot.ai/docs/api/chat",
    "2026-11",
  ),
  "zai": Vendor(
    "https://api.z.ai/api/paas/v4",
    "ZAI_API_KEY",
    _SHORT,
    "https://docs.z.ai/guides/overview/quick-start",
    "2026-11",
  ),
  "minimax": Vendor(
    "https://api.minimax.io/v1",
    "MINIMAX_API_KEY",
    _SHORT,
    "https://platform.minimax.io/docs/api-reference/text-openai-api",
    "2026-11",
  ),
  "huggingface": Vendor(
    "https://router.huggingface.co/v1",
    "HF_TOKEN",
    _SHORT,
    "https://huggingface.co/docs/inference-providers",
    "2026-11",
  ),
  "vllm": Vendor(
    "http://localhost:8000/v1",
    "VLLM_API_KEY",
    _SHORT,
    "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
    "2026-11",
    free=True,
    model="",  # vLLM serves its only model to requests without a name
  ),
  "sglang": Vendor(
    "http://localhost:30000/v1",
    "SGLANG_API_KEY",
    _SHORT,
    "https://docs.sglang.ai/basic_usage/openai_api_completions.html",
    "2026-11",
    free=True,
    model="default",
  ),
  "llamacpp": Vendor(
    "http://localhost:8080/v1",
    "LLAMA_API_KEY",
    _SHORT,
    "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    "2026-11",
    free=True,
    model="default",  # llama-server ignores the name
  ),
  "ollama": Vendor(
    "http://localhost:11434/v1",
    "OLLAMA_API_KEY",
    _SHORT,
    "https://docs.ollama.com/api/openai-compatibility",
    "2026-11",
    free=True,
  ),
  "lmstudio": Vendor(
    "http://localhost:1234/v1",
    "LMSTUDIO_API_KEY",
    _SHORT,
    "https://lmstudio.ai/docs/developer/openai-compat",
    "2026-11",
    free=True,
  ),
}
FREE = tuple(name for name, vendor in VENDORS.items() if vendor.free)
EXAMPLE = "--config.teacher.model=openai/gpt-4o-mini"

_PREFIX = re.compile(r"[a-z]{2,20}")
_NAMED = re.compile(r"([A-Za-z-]{2,20})[/:]")  # not the beginning of a key
_DATE = re.compile(r"-(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}|latest)")


class Address(NamedTuple):
  """A model as config.teacher.model names it: vendor, model and URL ("" for the vendor's own)."""

  vendor: str
  model: str
  url: str


def parse(model: str) -> Address | None:
  """Parses VENDOR/MODEL, VENDOR:URL, VENDOR:URL#MODEL; None if it is just a name.

  Raises:
    UserError: The vendor needs the name of a model.
  """
  prefix = _PREFIX.match(model)
  vendor = VENDORS.get(prefix[0]) if prefix else None
  if prefix is None or vendor is None:
    return None
  mark, rest = model[prefix.end() :][:1], model[prefix.end() + 1 :]
  if mark == "/":
    url, name = "", rest
  elif mark == ":":
    url, _, name = rest.partition("#")
    url = _complete(url)
  elif not mark and vendor.model is not None:
    url, name = "", ""
  else:
    return None
  if not name and vendor.model is None:
    allowed = f"followed by the name of a model: {prefix[0]}/MODEL"
    raise errors.config("teacher.model", model, allowed, EXAMPLE)
  return Address(prefix[0], name or vendor.model or "", url)


def _complete(url: str) -> str:
  """Adds http:// and /v1 to an address that lacks them."""
  if "://" not in url:
    url = f"http://{url}"
  return url if urllib.parse.urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"


def choose_kind(config: dict[str, Any]) -> dict[str, Any]:
  """A config in which a teacher that has a vendor's model, and the default kind, is of kind openai.

  Args:
    config: A plain nested dict; `teachers`, if there are any, are complete.

  Raises:
    UserError: A vendor needs the name of a model.
  """

  def chosen(teacher: Any) -> Any:
    if not isinstance(teacher, dict) or teacher.get("kind") != "builtin":
      return teacher
    model = teacher.get("model")
    if not isinstance(model, str) or teacher.get("base_url"):
      return teacher
    if parse(model) is not None:
      return {**teacher, "kind": "openai"}
    _reject_unknown(model)
    return teacher

  made = {name: chosen(part) if name == "teacher" else part for name, part in config.items()}
  others = made["teachers"] if "teachers" in made else None
  if isinstance(others, dict):
    made["teachers"] = {name: chosen(teacher) for name, teacher in others.items()}
  return made


def _reject_unknown(model: str) -> None:
  """Raises UserError for NAME/MODEL and NAME:URL without a vendor of that name."""
  name = _NAMED.match(model)
  if name:
    raise errors.UserError(
      f"config.teacher.model begins with {name[1]!r}, which is no vendor; known are"
      f" {', '.join(VENDORS)}; write VENDOR/MODEL such as openai/gpt-4o-mini, or set"
      " --config.teacher.kind=openai and --config.teacher.base_url=URL for another server,"
      " or --config.teacher.kind=student for an exported student",
      errors.CONFIG,
    )


def fill_in(teacher: settings.Teacher) -> settings.Teacher:
  """Completes the settings of a teacher: address, key, field names, timeout and prices.

  Settings that are complete stay as they are.

  Raises:
    UserError: The model's vendor needs the name of a model.
  """
  name: str | None = None
  changes: dict[str, Any] = {}
  if teacher.kind == "openai" and not teacher.base_url and (address := parse(teacher.model)):
    name, vendor = address.vendor, VENDORS[address.vendor]
    changes |= {"model": address.model, "base_url": address.url or vendor.base_url}
    if teacher.key_env == settings.Teacher.key_env:
      changes["key_env"] = vendor.key_env
  elif teacher.kind == "openai":
    name = vendor_at(teacher.base_url)
  if teacher.max_tokens_field == AUTO:
    changes["max_tokens_field"] = VENDORS[name].max_tokens_field if name else _SHORT
  filled = dataclasses.replace(teacher, **changes)
  seconds = teacher.timeout or patience.default(local=credentials.is_local(filled.base_url))
  return dataclasses.replace(filled, timeout=seconds, prices=_prices(filled, name))


def vendor_at(base_url: str) -> str | None:
  """The vendor whose address this is, except for those that run on one's own machine."""
  host = _host(base_url)
  names = (name for name, vendor in VENDORS.items() if not vendor.free)
  return next((name for name in names if host and host == _host(VENDORS[name].base_url)), None)


def _host(url: str) -> str:
  try:
    return urllib.parse.urlsplit(url).hostname or ""
  except ValueError:
    return ""


def _prices(teacher: settings.Teacher, vendor: str | None) -> settings.Prices:
  """The prices that are set, and the known ones for the others; UNKNOWN if there are none."""
  own, known = teacher.prices, settings.Prices(UNKNOWN, UNKNOWN, UNKNOWN)
  if not billed(teacher) or vendor in FREE:
    known = settings.Prices(0.0, 0.0, UNKNOWN)
  elif vendor:
    known = known_prices(vendor, teacher.model) or known
  return settings.Prices(
    input=known.input if own.input == UNKNOWN else own.input,
    output=known.output if own.output == UNKNOWN else own.output,
    cached=known.cached if own.input == own.cached == UNKNOWN else own.cached,
  )


def billed(teacher: settings.Teacher) -> bool:
  """Whether somebody may charge for replies: another machine's server, reached over https."""
  url = teacher.base_url
  return teacher.kind == "openai" and url.startswith("https://") and not credentials.is_local(url)


def unpriced(teacher: settings.Teacher) -> bool:
  """Whether a completed teacher's replies cost something that is not known."""
  return billed(teacher) and UNKNOWN in (teacher.prices.input, teacher.prices.output)


def known_prices(vendor: str, model: str) -> settings.Prices | None:
  """The prices of a vendor's model, in dollars per million tokens; None if they are not known.

  A model with a date in its name costs what the model of that name without a date does, unless
  the table has it.
  """
  exact, beginnings = _table()
  for name in (model.lower(), _DATE.sub("", model.lower()), model.lower().rpartition("/")[2]):
    if (vendor, name) in exact:
      return exact[vendor, name]
    matching = [b for v, b in beginnings if v == vendor and name.startswith(b)]
    if matching:
      return beginnings[vendor, max(matching, key=len)]
  return None


def describe_prices(teacher: settings.Teacher) -> str:
  """The prices of a completed teacher, and where they are from; "" if nobody charges."""
  if not billed(teacher) or unpriced(teacher):
    return ""
  prices, vendor = teacher.prices, vendor_at(teacher.base_url)
  known = vendor is not None and known_prices(vendor, teacher.model) == prices
  source = f", {_lines()[0].lstrip('# ').partition(';')[0]}" if known else ""
  return f"{teacher.model}: ${prices.input:g} in, ${prices.output:g} out per million tokens{source}"


@functools.cache
def _lines() -> list[str]:
  file = importlib.resources.files("distill_jax.teacher") / PRICES
  return file.read_text(encoding="utf-8").splitlines()


Table = dict[tuple[str, str], settings.Prices]  # by vendor and name, or beginning of a name


@functools.cache
def _table() -> tuple[Table, Table]:
  exact: Table = {}
  beginnings: Table = {}
  for line in _lines()[1:]:
    vendor, names, *costs = line.split(",")
    prompt, reply, cached = (float(cost) if cost else UNKNOWN for cost in costs)
    prices = settings.Prices(prompt, reply, cached)
    for name in names.split(" "):
      table = beginnings if name.endswith("*") else exact
      table.setdefault((vendor, name.rstrip("*").lower()), prices)
  return exact, beginnings
