"""distill-jax data: commands about data sets. Each is a function of its words."""

from collections.abc import Callable, Sequence

from distill_jax import errors
from distill_jax.cli import args
from distill_jax.cli.help import OPTIONS
from distill_jax.config import recipes


def export(words: Sequence[str]) -> int:
  """Writes the kept rationales or pairs of a run as a data set."""
  _, options, rest = args.parse(words, OPTIONS["data export"], config="none")
  args.reject_extra(rest)
  from distill_jax.cli import data_export

  data_export.run(options["workdir"], options["format"], options["out"], push=options["push"])
  return 0


def show(words: Sequence[str]) -> int:
  """Shows how the data of a task are read."""
  given, words = args.take(words, "config")
  recipe = given or "cot"
  words = [f"--config={recipe}", *words]
  config, options, files = args.parse(words, OPTIONS["data show"], config="required")
  args.reject_extra(files[1:])
  assert config is not None
  if files:
    config["task"] |= {"name": "file", "path": files[0]}
    config = args.reset_unread(recipes.load(recipe).to_dict(), config)
  elif given is None and not any(word.lstrip("-").startswith("config.task.") for word in words):
    raise errors.usage("name a file or a directory, or a task with --config.task.name=NAME")
  from distill_jax.cli import data_show
  from distill_jax.config.read import read_settings

  data_show.show(read_settings(config, teacher=False), options["n"])
  return 0


def harness(words: Sequence[str]) -> int:
  """Writes a task for evaluation harnesses of other projects."""
  config, options, rest = args.parse(words, OPTIONS["data harness"], config="run or recipe")
  args.reject_extra(rest)
  from distill_jax.cli import data_harness
  from distill_jax.config.read import read_settings

  assert config is not None
  data_harness.run(read_settings(config, teacher=False), **options)
  return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
  "show": show,
  "export": export,
  "harness": harness,
}


def run(words: Sequence[str]) -> int:
  """Runs `data WORD ...`."""
  if not words or words[0] not in COMMANDS:
    raise errors.usage(f"usage: data {{{', '.join(COMMANDS)}}}; see distill-jax data --help")
  return COMMANDS[words[0]](words[1:])
