"""Every key is declared once, documented, read somewhere, and rejected where nothing reads it."""

import ast
import pathlib
from typing import Any

import pytest

from distill_jax import declare, errors
from distill_jax.cli import args
from distill_jax.config import choices, generate, recipes, values
from distill_jax.config.read import read_settings
from distill_jax.declare import Above, AllOf, AnyOf, Planned, Unless, When
from distill_jax.settings import Settings

ROOT = pathlib.Path(__file__).parents[2]
PATHS = [key.path for key in values.KEYS]
KEY = {key.path: key for key in values.KEYS}
CONDITIONAL = [key.path for key in values.KEYS if key.declaration.when]


def test_the_walk_finds_every_key():
  assert len(PATHS) == len(set(PATHS)) > 180
  assert {"seed", "train.lr", "teacher.prices.input", "compat.tinythinker.nll_on_pads"} < set(PATHS)


def test_every_group_and_key_says_what_it_means():
  for found in declare.walk(Settings):
    doc = found.declaration.doc
    assert doc.endswith(".") and not doc.startswith(" ") and "\n" not in doc, found.path


def test_every_default_is_within_its_bounds_and_choices():
  for key in values.KEYS:
    allowed = choices.of(key.declaration)
    parts = key.default if isinstance(key.default, tuple) else (key.default,)
    if allowed:
      assert set(parts) <= set(allowed), key.path
    if key.declaration.allowed:
      assert key.declaration.admits(key.default), key.path


def test_every_table_of_choices_is_used_and_is_the_implementing_one():
  from distill_jax.learning import losses, optim
  from distill_jax.students import families

  used = {key.declaration.choices for key in values.KEYS}
  names = {table.name for table in used if isinstance(table, declare.Table)}
  assert names == set(choices.TABLES)
  assert choices.of(KEY["prefer.loss"].declaration) == tuple(losses.PREFERENCE)
  assert choices.of(KEY["train.schedule"].declaration) == tuple(optim.SCHEDULES)
  assert choices.of(KEY["student.arch"].declaration) == ("", *families.BY_TYPE)


@pytest.mark.parametrize("path", PATHS)
def test_every_key_stands_in_the_generated_files(path):
  assert f"\n  c.{path} = " in (ROOT / "configs" / "base.py").read_text()
  assert f"\n| `{path}` |" in (ROOT / "docs" / "configuration.md").read_text()


def test_the_generated_files_are_not_stale():
  assert generate.main(["--check"]) == 0, "run python -m distill_jax.config.generate"


def test_a_stale_file_is_noticed(tmp_path, monkeypatch, capsys):
  (tmp_path / "configs").mkdir()
  monkeypatch.setattr(recipes, "directory", lambda: tmp_path / "configs")
  assert generate.main(["--check"]) == 1 and "base.py is stale" in capsys.readouterr().err
  assert generate.main([]) == 0 and generate.main(["--check"]) == 0


def test_the_defaults_of_the_config_are_those_that_are_declared():
  config = recipes.load("base").to_dict()
  for key in values.KEYS:
    value: Any = config
    for name in key.path.split("."):
      value = value[name]
    assert value == key.default, key.path


def attributes() -> set[str]:
  """The names of all attributes that the package reads, apart from where settings are declared."""
  names: set[str] = set()
  for file in (ROOT / "distill_jax").rglob("*.py"):
    if file.stem.startswith("settings") or file.parent.name == "config":
      continue
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        names.add(node.attr)
  return names


def test_every_key_is_read_somewhere():
  read = attributes()
  copied = {f"prefer.{name}" for name in ("steps", "epochs", "schedule", "warmup")}  # into train's
  sizes = {path for path in PATHS if path.startswith(("world.", "taxonomy.", "student.scratch."))}
  unread = [path for path in PATHS if path.rpartition(".")[2] not in read]
  assert set(unread) <= copied | sizes


def test_worlds_and_families_read_all_of_their_sizes():
  import inspect

  from distill_jax import tasks

  for world in ("world", "taxonomy"):
    name = "arithmetic" if world == "world" else world
    own = {path.partition(".")[2] for path in PATHS if path.startswith(f"{world}.")}
    assert own <= set(inspect.signature(tasks.LOADERS[name]).parameters)


def other_value(key: declare.Key) -> Any:
  """A valid value that is not the default."""
  allowed, default = choices.of(key.declaration), key.default
  if isinstance(default, bool):
    return not default
  if isinstance(default, tuple):
    if key.type == tuple[int, ...]:
      return (*default, max(default) + 1)
    return tuple(c for c in allowed if c)[:1] if allowed else ("other",)
  if allowed:
    return next(c for c in allowed if c != default)
  if isinstance(default, str):
    return "other"
  candidates = (default + 1, default / 2 if isinstance(default, float) else default - 1)
  return next(value for value in candidates if key.declaration.admits(value))


def break_condition(config: dict[str, Any], condition: declare.Condition) -> None:
  """Changes a config so that a condition does not hold."""
  if isinstance(condition, AnyOf):
    for part in condition.parts:
      break_condition(config, part)
  elif isinstance(condition, AllOf):
    break_condition(config, condition.parts[0])
  elif isinstance(condition, Planned):
    for plan in ("opening", "each_round"):
      config[plan] = tuple(p for p in config[plan] if p != condition.phase)
  elif isinstance(condition, Above):
    put(config, condition.path, condition.limit if condition.limit else 0)
  elif isinstance(condition, When):
    allowed = choices.of(KEY[condition.path].declaration) or ("other",)
    put(config, condition.path, next(c for c in allowed if c not in condition.values))
  else:
    assert isinstance(condition, Unless)
    put(config, condition.path, condition.values[0])


def put(config: dict[str, Any], path: str, value: Any) -> None:
  *groups, name = path.split(".")
  for group in groups:
    config = config[group]
  config[name] = type(config[name])(value) if not isinstance(value, str) else value


@pytest.mark.parametrize(
  "path, number",
  [(path, n) for path in CONDITIONAL for n in range(len(KEY[path].declaration.when))],
)
def test_a_key_that_nothing_reads_is_rejected(path, number):
  """One condition of the key is broken; the key then differs from its default."""
  config = recipes.load("base").to_dict()
  put(config, path, other_value(KEY[path]))
  break_condition(config, KEY[path].declaration.when[number])
  assert values.unread(config, KEY[path])
  from distill_jax.config import typed

  settings = typed.build(Settings, config)
  with pytest.raises(errors.UserError) as caught:
    values.check_read(settings, config)
  assert caught.value.code == errors.CONFIG and "nothing reads it" in str(caught.value)


@pytest.mark.parametrize(
  "words, named",
  [
    (["--config.task.path=mine.jsonl"], "task.path"),
    (["--config.task.hub=a/b"], "task.hub"),
    (["--config.task.train=10"], "task.train"),
    (["--config.teacher.base_url=http://localhost:1/v1"], "teacher.base_url"),
    (["--config.teacher.model=gpt"], "teacher.model"),
    (["--config.teacher.prices.input=1.0"], "teacher.prices.input"),
    (["--config.teacher.replay.path=x.json"], "teacher.replay.path"),
    (["--config.teacher.batch_poll=5.0"], "teacher.batch_poll"),
    (["--config.student.lora.targets=q,v"], "student.lora.targets"),
    (["--config.student.init=DIR", "--config.student.scratch.width=64"], "student.scratch.width"),
    (["--config.taxonomy.kinds=10"], "taxonomy.kinds"),
    (["--config.staged.interval=5"], "staged.interval"),
    (["--config.socratic.max_steps=3"], "socratic.max_steps"),
    (["--config.instruct.instruction=Go."], "instruct.instruction"),
    (["--config.prefer.lr=1.0"], "prefer.lr"),
    (["--config.pair.fill=False"], "pair.fill"),
    (["--config.cross.path=x"], "cross.path"),
    (["--config.evaluate.temperature=0.1"], "evaluate.temperature"),
    (
      ["--config.exam.temperature=0", "--config.exam.samples=1", "--config.exam.top_k=5"],
      "exam.top_k",
    ),
    (["--config.train.losses.triplet=0", "--config.triplet.margin=2.0"], "triplet.margin"),
    (["--config.feedback.kind=blind", "--config.feedback.show_gold=False"], "feedback.show_gold"),
    (["--config.stop.patience=0", "--config.stop.min_gain=0.1"], "stop.min_gain"),
    (["--config.teachers={'a': {'model': 'x'}}"], "teachers.a.model"),
  ],
)  # fmt: skip
def test_a_setting_of_another_mode_is_rejected_on_the_command_line(words, named):
  config, _, _ = args.parse(["--config=quickstart", *words], {}, config="required")
  with pytest.raises(errors.UserError, match=rf"config\.{named} is set, but nothing reads it"):
    read_settings(config, teacher=False)


def test_what_a_recipe_sets_for_a_mode_that_an_override_leaves_goes_back_to_its_default():
  words = ["--config=quickstart", "--config.task.name=svamp", "--config.task.hub=a/b"]
  config, _, _ = args.parse(words, {}, config="required")
  assert config["world"]["train"] == KEY["world.train"].default
  assert read_settings(config, teacher=False).task.name == "svamp"


def test_what_is_typed_for_a_mode_that_an_override_leaves_is_rejected():
  words = ["--config=quickstart", "--config.task.name=svamp", "--config.task.hub=a/b"]
  config, _, _ = args.parse([*words, "--config.world.train=7"], {}, config="required")
  with pytest.raises(errors.UserError, match=r"config\.world\.train is set, but nothing reads it"):
    read_settings(config, teacher=False)


@pytest.mark.parametrize(
  "word, value",
  [
    ("--config.train.buckets=64,128", (64, 128)),
    ("--config.train.buckets=64", (64,)),
    ("--config.train.buckets=(64, 128)", (64, 128)),
    ("--config.opening=demonstrate,train", ("demonstrate", "train")),
    ("--config.opening=demonstrate, train", ("demonstrate", "train")),
    ("--config.student.lora.targets=q,k,v", ("q", "k", "v")),
    ("--config.teacher.pool=main=3,cheap=1", ("main=3", "cheap=1")),
    ("--config.each_round=", ()),
    ("--config.each_round=()", ()),
    ("--config.exam.styles=('cot', 'plain')", ("cot", "plain")),
  ],
)
@pytest.mark.parametrize("first", [True, False])
def test_tuples_are_typed_with_commas_before_or_after_the_recipe(word, value, first):
  words = [word, "--config=quickstart"] if first else ["--config", "quickstart", word]
  config, _, _ = args.parse(words, {}, config="required")
  path, _, _ = word.removeprefix("--config.").partition("=")
  found: Any = config
  for name in path.split("."):
    found = found[name]
  assert found == value


@pytest.mark.parametrize("name", ["quickstart", "tailored:quick", "configs/tailored.py:quick"])
def test_recipes_are_found_by_name_and_by_file(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert recipes.load(name).recipe == name.partition(":")[0].split("/")[-1].removesuffix(".py")


@pytest.mark.parametrize(
  "name, said",
  [
    ("quikstart", "choose one of answer_only, cot, quickstart"),
    ("tailored:qiuck", "choose one of full, quick"),
    ("none.py", "none.py cannot be read: no such file"),
    (".", "no recipe '.'"),
  ],
)
def test_a_mistyped_recipe_or_size_lists_the_ones_there_are(name, said):
  with pytest.raises(errors.UserError) as caught:
    recipes.load(name)
  assert said in str(caught.value) and caught.value.code == errors.CONFIG


def test_a_recipe_that_exits_is_an_error(tmp_path):
  (tmp_path / "own.py").write_text("import sys\nsys.exit(0)\n")
  with pytest.raises(errors.UserError, match="SystemExit"):
    recipes.load(str(tmp_path / "own.py"))


def test_a_name_that_nothing_reads_is_not_among_the_names_that_are_read():
  assert "lr" in attributes() and "nobody_reads_me" not in attributes()
