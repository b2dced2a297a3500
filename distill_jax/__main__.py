"""The commands. No logic: words to settings, settings to the room that does the work."""

import os
import signal
import sys
import threading

from distill_jax import errors
from distill_jax.cli import args

USAGE = """python -m distill_jax COMMAND [options] [--config.a.b=value ...]

  run            play all rounds of a recipe; the same command goes on where a killed one stopped
  evaluate       accuracy of a run's student on a split of the task
  sample         questions in, attempts out
  export         a run's student as a Hugging Face directory
  ablate         a recipe's ablations: rows of overrides, several seeds, one table
  teacher serve  the built-in teacher, by hand, for any OpenAI client
  teacher cache  what was paid for: show, export, import, prune
  doctor         versions, devices, disk, and whether the teacher's key is there

python -m distill_jax COMMAND --help says more, with examples.
"""

HELP = {
  "run": """Plays all rounds of a recipe.

  python -m distill_jax run --config=configs/quickstart.py --workdir=runs/quickstart
  python -m distill_jax run --config=configs/quickstart.py --workdir=runs/no_triplet \\
    --config.train.losses.triplet=0
  python -m distill_jax run --config=configs/tailored.py --workdir=runs/svamp \\
    --config.task.name=svamp --config.task.path=SVAMP_FOLDER \\
    --config.teacher.kind=replay --config.teacher.replay.path=RATIONALES.json \\
    --config.teacher.replay.question=instruction --config.teacher.replay.rationale=output

Everything lands in --workdir, which belongs to one config. Run the same command again to go on
after an interruption. Settings and their meaning: configs/base.py.""",
  "evaluate": """Accuracy of a run's student on a split, greedy, with its 95 % Wilson interval: one
line of JSON.

  python -m distill_jax evaluate --workdir=runs/quickstart
  python -m distill_jax evaluate --workdir=runs/quickstart --round=0 --split=validation
  python -m distill_jax evaluate --workdir=runs/quickstart --config.world.steps_max=3 --split=test

The config is the run's own; overrides change the task or the decoding.""",
  "sample": """Questions in, attempts out: one JSON object a line.

  python -m distill_jax sample --workdir=runs/quickstart --question="QUESTION"
  python -m distill_jax sample --workdir=runs/quickstart --questions=FILE --samples=4 \\
    --temperature=0.7
  cat questions.txt | python -m distill_jax sample --workdir=runs/quickstart

FILE (or the standard input) has one question a line, or JSONL with a "question" field.""",
  "export": """A run's student as a Hugging Face directory: config, safetensors, tokenizer, model
card; read back and compared before it gets its name.

  python -m distill_jax export --workdir=runs/quickstart --out=exported/quickstart
  python -m distill_jax export --workdir=runs/quickstart --out=exported/round_0 --round=0
  python -m distill_jax export --workdir=runs/quickstart --out=exported/small --dtype=bfloat16
  python -m distill_jax export --workdir=runs/quickstart --out=exported/sure --verify""",
  "ablate": """Rows of overrides x seeds, each a run of its own; a table of how well they do, with
intervals and the paired difference to the base row; and a verdict on each claim.

  python -m distill_jax ablate --config=configs/sweeps/tailored.py --workdir=runs/claims_tailored
  python -m distill_jax ablate --config=configs/sweeps/tailored.py:full \\
    --workdir=runs/full_tailored --jobs=2
  python -m distill_jax ablate --config=configs/sweeps/tailored.py:full \\
    --workdir=runs/full_tailored --print > commands.txt

Runs that are finished are skipped, those that failed are told and played again by the same command.
They share the teacher's replies and compiled programs. --jobs at once divide the cores of a CPU; an
accelerator wants --jobs=1, or --print: one command a line, for the array job of a cluster, after
which the same command without --print makes the table. What differs from the sweep's file stands in
a sweep file of your own.""",
  "teacher": """The built-in teacher as a server with the OpenAI chat-completions protocol, on this
machine only.

  python -m distill_jax teacher serve --config=configs/quickstart.py --port=8899
  python -m distill_jax run --config=configs/quickstart.py --workdir=runs/by_hand \\
    --config.teacher.kind=openai --config.teacher.base_url=http://127.0.0.1:8899/v1

It answers from the world of the config; error rate, latency and faults: config.teacher.builtin.
Replies that were paid for: python -m distill_jax teacher cache --help""",
  "teacher cache": """The replies that were paid for: what they cost and what has failed; as JSON
lines and back; and what is not wanted any more.

  python -m distill_jax teacher cache show --workdir=runs/quickstart
  python -m distill_jax teacher cache show --workdir=runs/quickstart --failures
  python -m distill_jax teacher cache export --cache=shared.sqlite --out=replies.jsonl
  python -m distill_jax teacher cache import replies.jsonl --cache=other.sqlite
  python -m distill_jax teacher cache prune --cache=shared.sqlite --model=NAME --older_than=90
  python -m distill_jax teacher cache prune --cache=shared.sqlite --model=NAME --older_than=90 --yes

The file is plain SQLite (tables: distill_jax/teacher/store/tables.py). An import is whole or not at
all, and leaves what is there as it is; with --run=NAME the runs in it get that name, so that what
they paid does not count as paid here. Prune without --yes only counts. What pruned replies cost
stays in the ledger and under the caps.""",
  "doctor": """Versions, devices, disk, and whether the teacher's key is present (never shown).

  python -m distill_jax doctor
  python -m distill_jax doctor --config=configs/tailored.py --workdir=runs""",
}

GRACE = 5.0  # seconds from an interruption to the end, come what may
WORKDIR = ("", "the run folder")
ROUND = (-1, "whose student: a round's number; -1 is the best by validation")
OPTIONS = {  # of each command: name -> (default, help)
  "run": {
    "workdir": WORKDIR,
    "dry_run": (False, "say what the teacher would be asked next and may cost; ask nothing"),
    "retry_failed": (False, "ask again for what failed in stages that are not finished"),
  },
  "evaluate": {
    "workdir": WORKDIR,
    "round": ROUND,
    "split": ("test", "validation, test or out_of_domain"),
  },
  "sample": {
    "workdir": WORKDIR,
    "round": ROUND,
    "question": ("", "one question"),
    "questions": ("", "a file of them"),
    "samples": (1, "attempts at each"),
    "temperature": (0.0, "0 is greedy"),
  },
  "export": {
    "workdir": WORKDIR,
    "round": ROUND,
    "out": ("", "the directory to write"),
    "dtype": ("float32", "of the weights: float32 or bfloat16"),
    "verify": (False, "compare with transformers and torch, if torch is installed"),
  },
  "ablate": {
    "config": ("", "the sweep: FILE.py, or FILE.py:which"),
    "workdir": ("", "the sweep's folder"),
    "jobs": (1, "runs at once"),
    "print": (False, "print the commands of the runs that are left, and play none"),
  },
  "teacher": {
    "port": (8899, "0 takes a free one"),
    "log": ("", "file that gets a line for each reply"),
    "workdir": ("", "instead of --config: a run folder, whose config is meant"),
  },
  "teacher cache": {
    "workdir": ("", "the run folder whose cache is meant"),
    "cache": ("", "or the cache's file"),
    "failures": (False, "show: a table of the failures, by kind"),
    "out": ("", "export: the file to write; empty is the standard output"),
    "model": ("", "prune: replies of this model, as show names it"),
    "older_than": (-1.0, "prune: replies older than so many days"),
    "run": ("", "prune: replies this run paid for; import: what the runs are called"),
    "yes": (False, "prune: do it"),
  },
  "doctor": {"workdir": ("runs", "where runs will be written")},
}

FILE = "  --config=FILE.py     the recipe, or FILE.py:size"
OVERRIDE = "  --config.a.b=VALUE   any setting of configs/base.py"
CONFIGURED = dict.fromkeys(("run", "teacher", "doctor"), f"{FILE}\n{OVERRIDE}")
CONFIGURED |= dict.fromkeys(("evaluate", "sample", "export"), OVERRIDE)


def run(words) -> int:
  """Plays all rounds."""
  config, options, rest = args.parse(words, OPTIONS["run"], config="required")
  refuse_extra(rest)
  if not options["workdir"]:
    raise errors.usage("--workdir=DIR is missing, for example --workdir=runs/quickstart")
  from distill_jax.config.read import read_settings

  checked = read_settings(config)
  from distill_jax.cli import commands

  if options["dry_run"]:
    from distill_jax.cli import dry_run

    dry_run.tell(checked, config, options["workdir"], retry_failed=options["retry_failed"])
    return 0
  commands.run(checked, config, options["workdir"], retry_failed=options["retry_failed"])
  return 0


def evaluate(words) -> int:
  config, options, rest = args.parse(words, OPTIONS["evaluate"], config="run")
  refuse_extra(rest)
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  commands.evaluate(read_settings(config, teacher=False), **options)
  return 0


def sample(words) -> int:
  config, options, rest = args.parse(words, OPTIONS["sample"], config="run")
  refuse_extra(rest)
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  commands.sample(read_settings(config, teacher=False), **options)
  return 0


def export(words) -> int:
  config, options, rest = args.parse(words, OPTIONS["export"], config="run")
  refuse_extra(rest)
  if not options["out"]:
    raise errors.usage("--out=DIR is missing, for example --out=exported/quickstart")
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  commands.export(read_settings(config, teacher=False), **options)
  return 0


def ablate(words) -> int:
  if any(w.lstrip("-").startswith("config.") for w in words):
    raise errors.usage("a sweep takes no overrides: they stand in its file, in `common` and `rows`")
  _, options, rest = args.parse(words, OPTIONS["ablate"], config="none")
  refuse_extra(rest)
  for name, example in (("config", "configs/sweeps/tailored.py"), ("workdir", "runs/ablations")):
    if not options[name]:
      raise errors.usage(f"--{name} is missing, for example --{name}={example}")
  if options["jobs"] < 1:
    raise errors.usage("--jobs must be at least 1")
  from distill_jax.ablations import run

  if options["print"]:
    return run.print_commands(options["config"], options["workdir"])
  return run.run_sweep(options["config"], options["workdir"], jobs=options["jobs"])


def teacher(words) -> int:
  if words[:1] == ["cache"]:
    return teacher_cache(words[1:])
  if words[:1] != ["serve"]:
    raise errors.usage("teacher knows two words: teacher serve, teacher cache")
  config, options, rest = args.parse(words[1:], OPTIONS["teacher"], config="run")
  refuse_extra(rest)
  from distill_jax.cli import commands
  from distill_jax.config.read import read_settings

  commands.serve(read_settings(config), port=options["port"], log=options["log"])
  return 0


def teacher_cache(words) -> int:
  from distill_jax.cli import teacher_cache as cache_commands

  if not words or words[0] not in cache_commands.WORDS:
    listed = ", ".join(cache_commands.WORDS)
    raise errors.usage(f"teacher cache knows these words: {listed}")
  _, options, rest = args.parse(words[1:], OPTIONS["teacher cache"], config="none")
  return cache_commands.run(words[0], options, rest)


def doctor(words) -> int:
  given = any(w.startswith("--config") for w in words)
  config, options, rest = args.parse(
    words, OPTIONS["doctor"], config="required" if given else "none"
  )
  refuse_extra(rest)
  from distill_jax.cli import doctor as examination

  return examination.examine(config, options["workdir"])


COMMANDS = {
  "run": run,
  "evaluate": evaluate,
  "sample": sample,
  "export": export,
  "ablate": ablate,
  "teacher": teacher,
  "doctor": doctor,
}


def refuse_extra(rest) -> None:
  if rest:
    raise errors.usage(f"{rest[0]!r} is not understood here; options begin with --")


def main(words) -> int:
  if not words or words[0] in ("--help", "-h", "help"):
    print(USAGE)
    return 0 if words else errors.USAGE
  name = words[0]
  try:
    if name not in COMMANDS:
      raise errors.usage(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    if {"--help", "-h"} & set(words):
      name = "teacher cache" if list(words[:2]) == ["teacher", "cache"] else name
      print(f"{HELP[name]}\n\n{args.described(OPTIONS[name])}")
      if name in CONFIGURED:
        print(CONFIGURED[name])
      return 0
    code = COMMANDS[name](words[1:])
    sys.stdout.flush()
    return code
  except errors.UserError as refusal:
    print(f"distill_jax: {refusal}", file=sys.stderr)
    return refusal.code
  except BrokenPipeError:  # whoever read our output has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except KeyboardInterrupt:
    print("distill_jax: interrupted; the same command goes on from here", file=sys.stderr)
    return errors.PREEMPTED


def interrupted(*_):
  """Ctrl-C and SIGTERM: leaves soon, or at once if asked twice. What is finished is on the disk.

  Not by an exception alone: one that is raised amid a compiler's callback is lost.
  """
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: os._exit(errors.PREEMPTED))
  timer = threading.Timer(GRACE, os._exit, (errors.PREEMPTED,))
  timer.daemon = True
  timer.start()
  raise KeyboardInterrupt


if __name__ == "__main__":
  signal.signal(signal.SIGINT, interrupted)
  signal.signal(signal.SIGTERM, interrupted)
  sys.exit(main(sys.argv[1:]))
