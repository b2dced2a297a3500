"""The model card of an exported student: what it is, how it was made, how well it does."""

TEMPLATE = """---
library_name: transformers
pipeline_tag: text-generation
tags: [distill_jax, chain-of-thought]
---

# {name}

A student of the recipe `{recipe}`, taught the task `{task}` in rounds by `{teacher}`, with
distill_jax. This is the student of round {number}.

## How to ask it

The prompt is exactly, with a line end after `Reasoning:`

```
{prompt}```

and the answer stands in the last line, `Answer: ...`. Decode greedily, up to {new_tokens} tokens.

## How it was made

| round | exam | rationales kept | steps | validation (95 % interval) |
| ---: | ---: | ---: | ---: | ---: |
{rounds}

{finals}
"""


def write(settings, rows, *, number: int, finals: dict, prompt: str, name: str) -> str:
  """Markdown. `rows`: rounds as in summary.json; `finals`: split -> its facts, if there are any."""
  return TEMPLATE.format(
    name=name,
    recipe=settings.recipe,
    task=settings.task.name,
    teacher=settings.teacher.model,
    number=number,
    prompt=prompt,
    new_tokens=settings.evaluate.new_tokens,
    rounds="\n".join(map(_row, rows)),
    finals="\n".join(f"- {split.replace('_', ' ')}: {_share(f)}" for split, f in finals.items()),
  )


def _row(row: dict) -> str:
  exam = f"{row['exam']['accuracy']:.1%}" if row["exam"] else ""
  return (
    f"| {row['round']} | {exam} | {row['kept']} | {row['steps']} | {_share(row['validation'])} |"
  )


def _share(facts: dict) -> str:
  return f"{facts['accuracy']:.1%} ({facts['low']:.1%} to {facts['high']:.1%}, n={facts['n']})"
