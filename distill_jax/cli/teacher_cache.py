"""teacher cache show | export | import | prune: what was paid for, told, moved and thrown away."""

import datetime
import json
import os
import pathlib
import sys

from distill_jax import console, errors, teacher
from distill_jax.teacher.store import cache, jsonl

WORDS = ("show", "export", "import", "prune")


def run(word: str, options: dict, rest) -> int:
  """Does what a word says, with the options of __main__ and what stands beside them."""
  if word == "import":
    if len(rest) != 1:
      raise errors.usage("teacher cache import wants one FILE, as teacher cache export wrote it")
  elif rest:
    raise errors.usage(f"{rest[0]!r} is not understood here; options begin with --")
  path, mine = located(options["workdir"], options["cache"])
  if word != "import" and not path.is_file():
    raise errors.data(f"there is no teacher cache {path}: no teacher was asked there yet")
  store = cache.ReplyCache(path)
  try:
    if word == "show":
      show(store, mine, failures=options["failures"])
    elif word == "export":
      export(store, options["out"])
    elif word == "import":
      read(store, rest[0], options["run"])
    else:
      prune(
        store, model=options["model"], days=options["older_than"], run=options["run"],
        yes=options["yes"],
      )  # fmt: skip
  finally:
    store.close()
  return 0


def located(workdir: str, file: str) -> tuple[pathlib.Path, str]:
  """(the cache's file, whose numbers are wanted: "" for everyone's)."""
  if bool(workdir) == bool(file):
    raise errors.usage("one of --workdir=RUN and --cache=FILE is needed")
  if file:
    return pathlib.Path(file), ""
  config = pathlib.Path(workdir) / "config.json"
  try:
    shared = json.loads(config.read_bytes())["teacher"]["cache"]
  except FileNotFoundError:
    raise errors.usage(f"{workdir} is no run folder: it has no config.json") from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.data(f"{config} cannot be read ({error})") from None
  if shared:
    return pathlib.Path(shared), os.path.realpath(workdir)
  return pathlib.Path(workdir) / teacher.CACHE, ""


def show(store: cache.ReplyCache, run: str, *, failures: bool) -> None:
  """Prints what was paid for, by run, round and phase, and by model; or what has failed."""
  screen = console.Console()
  if failures:
    _table(screen, FAILED, _failed(store, run))
    return
  screen.line(f"{store.path}{f': {run}' if run else ''}")
  _table(screen, SPENT, _spent(store, run))
  screen.line()
  _table(screen, MODELS, _models(store, run))


def export(store: cache.ReplyCache, out: str) -> None:
  """Writes JSON lines to a file, or to the standard output."""
  if not out:
    jsonl.export(store, sys.stdout)
    return
  target = pathlib.Path(out)
  own = target.exists() and target.samefile(store.path)
  if own or target.is_symlink() or (target.exists() and not target.is_file()):
    raise errors.usage(
      f"--out={out} is {'the cache itself' if own else 'no ordinary file'} and would be replaced;"
      " name another file, or leave --out away for the standard output"
    )
  with jsonl.new_file(out) as file:
    count = jsonl.export(store, file)
  console.Console().line(f"{out} has the {count} rows of {store.path}")


def read(store: cache.ReplyCache, file: str, run: str) -> None:
  new, count = jsonl.import_file(store, file, run)
  console.Console().line(
    f"{new} of the {count} rows in {file} are new in {store.path}; the others were there"
  )


def prune(store: cache.ReplyCache, *, model: str, days: float, run: str, yes: bool) -> None:
  """Throws replies away, or says how many it would. What they cost stays in the ledger."""
  where, values = _condition(model, days, run)
  matching = f"from replies where {where}"
  if not yes:
    count, tokens, dollars = store.query(
      f"select count(*), coalesce(sum(tokens_out), 0), coalesce(sum(dollars), 0) {matching}", values
    )[0]
    console.Console().line(
      f"{count} of {_count(store)} replies in {store.path} would go ({tokens} tokens that cost"
      f" ${dollars:.4f}, and would again); the same with --yes throws them away"
    )
    return
  gone = store.prune(where, values)
  console.Console().line(
    f"{gone} replies are gone from {store.path}, {_count(store)} are left; what they cost stays in"
    " the ledger"
  )


def _condition(model: str, days: float, run: str) -> tuple[str, list]:
  parts = []
  if model:
    parts.append(("model = ?", model))
  if run:
    parts.append(("run = ?", run))
  if days >= 0:
    now = datetime.datetime.now(datetime.UTC)
    try:
      before = now - datetime.timedelta(days=days)
    except OverflowError:
      raise errors.usage(f"--older_than={days:g} days is before there were calendars") from None
    parts.append(("time < ?", before.isoformat("T", "seconds")))
  if not parts:
    raise errors.usage("which replies? say --model=NAME, --older_than=DAYS or --run=NAME")
  return " and ".join(part for part, _ in parts), [value for _, value in parts]


def _count(store: cache.ReplyCache) -> int:
  return store.query("select count(*) from replies")[0][0]


SPENT = (
  *("run", "round", "phase", "calls", "cached", "retries", "failures"),
  *("tokens in", "of them cached", "tokens out", "of them reasoning", "dollars"),
)
MODELS = ("model", "replies", "tokens in", "tokens out", "dollars", "first", "last")
FAILED = (
  *("run", "round", "phase", "kind", "HTTP", "samples", "asked again", "attempts"),
  *("last request", "last message"),
)


def _spent(store: cache.ReplyCache, run: str) -> list[tuple]:
  """A row for each run, round and phase, and the sum."""
  places = store.query(
    "select run, round, phase from replies union select run, round, phase from asked"
    " union select run, round, phase from failures union select run, round, phase from sent"
    " union select run, round, phase from pruned order by 1, 2, 3"
  )
  rows, runs = [], []
  for place in places:
    if run in ("", place[0]):
      rows.append((*place, *_cells(store.totals(*place))))
      runs.append(place[0])
  for name in dict.fromkeys(runs):
    rows.append((name, "all", "", *_cells(store.totals(name))))
  return rows


def _cells(t) -> tuple:
  return (
    t.calls, t.cache_hits, t.retries, t.failures, t.tokens_in, t.tokens_cached, t.tokens_out,
    t.tokens_reasoning, f"{t.dollars:.4f}",
  )  # fmt: skip


def _models(store: cache.ReplyCache, run: str) -> list[tuple]:
  rows = store.query(
    "select model, count(*), sum(tokens_in), sum(tokens_out), total(dollars), min(time), max(time)"
    f" from replies {'where run = ?' * bool(run)} group by model order by 2 desc, 1",
    (run,) if run else (),
  )
  return [(*row[:4], f"{row[4]:.4f}", *row[5:]) for row in rows]


def _failed(store: cache.ReplyCache, run: str) -> list[tuple]:
  """A row for each kind of failure of a round and phase; of the last one, what was said."""
  columns = "run, round, phase, kind, status, attempts, request_id, message, time"
  found = store.query(
    f"select run, round, phase, kind, status, sum(open), sum(not open), sum(attempts), request_id,"
    f" message, max(time) from (select {columns}, 1 as open from failures union all"
    f" select {columns}, 0 as open from failed_before) {'where run = ?' * bool(run)}"
    " group by 1, 2, 3, 4, 5 order by 1, 2, 3, 6 desc, 4, 5",  # bare columns are max(time)'s
    (run,) if run else (),
  )
  return [(*row[:8], row[8] or "-", row[9]) for row in found]


def _table(screen, names, rows) -> None:
  """Aligned columns; numbers to the right."""
  if not rows:
    screen.line("nothing")
    return
  cells = [names, *([_one_line(value) for value in row] for row in rows)]
  screen.columns(cells, right=[isinstance(value, int) for value in rows[0]])


def _one_line(value) -> str:
  if type(value) is int:
    return f"{value:,}"
  return " ".join(console.plain(str(value)).split())
