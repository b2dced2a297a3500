"""benchmarks/real: its rows are valid, and its tables come from stored results alone."""

import importlib
import json
import pathlib
import re
import shutil
import sys

import pytest

from benchmarks import plot_rounds
from benchmarks.real import plot, rows, sittings, stored, table
from distill_jax import errors
from distill_jax.ablations import sweep
from tests.small_sweeps import ROOT, small_sweep, write_runs

program = importlib.import_module("benchmarks.real.__main__")
MARKS = {
  ("tiny-plain", 0): [1, 1, 1, 0],
  ("tiny-plain", 1): [1, 1, 0, 0],
  ("tiny-other", 0): [1, 0, 0, 0],
}


@pytest.fixture
def data(tmp_path):
  """A directory with every data set; its files are empty."""
  svamp = [f"SVAMP_ChatGPT_level{n}_ranked.json" for n in (1, 3, 5)]
  taught = [*(f"svamp/{name}" for name in svamp), "obqa/openbookQA_chatgpt_level_2_ranked.json"]
  files = [f"teacher_distilling_cot/{name}" for name in taught]
  for name in ("svamp/x", "asdiv/x", "obqa/x", "gsm8k/test_socratic.jsonl", *files):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  return tmp_path


def test_every_row_has_a_valid_config_and_trains_for_the_steps_of_its_block(data, monkeypatch):
  monkeypatch.chdir(ROOT)
  planned = rows.plan("", runs=data, data=data, students=data, teacher="http://127.0.0.1:1/v1")
  first = [rows.name_of(block, row) for block, row, run in planned if run.seed == 0]
  assert first == rows.names()
  steps: dict[str, set[int]] = {}
  for block, row, run in planned:
    config = run.config
    two = config["format"] == "socratic" and config["socratic"]["mode"] == "iterative"
    rounds = 1 + config["rounds"] * ("train" in config["each_round"])
    count = config["train"]["steps"] * rounds * (2 if two else 1)
    if named := re.search(r"steps(\d+)$", row):
      assert count == int(named[1])
    elif "train" in config["opening"]:
      steps.setdefault(block, set()).add(count)
    assert "{" not in json.dumps(run.arguments), "a directory is not filled in"
  assert all(len(counts) == 1 for counts in steps.values()), steps


def write(tmp_path, monkeypatch) -> None:
  """Writes the runs of MARKS as those of a block `tiny` with two rows and two seeds."""
  monkeypatch.chdir(ROOT)
  swept = small_sweep()
  named = {f"tiny-{name}": overrides for name, overrides in swept.rows.items()}
  write_runs(tmp_path, small_sweep(rows=named, base="tiny-plain", claims=()), MARKS)
  summary = {
    "base": [],
    "rounds": [
      {
        "round": 0,
        "steps": 20,
        "loss": 0.5,
        "kept": 7,
        "dropped": {"wrong_answer": 2},
        "validation": {"accuracy": 0.25, "n": 8},
      }
    ],
    "config": {"opening": ["prefer"], "each_round": [], "train": {"lr": 1}, "prefer": {"lr": 1e-4}},
    "seconds": 90.0,
    "versions": dict.fromkeys(("python", "jax", "flax", "optax"), "1"),
  }
  for row, seed in MARKS:
    (tmp_path / f"rows/{row}/seed_{seed}/summary.json").write_text(json.dumps(summary))
  monkeypatch.setattr(
    rows,
    "BLOCKS",
    {
      "tiny": rows.Block(
        "Tiny", "student", "quick", {name: rows.Row("tailored") for name in swept.rows}, {},
        base="plain", claims=(("other", "plain"),), seeds=(0, 1),
      )
    },
  )  # fmt: skip


def printed(capsys, monkeypatch, *words) -> str:
  monkeypatch.setattr(sys, "argv", ["real", *words])
  assert program.main() == 0
  return capsys.readouterr().out


def store(tmp_path) -> pathlib.Path:
  """Stores the results of the runs that `write` wrote, as the command does. Returns where."""
  swept = small_sweep(rows={"tiny-plain": {}, "tiny-other": {}}, base="tiny-plain")
  for run in sweep.plan_runs(swept, tmp_path):
    if (run.row, run.seed) in MARKS:
      stored.write("tiny", run.row.removeprefix("tiny-"), run, tmp_path / "results")
  return tmp_path / "results"


def test_the_table_and_the_plot_come_from_the_results_and_do_not_change(
  tmp_path, monkeypatch, capsys
):
  write(tmp_path, monkeypatch)
  results = store(tmp_path)
  before = {file.name: file.read_bytes() for file in results.iterdir()}
  assert sorted(before) == ["tiny-other-0.json", "tiny-plain-0.json", "tiny-plain-1.json"]
  store(tmp_path)
  assert before == {file.name: file.read_bytes() for file in results.iterdir()}
  shutil.rmtree(tmp_path / "rows")
  drawn = tmp_path / "plot.svg"
  words = (f"--results={results}", "--table", f"--plot={drawn}")
  text = printed(capsys, monkeypatch, *words)
  assert text == printed(capsys, monkeypatch, *words)
  assert "| plain | 2 | 62.5 [" in text and "| other | 1 (1 missing) | 25.0 [" in text
  assert "-50.0 [" in text, "other - plain with seed 0"
  cost = (
    "| other | 0 | 0.0001 | 20 | 0.500 | 25.0 (n=8) | 25.0 | 7 kept; dropped 2 wrong_answer | 0.0"
    " |  |"
  )
  assert cost in text
  (group,) = plot_rounds.embedded(drawn.read_text())
  assert [(row["row"], row["mean"]) for row in group["rows"]] == [("plain", 0.625), ("other", 0.25)]
  assert plot.draw([group]) == drawn.read_text()
  (results / "tiny-other-0.json").unlink()
  assert "| other | 0 (2 missing) | not run |" in printed(capsys, monkeypatch, *words)


def test_a_result_of_other_settings_or_a_damaged_one_is_rejected(tmp_path, monkeypatch, capsys):
  write(tmp_path, monkeypatch)
  file = store(tmp_path) / "tiny-plain-1.json"
  words = ("real", f"--results={file.parent}", "--table")
  for change, said in ((('"tailored:', '"cot:'), "other settings"), (("{", ""), "restore it")):
    content = file.read_text()
    file.write_text(content.replace(*change, 1))
    monkeypatch.setattr(sys, "argv", list(words))
    assert program.main() == errors.DATA
    said_by = capsys.readouterr().err
    assert str(file) in said_by and said in said_by
    file.write_text(content)


def test_every_stored_result_is_in_the_page_and_the_plot():
  """The tables of docs/real.md are what the command prints."""
  page = (ROOT / "docs/real.md").read_text()
  built = [table.build(block, stored.DIRECTORY) for block in rows.BLOCKS]
  for block in built:
    if block["runs"]:
      lines = [line for line in table.render(block).splitlines() if line.startswith("| ")]
      assert not [line for line in lines if line not in page.splitlines()], block["title"]
      assert all(f"Run on {machine}." in page for machine in block["machines"])
  assert plot.draw(plot.numbers(built)) == (ROOT / "docs/img/real.svg").read_text()


def test_an_unknown_row_is_rejected(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["real", "--row=svam_", f"--runs={tmp_path}", "--table"])
  with pytest.raises(SystemExit):
    program.main()


def test_every_sitting_is_recorded_with_its_memory_and_exit_code(tmp_path):
  run = sweep.PlannedRun("row", 0, tmp_path / "row" / "seed_0", ("nonsense",), {})
  sittings_before = [{"peak_mib": 1}]
  run.run_dir.parent.mkdir()
  run.run_dir.with_name("seed_0.sittings.json").write_text(json.dumps(sittings_before))
  assert sittings.run(run, tmp_path) == 2
  first, last = sittings.read(run.run_dir)
  assert first == sittings_before[0]
  assert last["code"] == 2 and last["peak_mib"] > 5 and last["cores"] > 0
  assert "nonsense" in run.log.read_text()
