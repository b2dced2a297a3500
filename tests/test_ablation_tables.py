"""The table of a sweep, from run directories that are written by hand."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from distill_jax import errors, records
from distill_jax.ablations import markdown, sweep, table
from distill_jax.run_dir import run_dir
from tests.small_sweeps import ROOT, TINY, build, row, small_sweep, write_runs


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_the_table_has_means_standard_deviations_and_paired_differences(tmp_path):
  marks = {
    ("plain", 0): [1, 1, 1, 0], ("plain", 1): [1, 1, 0, 0],
    ("other", 0): [1, 0, 0, 0], ("other", 1): [1, 1, 0, 1],
  }  # fmt: skip
  write_runs(tmp_path, small_sweep(), marks)
  results = build(tmp_path, small_sweep())
  plain, other = row(results, "plain"), row(results, "other")
  assert plain["mean"] == 5 / 8 and plain["by_seed"] == {"0": 0.75, "1": 0.5}
  assert plain["sd"] == pytest.approx(0.125 * np.sqrt(2)) and plain["difference"] is None
  d = other["difference"]
  assert (d["mean"], d["gained"], d["lost"], d["seeds"], d["n"]) == (-1 / 8, 1, 2, 2, 4)
  assert d["p"] == 1.0 and d["low"] < -1 / 8 < d["high"]
  assert results["rows"][0]["replies"] == 14 and results["rows"][0]["steps"] == 20


def test_rows_are_paired_on_common_seeds_and_missing_seeds_are_marked(tmp_path):
  write_runs(
    tmp_path, small_sweep(), {("plain", 0): [1, 1], ("plain", 1): [0, 0], ("other", 0): [1, 0]}
  )
  results = build(tmp_path, small_sweep())
  assert row(results, "other")["difference"]["mean"] == -0.5
  assert results["rows"][1]["missing"] == [1] and row(results, "other")["sd"] is None
  assert results["claims"][0]["effect"]["mean"] == 0.5 and results["claims"][0]["missing"] == 1


def test_without_a_run_there_is_no_number(tmp_path):
  results = build(tmp_path, small_sweep())
  assert row(results, "plain") is None and results["claims"][0]["effect"] is None
  assert results["claims"][0]["verdict"] == table.NOT_RUN
  page = markdown.render({**results, **header(small_sweep())})
  assert "| plain | 0 (2 missing) | not run | | | | | |" in page and "nan" not in page


def header(swept: sweep.Sweep) -> dict:
  machine = {"cores": 2, "platform": "x"}
  return {
    **{name: getattr(swept, name) for name in ("config", "common", "base", "seeds", "splits")},
    **dict(sweep="x.py", command="python", date="2024-01-01", machine=machine, failed=[]),
  }


def test_the_vote_is_read_instead_of_several_attempts(tmp_path):
  swept = small_sweep(seeds=(0,))
  write_runs(tmp_path, swept, {("plain", 0): [1, 0]})
  tested = run_dir.RunDir(sweep.plan_runs(swept, tmp_path)[0].run_dir).final("test")
  verdicts, facts = tested.rows("verdicts.jsonl", records.Verdict), tested.facts
  tested.write("attempts.jsonl", verdicts * 3)
  tested.finish(facts)
  assert row(build(tmp_path, swept), "plain")["mean"] == 0.5
  tested.write("verdicts.jsonl", verdicts * 3)
  tested.finish(facts)
  with pytest.raises(errors.UserError, match="a second verdict on"):
    build(tmp_path, swept)


def test_a_table_is_not_made_of_damaged_or_foreign_results(tmp_path):
  swept = small_sweep(seeds=(0,))
  write_runs(tmp_path, swept, {("plain", 0): [1, 0], ("other", 0): [1, 1]})
  plain, other = (run_dir.RunDir(p.run_dir) for p in sweep.plan_runs(swept, tmp_path))
  verdicts = plain.final("test").path / "verdicts.jsonl"
  content = verdicts.read_bytes()
  verdicts.write_bytes(content.replace(b"q1", b"q2"))
  with pytest.raises(errors.UserError, match=r"verdicts\.jsonl has changed.*remove"):
    build(tmp_path, swept)
  verdicts.write_bytes(content)
  build(tmp_path, swept)
  plain.final("test").discard()
  shutil.copytree(other.final("test").path, plain.final("test").path)
  with pytest.raises(errors.UserError, match="measured with weights other than"):
    build(tmp_path, swept)


def test_rows_with_other_questions_are_not_paired(tmp_path):
  swept = small_sweep(
    rows={"plain": {}, "harder": {"world.steps_max": 4}, "less": {"world.train": 20}}
  )
  swept = dataclasses.replace(swept, claims=())
  write_runs(tmp_path, swept, {(r, 0): [1, 0] for r in swept.rows})
  results = build(tmp_path, swept)
  assert row(results, "harder")["difference"] is None and row(results, "harder")["mean"] == 0.5
  assert row(results, "less")["difference"]["mean"] == 0.0
  crossed = [{"task": {"name": "a"}, "cross": {"name": name}} for name in "bc"]
  also = [{"task": {"name": "a"}, "evaluate": {"also": {"name": name}}} for name in "bc"]
  for split, (one, two) in {"cross": crossed, "also": also}.items():
    assert sweep.question_settings(one, "test") == sweep.question_settings(two, "test")
    assert sweep.question_settings(one, split) != sweep.question_settings(two, split)


def test_rows_and_seeds_are_not_mixed_when_the_data_have_changed_between_the_runs(tmp_path):
  swept = small_sweep()
  write_runs(tmp_path, swept, {("plain", 0): [1, 0]}, data="old")
  write_runs(tmp_path, swept, {("other", 0): [1, 1], ("other", 1): [1, 1]}, data="new")
  results = build(tmp_path, swept)  # the questions have the same names
  assert row(results, "other")["difference"] is None and row(results, "other")["mean"] == 1.0
  assert results["claims"][0]["verdict"] == table.NOT_RUN
  write_runs(tmp_path, swept, {("plain", 1): [1, 0]}, data="new")
  with pytest.raises(errors.UserError, match="row plain: the test questions of seed 1 are not"):
    build(tmp_path, swept)


def test_a_run_with_another_config_does_not_count_as_finished(tmp_path):
  write_runs(tmp_path, small_sweep(), {("plain", 0): [1], ("other", 0): [1]})
  plan = sweep.plan_runs(small_sweep(common={**TINY, "train.lr": 0.5}), tmp_path)
  assert not any(p.finished for p in plan)
  elsewhere = small_sweep(cache="elsewhere.sqlite")  # the location of the cache makes no difference
  assert [p.finished for p in sweep.plan_runs(elsewhere, tmp_path)] == [True, True, False, False]


@pytest.mark.parametrize(
  ("low", "high", "verdict"),
  [
    (0.001, 0.2, table.HOLDS),
    (-0.2, 0.0, table.FAILS),
    (-0.2, 0.009, table.FAILS),
    (-0.2, 0.011, table.UNDECIDED),
    (0.0, 0.2, table.UNDECIDED),
  ],
)
def test_a_claim_is_judged_by_the_interval_of_its_effect(low, high, verdict):
  assert table.verdict({"low": low, "high": high}, smallest=0.01) == verdict


def test_the_table_detects_a_real_gain_and_no_other(tmp_path):
  """Verdicts are drawn with accuracies 0.4, 0.4 and 0.6 on 150 questions for 4 seeds."""
  swept = small_sweep(
    rows={"plain": {}, "same": {"rounds": 2}, "better": {"rounds": 3}}, seeds=(0, 1, 2, 3)
  )
  swept = dataclasses.replace(swept, claims=(sweep.Claim("", "better", "plain"),))
  rng = np.random.Generator(np.random.PCG64(1))
  shares = {"plain": 0.4, "same": 0.4, "better": 0.6}
  marks = {
    (r, s): rng.random(150) < shares[r] for r, s in itertools.product(swept.rows, swept.seeds)
  }
  write_runs(tmp_path, swept, marks)
  results = build(tmp_path, swept)
  assert row(results, "same")["difference"]["low"] < 0 < row(results, "same")["difference"]["high"]
  assert row(results, "same")["difference"]["p"] > 0.05 > row(results, "better")["difference"]["p"]
  assert results["claims"][0]["verdict"] == table.HOLDS
