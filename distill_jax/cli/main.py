"""The commands: each parses its arguments and calls the module that does the work."""

import contextlib
import importlib.metadata
import io
import os
import pathlib
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import distill_jax
from distill_jax import errors, together
from distill_jax.cli import args, process, processes, restarts
from distill_jax.cli.help import CONFIG_OPTIONS, HELP, OPTIONS, PROCESSES, USAGE
from distill_jax.teacher.client import interrupts

GRACE = 5.0  # seconds between an interruption and the forced end of the process
GRACE_OF_SEVERAL = 25.0  # the same for several processes, which end together


def run(words: Sequence[str]) -> int:
  """Runs every round of a recipe."""
  config, options, rest = args.parse(words, OPTIONS["run"], config="required")
  args.reject_extra(rest)
  if not options["workdir"]:
    raise errors.missing("workdir", "runs/quickstart")
  from distill_jax.config.read import read_settings

  config = _required(config)
  settings = read_settings(config)
  processes.compare(config)
  if options["dry_run"]:
    from distill_jax.cli import dry_run

    dry_run.show(settings, config, options["workdir"], retry_failed=options["retry_failed"])
    return 0
  from distill_jax.cli import commands

  commands.run(settings, config, options["workdir"], retry_failed=options["retry_failed"])
  return 0


def evaluate(words: Sequence[str]) -> int:
  """Scores a student on a split."""
  untrained, _ = args.take(words, "student")
  if untrained is not None:
    words = ["--config=base", f"--config.student.init={untrained}", *words]
  config, options, rest = args.parse(words, OPTIONS["evaluate"], config="run")
  args.reject_extra(rest)
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  settings = read_settings(_required(config), teacher=False)
  processes.compare(_required(config))
  if not options["student"]:
    del options["student"]
    commands.evaluate(settings, **options)
  elif options["workdir"] or options["round"] != -1:
    raise errors.usage("--student is scored without a run: leave --workdir and --round out")
  else:
    commands.evaluate_untrained(settings, split=options["split"])
  return 0


def sample(words: Sequence[str]) -> int:
  """Samples answers to questions."""
  config, options, rest = args.parse(words, OPTIONS["sample"], config="run")
  args.reject_extra(rest)
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  settings = read_settings(_required(config), teacher=False)
  processes.compare(_required(config))
  commands.sample(settings, **options)
  return 0


def export(words: Sequence[str]) -> int:
  """Exports a student to Hugging Face format."""
  config, options, rest = args.parse(words, OPTIONS["export"], config="run")
  args.reject_extra(rest)
  if not options["out"]:
    raise errors.missing("out", "exported/quickstart")
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  settings = read_settings(_required(config), teacher=False)
  processes.compare(_required(config))
  commands.export(settings, **options)
  return 0


def show(words: Sequence[str]) -> int:
  """Shows what a phase wrote, with questions and gold answers."""
  _, options, rest = args.parse(words, OPTIONS["show"], config="none")
  args.reject_extra(rest)
  from distill_jax.cli import show

  show.run(
    options["workdir"],
    options["round"],
    options["phase"],
    options["filter"],
    options["n"],
    options["id"],
  )
  return 0


def report(words: Sequence[str]) -> int:
  """Writes the report of a run or a sweep."""
  _, options, rest = args.parse(words, OPTIONS["report"], config="none")
  args.reject_extra(rest)
  from distill_jax.cli import report

  report.run(options["workdir"], options["with"], options["out"], markdown=options["markdown"])
  return 0


def serve(words: Sequence[str]) -> int:
  """Serves a student through OpenAI's API."""
  from distill_jax.cli import serve

  config, options = serve.parse(words)
  from distill_jax.config.read import read_settings

  serve.run(read_settings(config, teacher=False), **options)
  return 0


def data(words: Sequence[str]) -> int:
  """Runs a command about data sets."""
  from distill_jax.cli import data

  return data.run(words)


def ablate(words: Sequence[str]) -> int:
  """Runs a sweep."""
  if any(word.lstrip("-").startswith("config.") for word in words):
    raise errors.usage("a sweep takes no overrides: set them in its file, in `common` and `rows`")
  _, options, rest = args.parse(words, OPTIONS["ablate"], config="none")
  args.reject_extra(rest)
  for name, example in (("config", "sweeps/tailored"), ("workdir", "runs/ablations")):
    if not options[name]:
      raise errors.missing(name, example)
  if options["jobs"] < 1:
    raise errors.usage("--jobs must be at least 1")
  if options["print"] and options["status"]:
    raise errors.usage("--print and --status exclude each other; leave one out")
  from distill_jax.ablations import run

  if options["print"]:
    return run.print_commands(options["config"], options["workdir"])
  if options["status"]:
    return run.show_status(options["config"], options["workdir"])
  return run.run_sweep(options["config"], options["workdir"], jobs=options["jobs"])


def teacher(words: Sequence[str]) -> int:
  """Serves the built-in teacher, checks a teacher, or manages a teacher cache."""
  if words[:1] == ["cache"]:
    return teacher_cache(words[1:])
  if words[:1] == ["check"]:
    return teacher_check(words[1:])
  if words[:1] != ["serve"]:
    raise errors.usage("usage: teacher serve, teacher check, or teacher cache")
  config, options, rest = args.parse(words[1:], OPTIONS["teacher serve"], config="run or recipe")
  args.reject_extra(rest)
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  commands.serve(read_settings(_required(config)), port=options["port"], log=options["log"])
  return 0


def teacher_check(words: Sequence[str]) -> int:
  """Sends one real request to the teacher of a recipe."""
  config, options, rest = args.parse(words, OPTIONS["teacher check"], config="run or recipe")
  del options
  args.reject_extra(rest)
  from distill_jax.cli import teacher_check
  from distill_jax.config.read import read_settings

  return teacher_check.check(read_settings(_required(config)))


def teacher_cache(words: Sequence[str]) -> int:
  """Shows, exports, imports or prunes a teacher cache."""
  from distill_jax.cli import teacher_cache as cache

  if not words or words[0] not in cache.WORDS:
    raise errors.usage(f"usage: teacher cache {{{', '.join(cache.WORDS)}}}")
  _, options, rest = args.parse(words[1:], OPTIONS["teacher cache"], config="none")
  return cache.run(words[0], options, rest)


def doctor(words: Sequence[str]) -> int:
  """Checks this machine and, if one is given, a config."""
  given = any(word.startswith("--config") for word in words)
  config, options, rest = args.parse(
    words, OPTIONS["doctor"], config="required" if given else "none"
  )
  args.reject_extra(rest)
  from distill_jax.cli import doctor

  return doctor.check(config, options["workdir"])


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
  "run": run,
  "show": show,
  "report": report,
  "evaluate": evaluate,
  "sample": sample,
  "export": export,
  "serve": serve,
  "data": data,
  "ablate": ablate,
  "teacher": teacher,
  "doctor": doctor,
}


def _required(config: dict[str, Any] | None) -> dict[str, Any]:
  """The config of a command that always has one."""
  assert config is not None
  return config


def main(words: Sequence[str]) -> int:
  """Runs a command and returns its exit code; a UserError is printed as one line."""
  outcome = _outcome(words)
  if together.count() > 1:
    return processes.end(outcome)
  if isinstance(outcome, errors.UserError):
    return process.report(outcome)
  if isinstance(outcome, Exception):
    raise outcome
  return outcome


def _outcome(words: Sequence[str]) -> int | Exception:
  """Runs a command; returns its exit code, or what it has raised."""
  try:
    process.check_text(words)
    code = _run_command(list(words))
    sys.stdout.flush()
    return code
  except errors.UserError as error:
    return error
  except BrokenPipeError:  # the reader of our output has closed it
    process.drop_output()
    return 1
  except KeyboardInterrupt:
    return _interruption(words)
  except OSError as error:  # a full disk, too many open files, a path that is too long
    return process.os_error(error)
  except MemoryError:
    return errors.data("out of memory; no finished work is lost: use smaller sizes")
  except Exception as error:
    return error


def _interruption(words: Sequence[str]) -> int | errors.UserError:
  """Returns how an interrupted command ends: a server is done, and only runs and sweeps resume."""
  if words[0] == "serve" or list(words[:2]) == ["teacher", "serve"]:
    return 0
  resume = " Re-run the same command to resume." if words[0] in ("run", "ablate") else ""
  return errors.UserError(f"Interrupted.{resume}", errors.PREEMPTED)


def _run_command(words: list[str]) -> int:
  if not words or words[0] in ("--help", "-h", "help"):
    print(USAGE)
    return 0 if words else errors.USAGE
  if words[0] in ("--version", "version"):
    print(f"distill-jax {version()}")
    return 0
  name = words[0]
  if name not in COMMANDS:
    raise errors.usage(f"no command {name!r}; choose one of {', '.join(COMMANDS)}")
  if {"--help", "-h"} & set(words):
    both = " ".join(words[:2])
    _print_help(both if both in HELP else name)
    return 0
  process.raise_open_files()
  if name not in processes.COMMANDS:
    return COMMANDS[name](words[1:])
  place, patience, rest = processes.take(words[1:])
  counted = name == "run" and not any(word.lstrip("-").startswith("dry_run") for word in rest)
  with restarts.counted(rest, place) if counted else contextlib.nullcontext():
    processes.connect(place, patience)
    return COMMANDS[name](rest)


def version() -> str:
  """The version of the package; in a repository that is not installed, that of pyproject.toml."""
  try:
    return importlib.metadata.version("distill_jax")
  except importlib.metadata.PackageNotFoundError:
    project = pathlib.Path(distill_jax.__path__[0]).parent / "pyproject.toml"
    if project.is_file():
      return tomllib.loads(project.read_text())["project"]["version"]
    return "of unknown version"


def _print_help(name: str) -> None:
  print(HELP[name])
  options = OPTIONS[name] | (PROCESSES if name in processes.COMMANDS else {})
  if options:
    print(f"\n{args.described(options)}")
  if name in CONFIG_OPTIONS:
    print(CONFIG_OPTIONS[name])
  if name == "run":
    print(f"\n{args.settings_described()}")


def interrupted(*_: object) -> None:
  """Handles Ctrl-C, SIGTERM and SIGHUP: ends the process soon, or at once if it happens twice.

  Finished work is on disk. An exception alone is not enough: one that is raised inside a
  compiler's callback is lost. Of several processes, process 0 ends them all at its next message.
  """
  for number in interrupts.watched():
    signal.signal(number, errors.SecondSignal())
  grace = GRACE if together.count() == 1 else GRACE_OF_SEVERAL
  if together.is_first():
    timer = threading.Timer(grace, _end_at_once)
    timer.daemon = True
    timer.start()
  if not together.request_stop():
    raise KeyboardInterrupt


def _end_at_once() -> None:
  restarts.count_interruption()
  os._exit(errors.PREEMPTED)


def _prepare_streams() -> None:
  """Makes printing safe: into a closed stream, and of characters that its encoding lacks."""
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, "w"))
    elif isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def entry() -> None:
  """Runs the command line and exits with its code."""
  for number in interrupts.watched():
    signal.signal(number, interrupted)
  _prepare_streams()
  sys.exit(main(sys.argv[1:]))
