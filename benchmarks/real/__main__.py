"""Recipes on real questions with real students and recorded teachers: runs rows, prints tables.

  python -m benchmarks.real --runs=DIR --data=DATA --students=STUDENTS          all rows
  python -m benchmarks.real --runs=DIR --data=DATA --students=STUDENTS --row=svamp-smollm2-cot
  python -m benchmarks.real --table [--row=svamp] [--plot=FILE.svg]             stored results only

--row is the beginning of the names of the rows to run (rows.py lists them; --list prints them). A
row is an ordinary run with its own directory below DIR/rows: it can be stopped at any time and
resumes, and a finished row is not run again. The result of a finished row is stored in --results
(stored.py). Everything printed is read from there, so the tables of docs/real.md can be printed
without a run.

DATA has the directories svamp, asdiv, gsm8k and obqa with the published files (see docs/data.md),
and teacher_distilling_cot with those of EIT-NLP/Distilling-CoT-Reasoning, by task. STUDENTS has
students in Hugging Face format: smollm2-135m-instruct, qwen2.5-coder-0.5b-instruct. The rows of
live-smollm2 need a server with the larger student, such as llama-server, at --teacher.
"""

import argparse
import pathlib
import sys

from benchmarks.real import plot, rows, sittings, stored, table
from distill_jax import errors
from distill_jax.ablations import children

TEACHER = "http://127.0.0.1:8080/v1"  # the default of llama-server


def run_rows(options: argparse.Namespace) -> int:
  """Runs the wanted rows that are unfinished, and stores the results of all.

  Returns:
    The exit code of the first run that stops; the rows after it are not run.
  """
  planned = rows.plan(
    options.row,
    runs=options.runs,
    data=options.data,
    students=options.students,
    teacher=options.teacher,
  )
  for block, row, run in planned:
    if options.seed is not None and run.seed != options.seed:
      continue
    if not run.finished:
      print(f"{run.row}, seed {run.seed}: see {run.log}", file=sys.stderr, flush=True)
      if code := sittings.run(run, options.runs):
        said = f"{children.reason(code)}: {children.last_line(run.log)}"
        print(f"{run.row}, seed {run.seed}: {said}", file=sys.stderr)
        return code
    stored.write(block, row, run, options.results)
  return 0


def print_tables(options: argparse.Namespace) -> None:
  """Prints the tables of the blocks that have a wanted row, and draws the plot."""
  built = [
    table.build(block, options.results)
    for block, found in rows.BLOCKS.items()
    if any(rows.name_of(block, row).startswith(options.row) for row in found.rows)
  ]
  for block in built:
    if block["runs"]:
      print(table.render(block))
  if options.plot:
    options.plot.write_text(plot.draw(plot.numbers(built)))


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--runs", type=pathlib.Path, help="directory of the run directories")
  parser.add_argument("--data", type=pathlib.Path, help="directory of the data sets")
  parser.add_argument("--students", type=pathlib.Path, help="directory of the students")
  parser.add_argument("--teacher", default=TEACHER, help=f"address of a live teacher ({TEACHER})")
  parser.add_argument("--row", default="", help="beginning of the names of the rows")
  parser.add_argument("--seed", type=int, help="only this seed")
  parser.add_argument(
    "--results", type=pathlib.Path, default=stored.DIRECTORY, help="directory of stored results"
  )
  parser.add_argument("--table", action="store_true", help="run nothing")
  parser.add_argument("--plot", type=pathlib.Path, help="SVG file to write")
  parser.add_argument("--list", action="store_true", help="print the names of the rows")
  options = parser.parse_args()
  if not any(name.startswith(options.row) for name in rows.names()):
    parser.error(f"--row={options.row}: no such row; choose from {', '.join(rows.names())}")
  if options.list:
    print("\n".join(name for name in rows.names() if name.startswith(options.row)))
    return 0
  if not (options.table or (options.runs and options.data and options.students)):
    parser.error("either --table or --runs, --data and --students must be given")
  try:
    code = 0 if options.table else run_rows(options)
    print_tables(options)
  except errors.UserError as error:
    print(f"benchmarks.real: {error}", file=sys.stderr)
    return error.code
  return code


if __name__ == "__main__":
  sys.exit(main())
