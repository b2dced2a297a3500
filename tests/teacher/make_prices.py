"""Writes distill_jax/teacher/prices.csv from the package genai-prices.

  pip install -U genai-prices && python tests/teacher/make_prices.py

A row is a vendor, the names of a model (=name, or name* for every name that begins so), and dollars
per million prompt, completion and cached prompt tokens; an empty last field means as the prompt.
Of prices that depend on the length of the prompt, the row has those of short prompts.
"""

import datetime
import importlib.metadata
import pathlib

TABLE = pathlib.Path(__file__).parents[2] / "distill_jax" / "teacher" / "prices.csv"
VENDORS = {  # ours: theirs
  "openai": "openai",
  "anthropic": "anthropic",
  "gemini": "google",
  "mistral": "mistral",
  "groq": "groq",
  "together": "together",
  "openrouter": "openrouter",
  "deepseek": "deepseek",
  "xai": "x-ai",
  "fireworks": "fireworks",
  "cerebras": "cerebras",
  "cohere": "cohere",
  "perplexity": "perplexity",
  "moonshot": "moonshotai",
  "zai": "zai",
  "minimax": "minimax",
}


def names(clause) -> set[str]:
  """The names and beginnings of names that a clause matches; not those of a pattern."""
  kind = type(clause).__name__
  if kind == "ClauseOr":
    return set().union(*map(names, clause.or_))
  if kind == "ClauseEquals":
    return {clause.equals}
  return {f"{clause.starts_with}*"} if kind == "ClauseStartsWith" else set()


def price(value) -> str:
  """A price as text; that of the shortest prompts."""
  value = getattr(value, "base", value)
  return "" if value is None else f"{float(value):.10g}"


def main() -> None:
  from genai_prices.data import providers

  now = datetime.datetime.now(datetime.UTC)
  by_id = {provider.id: provider for provider in providers}
  rows = []
  for ours, theirs in VENDORS.items():
    for model in by_id[theirs].models:
      prices = model.get_prices(now)
      if prices.input_mtok is None or prices.output_mtok is None:
        continue
      known = " ".join(sorted({model.id} | names(model.match)))
      costs = (prices.input_mtok, prices.output_mtok, prices.cache_read_mtok)
      rows.append(",".join([ours, known, *map(price, costs)]))
  version = importlib.metadata.version("genai-prices")
  header = f"# genai-prices {version}, {now:%Y-%m-%d}; made by tests/teacher/make_prices.py\n"
  TABLE.write_text(header + "\n".join(rows) + "\n")


if __name__ == "__main__":
  main()
