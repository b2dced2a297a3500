"""The documentation: every command in it is tested, and its numbers are those of the files.

Each shell block of README.md, CONTRIBUTING.md, benchmarks/README.md and docs/ is preceded by
comments that say how it is tested:

  <!-- test: run -->                      run here, in a directory with a tiny run of the quickstart
  <!-- test: tests/FILE.py::test_NAME --> covered by that test
  <!-- test: skip, REASON -->             not run; the reason says what it needs
"""

import ast
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from benchmarks import plot_rounds
from distill_jax import settings
from distill_jax.cli import args, help
from distill_jax.cli import main as cli
from distill_jax.config import generate
from distill_jax.config.read import read_settings
from tests import compilations

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
  [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *(ROOT / "docs").rglob("*.md"),
  ]
)
FENCE = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- test: (.*?) -->")
REASON = re.compile(
  r"skip, (needs (a key|a network|a GPU|data|torch|the sqlite3 program)|takes minutes)\b"
)
PLACEHOLDER = re.compile(
  r"\b[A-Z][A-Z0-9_]{2,}(?:/[\w.]+)+|(?<=path=)[A-Z][A-Z0-9_]+(?:\.jsonl)?\b"
)
ALLOWED_WIDE = ("|", "  --", "<!-- test: ")  # lines that begin like this may be wide
# A run of the quickstart small enough for a test; its commands are documented ones.
TINY = """
  rounds=1 task.validation=8 world.train=24 world.test=8 world.out_of_domain=4 world.steps_max=1
  demonstrate.questions=8 exam.questions=8 exam.samples=2 exam.max_new_tokens=12
  evaluate.max_new_tokens=12 student.scratch.layers=1 student.scratch.width=32
  student.scratch.head_width=8 student.scratch.mlp=64 student.scratch.vocab=320
  train.steps=3 train.batch=8 train.warmup=0 train.buckets=192 rollout.buckets=128 rollout.batch=16
""".split()


@dataclasses.dataclass(frozen=True)
class Block:
  """A shell block of a page: where it is, how it is tested, and its commands."""

  where: str
  marks: tuple[str, ...]
  commands: tuple[str, ...]


def blocks(text: str, page: str) -> list[Block]:
  """The shell blocks of a page; commands that span several lines are joined."""
  found = []
  for match in FENCE.finditer(text):
    comments, language, code = match.groups()
    if language not in ("bash", "sh", "shell", "console"):
      continue
    lines = code.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    line = text[: match.start()].count("\n") + 1
    found.append(Block(f"{page}:{line}", tuple(MARK.findall(comments)), tuple(commands)))
  return found


def complaint(block: Block) -> str | None:
  """What is wrong with how a block is marked, or None."""
  if not block.marks:
    return f"{block.where}: no comment says how this block is tested"
  for mark in block.marks:
    if mark == "run" or REASON.match(mark):
      continue
    file, _, name = mark.partition("::")
    if not name or not (ROOT / file).is_file():
      return f"{block.where}: {mark} is neither run, a known reason to skip, nor a test"
    tree = ast.parse((ROOT / file).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if name not in functions or not name.startswith("test_"):
      return f"{block.where}: there is no test {mark}"
  return None


ALL = [
  block for page in PAGES for block in blocks(page.read_text(), page.relative_to(ROOT).as_posix())
]
RUN = [block for block in ALL if "run" in block.marks]


def test_every_shell_block_is_run_or_covered_or_says_what_it_needs():
  assert len(ALL) > 30 and len(RUN) >= 6
  assert [text for text in map(complaint, ALL) if text] == []


@pytest.mark.parametrize(
  "comment, wrong",
  [
    ("", "no comment"),
    ("<!-- test: run -->\n", None),
    ("<!-- test: skip, needs a key -->\n", None),
    ("<!-- test: skip, needs patience -->\n", "neither run"),
    ("<!-- test: tests/test_docs.py::test_links_lead_to_files -->\n", None),
    ("<!-- test: tests/test_docs.py::scratch -->\n", "no test"),
    ("<!-- test: tests/test_docs.py::no_such -->\n", "no test"),
    ("<!-- test: tests/no_such.py::blocks -->\n", "neither run"),
    ("<!-- test: run -->\n\n", "no comment"),
  ],
)
def test_a_block_without_a_valid_mark_is_found(comment, wrong):
  (block,) = blocks(f"text\n\n{comment}```bash\nls\n```\n", "page.md")
  assert (wrong is None) == (complaint(block) is None)
  assert wrong is None or wrong in complaint(block)


def words_of(command: str) -> list[str]:
  """The words of a command, without a comment, `&` or a redirection."""
  words = shlex.split(command, comments=True)
  for word in ("&", ">", "|"):
    words = words[: words.index(word)] if word in words else words
  return words


def documented(name: str) -> list[tuple[str, list[str]]]:
  """(place, words) of every documented `distill-jax NAME`."""
  found = [(block.where, words_of(line)) for block in ALL for line in block.commands]
  return [(where, words) for where, words in found if words[:2] == ["distill-jax", name]]


def test_every_documented_run_has_valid_settings(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("OPENAI_API_KEY", "OTHER_KEY"):
    monkeypatch.setenv(name, "key-of-a-test")
  runs = [(where, words) for where, words in documented("run") if "--help" not in words]
  assert len(runs) > 20
  options = {"workdir": ("", ""), "dry_run": (False, ""), "retry_failed": (False, "")}
  for where, words in runs:
    for name in PLACEHOLDER.findall(" ".join(words)):
      path = tmp_path / name
      (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
      path.suffix and path.touch()
    config, given, rest = args.parse(words[2:], options, config="required")
    assert not rest and given["workdir"].startswith("runs/"), where
    read_settings(config)


def test_every_documented_option_exists():
  for block in ALL:
    for line in block.commands:
      words = words_of(line)
      if words[0] != "distill-jax" or {"--help"} & set(words):
        continue
      both = " ".join(words[1:3])
      name = both if both in help.OPTIONS else words[1]
      known = {"config", *help.OPTIONS[name]}
      given = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
      assert {g for g in given if not g.startswith("config.")} <= known, f"{block.where}: {line}"


def ablations() -> list[tuple[str, str]]:
  """(recipe, overrides) of every ablation in the tables of the recipes' pages."""
  found = []
  for page in sorted((ROOT / "docs/recipes").glob("*.md")):
    table = page.read_text().partition("## Ablations\n")[2].split("\n## ")[0]
    cells = [line.split("|")[-2] for line in table.splitlines() if line.startswith("|")]
    found += [(page.stem, quoted) for cell in cells for quoted in re.findall(r"`([^`]+)`", cell)]
  return found


@pytest.mark.parametrize("recipe, overrides", ablations())
def test_every_documented_ablation_has_valid_settings(recipe, overrides, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "DIR").mkdir()
  words = [f"--config.{word}" for word in shlex.split(overrides)]
  config, _, _ = args.parse([f"--config={recipe}", *words], {}, config="required")
  unchanged, _, _ = args.parse([f"--config={recipe}"], {}, config="required")
  assert config != unchanged
  read_settings(config)


def keys(kind: type, path: str = "") -> set[str]:
  """The dotted keys of settings, groups included."""
  found = set()
  for field in dataclasses.fields(kind):
    name = f"{path}{field.name}"
    inner = keys(field.type, f"{name}.") if dataclasses.is_dataclass(field.type) else set()
    found |= {name} | inner
  return found


def test_every_setting_that_a_page_names_exists():
  known = keys(settings.Settings)
  groups = {key for key in known if any(other.startswith(f"{key}.") for other in known)}
  for page in PAGES:
    for quoted in re.findall(r"`([^`\n]+)`", page.read_text()):
      for key in re.findall(r"(?<![\w./])(?:config\.)?([a-z_]+(?:\.[a-z_]+)+)(?==| |$)", quoted):
        if key.split(".")[0] in groups - {"teachers"} and not key.endswith(
          (".py", ".json", ".jsonl", ".sqlite")
        ):
          assert key in known or key.startswith("teachers."), f"{page.name}: {quoted}"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> pathlib.Path:
  """A directory with a tiny finished run of the quickstart where the pages have theirs."""
  root = tmp_path_factory.mktemp("scratch")
  (root / "configs").symlink_to(ROOT / "configs")
  words = ["run", "--config=quickstart", f"--workdir={root / 'runs/quickstart'}"]
  assert cli.main([*words, *(f"--config.{word}" for word in TINY)]) == 0
  return root


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.where)
def test_a_documented_command_runs(block, scratch, monkeypatch, capfd):
  monkeypatch.chdir(scratch)
  shutil.rmtree("exported", ignore_errors=True)  # an export replaces nothing
  for command in block.commands:
    words = words_of(command)
    if words[0] == "distill-jax":  # in this process, which has jax already
      assert cli.main(words[1:]) == 0, f"{command}\n{capfd.readouterr().err}"
      continue
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(
      ["bash", "-euc", command], cwd=scratch, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_generated_files_are_up_to_date():
  assert generate.main(["--check"]) == 0


def test_the_readme_is_short_and_no_page_is_wide():
  readme = (ROOT / "README.md").read_text().splitlines()
  assert len(readme) <= 150 and max(map(len, readme)) <= 120
  for page in PAGES:
    if page.name == "configuration.md":  # generated, tables only
      continue
    for number, line in enumerate(page.read_text().splitlines(), 1):
      assert len(line) <= 120 or line.startswith(ALLOWED_WIDE), f"{page.name}:{number}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_links_lead_to_files(page):  # mkdocs build --strict checks the links of docs/
  file = ROOT / page
  links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text())
  assert links
  for link in links:
    assert link.startswith("https://") or (file.parent / link).exists(), link


def test_every_page_is_in_the_navigation():
  navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
  pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
  assert pages == set(re.findall(r"[\w/]+\.md", navigation))


def test_the_quickstarts_plot_and_table_have_the_same_numbers():
  svg = (ROOT / "docs/img/quickstart.svg").read_text()
  data = plot_rounds.embedded(svg)
  assert plot_rounds.draw(data) == svg
  readme = (ROOT / "README.md").read_text()
  for row in data["rounds"]:
    v = row["validation"]
    line = next(line for line in readme.splitlines() if line.startswith(f"| {row['round']} |"))
    assert f"| {row['exam']:.1%} |".replace("%", " %") in line
    assert f"{100 * v['accuracy']:.1f} %" in line
    assert f"({100 * v['low']:.1f}-{100 * v['high']:.1f})" in line
  test = data["test"]
  scores = f"{100 * test['accuracy']:.1f} % ({100 * test['low']:.1f}-{100 * test['high']:.1f},"
  assert scores in readme


def test_a_drawing_has_an_interval_for_every_round(tmp_path, scratch, monkeypatch):
  summary = json.loads((scratch / "runs/quickstart/summary.json").read_text())
  svg = plot_rounds.draw(plot_rounds.numbers(summary))
  assert svg.count("<circle") == len(summary["rounds"]) == 2
  assert plot_rounds.embedded(svg)["test"]["accuracy"] == summary["test"]["accuracy"]
  monkeypatch.setattr(sys, "argv", ["plot_rounds", f"--workdir={tmp_path}", "--out=x.svg"])
  with pytest.raises(SystemExit, match=r"no summary\.json"):
    plot_rounds.main()


def test_the_claims_of_the_pages_are_those_of_the_board():
  files = sorted((ROOT / "benchmarks/claims").glob("*.json"))
  claims = [claim for file in files for claim in json.loads(file.read_text())["claims"]]
  lines = (ROOT / "docs/sweeps.md").read_text().splitlines()
  for claim in claims:
    e = claim["effect"]
    effect = f"{100 * e['mean']:+.1f} [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]"
    assert any(f"| {effect} | {claim['verdict']} |" in line for line in lines), claim["text"]
  verdicts = [claim["verdict"] for claim in claims]
  holds, not_, open_ = map(verdicts.count, ("holds", "does not hold", "undecided"))
  readme = " ".join((ROOT / "README.md").read_text().split())
  sentence = (
    f"of {len(claims)} claims, {holds} hold at this scale, {not_} do not hold, and {open_} are"
  )
  assert sentence in readme
