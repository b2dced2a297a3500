"""`teacher cache` show, export, import and prune: inspects and maintains a teacher cache."""

import contextlib
import datetime
import json
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from distill_jax import console, disk, errors, teacher
from distill_jax.cli import args
from distill_jax.cli.help import ANY_AGE, OPTIONS
from distill_jax.run_dir import absent
from distill_jax.teacher.store import cache, cache_file, jsonl, marker

# The commands, with the options that they have besides --workdir and --cache.
USED = {
  "show": ("failures",),
  "export": ("out",),
  "import": ("run",),
  "prune": ("model", "older_than", "run", "yes"),
}
WORDS = tuple(USED)

COSTS = (
  *("run", "round", "phase", "calls", "cached", "retries", "failures"),
  *("tokens in", "of them cached", "tokens out", "of them reasoning", "dollars", "estimated"),
)
MODELS = ("model", "replies", "tokens in", "tokens out", "dollars", "first", "last")
FEATURES = ("server and model", "unsupported", "instead", "learned")
FAILURES = (
  *("run", "round", "phase", "kind", "HTTP", "samples", "asked again", "attempts"),
  *("last request", "last message"),
)


def run(word: str, options: dict[str, Any], rest: Sequence[str]) -> int:
  """Runs one of WORDS.

  Args:
    word: The command.
    options: Options of the command line, by name.
    rest: The other arguments.

  Returns:
    The exit code.

  Raises:
    errors.UserError: The arguments are invalid, or a file cannot be read or written.
  """
  if word == "import":
    if len(rest) != 1:
      raise errors.usage("teacher cache import needs one FILE, made by teacher cache export")
  else:
    args.reject_extra(rest)
  for name, (default, _) in OPTIONS["teacher cache"].items():
    if options[name] != default and name not in ("workdir", "cache", *USED[word]):
      raise errors.usage(f"teacher cache {word} has no option --{name}; see --help")
  path, own_run = locate(options["workdir"], options["cache"])
  if word != "import" and not path.is_file():
    raise errors.data(
      f"there is no teacher cache {path}: no teacher has been asked yet, or the file was moved"
    )
  if word == "import" and not os.access(rest[0], os.R_OK):
    raise errors.data(f"{rest[0]} does not exist or cannot be read")
  with contextlib.ExitStack() as stack:
    opened = path
    if word in ("show", "export") and not all(os.access(p, os.W_OK) for p in (path, path.parent)):
      opened = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
      cache_file.copy(path, opened)
    store = stack.enter_context(contextlib.closing(cache.ReplyCache(opened)))
    if word == "show":
      show(store, path, own_run, failures=options["failures"])
    elif word == "export":
      export(store, path, options["out"])
    elif word == "import":
      import_file(store, rest[0], options["run"])
    else:
      prune(
        store,
        model=options["model"],
        days=options["older_than"],
        run=options["run"],
        yes=options["yes"],
      )
  return 0


def locate(workdir: str, file: str) -> tuple[pathlib.Path, str]:
  """Finds a cache file by run directory or by name.

  Args:
    workdir: The run directory; "" if `file` is given.
    file: The cache file; "" if `workdir` is given.

  Returns:
    (path of the file, the run to show; "" for all of them).

  Raises:
    errors.UserError: Not exactly one is given, or the run directory has no readable config.
  """
  if bool(workdir) == bool(file):
    raise errors.usage("give either --workdir=RUN or --cache=FILE")
  if file:
    return pathlib.Path(file), ""
  config = pathlib.Path(workdir) / "config.json"
  try:
    shared = json.loads(disk.read_bytes(config))["teacher"]["cache"]
  except FileNotFoundError:
    raise absent.error(workdir) from None
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise errors.data(f"{config} cannot be read ({error})") from None
  if shared:
    path = pathlib.Path(shared)
    last = None if path.exists() else marker.recorded(workdir)  # `shared` may be a relative path
    return last or path, os.path.realpath(workdir)
  return pathlib.Path(workdir) / teacher.CACHE, ""


def show(store: cache.ReplyCache, path: pathlib.Path, run: str, *, failures: bool) -> None:
  """Prints costs by run, round and phase, and by model; or the failures. `run`: "" for all."""
  screen = console.Console()
  if failures:
    _print_table(screen, FAILURES, _failure_rows(store, run))
    return
  screen.line(f"{path}: {run}" if run else f"{path}")
  _print_table(screen, COSTS, _cost_rows(store, run))
  screen.line()
  _print_table(screen, MODELS, _model_rows(store, run))
  if learned := store.learned():
    screen.line()
    _print_table(screen, FEATURES, learned)


def export(store: cache.ReplyCache, path: pathlib.Path, out: str) -> None:
  """Writes all rows as JSON lines to the file `out`, or to standard output if it is ""."""
  if not out:
    jsonl.export(store, sys.stdout)
    return
  target = pathlib.Path(out)
  is_cache = target.exists() and target.samefile(path)
  if is_cache or target.is_symlink() or (target.exists() and not target.is_file()):
    raise errors.usage(
      f"--out={out} is {'the cache itself' if is_cache else 'not a regular file'} and would be"
      " replaced; name another file, or omit --out for standard output"
    )
  with jsonl.new_file(out) as file:
    count = jsonl.export(store, file)
  console.Console().line(f"exported the {count} rows of {path} to {out}")


def import_file(store: cache.ReplyCache, file: str, run: str) -> None:
  """Imports an exported file; `run` renames its runs, "" keeps their names."""
  new, count = jsonl.import_file(store, file, run)
  console.Console().line(
    f"imported {new} of the {count} rows in {file} to {store.path}; the others existed"
  )


def prune(store: cache.ReplyCache, *, model: str, days: float, run: str, yes: bool) -> None:
  """Deletes replies, or prints how many it would delete. Their cost stays in the ledger.

  Args:
    store: The cache.
    model: Delete replies of this model; "" for any.
    days: Delete replies that are at least this old; ANY_AGE for any.
    run: Delete replies that this run paid for; "" for any.
    yes: Delete, instead of printing.
  """
  where, values = _condition(model, days, run)
  if not yes:
    count, tokens, dollars = store.query(
      "select count(*), coalesce(sum(tokens_out), 0), coalesce(sum(dollars), 0) from replies"
      f" where {where}",
      values,
    )[0]
    console.Console().line(
      f"{count} of {_count(store)} replies in {store.path} would be deleted ({tokens} tokens that"
      f" cost ${dollars:.4f}); add --yes to delete them"
    )
    return
  deleted = store.prune(where, values)
  console.Console().line(
    f"deleted {deleted} replies from {store.path}, {_count(store)} are left; the cost of deleted"
    " replies stays in the ledger"
  )


def _condition(model: str, days: float, run: str) -> tuple[str, list[str]]:
  """The SQL condition of `prune`, and its values."""
  parts = []
  if model:
    parts.append(("model = ?", model))
  if run:
    parts.append(("run = ?", run))
  if days != ANY_AGE:
    if not 0 <= days < math.inf:
      raise errors.usage(f"--older_than={days:g} must be a number of days, 0 or more")
    now = datetime.datetime.now(datetime.UTC)
    try:
      before = now - datetime.timedelta(days=days)
    except OverflowError:
      raise errors.usage(f"--older_than={days:g} days is before the calendar begins") from None
    parts.append(("time < ?", before.isoformat("T", "seconds")))
  if not parts:
    raise errors.usage("select replies with --model=NAME, --older_than=DAYS or --run=NAME")
  return " and ".join(part for part, _ in parts), [value for _, value in parts]


def _count(store: cache.ReplyCache) -> int:
  return store.query("select count(*) from replies")[0][0]


def _cost_rows(store: cache.ReplyCache, run: str) -> list[tuple]:
  """A row for each phase, then the totals of each run."""
  phases = store.query(
    "select run, round, phase from replies union select run, round, phase from asked"
    " union select run, round, phase from failures union select run, round, phase from sent"
    " union select run, round, phase from pruned"
    " union select run, round, phase from unanswered order by 1, 2, 3"
  )
  shown = [phase for phase in phases if run in ("", phase[0])]
  rows = [(*phase, *_cost_cells(store, *phase)) for phase in shown]
  for name in dict.fromkeys(phase[0] for phase in shown):
    rows.append((name, "all", "", *_cost_cells(store, name)))
  return rows


def _cost_cells(
  store: cache.ReplyCache, run: str, round: int | None = None, phase: str | None = None
) -> tuple:
  """Measured costs, and the highest possible cost of requests without a reported usage."""
  totals = store.totals(run, round, phase)
  return (
    totals.calls,
    totals.cache_hits,
    totals.retries,
    totals.failures,
    totals.tokens_in,
    totals.tokens_cached,
    totals.tokens_out,
    totals.tokens_reasoning,
    f"{totals.dollars:.4f}",
    f"{store.unanswered(run, round, phase).dollars:.4f}",
  )


def _model_rows(store: cache.ReplyCache, run: str) -> list[tuple]:
  rows = store.query(
    "select model, count(*), sum(tokens_in), sum(tokens_out), total(dollars), min(time), max(time)"
    f" from replies {_of_run(run)} group by model order by 2 desc, 1",
    (run,) if run else (),
  )
  return [(*row[:4], f"{row[4]:.4f}", *row[5:]) for row in rows]


def _failure_rows(store: cache.ReplyCache, run: str) -> list[tuple]:
  """A row for each kind of failure of a phase, with the message of the last one."""
  columns = "run, round, phase, kind, status, attempts, request_id, message, time"
  rows = store.query(
    f"select run, round, phase, kind, status, sum(open), sum(not open), sum(attempts), request_id,"
    f" message, max(time) from (select {columns}, 1 as open from failures union all"
    f" select {columns}, 0 as open from failed_before) {_of_run(run)}"
    # Columns without an aggregate are those of the row with max(time).
    " group by 1, 2, 3, 4, 5 order by 1, 2, 3, 6 desc, 4, 5",
    (run,) if run else (),
  )
  return [(*row[:8], row[8] or "-", row[9]) for row in rows]


def _of_run(run: str) -> str:
  return "where run = ?" if run else ""


def _print_table(
  screen: console.Console, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
  """Prints aligned columns, numbers to the right."""
  if not rows:
    screen.line("nothing")
    return
  cells = [list(names), *([_cell(value) for value in row] for row in rows)]
  screen.columns(cells, right=[isinstance(value, int) for value in rows[0]])


def _cell(value: Any) -> str:
  if type(value) is int:
    return f"{value:,}"
  return " ".join(console.plain(str(value)).split())
