"""questions.jsonl: every question of a run with its gold answer, written when the run starts.

Attempts, rationales and pairs name a question by its id; this file is what a reader joins them
with (`distill-jax show`). No phase reads it.
"""

import pathlib
from collections.abc import Iterable

from distill_jax import disk, errors, records
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import QUESTIONS as QUESTIONS
from distill_jax.run_dir.run_dir import RunDir


def write(run_dir: RunDir, problems: Iterable[tuple[str, records.Problem]]) -> None:
  """Writes questions.jsonl, atomically, unless it already has this content.

  Args:
    run_dir: The run directory.
    problems: (split, problem) of each question; the split is the one that the run uses it for.
  """
  questions = [
    records.Question(
      id=problem.id,
      split=split,
      question=problem.question,
      gold=problem.gold,
      kind=problem.kind,
      choices=problem.choices,
      decomposition=problem.decomposition,
    )
    for split, problem in problems
  ]
  content = "".join(records.dump(question) + "\n" for question in questions).encode("ascii")
  file = run_dir.path / QUESTIONS
  with phase_dir.report_os_errors(file):
    if file.exists() and disk.read_bytes(file) == content:
      return
  run_dir.replace(QUESTIONS, content)


def read(run_dir: pathlib.Path) -> dict[str, records.Question]:
  """Returns {id: question} of a run.

  Raises:
    UserError: The file is missing or damaged.
  """
  file = run_dir / QUESTIONS
  if not file.exists():
    raise errors.data(
      f"{file} is missing: an older version started this run, or the file was removed; re-run the "
      "run's own command, which writes it"
    )
  return {question.id: question for question in read_records(file, records.Question)}


def read_records(file: pathlib.Path, kind: type[records.R]) -> list[records.R]:
  """Reads the complete lines of a file of records, also while another process appends to it.

  A torn last line is left out, and the file stays as it is.

  Raises:
    UserError: The file is missing or a line is damaged. The message names file:line.
  """
  with phase_dir.report_os_errors(file):
    content = disk.read_bytes(file)
  lines = content.split(b"\n")[:-1]
  return [
    records.load(kind, line.decode("ascii", "backslashreplace"), f"{file}:{number}")
    for number, line in enumerate(lines, 1)
  ]
