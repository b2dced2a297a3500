"""The model card of an exported student: what it is, how it was made, how well it does."""

import pathlib

TEMPLATE = """---
library_name: transformers
pipeline_tag: text-generation
tags: [distill_jax, chain-of-thought]
---

# {name}

A student of the recipe `{recipe}`, taught the task `{task}` in rounds by `{teacher}`, with
distill_jax. This is the student of round {number}. It began as {began}.

## How to ask it

The prompt is exactly, with a line end after `Reasoning:`

```
{prompt}```

and the answer stands in the last line, `Answer: ...`. Decode greedily, up to {max_new_tokens} tokens.

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
    began=_began(settings.student),
    prompt=prompt,
    max_new_tokens=settings.evaluate.max_new_tokens,
    rounds="\n".join(map(_row, rows)),
    finals="\n".join(f"- {split.replace('_', ' ')}: {_share(f)}" for split, f in finals.items()),
  )


def _began(student) -> str:
  """What the student was before its training, and how much of it was trained."""
  sizes, lora = student.scratch, student.lora
  if student.init == "scratch":
    began = (
      f"a `{student.arch or 'llama'}` from scratch (width {sizes.width}, {sizes.layers} layers, "
      f"{sizes.heads} heads of {sizes.head_width} on {sizes.kv_heads} of keys and values, "
      f"MLP {sizes.mlp})"
    )
  else:  # all of a name on the hub; of a folder its own name, which tells nothing of the machine
    name = student.init if student.init.count("/") < 2 else pathlib.Path(student.init).name
    began = f"`{name}`"
  if lora.rank:
    targets = ", ".join(lora.targets)
    began += f"; trained were updates of rank {lora.rank} (LoRA, of {targets}), merged in here"
  return began


def _row(row: dict) -> str:
  exam = f"{row['exam']['accuracy']:.1%}" if row["exam"] else ""
  return (
    f"| {row['round']} | {exam} | {row['kept']} | {row['steps']} | {_share(row['validation'])} |"
  )


def _share(facts: dict) -> str:
  return f"{facts['accuracy']:.1%} ({facts['low']:.1%} to {facts['high']:.1%}, n={facts['n']})"
