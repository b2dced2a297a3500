"""teacher cache: show, export and import without loss, and prune only on request."""

import json
import os
import pathlib
import sqlite3

import pytest

from distill_jax import errors
from distill_jax.cli import main as commands
from distill_jax.teacher import types
from distill_jax.teacher.store import cache, jsonl, marker, tables

HERE = cache.RunPhase("this run", 0, "0_demonstrate")
OTHER = cache.RunPhase("/runs/\u00e9", 2, "1_feedback")
HOSTILE = (
  "lone \ud800 surrogate \udfff", "null \0 byte", "\x1b[31mred\x1b[0m\nand\u2028lines\r\n",
  "x" * 100_000,
)  # fmt: skip
REQUEST = cache.request_text("u", "m", (("user", "q"),), {"temperature": 0.5, "max_tokens": 9})


def key(sample):
  return cache.key(REQUEST, sample)


def reply(text, model="m"):
  return types.Reply(text, "stop", model, 30, 20, 0.1 + 0.2, False, 7, 5)


@pytest.fixture
def full(tmp_path):
  """The path of a cache with rows in every table."""
  store = cache.ReplyCache(tmp_path / "full.sqlite")
  for n, text in enumerate(HOSTILE):
    store.store(REQUEST, {(n, key(n)): reply(text)}, (HERE, OTHER)[n % 2])
  lost = types.Failure("refusal", HOSTILE[0], 2, 9, 8, 0.25, 200, "req-\udc80", 1, 1)
  store.store_many([(REQUEST, {(9, key(9)): lost}, HERE)] * 2)
  store.store(REQUEST, {(8, key(8)): types.Failure("gave_up", "HTTP 500", 6, status=500)}, HERE)
  store.record_asked([key(n) for n in range(10)], OTHER)
  store.record_sent(HERE, 5, 2)
  store.account(HERE, [cache.Reservation("a1", 30, 20, 0.5)])
  store.account(HERE, answers={"a1": (0.25, HOSTILE[0])})
  store.store(REQUEST, {(7, key(7)): reply("old", "gone")}, HERE)
  store.prune("model = ?", ["gone"])
  store.close()
  return tmp_path / "full.sqlite"


def rows(path):
  """{table: its rows}."""
  store = cache.ReplyCache(path)
  tables = {name: sorted(map(repr, store.query(f"select * from {name}"))) for name in jsonl.TABLES}
  store.close()
  return tables


def run(*words):
  return commands.main(["teacher", "cache", *map(str, words)])


def exported(full, tmp_path):
  assert run("export", f"--cache={full}", f"--out={tmp_path / 'all.jsonl'}") == 0
  return tmp_path / "all.jsonl"


def test_an_imported_export_equals_the_original_to_the_last_surrogate(full, tmp_path):
  file = exported(full, tmp_path)
  assert file.read_bytes().isascii()
  assert run("import", file, f"--cache={tmp_path / 'copy.sqlite'}") == 0
  assert rows(tmp_path / "copy.sqlite") == rows(full)
  assert all(rows(full).values())


def test_an_import_leaves_existing_rows_and_can_be_repeated(full, tmp_path, capsys):
  before = rows(full)
  assert run("import", exported(full, tmp_path), f"--cache={full}") == 0
  assert rows(full) == before
  assert "0 of the" in capsys.readouterr().out


def test_imported_replies_can_be_given_to_another_run(full, tmp_path):
  copy = tmp_path / "copy.sqlite"
  assert run("import", exported(full, tmp_path), f"--cache={copy}", "--run=before") == 0
  store = cache.ReplyCache(copy)
  assert store.get(key(0), HERE) == types.Reply(HOSTILE[0], "stop", "m", 30, 20, 0.0, True, 7, 5)
  assert store.totals("this run").dollars == 0
  store.close()


CURRENT = f'"version": {tables.VERSION}'


def as_version(number, lines):
  """An exported file as an older version wrote it.

  Version 2 calls the column `phase` `stage`; versions 2 and 3 have no column `thinking`.
  """
  assert CURRENT in lines[0] and any('"phase": ' in line for line in lines)
  assert any(', "thinking": ""' in line for line in lines)
  lines = [
    lines[0].replace(CURRENT, f'"version": {number}'),
    *(line.replace(', "thinking": ""', "") for line in lines[1:]),
  ]
  return [line.replace('"phase": ', '"stage": ', 1) for line in lines] if number == 2 else lines


@pytest.mark.parametrize("number", [2, 3])
def test_an_export_of_an_older_version_can_still_be_imported(full, tmp_path, number):
  lines = exported(full, tmp_path).read_text().splitlines()
  (tmp_path / "old.jsonl").write_text("\n".join(as_version(number, lines)) + "\n")
  assert run("import", tmp_path / "old.jsonl", f"--cache={tmp_path / 'copy.sqlite'}") == 0
  assert rows(tmp_path / "copy.sqlite") == rows(full) and all(rows(full).values())


@pytest.mark.parametrize("stated", [2, 3, tables.VERSION])
def test_rows_have_the_columns_of_the_version_that_the_file_states(full, tmp_path, capsys, stated):
  lines = exported(full, tmp_path).read_text().splitlines()
  old = as_version(2, lines)
  header = lines[0].replace(CURRENT, f'"version": {stated}')
  mixed = [header, *(lines if stated < tables.VERSION else old)[1:]]
  (tmp_path / "mixed.jsonl").write_text("\n".join(mixed) + "\n")
  copy = tmp_path / "copy.sqlite"
  assert run("import", tmp_path / "mixed.jsonl", f"--cache={copy}") == errors.DATA
  assert "mixed.jsonl:2" in capsys.readouterr().err and not any(rows(copy).values())


def harmed(lines, harm):
  if harm == "torn":
    return lines[:-2] + [lines[-2][:50]]
  if harm == "short":
    return lines[:-1]
  if harm == "dropped":
    return lines[:1] + lines[2:]
  if harm == "more":
    return lines + lines[1:2]
  if harm == "foreign":
    return ['{"question": "q", "text": "t"}']
  if harm == "binary":
    return ["\x00\xff"]
  if harm == "version":
    return [lines[0].replace(CURRENT, '"version": 99'), *lines[1:]]
  row = json.loads(lines[1])
  row |= {
    "cut": {"finish": "length"}, "blank": {"text": " \n"}, "type": {"tokens_in": "3"},
    "negative": {"dollars": -1.0}, "column": {"extra": 1}, "table": {"table": "sqlite_master"},
    "other": {"sample": 5}, "not a number": {"dollars": float("nan")}, "key": {"key": "k"},
  }[harm]  # fmt: skip
  return [lines[0], json.dumps(row), *lines[2:]]


@pytest.mark.parametrize(
  "harm",
  ("torn", "short", "dropped", "more", "foreign", "binary", "version", "cut", "blank", "type",
   "negative", "column", "table", "other", "not a number", "key"),
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_one_clear_error_and_changes_nothing(
  full, tmp_path, capsys, harm
):
  lines = exported(full, tmp_path).read_text().splitlines()
  (tmp_path / "bad.jsonl").write_bytes(("\n".join(harmed(lines, harm)) + "\n").encode("latin-1"))
  store = cache.ReplyCache(tmp_path / "copy.sqlite")
  store.store(REQUEST, {(20, key(20)): reply("kept")}, HERE)
  store.close()
  before = rows(tmp_path / "copy.sqlite")
  capsys.readouterr()
  code = run("import", tmp_path / "bad.jsonl", f"--cache={tmp_path / 'copy.sqlite'}")
  err = capsys.readouterr().err
  assert code == errors.DATA and err.count("\n") == 1 and "bad.jsonl" in err
  assert rows(tmp_path / "copy.sqlite") == before


def test_a_full_disk_is_one_clear_error_and_loses_nothing(full, tmp_path, monkeypatch):
  file = exported(full, tmp_path)
  store = cache.ReplyCache(tmp_path / "copy.sqlite")
  store.store(REQUEST, {(20, key(20)): reply("kept")}, HERE)
  store._db.execute("pragma max_page_count = 20")
  with pytest.raises(errors.UserError, match="full"):
    jsonl.import_file(store, file, "")
  assert store.get(key(20), HERE) == reply("kept") and store.get(key(0), HERE) is None
  store.close()
  store = cache.ReplyCache(full)
  device = pathlib.Path("/dev/full")
  if device.exists():
    monkeypatch.setattr(jsonl, "_part", lambda path: device)
    with pytest.raises(errors.UserError, match="No space left"):
      with jsonl.new_file(tmp_path / "x.jsonl") as out:
        jsonl.export(store, out)
    assert not (tmp_path / "x.jsonl").exists() and device.exists()
  store.close()


def test_an_export_that_fails_leaves_the_last_one(full, tmp_path):
  file = exported(full, tmp_path)
  before = file.read_bytes()
  with pytest.raises(ZeroDivisionError), jsonl.new_file(file) as out:
    out.write("half")
    raise ZeroDivisionError
  assert file.read_bytes() == before and not list(tmp_path.glob("*.part"))


def test_prune_counts_first_and_deletes_only_with_yes(full, capsys):
  store = cache.ReplyCache(full)
  spent = store.totals("this run")
  store.close()
  assert run("prune", f"--cache={full}", "--model=m", "--run=this run") == 0
  assert "2 of 4 replies" in capsys.readouterr().out
  assert len(rows(full)["replies"]) == 4
  assert run("prune", f"--cache={full}", "--model=m", "--run=this run", "--yes") == 0
  assert "deleted 2 replies" in capsys.readouterr().out
  assert len(rows(full)["replies"]) == 2
  store = cache.ReplyCache(full)
  left = store.totals("this run")
  assert left.dollars == pytest.approx(spent.dollars) and left.calls == spent.calls
  assert left.tokens_in == spent.tokens_in and store.query("pragma quick_check")[0][0] == "ok"
  store.close()


def test_prune_by_age(full, capsys):
  db = sqlite3.connect(full)
  db.execute(
    "update replies set time = '2001-01-01T00:00:00+00:00', digest = null where sample = 0"
  )
  db.commit()
  db.close()
  assert run("prune", f"--cache={full}", "--older_than=30", "--yes") == 0
  assert "deleted 1 replies" in capsys.readouterr().out and len(rows(full)["replies"]) == 3


@pytest.mark.parametrize(
  "words",
  [
    [], ["drop"], ["prune", "--cache=F"], ["show"], ["show", "--cache=F", "--workdir=W"],
    ["import", "--cache=F"], ["show", "more", "--cache=F"], ["show", "--workdir=none"],
    ["prune", "--cache=F", "--older_than=1e9"], ["show", "--cache=F", "--nothing=1"],
  ],
)  # fmt: skip
def test_invalid_arguments_are_one_line(full, capsys, words):
  assert run(*[word.replace("=F", f"={full}") for word in words]) == errors.USAGE
  assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_cache_is_reported_and_not_created(tmp_path, capsys):
  for words in (("show",), ("export",), ("prune", "--model=m"), ("import", tmp_path / "none")):
    assert run(*words, f"--cache={tmp_path / 'none.sqlite'}") == errors.DATA
    assert not list(tmp_path.iterdir())
  said = capsys.readouterr().err
  assert "no teacher has been asked" in said and "does not exist or cannot be read" in said


@pytest.mark.parametrize(
  "words",
  [
    ("export", "--model=m"),
    ("export", "--run=r"),
    ("export", "--older_than=3"),
    ("show", "--yes"),
    ("show", "--out=x"),
    ("prune", "--failures", "--model=m"),
  ],
)
def test_an_option_of_another_command_is_rejected(words, full, capsys):
  assert run(*words, f"--cache={full}") == errors.USAGE
  assert f"teacher cache {words[0]} has no option" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["-5", "-1", "nan", "inf"])
def test_an_age_that_is_none_deletes_nothing(days, full, capsys):
  assert run("prune", f"--cache={full}", "--model=m", f"--older_than={days}", "--yes") == 2
  assert "must be a number of days" in capsys.readouterr().err


def test_the_cache_of_a_run_is_found_from_any_directory(tmp_path, monkeypatch, capsys):
  """Its config may have a relative path."""
  monkeypatch.chdir(tmp_path)
  store = cache.ReplyCache("shared.sqlite")
  (tmp_path / "run").mkdir()
  (tmp_path / "run/config.json").write_text('{"teacher": {"cache": "shared.sqlite"}}')
  marker.record(tmp_path / "run", "shared.sqlite")
  store.close()
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  assert run("show", f"--workdir={tmp_path / 'run'}") == 0
  assert str(tmp_path / "shared.sqlite") in capsys.readouterr().out


def test_a_cache_that_must_not_be_written_can_be_shown_and_exported(full, monkeypatch, capsys):
  monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
  before = {file.name: file.read_bytes() for file in full.parent.iterdir()}
  assert run("show", f"--cache={full}") == 0 == run("export", f"--cache={full}")
  assert capsys.readouterr().out.startswith(f"{full}\n")
  assert before == {file.name: file.read_bytes() for file in full.parent.iterdir()}


def test_show_prints_what_each_phase_has_spent(full, capsys):
  assert run("show", f"--cache={full}") == 0
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert lines[0] == [str(full)]
  spent = next(line for line in lines if line[:4] == ["this", "run", "0", "0_demonstrate"])
  assert spent[4:8] == ["3", "0", "2", "2"]  # calls, cached, retries, failures
  feedback = next(line for line in lines if line[:3] == ["/runs/\u00e9", "2", "1_feedback"])
  assert feedback[3:5] == ["2", "2"]
  assert ["m", "4", "120", "80", "1.2000"] in [line[:5] for line in lines]


def test_show_of_a_run_directory_shows_that_run_of_a_shared_cache(full, tmp_path, capsys):
  run_dir = tmp_path / "run"
  run_dir.mkdir()
  (run_dir / "config.json").write_text(json.dumps({"teacher": {"cache": str(full)}}))
  store = cache.ReplyCache(full)
  run_phase = cache.RunPhase(str(run_dir.resolve()), 0, "0_demonstrate")
  store.store(REQUEST, {(30, key(30)): reply("ours")}, run_phase)
  store.close()
  assert run("show", f"--workdir={run_dir}") == 0
  out = capsys.readouterr().out
  assert "this run" not in out and str(run_dir) in out


def test_failures_are_shown_by_kind_with_the_last_message(full, capsys):
  assert run("show", f"--cache={full}", "--failures") == 0
  out = capsys.readouterr().out
  refused = next(line for line in out.splitlines() if " refusal " in line)
  assert refused.split()[4:9] == ["refusal", "200", "1", "1", "4"] and "surrogate" in refused
  assert "\ud800" not in out and "HTTP 500" in out


def test_only_prune_deletes_replies():
  package = pathlib.Path(cache.__file__).parents[2]
  sources = [file.read_text(encoding="utf-8").lower() for file in package.rglob("*.py")]
  assert sum(text.count("delete from replies") for text in sources) == 1
  assert not any("drop table" in text or "replace into replies" in text for text in sources)


def test_an_export_replaces_neither_the_cache_nor_a_special_file(full, tmp_path, capsys):
  before, pipe, link = full.read_bytes(), tmp_path / "pipe", tmp_path / "link"
  os.mkfifo(pipe)
  link.symlink_to(full)
  for out in (full, f"{tmp_path}/./full.sqlite", link, pipe):
    assert run("export", f"--cache={full}", f"--out={out}") == errors.USAGE
    assert capsys.readouterr().err.count("\n") == 1
  assert full.read_bytes() == before and pipe.is_fifo() and link.is_symlink()
