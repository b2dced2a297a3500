"""Reads what a response was billed for, in every vendor's spelling.

prompt_tokens, completion_tokens, total_tokens    OpenAI and most others
input_tokens, output_tokens                       Anthropic, Cohere, OpenAI's Responses
promptTokenCount, candidatesTokenCount,           Gemini; thoughts are not part of the candidates
  thoughtsTokenCount, totalTokenCount
prompt_cache_hit_tokens, _miss_tokens             DeepSeek; together they are the prompt
cache_read_input_tokens, cache_creation_...       Anthropic; neither is part of input_tokens
timings.predicted_n                               llama-server, of the first choice only
cost, cost.total_cost, estimated_cost             dollars: OpenRouter, Perplexity, DeepInfra
cost_details.upstream_inference_cost              OpenRouter: the vendor's bill, for your own key
cost_in_usd_ticks                                 xAI

Numbers are untrusted: what cannot be a number of tokens or dollars counts as not reported.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

MAX_TOKEN_COUNT = 10**9  # of one response; larger counts are not believed
MAX_DOLLARS = 1000.0  # likewise
TICKS = 1e10  # xAI's, in a dollar
GROUPS = ("usage", "usageMetadata", "usage_metadata", "x_groq")
_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count")
_COMPLETION = (
  *("completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count"),
)
_TOTAL = ("total_tokens", "totalTokenCount", "total_token_count")
_CACHED = (
  *("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"),
  *("prompt_cache_hit_tokens", "cachedContentTokenCount", "cached_content_token_count"),
  *("cached_tokens", "num_cached_tokens", "prompt_tokens_details.cache_read_input_tokens"),
)
_REASONING = (
  *("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"),
  *("reasoning_tokens", "thinking_tokens"),
)
_THOUGHTS = ("thoughtsTokenCount", "thoughts_token_count")
_PATHS = {
  name: (name.rpartition(".")[0], name.rpartition(".")[2])
  for name in (*_PROMPT, *_COMPLETION, *_TOTAL, *_CACHED, *_REASONING, *_THOUGHTS)
}
_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"


@dataclasses.dataclass(frozen=True)
class Usage:
  """What a response was billed for.

  Attributes:
    tokens_in: Prompt tokens, those below included; None if the server does not report them.
    tokens_out: Completion tokens, hidden ones included; likewise.
    cached: The part of `tokens_in` that the server had cached.
    reasoning: The part of `tokens_out` spent on hidden reasoning.
    written: The part of `tokens_in` that the server wrote to its cache, at a surcharge.
    dollars: What the server says that the response costs; None if it does not say.
  """

  tokens_in: int | None = None
  tokens_out: int | None = None
  cached: int = 0
  reasoning: int = 0
  written: int = 0
  dollars: float | None = None

  @property
  def reported(self) -> bool:
    """Whether the server has reported anything."""
    return bool(self.tokens_in or self.tokens_out or self.dollars)


def read(body: Mapping[str, Any]) -> Usage:
  """Reads the usage in the body of a response, or in its choices (Moonshot's streams)."""
  for fields in _groups(body):
    found = _read_group(fields)
    if found.reported:
      if _is_of_first_choice(body, found):
        return dataclasses.replace(found, tokens_out=None, reasoning=0)
      return found
  choices = body.get("choices")
  return _sum([_of_choice(choice) for choice in choices]) if isinstance(choices, list) else Usage()


def _of_choice(choice: Any) -> Usage:
  groups = map(_read_group, _groups(choice)) if isinstance(choice, Mapping) else ()
  return next((found for found in groups if found.reported), Usage())


def _sum(parts: list[Usage]) -> Usage:
  """The usage of choices that report their own: the prompt counts once."""
  if not any(part.reported for part in parts):
    return Usage()
  counted = [part.tokens_out for part in parts if part.tokens_out is not None]
  return Usage(
    tokens_in=max((part.tokens_in or 0 for part in parts), default=0) or None,
    tokens_out=sum(counted) if len(counted) == len(parts) else None,
    cached=max(part.cached for part in parts),
    reasoning=sum(part.reasoning for part in parts) if len(counted) == len(parts) else 0,
    written=max(part.written for part in parts),
    dollars=sum(part.dollars or 0.0 for part in parts) or None,
  )


def _is_of_first_choice(body: Mapping[str, Any], found: Usage) -> bool:
  """Whether the completion is that of the first of several choices, as llama-server reports it."""
  choices, timings = body.get("choices"), body.get("timings")
  several = isinstance(choices, list) and len(choices) > 1
  generated = _count(timings.get("predicted_n")) if isinstance(timings, Mapping) else None
  return several and bool(generated) and generated == found.tokens_out


def _groups(body: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
  """The parts of a body that may hold its usage."""
  for name in GROUPS:
    group = body.get(name)
    if isinstance(group, Mapping):
      yield group
      inner = group.get("usage") or group.get("tokens")
      if isinstance(inner, Mapping):
        yield inner


def _read_group(fields: Mapping[str, Any]) -> Usage:
  read = _count(fields.get(_READ)) or 0
  written = _count(fields.get(_WRITTEN)) or 0
  cached = _first(fields, _CACHED) or 0
  prompt, completion = _first(fields, _PROMPT), _first(fields, _COMPLETION)
  if prompt is not None and "prompt_tokens" not in fields:  # Anthropic's input_tokens
    prompt += read + written
  missed = _count(fields.get("prompt_cache_miss_tokens"))
  if prompt is None and missed is not None:
    prompt = missed + cached
  # Zero means that the server has not counted, unless it has counted the other part.
  prompt = prompt or None
  cached = min(max(cached, read), prompt or 0)
  reasoning, thoughts = _first(fields, _REASONING) or 0, _first(fields, _THOUGHTS) or 0
  if thoughts:
    completion, reasoning = (completion or 0) + thoughts, max(reasoning, thoughts)
  elif completion is not None and reasoning > completion:  # so it cannot be a part of it
    completion += reasoning
  total = _first(fields, _TOTAL) or 0
  if total and prompt is not None:  # some vendors leave hidden tokens out of the completion
    completion = max(completion or 0, total - prompt)
  elif total and completion:
    prompt = max(total - completion, 0) or None
  reasoning = min(reasoning, completion or 0)
  return Usage(prompt, completion or None, cached, reasoning, written, _dollars(fields))


def _dollars(fields: Mapping[str, Any]) -> float | None:
  """The stated cost; None if there is none. Zero means that the server does not know the price."""
  if (ticks := _amount(fields.get("cost_in_usd_ticks"), TICKS)) is not None:
    return ticks
  cost = fields.get("cost", fields.get("estimated_cost"))
  if isinstance(cost, Mapping):
    cost = cost.get("total_cost")
  if not fields.get("is_byok"):
    return _amount(cost)
  details = fields.get("cost_details")  # the rest of the bill comes from the vendor
  fields = details if isinstance(details, Mapping) else {}
  upstream = _amount(fields.get("upstream_inference_cost"))
  return None if upstream is None else upstream + (_amount(cost) or 0.0)


def _amount(value: Any, unit: float = 1.0) -> float | None:
  """Dollars of `unit` units each; None if the value cannot be an amount, or is zero."""
  valid = type(value) in (int, float) and 0 < value <= MAX_DOLLARS * unit
  return value / unit if valid else None


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> int | None:
  """The first of the fields that holds a number of tokens; a dot leads into a group."""
  for name in names:
    group, inner = _PATHS[name]
    if (group or inner) not in fields:
      continue
    holder = fields[group] if group else fields
    found = _count(holder.get(inner)) if isinstance(holder, Mapping) else None
    if found is not None:
      return found
  return None


def _count(value: Any) -> int | None:
  """A number of tokens; None if the value cannot be one."""
  if type(value) is float and value.is_integer():
    value = int(value)
  return value if type(value) is int and 0 <= value <= MAX_TOKEN_COUNT else None
