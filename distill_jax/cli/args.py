"""Parses a command line into a config and options. Every error is one line.

Options and overrides are parsed by absl and ml_collections: `--config=RECIPE`, and
`--config.a.b=VALUE` for any key, in any order.
"""

import ast
import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from distill_jax import disk, errors
from distill_jax.config import recipes, typed, values
from distill_jax.run_dir import absent
from distill_jax.settings import Settings
from distill_jax.teacher import pool, presets

Options = dict[str, tuple[Any, str]]  # name -> (default, help)
# An empty name, or one that ends in a colon: "--config..x=1", "--config.=1", "--config.x:=1".
_NO_NAME = re.compile(r"--?config\.(?:[^=]*\.)?(?:=|$|\.|[^=]*:=)")
_NOT_A_GROUP = re.compile(r"flag --config\.([\w.]+)=(.*): Failed to parse .* as a ConfigDict", re.S)
_TUPLE = re.compile(r"\('([^']*)', '[^']*'\)")  # absl prints the arguments of an error
# What ast.literal_eval raises for text that is not a literal, or is nested too deep.
NOT_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
TUPLES = {key.path: key for key in values.KEYS if isinstance(key.default, tuple)}


def parse(
  words: Sequence[str], options: Options, *, config: str
) -> tuple[dict[str, Any] | None, dict[str, Any], list[str]]:
  """Parses the words of a command.

  Args:
    words: The words after the command's name.
    options: The command's options; their types are those of the defaults.
    config: Where the config comes from: "required" (a recipe), "run" (the run of --workdir), "run
      or recipe", or "none". With "run", a recipe replaces the config of the run.

  Returns:
    The config as a plain nested dict (None with config="none"), the options by name, and the
    remaining words.

  Raises:
    UserError: Unknown words (exit code 2), or an invalid recipe or override (exit code 3).
  """
  _reject_absl_options(words)
  recipe, words = take(words, "config") if config != "none" else (None, list(words))
  if config == "run or recipe" and recipe is not None and take(words, "workdir")[0] is not None:
    raise errors.usage("--config and --workdir exclude each other; leave one out")
  original = _original(words, recipe, config)
  parsed = flags.FlagValues()
  for name, (default, text) in options.items():
    _define(default)(name, default, text, flag_values=parsed)
  argv = ["distill_jax", *map(_with_tuple, _joined(words))]
  with _one_line(words):
    if original is not None:
      config_flags.DEFINE_config_dict(
        "config", ml_collections.ConfigDict(original), lock_config=True, flag_values=parsed,
        sys_argv=argv,
      )  # fmt: skip
    rest = parsed(argv)[1:]
    final = None if original is None else parsed.config.to_dict()
  if original is not None and final is not None:
    _check(original, run=None if recipe is not None else take(words, "workdir")[0])
    _check(final, run=None)
    final = reset_unread(original, presets.choose_kind(final))
  return final, {name: parsed[name].value for name in options}, rest


def _check(original: dict[str, Any], *, run: str | None) -> None:
  """Raises UserError for a setting that is unknown, missing or of a wrong type; names `run`."""
  try:
    typed.build(Settings, pool.merge_teachers(original))
  except errors.UserError as error:
    if run is None:
      raise
    raise errors.data(
      f"{pathlib.Path(run) / 'config.json'} is damaged or of another version of distill_jax"
      f" ({error}); restore it, or use the version that wrote it"
    ) from None


def _reject_absl_options(words: Sequence[str]) -> None:
  """Rejects the options that absl adds: --flagfile reads a file, --undefok hides typos."""
  for word in words:
    if word.startswith("-") and word.lstrip("-").partition("=")[0] in ("flagfile", "undefok"):
      name = word.lstrip("-").partition("=")[0]
      raise errors.usage(f"there is no option --{name}; see --help")


def _define(default: Any) -> Any:
  kinds: dict[type, Any] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    list: flags.DEFINE_multi_string,
  }
  return kinds.get(type(default), flags.DEFINE_string)


def _original(words: list[str], recipe: str | None, config: str) -> dict[str, Any] | None:
  """The config before overrides, or None if the command has none."""
  if recipe is not None:
    return recipes.load(recipe).to_dict()
  if config.startswith("run"):
    return _stored(words, config)
  if config == "required":
    raise errors.usage(
      "--config is missing, for example --config=quickstart"
      f" (recipes: {', '.join(recipes.names())}; or FILE.py)"
    )
  return None


def reset_unread(original: dict[str, Any], final: dict[str, Any]) -> dict[str, Any]:
  """Resets what a recipe sets for a mode that the overrides leave.

  A recipe for the built-in world sets the world's size. If an override chooses another task,
  nothing reads that size any more, and it is reset to its default. Unread settings that were given
  as overrides, or that the recipe does not read either, stay: they are rejected later.

  Args:
    original: The recipe's config.
    final: The same with overrides.

  Returns:
    `final`, changed in place.
  """
  for key in values.KEYS:
    if values.unread(final, key) and not values.unread(original, key):
      *groups, name = key.path.split(".")
      before, after = original, final
      for group in groups:
        before, after = before[group], after[group]
      if before[name] == after[name]:
        after[name] = key.default
  return final


def _joined(words: Sequence[str]) -> list[str]:
  """The words, with `--config.x VALUE` as `--config.x=VALUE` where x is a tuple."""
  joined: list[str] = []
  left = list(words)
  while left:
    word = left.pop(0)
    is_tuple = word.startswith("--config.") and word.removeprefix("--config.") in TUPLES
    joined.append(f"{word}={left.pop(0)}" if is_tuple and left else word)
  return joined


def _with_tuple(word: str) -> str:
  """Turns `--config.x=q,k,v` into a Python tuple where x is a tuple."""
  name, equals, value = word.partition("=")
  key = TUPLES.get(name.lstrip("-").removeprefix("config."))
  if key is None or not equals or not name.lstrip("-").startswith("config."):
    return word
  if value == "auto" and key.default == ():
    return f"{name}=()"
  with contextlib.suppress(*NOT_LITERAL):
    found = ast.literal_eval(value)
    if isinstance(found, tuple | list):
      return word
  parts = [part.strip() for part in value.split(",") if part.strip()]
  return f"{name}={tuple(map(_literal, parts))!r}"


def _literal(text: str) -> object:
  try:
    return ast.literal_eval(text)
  except NOT_LITERAL:
    return text


def described(options: Options) -> str:
  """The options of a command, one line each: name, type, meaning, default."""
  lines: list[str] = []
  for name, (default, text) in options.items():
    word = f"--{name}" if default is False else f"--{name}={_type_name(default)}"
    shown = "" if default is False or default in ("", []) else f" [{default}]"
    lines.append(f"  {word:20} {text}{shown}")
  return "\n".join(["Options:", *lines])


def settings_described() -> str:
  """Every setting, one line each."""
  lines = [f"  --config.{key.path}: {key.declaration.doc} [{key.default!r}]" for key in values.KEYS]
  return "\n".join(["Settings (details: docs/configuration.md):", *lines])


def _type_name(default: Any) -> str:
  return "TEXT" if isinstance(default, str | list) else type(default).__name__.upper()


@contextlib.contextmanager
def _one_line(words: list[str]) -> Iterator[None]:
  """Turns errors of absl and ml_collections into a UserError: usage (2) or config (3)."""
  try:
    yield
  except flags.UnrecognizedFlagError as error:
    name = str(error.flagname)
    _, suggested, similar = str(error).partition("Did you mean: ")
    if any(name in (key.path, key.path.partition(".")[0]) for key in values.KEYS):
      suggested = similar = f"config.{name}"
    hint = f"did you mean --{similar.split()[0].rstrip(',?')}?" if suggested else "see --help"
    raise errors.usage(f"there is no option --{name}; {hint}") from None
  except flags.Error as error:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(dict.fromkeys((lines[0], lines[-1])))
    if (group := _NOT_A_GROUP.match(message)) is not None:
      raise _not_a_group(*group.groups()) from None
    if message.startswith("flag --config."):
      raise errors.UserError(message, errors.CONFIG) from None
    raise errors.usage(_TUPLE.sub(r"\1", message)) from None
  except IndexError:
    raise errors.UserError(
      "a single element of a setting cannot be set; set all of them, for example"
      " --config.train.buckets=64,128",
      errors.CONFIG,
    ) from None
  except (RecursionError, MemoryError, ValueError, SyntaxError) as error:
    odd = next((word for word in words if _NO_NAME.match(word)), None)
    why = "it is too long or nested too deep"
    if odd:
      why = f"{odd.partition('=')[0]} is not the name of a setting"
    raise errors.UserError(
      f"a value cannot be parsed ({type(error).__name__}): {why}", errors.CONFIG
    ) from None
  except (AttributeError, KeyError, TypeError) as error:
    word = next((w for w in words if w.lstrip("-").startswith("config.teachers.")), None)
    if word is not None:
      raise errors.UserError(
        f"{word}: the recipe has no such teacher; define the teacher first:"
        " --config.teachers=\"{'NAME': {'model': 'MODEL'}}\"",
        errors.CONFIG,
      ) from None
    raise errors.UserError(
      f"no such setting: {_unknown(error)} (all settings: docs/configuration.md)", errors.CONFIG
    ) from None


def _not_a_group(group: str, value: str) -> errors.UserError:
  """The error for `--config.GROUP=VALUE` of a value that is not a dict."""
  inside = sorted(
    (key.path for key in values.KEYS if key.path.startswith(f"{group}.")),
    key=lambda path: path.count("."),
  )
  if not inside:
    return errors.config(
      group, value, "a dict of teachers", f"--config.{group}=\"{{'NAME': {{'model': 'MODEL'}}}}\""
    )
  return errors.config(
    group, value, "a dict of settings", f"one of them: --config.{inside[0]}=VALUE"
  )


def _unknown(error: BaseException) -> str:
  """ml_collections' message about an unknown name, unwrapped from the errors around it."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  message = str(error.args[0]) if error.args else str(error)
  return ": ".join(line.strip() for line in message.splitlines()).replace(": Did", ": did")


def take(words: Sequence[str], option: str) -> tuple[str | None, list[str]]:
  """Returns the last value of an option, None without one, and the words without the option."""
  value: str | None = None
  rest: list[str] = []
  left = list(words)
  while left:
    word = left.pop(0)
    name, equals, given = word.partition("=")
    if name not in (f"--{option}", f"-{option}"):
      rest.append(word)
    elif equals:
      value = given
    elif left:
      value = left.pop(0)
    else:
      raise errors.usage(f"--{option} needs a value")
  return value, rest


def reject_extra(rest: Sequence[str]) -> None:
  """Raises UserError if words are left that are not options."""
  if rest:
    raise errors.usage(f"unexpected argument {rest[0]!r}; options begin with --")


def _stored(words: list[str], config: str) -> dict[str, Any]:
  """The config of a run directory."""
  path, _ = take(words, "workdir")
  if path is None and config == "run or recipe":
    raise errors.usage("give --config=RECIPE or --workdir=RUN, for example --config=quickstart")
  if path is None:
    raise errors.missing("workdir", "runs/quickstart")
  file = pathlib.Path(path) / "config.json"
  try:
    stored = json.loads(disk.read_bytes(file))
    if not isinstance(stored, dict):
      raise ValueError("not a JSON object")
  except FileNotFoundError:
    raise absent.error(path) from None
  except OSError as error:
    raise errors.data(f"{file} cannot be read ({error.strerror or error})") from None
  except (ValueError, RecursionError) as error:
    raise errors.data(f"{file} is damaged ({error}); restore it") from None
  return tuples(stored)


def tuples(value: Any) -> Any:
  """Turns the lists of a JSON value into tuples."""
  if isinstance(value, dict):
    return {name: tuples(part) for name, part in value.items()}
  return tuple(map(tuples, value)) if isinstance(value, list) else value
