"""distill-jax data export: what a run kept, as a data set for other trainers."""

import collections
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from distill_jax import disk, errors, plan, records
from distill_jax.data import chat_rows
from distill_jax.report import load, numbers
from distill_jax.report.nodes import visible
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime import results

CARD = """---
license: unknown  # fill in: the terms of the teacher and of the questions decide
language: [en]
task_categories: [text-generation]
tags: [distill_jax, chain-of-thought, synthetic]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.parquet
---

# {name}

{count:,} {kind} from a distill_jax run, in the format `{format}`. The same rows are in
`data/train.parquet` and `train.jsonl`.

| | |
| --- | --- |
| recipe | `{recipe}` |
| task | `{task}` |
| writers | {writers} |
| rows by round | {rounds} |
| questions | {questions:,} |
| with thinking | {thinking:,} |
| dropped before | {dropped} |

Every rationale ends in the gold answer of its question (or in the answer that the settings of the
run accept); the others were dropped. Thinking is apart from the text: in `reasoning_content` of the
assistant's message, or in the column `thinking`.

## Load

```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files="data/train.parquet", split="train")
```

{usage}

## License

Fill in the field `license` above. The texts were written by the models named as writers; their
terms and those of the questions apply.
"""
LLAMA_FACTORY = "LLaMA-Factory: `dataset_dir` is this directory, `dataset` is `distill_jax`."
USAGE = {
  "messages": "TRL's `SFTTrainer` reads the column `messages`. axolotl: `type: chat_template`.\n"
  + LLAMA_FACTORY,
  "prompt_completion": "TRL's `SFTTrainer` trains on `completion` only.",
  "preference": "TRL's `DPOTrainer` reads `prompt`, `chosen` and `rejected`.",
  "sharegpt": "axolotl: `type: chat_template`, `field_messages: conversations`,\n"
  "`message_property_mappings: {role: from, content: value}`.\n" + LLAMA_FACTORY,
  "alpaca": "axolotl: `type: alpaca`.\n" + LLAMA_FACTORY,
}
# Descriptions of the formats in dataset_info.json (LLaMA-Factory, data/README.md). They name all
# columns of a format: once one is named, the others have no default.
DESCRIPTIONS: dict[str, dict[str, Any]] = {
  "messages": {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
      "role_tag": "role",
      "content_tag": "content",
      "user_tag": "user",
      "assistant_tag": "assistant",
      "system_tag": "system",
    },
  },
  "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
  "alpaca": {
    "formatting": "alpaca",
    "columns": {"prompt": "instruction", "query": "input", "response": "output"},
  },
}


def run(workdir: str, format: str, out: str, *, push: str = "") -> None:
  """Writes a data set and prints where it is.

  Args:
    workdir: The run directory; the run may be unfinished.
    format: One of chat_rows.FORMATS.
    out: The directory to write, which must not exist or be empty.
    push: OWNER/NAME on the Hugging Face Hub to upload to; "" = nowhere.

  Raises:
    UserError: An option is wrong, the run has nothing of that format, or a file is damaged.
  """
  if not workdir:
    raise errors.missing("workdir", "runs/quickstart")
  if not out:
    raise errors.missing("out", "datasets/quickstart")
  if format not in chat_rows.FORMATS:
    raise errors.usage(
      f"--format={format} is unknown; choose one of {', '.join(chat_rows.FORMATS)}"
    )
  if (push and not all(push.partition("/")[::2])) or push.count("/") > 1:
    raise errors.usage(f"--push={push} must be OWNER/NAME")
  target = pathlib.Path(out)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise errors.usage(f"--out={out} exists; name a new directory")
  run = load.read(workdir)
  found = preferences(run) if format == chat_rows.PREFERENCE else texts(run)
  rows = chat_rows.rows(format, found)
  if not rows:
    kind = "preference pairs or corrections" if format == chat_rows.PREFERENCE else "rationales"
    raise errors.data(f"{workdir} has no {kind} yet")
  part = disk.unfinished(target)
  shutil.rmtree(part, ignore_errors=True)
  write(part, rows, card(run, format, rows, found, target.name), DESCRIPTIONS.get(format))
  with phase_dir.report_os_errors(target):
    if target.exists():
      target.rmdir()
    os.replace(part, target)
  print(f"Wrote {len(rows)} rows to {target} (train.jsonl, data/train.parquet, README.md)")
  if push:
    from distill_jax.data import hub

    print(f"Uploaded to {hub.push(target, push)} (private)")


def texts(run: load.Run) -> list[chat_rows.Source]:
  """Returns the kept rationales of all finished phases."""
  return [
    _source(run, r)
    for phases in run.rounds.values()
    for phase in phases
    if phase.finished
    for r in phase.rationales
  ]


def _source(run: load.Run, r: records.Rationale) -> chat_rows.Source:
  question = _question(run, r.problem)
  return chat_rows.Source(
    id=r.problem,
    question=records.rendered(question),
    text=r.text,
    answer=r.answer or "",
    round=r.round,
    writer=r.writer,
    thinking=r.thinking,
    rejected=r.corrects,
  )


def preferences(run: load.Run) -> list[chat_rows.Source]:
  """Returns the run's preference pairs; corrections over the attempts they correct, too.

  A pair about one stage keeps the prompt of its stage.
  """
  found = [source for source in texts(run) if source.rejected]
  for directory in sorted(run.directory.path.glob("round_*/*_pair")):
    phase = PhaseDir(directory)
    if not phase.verify():
      continue
    index = int(directory.parent.name.removeprefix("round_"))
    for pair in phase.rows(results.PAIRS, records.PreferencePair):
      question = _question(run, pair.problem)
      asked = records.prompt_text(pair.prompt) if pair.stage else records.rendered(question)
      found.append(
        chat_rows.Source(
          id=pair.problem,
          question=asked,
          text=pair.chosen,
          answer=question.gold,
          round=index,
          writer="student",
          rejected=pair.rejected,
        )
      )
  return found


def _question(run: load.Run, problem: str) -> records.Question:
  if problem not in run.questions:
    raise errors.data(f"questions.jsonl of {run.name} lacks question {problem}; restore it")
  return run.questions[problem]


def write(
  folder: pathlib.Path,
  rows: Sequence[chat_rows.Row],
  readme: str,
  description: dict[str, Any] | None,
) -> None:
  """Writes train.jsonl, data/train.parquet, README.md, and the description as dataset_info.json."""
  import pyarrow
  from pyarrow import parquet

  with phase_dir.report_os_errors(folder):
    disk.make_private_dirs(folder / "data")
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / "data" / "train.parquet")
  lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  phase_dir.write_bytes(folder / "train.jsonl", lines.encode())
  phase_dir.write_bytes(folder / "README.md", readme.encode())
  if description is not None:
    info = {"distill_jax": {"file_name": "train.jsonl"} | description}
    phase_dir.write_bytes(folder / "dataset_info.json", json.dumps(info, indent=2).encode())


def card(
  run: load.Run,
  format: str,
  rows: Sequence[chat_rows.Row],
  found: Sequence[chat_rows.Source],
  name: str,
) -> str:
  """Returns the data card."""
  phases = [p for by_round in run.rounds.values() for p in by_round if p.name in plan.WRITERS]
  writers = collections.Counter(row["writer"] for row in rows)
  rounds = collections.Counter(row["round"] for row in rows)
  dropped = sorted(numbers.dropped(phases).items())
  return CARD.format(
    name=_plain(name),
    count=len(rows),
    kind="preference pairs" if format == chat_rows.PREFERENCE else "rationales",
    format=format,
    recipe=_plain(run.setting("recipe")),
    task=_plain(run.setting("task.name")),
    writers=", ".join(f"`{_plain(writer)}` {n:,}" for writer, n in writers.most_common()),
    rounds=", ".join(f"{index}: {n:,}" for index, n in sorted(rounds.items())),
    questions=len({row["id"] for row in rows}),
    thinking=sum(bool(source.thinking) for source in found),
    dropped=", ".join(f"{_plain(reason)} {n:,}" for reason, n in dropped if n) or "nothing",
    usage=USAGE[format],
  )


def _plain(text: str) -> str:
  """Returns a text that cannot leave its place in Markdown."""
  return " ".join(visible(text).split()).translate({ord(c): "'" for c in "`|<>[]"})
