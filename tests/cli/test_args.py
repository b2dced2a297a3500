"""Mistakes on the command line: one line, no traceback, exit code 2 or 3, before anything is
loaded."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from distill_jax import errors
from distill_jax.cli import args
from distill_jax.cli import main as commands
from distill_jax.config import recipes

ROOT = pathlib.Path(__file__).parents[2]
RUN = ("run", "--config=configs/quickstart.py", "--workdir=nowhere")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
  "words, code, said",
  [
    ((), 2, ""),
    (("rum",), 2, "rum"),
    (("run",), 2, "--config is missing"),
    (("run", "--config=configs/quickstart.py"), 2, "--workdir is missing, for example"),
    *(
      ((*command.split(),), 2, "--workdir is missing, for example --workdir=runs/quickstart")
      for command in ("show", "report", "evaluate", "sample", "export --out=x", "data export")
    ),
    (("evaluate", "--config=configs/quickstart.py"), 2, "--workdir is missing"),
    (("serve",), 2, "give either --workdir=RUN or --model=DIR"),
    (("serve", "--workdir=a", "--model=b"), 2, "give either --workdir=RUN or --model=DIR"),
    (("data", "export", "--workdir=x"), 2, "--out is missing, for example --out="),
    (("teacher", "check"), 2, "give --config=RECIPE or --workdir=RUN"),
    (("data", "harness"), 2, "give --config=RECIPE or --workdir=RUN"),
    (("run", "--config=configs/none.py", "--workdir=x"), 3, "configs/none.py"),
    ((*RUN, "--confg=1"), 2, "confg"),
    ((*RUN, "rest"), 2, "rest"),
    ((*RUN, "--config.train.lrr=1"), 3, "no such setting: 'lrr': did you mean \"lr\""),
    ((*RUN, "--config.trian.lr=1"), 3, "no such setting: 'trian': did you mean \"train\""),
    ((*RUN, "--config.rounds=1.5"), 3, "config.rounds"),
    ((*RUN, "--config.rounds=many"), 3, "config.rounds"),
    ((*RUN, "--config.triplet.detach_prompt=maybe"), 3, "config.triplet.detach_prompt"),
    ((*RUN, "--config.train=3"), 3, "config.train is '3', but must be a dict of settings; try one"),
    ((*RUN, "--config.evaluate.also=asdiv"), 3, "--config.evaluate.also.name=VALUE"),
    ((*RUN, "--config.evaluate.also=[x"), 3, "config.evaluate.also is '[x'"),
    ((*RUN, "--config.teachers=x"), 3, "a dict of teachers; try --config.teachers="),
    ((*RUN, "--config.train={'lr': 0.001}"), 3, "config.train.losses is missing"),
    ((*RUN, "--config.train.buckets[0]=32"), 3, "set all of them"),
    ((*RUN, "--config..rounds=3"), 3, "--config..rounds is not the name"),
    ((*RUN, "--config.=3"), 3, "--config. is not the name"),
    ((*RUN, "--dry_run=maybe"), 2, "Non-boolean argument to boolean flag"),
    (("show", "--workdir=x", "--n=abc"), 2, "--n=abc"),
    (("teacher", "check", "--config=quickstart", "--workdir=x"), 2, "exclude each other"),
    (("serve", "--model=x", "--port=99999"), 2, "--port=99999 must be 0 to 65535"),
    (("data", "export", "--workdir=x", "--out=y", "--push=/"), 2, "must be OWNER/NAME"),
    (("data", "show", "--n=-1", "README.md"), 2, "--n=-1 must be 0 or more"),
    (
      (*RUN, "--config.task.name=gsm8k", "--config.task.path=no/such/folder"),
      3,
      "config.task.path",
    ),
    ((*RUN, "--config.task.name=svamp", "--config.task.hub=a/b"), 3, "config.teacher.kind"),
    ((*RUN, "--config.task.path=mine.jsonl"), 3, "config.task.path is set, but nothing reads it"),
    ((*RUN, "--config.task.train=9"), 3, "config.task.train is set, but nothing reads it"),
    ((*RUN, "--config.student.scratch.kv_heads=3"), 3, "config.student.scratch.kv_heads"),
    (("run", "--config=configs/tailored.py:qiuck", "--workdir=x"), 3, "choose one of full, quick"),
    (("run", "--config=configs/cot.py:quick", "--workdir=x"), 3, "choose one of full, pretrained"),
    (("run", "--config=configs/quickstart.py:quick", "--workdir=x"), 3, "leave :quick out"),
    (
      ("ablate", "--config=configs/sweeps/tailored.py:fll", "--workdir=x"),
      3,
      "choose one of claims, full",
    ),
    (("ablate", "--workdir=x", "--config.rounds=1"), 2, "takes no overrides"),
    (("evaluate", "--workdir=no/such/run"), 2, "is not a run directory"),
    (("sample", "--workdir=no/such/run"), 2, "is not a run directory"),
    (("teacher", "play"), 2, "teacher serve"),
  ],
)
def test_a_mistake_is_one_line_with_its_code(words, code, said, capsys):
  assert commands.main(list(words)) == code
  err = capsys.readouterr().err
  assert said in err
  assert err.count("\n") == (1 if words else 0)
  assert not (ROOT / "nowhere").exists()


@pytest.mark.parametrize("command, code, said", [
  ("run", 75, "distill-jax: Interrupted. Re-run the same command to resume.\n"),
  ("ablate", 75, "distill-jax: Interrupted. Re-run the same command to resume.\n"),
  ("export", 75, "distill-jax: Interrupted.\n"),
  ("teacher check", 75, "distill-jax: Interrupted.\n"),
  ("serve", 0, ""), ("teacher serve", 0, "")])  # fmt: skip
def test_only_runs_and_sweeps_offer_to_resume_after_an_interruption(
  command, code, said, capsys, monkeypatch
):
  def interrupt(*_: object) -> int:
    raise KeyboardInterrupt

  monkeypatch.setattr(commands, "_run_command", interrupt)
  assert commands.main(command.split()) == code
  assert capsys.readouterr().err == said


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_explains_itself_with_examples(command, capsys):
  assert commands.main([command, "--help"]) == 0
  out = capsys.readouterr().out
  assert f"distill-jax {command}" in out
  assert all(f"\n  --{name}" in out for name in commands.OPTIONS[command])


@pytest.mark.parametrize(
  "body, said",
  [
    ("def get_config(:", "SyntaxError"),
    ("x = 1", "get_config"),
    ("def get_config():\n  return 1 / 0", "division"),
  ],
)
def test_a_broken_config_file_is_one_line(body, said, tmp_path, capsys):
  (tmp_path / "broken.py").write_text(body)
  sys.modules.pop(
    "config_config", None
  )  # ml_collections loads every config file into this one module
  assert commands.main(["run", f"--config={tmp_path / 'broken.py'}", "--workdir=x"]) == 3
  err = capsys.readouterr().err
  assert said in err and err.count("\n") == 1


def test_a_refused_command_loads_neither_jax_nor_transformers():
  code = (
    "import sys; from distill_jax.cli import main as m; "
    "m.main(['run', '--config=configs/quickstart.py', '--workdir=x', '--config.rounds=-1']); "
    "print(sorted({'jax', 'transformers', 'openai'} & set(sys.modules)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ
  )
  assert done.stdout.strip() == "[]", done.stderr


def test_the_doctor_names_versions_devices_and_the_key_but_never_shows_it(
  capsys, monkeypatch, tmp_path
):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
  assert commands.main(["doctor", f"--workdir={tmp_path}"]) == 0
  out = capsys.readouterr().out
  assert "jax" in out and "devices" in out and "OPENAI_API_KEY is present" in out
  assert "sk-planted" not in out


def test_the_doctor_asks_for_a_key_only_where_a_run_would(capsys, monkeypatch, tmp_path):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  words = ["doctor", f"--workdir={tmp_path}", "--config=quickstart", "--config.teacher.kind=openai",
           "--config.teacher.model=m"]  # fmt: skip
  assert commands.main([*words, "--config.teacher.base_url=http://127.0.0.1:9/v1"]) == 0
  assert "needs none" in capsys.readouterr().out
  assert commands.main([*words, "--config.teacher.base_url=https://a.example/v1"]) == errors.CONFIG
  out = capsys.readouterr().out
  assert "OPENAI_API_KEY (config.teacher.key_env) is not set" in out


def test_an_interruption_that_is_swallowed_ends_the_process_all_the_same():
  code = """import signal, time
from distill_jax.cli import args
from distill_jax.cli import main as commands
from distill_jax.config import recipes
commands.GRACE = 0.3
signal.signal(signal.SIGINT, commands.interrupted)
try:
  print("ready", flush=True)
  time.sleep(60)
except KeyboardInterrupt:
  pass
time.sleep(60)"""
  words = [sys.executable, "-c", code]
  with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == errors.PREEMPTED


@pytest.mark.parametrize("command", ["show", "report", "evaluate", "teacher cache show"])
def test_a_directory_of_runs_is_not_a_run_and_its_runs_are_named(command, tmp_path, capsys):
  for name in ("b", "a", "rows/plain/seed_0"):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "config.json").write_text("{}")
  assert commands.main([*command.split(), f"--workdir={tmp_path}"]) == 2
  runs = ", ".join(str(tmp_path / name) for name in ("a", "b", "rows/plain/seed_0"))
  assert f"(no config.json); runs in it: {runs}\n" in capsys.readouterr().err


@pytest.mark.parametrize("change, said", [
  (lambda c: c["student"]["lora"].pop("rank"), "config.student.lora.rank is missing"),
  (lambda c: c["student"].update(color=1), "config.student.color is not a setting")])  # fmt: skip
def test_a_run_of_another_version_is_named_as_such(change, said, tmp_path, capsys):
  config = recipes.load("quickstart").to_dict()
  change(config)
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert commands.main(["evaluate", f"--workdir={tmp_path}"]) == 4
  err = capsys.readouterr().err
  assert said in err and f"{tmp_path / 'config.json'} is damaged or of another version" in err


def test_a_tuple_may_follow_its_setting(tmp_path):
  joined, apart = (
    args.parse(["--config=quickstart", *words], {}, config="required")[0]
    for words in (
      ["--config.opening=demonstrate,exam,train"],
      ["--config.opening", "demonstrate,exam,train"],
    )
  )
  assert joined == apart and tuple(apart["opening"]) == ("demonstrate", "exam", "train")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_character_that_the_terminal_lacks_is_no_error(encoding, tmp_path):
  file = tmp_path / "own.jsonl"
  rows = [{"question": f"Wie viele für {n} € – ∞?", "answer": n} for n in range(9)]
  file.write_text("\n".join(map(json.dumps, rows)))
  code = (
    "import sys; sys.argv[0] = 'x'; from distill_jax.cli import main; main._prepare_streams();"
    f"print('∞'); sys.exit(main.main(['data', 'show', {str(file)!r}]))"
  )
  environment = os.environ | {"PYTHONIOENCODING": encoding}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
  assert done.returncode == 0 and done.stdout.startswith(b"\\u221e"), done.stderr


def test_the_words_of_data_show_may_be_in_any_order(tmp_path, capsys):
  file = tmp_path / "own.jsonl"
  rows = [{"question": f"{n}?", "answer": n} for n in range(9)]
  file.write_text("\n".join(map(json.dumps, rows)))
  for words in (["--n", "2", str(file)], [str(file), "--n=2"]):
    assert commands.main(["data", "show", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)["questions"]) == 2
  words = ["data", "show", str(file), "--config.task.grader=no_such_module:grade"]
  assert commands.main(words) == errors.CONFIG
  assert commands.main(["data", "show", str(file), "other.jsonl"]) == errors.USAGE
  assert "unexpected argument 'other.jsonl'" in capsys.readouterr().err


def test_a_value_in_data_show_may_equal_the_name_of_the_file(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  rows = [{"question": f"{n}?", "gold": n, "answer": -n} for n in range(9)]
  pathlib.Path("gold").mkdir()
  pathlib.Path("gold/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
  for words in (["gold", "--config.task.columns.answer", "gold"], ["--config=cot", "gold"]):
    assert commands.main(["data", "show", *words]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["columns"]["answer"] == ("gold" if len(words) == 3 else "answer")
