"""Mutated settings, recipes, arguments and files end in one line and a documented exit code.

Never a traceback, and never more than 30 seconds. 48 mutations run by default, 800 with

bash launch/test.sh -m heavy tests/faults/test_mistakes.py
"""

import contextlib
import io
import os
import pathlib
import shutil
import signal
import socket
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from distill_jax import errors
from distill_jax.cli import main
from distill_jax.config import values
from tests.faults import test_disk_full

CODES = {
  *(0, errors.USAGE, errors.CONFIG, errors.DATA, errors.TEACHER, errors.BUDGET, errors.PREEMPTED)
}
LIMIT = 30  # seconds
HOSTILE = (
  *("", " ", "0", "-1", "nan", "inf", "-inf", "1e400", "1e9", "9" * 4000, "None", "True", "()"),
  *("(1,)", "('a', 2)", "{}", "[", "{'a': {'b': 1}}", "{1: 2}", "lambda: 0", "\0", "\udcff"),
  *("\ud800", "\u202e", "\x1b[2J", "a\nb", "x" * 300, "x/" * 3000, "fifo", "directory", "socket"),
  *("/dev/zero", "/proc/self/mem", "/", ".", "..", "missing/file", "text", "binary", "~nobody/x"),
  *("https://[", "=x"),
)  # fmt: skip
OPTIONS = (
  *("--workdir", "--config", "--round", "--split", "--out", "--dtype", "--question", "--questions"),
  *("--samples", "--temperature", "--phase", "--filter", "--n", "--id", "--cache", "--jobs"),
  *("--run", "--older_than", "--model", "--port", "--log", "--dry_run", "--verify", "--yes"),
  *("--flagfile", "--undefok", "--nodry_run", "--helpfull", "--only_check_args", "-", "--"),
  *("---", "--config."),
)  # fmt: skip
COMMANDS = ("run", "show", "evaluate", "sample", "export", "ablate", "teacher cache show",
            "teacher cache export", "teacher cache import", "teacher cache prune", "teacher",
            "doctor", "nonsense", "")  # fmt: skip
RECIPES = (
  "del c.{group}", "c.{group} = {value}", "c.{group}.{name} = {value}", "del c.{group}.{name}",
  "c = {value}", "raise SystemExit({value})", "raise BaseException({value})",
  "import sys; sys.exit()", "1 / 0", "c = c.to_dict()", "c = None", "c.surplus = {value}",
  "c.teachers = {{'a': {value}}}",
  "c.{group} = c.world", "f = lambda: f(); f()", "c.lock(); c.{group}.x = 1",
)  # fmt: skip
RECIPE = """
from distill_jax.config import recipes
def get_config():
  c = recipes.load("quickstart").unlock()
  with c.ignore_type():
    {line}
  return c
"""


class HangError(BaseException):
  """The time is over; not an Exception, so that no handler takes it."""


@contextlib.contextmanager
def alarm():
  def ring(*_):
    raise HangError

  previous = signal.signal(signal.SIGALRM, ring)
  signal.alarm(LIMIT)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def assert_one_line(words) -> int:
  """Runs a command in this process, and checks how it ends. Returns its exit code."""
  out, err = io.StringIO(), io.StringIO()
  start = time.monotonic()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), alarm():
    code = main.main(words)
  message = err.getvalue()
  assert time.monotonic() - start < LIMIT, message
  assert code in CODES, (code, message)
  if code and not (code == errors.USAGE and not message):  # without a command, the help is shown
    lines = message.splitlines()
    assert len([line for line in lines if line.startswith("distill-jax: ")]) == 1, message
    assert lines[-1].startswith("distill-jax: "), message
  assert "Traceback" not in message + out.getvalue()
  return code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """The working directory: it has files of every kind, and a finished run."""
  path = tmp_path_factory.mktemp("place")
  before = os.getcwd()
  os.chdir(path)
  os.mkfifo("fifo")
  pathlib.Path("directory").mkdir()
  pathlib.Path("text").write_text("Question? \u00e4\n")
  pathlib.Path("binary").write_bytes(bytes(range(256)) * 8)
  with socket.socket(socket.AF_UNIX) as bound:
    bound.bind("socket")
    code = main.main(["run", "--config=star:quick", "--workdir=run", *tiny_settings()])
    assert code == 0
    yield path
  os.chdir(before)


def mutations(count: int, heavy: int, **strategies):
  """A property of `count` mutations, and a heavy one of many more."""

  def decorate(check):
    def settings(number):
      return hypothesis.settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
      )

    @pytest.mark.parametrize(
      "number", [count, pytest.param(heavy, marks=pytest.mark.heavy)], ids=["some", "many"]
    )
    def test(number, place):
      settings(number)(hypothesis.given(**strategies)(lambda **drawn: check(place, **drawn)))()

    return test

  return decorate


hostile = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20))
# Values of the right type for a setting, which pass the first check and may break a later one.
PLAUSIBLE = {
  int: ("0", "1", "-1", "2", "7", "1000000", "2147483647", "2147483648"),
  float: ("0", "0.0", "1", "-1", "0.5", "1e-300", "1e300", "nan", "inf"),
  bool: ("True", "False"),
  str: (
    "",
    "openai",
    "replay",
    "student",
    "gsm8k",
    "taxonomy",
    "fifo",
    "text",
    "binary",
    "/",
    "{}",
  ),
  dict: ("{}", "{'a': {}}", "{'a': {'model': 'm'}}", "{'Main': 1}", "{'a': {'pool': ()}}"),
  tuple: ("()", "0", "1", "-1", "64,32", "exam", "exam,train", "main=1", "demonstrate=x", "q,q"),
}


@st.composite
def overrides(draw) -> str:
  key = draw(st.sampled_from(values.KEYS))
  plausible = st.sampled_from(PLAUSIBLE[type(key.default)])
  return f"--config.{key.path}={draw(plausible | plausible | hostile)}"


recipe_names = st.sampled_from(("quickstart", "star", "socratic", "tinythinker:quick"))


@mutations(16, 250, recipe=recipe_names, words=st.lists(overrides(), min_size=1, max_size=3))
def test_mutated_settings(place, recipe, words):
  assert_one_line(["run", f"--config={recipe}", "--workdir=new", "--dry_run", *words])


GROUPS = sorted({key.path.partition(".")[0] for key in values.KEYS})


@mutations(
  10,
  200,
  line=st.sampled_from(RECIPES),
  group=st.sampled_from(GROUPS),
  name=st.sampled_from(["train", "name", "lr", "kind", "x"]),
  value=st.sampled_from(["5", "None", "'x'", "object()", "[1]", "{}", "float('nan')", "b'x'"]),
)
def test_mutated_recipes(place, line, group, name, value):
  line = line.format(group=group, name=name, value=value)
  pathlib.Path("recipe.py").write_text(RECIPE.format(line=line))
  assert_one_line(["run", "--config=recipe.py", "--workdir=new", "--dry_run"])


@mutations(
  14,
  250,
  command=st.sampled_from(COMMANDS),
  pairs=st.lists(st.tuples(st.sampled_from(OPTIONS), st.none() | hostile), max_size=4),
)
def test_mutated_arguments(place, command, pairs):
  pairs = [(option, value) for option, value in pairs if (command, option) != ("teacher", "--port")]
  words = [option if value is None else f"{option}={value}" for option, value in pairs]
  always = {"run": ["--dry_run"], "ablate": ["--print"]}
  assert_one_line([*command.split(), *words, *(always[command] if command in always else [])])


def damage(file: pathlib.Path, kind: str, part: float) -> None:
  content = file.read_bytes()
  position = int(part * max(len(content) - 1, 0))
  changed = {
    "truncate": content[:position],
    "empty": b"",
    "flip": content[:position] + bytes([(content + b"\0")[position] ^ 1]) + content[position + 1 :],
    "deep": b"[" * 100_000,
    "nan": b'{"accuracy": NaN, "facts": {}, "files": {}}\n',
    "list": b"[1]\n",
    "surrogate": b'{"\\ud800": "\\udfff"}\n',
    "binary": bytes(range(256)),
  }
  file.unlink()
  if kind == "fifo":
    os.mkfifo(file)
  elif kind == "directory":
    file.mkdir()
  elif kind == "loop":
    file.symlink_to(file.name)
  elif kind in changed:
    file.write_bytes(changed[kind])


KINDS = ("truncate", "empty", "flip", "deep", "nan", "list", "surrogate", "binary", "fifo",
         "directory", "loop", "delete")  # fmt: skip
AGAIN = ("run", "show", "evaluate", "export", "teacher cache show", "sample")


@mutations(
  8,
  100,
  file=st.floats(0, 0.999),
  kind=st.sampled_from(KINDS),
  part=st.floats(0, 1),
  command=st.sampled_from(AGAIN),
)
def test_mutated_files_of_a_run(place, file, kind, part, command):
  shutil.rmtree("damaged", ignore_errors=True)
  shutil.rmtree("exported", ignore_errors=True)
  shutil.copytree("run", "damaged")
  files = sorted(f for f in pathlib.Path("damaged").rglob("*") if f.is_file())
  damage(files[int(file * len(files))], kind, part)
  words = {
    "run": ["--config=star:quick", *tiny_settings()],
    "export": ["--out=exported"],
    "sample": ["--question=What is 3 + 4?"],
    "show": ["--phase=train"],
  }
  assert_one_line(
    [*command.split(), "--workdir=damaged", *(words[command] if command in words else [])]
  )


def tiny_settings() -> list[str]:
  return [
    f"--config.{setting}" for setting in (*test_disk_full.TINY, "train.batch=8", "rollout.batch=8")
  ]


REPLAY = ("--config.teacher.kind=replay", "--config.teacher.replay.path={path}")
PLACES = {
  "config": ["run", "--config={path}", "--workdir=new", "--dry_run"],
  "config by size": ["run", "--config={path}:quick", "--workdir=new", "--dry_run"],
  "workdir": ["run", "--config=quickstart", "--workdir={path}"],
  "workdir of a dry run": ["run", "--config=quickstart", "--workdir={path}", "--dry_run"],
  "run directory": ["evaluate", "--workdir={path}"],
  "show": ["show", "--workdir={path}"],
  "questions": ["sample", "--workdir=run", "--questions={path}"],
  "task": [
    *("run", "--config=tailored", "--workdir=new", "--dry_run", "--config.task.name=gsm8k"),
    *("--config.task.path={path}", "--config.teacher.kind=replay"),
    "--config.teacher.replay.path=text",
  ],
  "replay": ["run", "--config=quickstart", "--workdir=new", *REPLAY],
  "key file": [
    *("run", "--config=quickstart", "--workdir=new", "--config.teacher.kind=openai", "--dry_run"),
    *("--config.teacher.base_url=https://127.0.0.1:9/v1", "--config.teacher.key_file={path}"),
    "--config.teacher.model=m",
  ],
  "cache": ["run", "--config=quickstart", "--workdir=new", "--config.teacher.cache={path}"],
  "cache of a dry run": [
    *("run", "--config=quickstart", "--workdir=new", "--config.teacher.cache={path}", "--dry_run")
  ],
  "cache show": ["teacher", "cache", "show", "--cache={path}"],
  "cache import": ["teacher", "cache", "import", "{path}", "--cache=new.sqlite"],
  "cache export": ["teacher", "cache", "export", "--workdir=run", "--out={path}"],
  "student": ["run", "--config=star", "--workdir=new", "--config.student.init=./{path}"],
  "sweep": ["ablate", "--print", "--config={path}", "--workdir=new"],
  "log": ["teacher", "serve", "--config=quickstart", "--log={path}", "--port=0"],
}


@pytest.mark.parametrize("kind", ["fifo", "socket", "/dev/zero", "x" * 300, "x/" * 3000 + "x"])
@pytest.mark.parametrize("name", PLACES)
def test_a_path_that_is_no_file_is_rejected_wherever_one_is_read(name, kind, place):
  words = [word.format(path=kind) for word in PLACES[name]]
  assert assert_one_line(words) in (errors.USAGE, errors.CONFIG, errors.DATA)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_fifo_in_the_directory_of_a_model_is_rejected(name, place):
  shutil.rmtree("model", ignore_errors=True)
  assert main.main(["export", "--workdir=run", "--out=model"]) == 0
  pathlib.Path("model", name).unlink()
  os.mkfifo(pathlib.Path("model", name))
  words = ["run", "--config=star:quick", "--workdir=new", "--config.student.init=model"]
  settings = [word for word in tiny_settings() if ".scratch." not in word]
  assert assert_one_line([*words, *settings]) == errors.DATA
