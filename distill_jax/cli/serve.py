"""distill-jax serve: a student behind OpenAI's API, on loopback."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distill_jax import console, defaults, errors
from distill_jax.cli import args
from distill_jax.cli.help import OPTIONS
from distill_jax.settings import Settings

if TYPE_CHECKING:  # they import jax, which takes seconds
  from distill_jax.serving import engine, http

BASE = "base"  # the config of an exported model's settings, unless one is given
# Settings that the files of an exported model decide.
DECIDED = tuple(f"config.student.{name}" for name in ("init", "arch", "prompt", "system", "lora"))


def parse(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parses the command's words into a config and options.

  Raises:
    UserError: Neither or both of --workdir and --model are given, an option has no effect with
      --model, or a word is wrong.
  """
  names = {word.lstrip("-").partition("=")[0] for word in words if word.startswith("-")}
  if len(names & {"workdir", "model"}) != 1:
    raise errors.usage("give either --workdir=RUN or --model=DIR")
  added = [f"--config={BASE}"] if "model" in names and "config" not in names else []
  config, options, rest = args.parse([*words, *added], OPTIONS["serve"], config="run")
  args.reject_extra(rest)
  if options["model"] and options["round"] != -1:
    raise errors.usage("--round needs --workdir=RUN; an exported student has no rounds")
  if options["model"] and (decided := [name for name in names if name.startswith(DECIDED)]):
    raise errors.usage(f"--{min(decided)} has no effect with --model; leave it out")
  if options["batch"] < 1:
    raise errors.usage("--batch must be at least 1")
  assert config is not None
  return config, options


def run(
  settings: Settings, *, workdir: str, model: str, round: int, port: int, batch: int, key_env: str
) -> None:
  """Serves until it is interrupted.

  Args:
    settings: The settings of the run, or the defaults, with overrides.
    workdir: The run directory; "" with `model`.
    model: A directory in Hugging Face format; "" with `workdir`.
    round: The student's round; -1 = the best.
    port: TCP port; 0 = any free port.
    batch: Completions decoded at a time.
    key_env: Environment variable with the API key; "" = no key.

  Raises:
    UserError: There is no such student, the variable is not set, or the port is taken.
  """
  if not 0 <= port < 2**16:
    raise errors.usage(f"--port={port} must be 0 to {2**16 - 1}")
  key = os.environ.get(key_env, "") if key_env else ""
  if key_env and not key:
    raise errors.usage(f"--key_env={key_env}: the environment variable is not set")
  settings = dataclasses.replace(
    settings, rollout=dataclasses.replace(settings.rollout, batch=batch)
  )
  from distill_jax.serving import api, engine, http

  opened = open_model(settings, model) if model else open_workdir(settings, workdir, round)
  with opened as (served, name):
    started = engine.Engine(served)
    server = http.Server(api.Api(started, name), port=port, key=key)
    try:
      asyncio.run(_forever(server, name))
    except OSError as error:
      reason = os.strerror(error.errno) if error.errno else error
      raise errors.usage(f"--port={port}: {reason}; choose another one, or 0 for any") from None
    finally:
      started.close()


async def _forever(server: "http.Server", name: str) -> None:
  async with server.running():
    print(f"Serving {name} at http://127.0.0.1:{server.port}/v1 (Ctrl-C ends it)", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def open_workdir(
  settings: Settings, workdir: str, round: int
) -> Iterator[tuple["engine.Served", str]]:
  """Yields (the student of a run, its name)."""
  from distill_jax.cli.open_run import open_run, select_round
  from distill_jax.serving import engine

  with open_run(settings, workdir) as ctx:
    index = select_round(ctx, round)
    students = ctx.students(index)
    served = engine.Served(
      students=students,
      task=ctx.question_layout(),
      stop=tuple(ctx.format.stop),
      limit=ctx.settings.evaluate.max_new_tokens,
      longest=max(ctx.settings.rollout.buckets),
    )
    yield served, f"{pathlib.Path(workdir).resolve().name}-round-{index}"


@contextlib.contextmanager
def open_model(settings: Settings, model: str) -> Iterator[tuple["engine.Served", str]]:
  """Yields (an exported student, its name). Its config is copied to a temporary directory."""
  from distill_jax.runtime import exported
  from distill_jax.serving import engine

  # There are no data to measure: lengths that are not set are those of a student from scratch.
  origin = dataclasses.replace(settings.student, init="scratch")
  settings = defaults.settle(dataclasses.replace(settings, student=origin))
  with tempfile.TemporaryDirectory() as scratch:
    screen = console.Console(file=sys.stderr)
    student = exported.open_student(settings, pathlib.Path(model), pathlib.Path(scratch), screen)
    served = engine.Served(
      students={"student": (student, student.init_params())},
      task=None,
      stop=(),
      limit=settings.evaluate.max_new_tokens,
      longest=max(settings.rollout.buckets),
    )
    yield served, pathlib.Path(model).resolve().name
