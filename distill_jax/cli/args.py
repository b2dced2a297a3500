"""From words on the command line to a config and options; every mistake is one line.

absl and ml_collections underneath: --config=FILE.py[:argument], --config.a.b=value for any key of
configs/base.py.
"""

import contextlib
import itertools
import json
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from distill_jax import errors


def parse(words, options: dict, *, config: str) -> tuple[dict | None, dict, list[str]]:
  """(config as a plain dict or None, options, positional words).

  options: name -> (default, help), typed by the default. config: "required"; "run" (may also come
  from WORKDIR/config.json, with overrides on top); or "none".
  """
  values = flags.FlagValues()
  for name, (default, text) in options.items():
    define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}.get(
      type(default), flags.DEFINE_string
    )
    define(name, default, text, flag_values=values)
  given = _given(words, "config")
  argv = ["distill_jax", *words]
  with one_line(given or ""):
    if config != "none" and given is not None:
      config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=argv)
    elif config == "run":
      stored = ml_collections.ConfigDict(_stored(words))
      config_flags.DEFINE_config_dict(
        "config", stored, lock_config=True, flag_values=values, sys_argv=argv
      )
    elif config == "required":
      raise errors.usage("--config=FILE is missing, for example --config=configs/quickstart.py")
    with _naming_teachers(words):
      rest = values(argv)[1:]
    found = values.config.to_dict() if config != "none" else None
  return found, {name: values[name].value for name in options}, rest


def described(options: dict) -> str:
  """A line for each of the options of `parse`: its name, what it is, and its default if it has
  one."""
  lines = []
  for name, (default, text) in options.items():
    word = f"--{name}" if default is False else f"--{name}={type(default).__name__.upper()}"
    usual = "" if default is False or default == "" else f" [{default}]"
    lines.append(f"  {word.replace('=STR', '=TEXT'):20} {text}{usual}")
  return "\n".join(["Options:", *lines])


@contextlib.contextmanager
def one_line(named: str):
  """Turns what absl, ml_collections or a broken config file raise into a UserError: usage (2) or
  config (3). `named`: the config, FILE.py or FILE.py:which."""
  file, _, which = named.partition(":")
  try:
    yield
  except (errors.UserError, KeyboardInterrupt):
    raise
  except flags.UnrecognizedFlagError as error:
    raise errors.usage(str(error)) from None
  except flags.Error as error:
    if which and "get_config() takes 0 positional" in str(error):
      raise errors.UserError(f"{file} has one size: leave :{which} out", errors.CONFIG) from None
    raise errors.UserError(_last(error), errors.CONFIG) from None
  except (AttributeError, KeyError) as error:
    if which and error.args == (which,):
      raise errors.UserError(f"{file} knows no {which!r}", errors.CONFIG) from None
    if "get_config" in str(error):
      raise errors.UserError(
        "the config file has no function get_config()", errors.CONFIG
      ) from None
    raise errors.UserError(
      f"no such setting: {_unknown(error)} (all settings: configs/base.py)", errors.CONFIG
    ) from None
  except OSError as error:
    missing = str(error).strip().splitlines()[-1].strip()
    raise errors.UserError(f"the config file cannot be read: {missing}", errors.CONFIG) from None
  except Exception as error:  # a config file is a program, and may fail in any way
    raise errors.UserError(
      f"the config file fails: {type(error).__name__}: {_last(error)}", errors.CONFIG
    ) from None


@contextlib.contextmanager
def _naming_teachers(words):
  """Tells who sets a field of a further teacher that nobody has named, or a field it has not, how
  to."""
  try:
    yield
  except (KeyError, AttributeError):
    flag = next((w for w in words if w.lstrip("-").startswith("config.teachers.")), None)
    if flag is None:
      raise
    raise errors.UserError(
      f"{flag}: what the config file does not name of config.teachers is given whole, as in"
      " --config.teachers=\"{'NAME': {'model': 'MODEL'}}\"",
      errors.CONFIG,
    ) from None


def _unknown(error) -> str:
  """What ml_collections says of a name that is not there, out of the errors it is wrapped in."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  said = str(error.args[0]) if error.args else str(error)
  return ": ".join(line.strip() for line in said.splitlines()).replace(": Did", ": did")


def _last(error) -> str:
  """The first line, and the last one where a traceback lies between them."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return lines[0] if len(lines) < 2 else f"{lines[0]} {lines[-1]}"


def _given(words, option: str) -> str | None:
  """What the words say last of an option; None if nothing."""
  found = None
  for word, after in itertools.pairwise([*words, ""]):
    name, equals, value = word.partition("=")
    if name in (f"--{option}", f"-{option}"):
      found = value if equals else after
  return found


def _stored(words) -> dict:
  """The config of a run folder."""
  path = _given(words, "workdir")
  if path is None:
    raise errors.usage("--workdir=RUN (a run folder), or --config=FILE, is missing")
  file = pathlib.Path(path) / "config.json"
  try:
    stored = json.loads(file.read_text())
  except FileNotFoundError:
    raise errors.usage(f"{path} is no run folder: it has no config.json") from None
  except (OSError, ValueError) as error:
    raise errors.data(f"{file} cannot be read ({error})") from None
  return tuples(stored)


def tuples(value):
  """JSON lists as the tuples they were."""
  if isinstance(value, dict):
    return {k: tuples(v) for k, v in value.items()}
  return tuple(map(tuples, value)) if isinstance(value, list) else value
