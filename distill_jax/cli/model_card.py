"""The model card of an exported student: its origin, prompt, training and scores."""

import pathlib
from typing import Any

from distill_jax.settings import Settings, Student

TEMPLATE = """---
library_name: transformers
pipeline_tag: text-generation
tags: [distill_jax, chain-of-thought]
---

# {name}

The student of round {round_index} of a distill_jax run: recipe `{recipe}`, task `{task}`, teacher
`{teacher}`. It was trained from {base}.

## Prompt

The chat template of the tokenizer renders exactly this prompt from the question as the user's
message. Without the template, use this text, including all line breaks. If it begins with a start
token, do not add another one:

```
{prompt}
```

The last line of the reply is `Answer: ...`. Decode greedily, up to {max_new_tokens} tokens.

## Training

| round | train acc | rationales kept | steps | validation (95% CI) |
| ---: | ---: | ---: | ---: | ---: |
{rounds}

{finals}
"""


def write(
  settings: Settings,
  rows: list[dict[str, Any]],
  *,
  round_index: int,
  finals: dict[str, dict[str, Any]],
  prompt: str,
  name: str,
) -> str:
  """Writes a model card.

  Args:
    settings: The settings of the run.
    rows: Rounds, as in summary.json.
    round_index: The student's round.
    finals: {split: facts of its evaluation} of this student, if there are any.
    prompt: An example of the prompt.
    name: Title of the card.

  Returns:
    Markdown.
  """
  return TEMPLATE.format(
    name=name,
    recipe=settings.recipe,
    task=settings.task.name,
    teacher=settings.teacher.model,
    round_index=round_index,
    base=_base(settings.student),
    prompt=prompt,
    max_new_tokens=settings.evaluate.max_new_tokens,
    rounds="\n".join(map(_row, rows)),
    finals="\n".join(f"- {split.replace('_', ' ')}: {_share(f)}" for split, f in finals.items()),
  )


def _base(student: Student) -> str:
  """What the student was trained from, and how much of it was trained."""
  sizes, lora = student.scratch, student.lora
  if student.init == "scratch":
    base = (
      f"scratch, as a `{student.arch or 'llama'}` (width {sizes.width}, {sizes.layers} layers, "
      f"{sizes.heads} heads of width {sizes.head_width}, {sizes.kv_heads} key-value heads, "
      f"MLP {sizes.mlp})"
    )
  else:  # a hub name in full; of a directory its own name only, which says nothing of the machine
    name = student.init if student.init.count("/") < 2 else pathlib.Path(student.init).name
    base = f"`{name}`"
  if lora.rank:
    over = f" over weights in {lora.base}" if lora.base else ""
    base += (
      f", with LoRA adapters of rank {lora.rank} on {', '.join(lora.targets)}{over}, merged here"
    )
  return base


def _row(row: dict[str, Any]) -> str:
  exam = f"{row['exam']['accuracy']:.1%}" if row["exam"] else ""
  validation = _share(row["validation"])
  return f"| {row['round']} | {exam} | {row['kept']} | {row['steps']} | {validation} |"


def _share(facts: dict[str, Any]) -> str:
  return f"{facts['accuracy']:.1%} ({facts['low']:.1%} to {facts['high']:.1%}, n={facts['n']})"
