"""Complete runs of a tiny student with the built-in teacher over real HTTP.

Tested are what a run writes and what an override changes.
"""

import json
import pathlib
import shutil
import types

import pytest

from configs import quickstart
from distill_jax import errors, records, rounds, settings, summary
from distill_jax.cli import commands, main, show
from distill_jax.config.read import read_settings
from distill_jax.phases import feedback, train
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import fit
from tests.recipes import override
from tests.report import report_numbers


def config(**changes) -> dict:
  c = quickstart.get_config()
  c.world.train, c.world.test, c.world.out_of_domain, c.task.validation = 40, 10, 6, 10
  c.rounds, c.stop.patience = 1, 0
  c.feedback.cut = True  # students as small as these hardly ever end an answer
  sizes = c.student.scratch
  sizes.width, sizes.head_width, sizes.mlp, sizes.vocab = 32, 8, 64, 320
  c.exam.questions, c.exam.samples, c.exam.max_new_tokens, c.evaluate.max_new_tokens = 20, 2, 12, 12
  c.rollout.batch, c.rollout.buckets, c.train.buckets = 16, (128,), (192,)
  c.train.steps, c.train.batch, c.train.warmup, c.train.log_every = 4, 8, 2, 2
  return override(c, changes)


def run(workdir, **changes) -> tuple[dict, RunDir]:
  c = config(**changes)
  return commands.run(read_settings(c), c, str(workdir)), RunDir(workdir)


def records_of(run_dir, number, phase, name, kind):
  return run_dir.find(number, phase).rows(name, kind)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """A run without overrides, which the others are compared with. They share its teacher cache."""
  return run(tmp_path_factory.mktemp("plain") / "run")


def cache(plain) -> dict:
  return {"teacher__cache": str(plain[1].path / "teacher.sqlite")}


def test_the_summary_has_the_format_that_other_tools_rely_on(plain):
  summary, run_dir = plain
  assert json.loads((run_dir.path / "summary.json").read_text()) == json.loads(json.dumps(summary))
  assert [r["round"] for r in summary["rounds"]] == [0, 1]
  for row in summary["rounds"]:
    assert row["exam"]["n"] == 40 and 0 <= row["exam"]["accuracy"] <= 1
    assert (
      set(row["teacher"]) == {"calls", "cache_hits", "tokens", "dollars"}
      and row["teacher"]["calls"] > 0
    )
    assert row["kept"] > 0 and row["steps"] == 4
    assert set(row["validation"]) == {"accuracy", "low", "high", "n"}
    assert row["validation"]["low"] <= row["validation"]["accuracy"] <= row["validation"]["high"]
  assert summary["test"]["n"] == 10 and summary["out_of_domain"]["n"] == 6
  assert summary["best_round"] in (0, 1) and summary["seconds"] > 0
  assert summary["config"]["train"]["steps"] == 4 and "jax" in summary["versions"]


def test_the_report_has_the_numbers_of_the_summary_and_of_evaluate(plain, capsys):
  summary, run_dir = plain
  page = report_numbers.assert_equal(summary, run_dir)
  best = f"--round={summary['best_round']}"
  assert main.main(["evaluate", f"--workdir={run_dir.path}", best, "--split=test"]) == 0
  scored = json.loads(capsys.readouterr().out)
  assert (
    f"{100 * scored['accuracy']:.1f} %" in page
    and scored["accuracy"] == summary["test"]["accuracy"]
  )
  dropped = records_of(run_dir, 0, "demonstrate", phase_dir.DROPPED, records.Dropped)
  reasons = summary["rounds"][0]["dropped"]
  assert {d.reason for d in dropped} == {name for name, n in reasons.items() if n}


def test_everything_kept_is_right_and_everything_sent_was_wrong(plain):
  _, run_dir = plain
  problems = {
    p.id: p for p in commands.context.open_task(read_settings(config())).problems("train")
  }
  for number, phase in ((0, "demonstrate"), (1, "feedback")):
    for r in records_of(run_dir, number, phase, phase_dir.RATIONALES, records.Rationale):
      assert (
        r.answer == problems[r.problem].gold and r.text.splitlines()[-1] == f"Answer: {r.answer}"
      )
  wrong = {
    (a.problem, a.text)
    for a in records_of(run_dir, 1, "exam", phase_dir.ATTEMPTS, records.Attempt)
    if not a.correct
  }
  tailored = records_of(run_dir, 1, "feedback", phase_dir.RATIONALES, records.Rationale)
  assert tailored and all((r.problem, r.corrects) in wrong and r.critique for r in tailored)


def test_a_finished_run_is_not_run_again(plain):
  _, run_dir = plain
  before = {f: f.stat().st_mtime_ns for f in run_dir.path.rglob("*.jsonl")}
  again, _ = run(run_dir.path)
  assert {f: f.stat().st_mtime_ns for f in run_dir.path.rglob("*.jsonl")} == before
  assert again["rounds"] == plain[0]["rounds"]


def test_a_stopped_run_says_after_which_phase_it_resumes(plain, tmp_path, capsys):
  run_dir = shutil.copytree(plain[1].path, tmp_path / "run")
  (run_dir / "summary.json").unlink()
  shutil.rmtree(run_dir / "final")
  shutil.rmtree(RunDir(run_dir).find(1, "evaluate").path)
  again, _ = run(run_dir)
  assert "Resuming after round 1, phase train\n" in capsys.readouterr().out
  assert again["rounds"] == plain[0]["rounds"]
  run(run_dir)
  assert "going on" not in capsys.readouterr().out


def test_a_run_directory_belongs_to_one_config(plain):
  with pytest.raises(errors.UserError, match=r"config\.seed"):
    run(plain[1].path, seed=5)


def test_a_shared_cache_pays_for_nothing_twice_and_changes_no_result(plain, tmp_path):
  summary, _ = run(tmp_path / "run", **cache(plain))
  for row, first in zip(summary["rounds"], plain[0]["rounds"], strict=True):
    assert (
      row["teacher"]["calls"] == 0 and row["teacher"]["cache_hits"] == first["teacher"]["calls"]
    )
    assert row["validation"] == first["validation"] and row["loss"] == first["loss"]


def metrics(run_dir, number=1):
  return records_of(run_dir, number, "train", fit.METRICS, records.Metrics)


def contrasts(run_dir, number=1):
  return records_of(run_dir, number, "train", train.CONTRASTS, records.TripletExample)


def test_without_the_triplet_term_it_is_not_computed(plain, tmp_path):
  _, run_dir = run(tmp_path / "run", train__losses__triplet=0.0, **cache(plain))
  assert all(m.triplet is None and m.loss == m.sft for m in metrics(run_dir))
  assert any(m.triplet for m in metrics(plain[1]))


def test_blind_feedback_never_shows_a_mistake_and_asks_for_new_samples(plain, tmp_path):
  _, run_dir = run(tmp_path / "run", feedback__kind="blind", **cache(plain))
  rows = records_of(run_dir, 1, "feedback", phase_dir.RATIONALES, records.Rationale)
  asked = len(
    {
      a.problem
      for a in records_of(run_dir, 1, "exam", phase_dir.ATTEMPTS, records.Attempt)
      if not a.correct
    }
  )
  facts = run_dir.find(1, "feedback").facts
  assert facts["teacher"]["calls"] == asked == facts["kept"] + sum(facts["dropped"].values())
  assert all(r.prompt == "annotate" and r.corrects == "" and r.sample >= 1 for r in rows)


def test_the_number_of_rounds_is_the_number_after_the_opening(plain, tmp_path):
  summary, _ = run(tmp_path / "run", rounds=0, **cache(plain))
  assert [r["round"] for r in summary["rounds"]] == [0]


def test_contrasts_keep_as_many_negatives_as_configured(plain, tmp_path):
  _, run_dir = run(tmp_path / "run", contrast__negatives=1, **cache(plain))
  assert {len(c.negatives) for c in contrasts(run_dir)} == {1}
  assert max(len(c.negatives) for c in contrasts(plain[1])) > 1


@pytest.mark.parametrize(
  "change",
  [
    {"triplet__pool": "mean"},
    {"triplet__detach_prompt": True},
    {"sft__prompt_weight": 0.1},
    {"sft__denominator": "all_tokens"},
  ],
)
def test_the_loss_options_change_the_loss(plain, tmp_path, change):
  _, run_dir = run(tmp_path / "run", **change, **cache(plain))
  assert metrics(run_dir)[-1].loss != metrics(plain[1])[-1].loss


def test_without_accumulation_a_round_trains_on_its_own_rationales_and_base_starts_afresh(
  plain, tmp_path
):
  _, run_dir = run(tmp_path / "run", accumulate_rationales=False, start_from="base", **cache(plain))
  own = records_of(run_dir, 1, "feedback", phase_dir.RATIONALES, records.Rationale)
  assert len(records_of(run_dir, 1, "train", train.EXAMPLES, records.Example)) == len(own)
  assert metrics(run_dir)[0].loss > metrics(plain[1])[0].loss  # untrained weights know less


def test_evaluate_and_sample_use_the_run(plain, capsys, tmp_path):
  run_dir = plain[1].path
  facts = commands.evaluate(read_settings(config()), workdir=str(run_dir), round=-1, split="test")
  assert facts["correct"] == plain[0]["test"]["correct"]
  capsys.readouterr()
  (tmp_path / "questions.jsonl").write_text('{"question": "Tom has 1 pear."}\nWhat is 2 + 2?\n')
  commands.sample(
    read_settings(config()),
    workdir=str(run_dir),
    round=0,
    question="",
    questions=str(tmp_path / "questions.jsonl"),
    samples=2,
    temperature=1.0,
  )
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [(r["question"], r["sample"]) for r in rows] == [
    ("Tom has 1 pear.", 0),
    ("Tom has 1 pear.", 1),
    ("What is 2 + 2?", 0),
    ("What is 2 + 2?", 1),
  ]


def test_every_row_that_a_run_writes_has_its_question(plain, capsys):
  path = plain[1].path
  phases = [(rows.round_index, rows.phase) for rows in show.find(path)]
  assert phases == [
    *((0, name) for name in ("demonstrate", "exam", "train", "evaluate")),
    *((1, name) for name in ("exam", "feedback", "train", "evaluate")),
    *((None, name) for name in ("out_of_domain", "test")),
  ]
  for round_index, phase in phases:
    where = [f"--phase={phase}", *([] if round_index is None else [f"--round={round_index}"])]
    assert main.main(["show", f"--workdir={path}", "--n=0", *where]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows and all(row["question"] and row["gold"] for row in rows)


def test_a_run_is_exported_with_a_model_card_of_its_rounds(plain, tmp_path):
  out = tmp_path / "out"
  options = dict(workdir=str(plain[1].path), round=-1, out=str(out))
  commands.export(read_settings(config()), **options, dtype="float32", verify=False)
  card = (out / "README.md").read_text()
  assert "Question: QUESTION\nReasoning:\n\n```" in card and "n=10)" in card
  with pytest.raises(errors.UserError, match="already exists; remove it"):
    commands.export(read_settings(config()), **options, dtype="float32", verify=False)


def test_a_student_without_weights_is_rejected(plain, tmp_path):
  copy = shutil.copytree(plain[1].path, tmp_path / "copy")
  next(pathlib.Path(copy).glob("round_01/2_train/student/*/MANIFEST.json")).unlink()
  with pytest.raises(errors.UserError, match="student's weights are missing"):
    commands.evaluate(read_settings(config()), workdir=str(copy), round=1, split="test")


def rows(*accuracies, no_mistakes=False):
  return [
    {"round": n, "validation": {"accuracy": a}, "no_mistakes": no_mistakes}
    for n, a in enumerate(accuracies)
  ]


def test_blind_feedback_in_the_opening_asks_for_new_samples_too():
  s = read_settings(
    config(opening=("demonstrate", "exam", "feedback", "train"), feedback__mistakes=2)
  )
  ctx = types.SimpleNamespace(settings=s, task=commands.context.open_task(s))
  problem = ctx.task.problems("train")[0]
  rounds_of = [feedback.blind_requests(ctx, n, [problem] * 2) for n in (0, 1)]
  assert [w.request.first for wanted in rounds_of for w in wanted] == [1, 2, 3, 4]


def test_a_round_without_a_teacher_paid_nothing_for_one(tmp_path):
  run_dir = RunDir(tmp_path)
  run_dir.phase(0, 0, "exam").finish({"accuracy": 0.5, "n": 4, "mistakes": 2})
  row = summary.row(run_dir, 0)
  assert row["teacher"] == {"calls": 0, "cache_hits": 0, "tokens": 0, "dollars": 0.0}
  assert row["kept"] == 0 and row["dropped"] == {}


def test_an_opening_that_keeps_no_rationale_says_why_they_were_dropped(tmp_path):
  plan = {"opening": ("demonstrate", "train"), "rounds": 0, "train__losses__triplet": 0.0}
  with pytest.raises(errors.UserError, match=r"0 written.*; demonstrate dropped \d+ wrong_answer"):
    run(tmp_path / "run", teacher__builtin__error_rate=1.0, **plan)


@pytest.mark.parametrize("loss, norm", [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_training_that_diverges_is_stopped(loss, norm, tmp_path):
  last = records.Metrics(step=7, loss=loss, sft=loss, triplet=None, grad_norm=norm)
  with pytest.raises(errors.UserError, match=r"diverged.*step 7.*config\.train\.lr"):
    fit.raise_if_diverged(last, RunDir(tmp_path).phase(0, 2, "train"))


@pytest.mark.parametrize(
  "change, named",
  [
    ({"mesh__data": 3}, "config.mesh"),
    ({"train__batch": 12, "mesh__data": -1}, "config.train.batch"),
  ],
)
def test_devices_that_cannot_share_the_work_are_rejected_before_the_teacher_is_paid(
  tmp_path, change, named
):
  with pytest.raises(errors.UserError, match=named):
    run(tmp_path / "run", **change)
  assert not (tmp_path / "run" / "teacher.sqlite").exists()
  assert not (tmp_path / "run" / "round_00").exists()


def test_standard_output_holds_only_the_results(plain, capsys):
  commands.evaluate(read_settings(config()), workdir=str(plain[1].path), round=-1, split="test")
  assert json.loads(capsys.readouterr().out)["n"] == 10


@pytest.mark.parametrize(
  "line, named",
  [
    ('{"question": 5}', ":3: not JSON with a text"),
    ('{"question":' * 100_000, ":3: not JSON"),
    ("{", ":3: not JSON"),
    ("", "no question"),
  ],
)
def test_an_invalid_question_is_rejected_with_its_line(tmp_path, line, named):
  file = tmp_path / "questions.jsonl"
  file.write_text(f"\n\n{line}\n")
  with pytest.raises(errors.UserError, match=named):
    commands.read_questions(str(file))


@pytest.mark.parametrize("change", [{"round": -5}, {"temperature": float("nan")}])
def test_an_invalid_round_or_temperature_is_rejected(plain, change):
  asked = {"round": 0, "question": "a", "questions": "", "samples": 1, "temperature": 0.0}
  with pytest.raises(errors.UserError):
    commands.sample(read_settings(config()), workdir=str(plain[1].path), **asked | change)


@pytest.mark.parametrize("change", [{"port": 99999}, {"log": "/nowhere/at/all"}])
def test_a_teacher_that_cannot_serve_is_rejected(change):
  with pytest.raises(errors.UserError):
    commands.serve(read_settings(config()), **{"port": 0, "log": ""} | change)


def test_rounds_stop_when_validation_stops_gaining_or_no_mistake_is_left():
  stop = settings.Stop(patience=2, min_gain=0.0)
  assert rounds.stop_reason(stop, rows(0.1, 0.2, 0.3)) is None
  assert rounds.stop_reason(stop, rows(0.1, 0.3, 0.3)) is None
  assert "2 rounds" in rounds.stop_reason(stop, rows(0.3, 0.3, 0.3))
  assert "2 rounds" in rounds.stop_reason(settings.Stop(2, 0.05), rows(0.3, 0.31, 0.35))
  assert rounds.stop_reason(settings.Stop(0, 0.0), rows(0.3, 0.2, 0.1)) is None
  assert "no mistake" in rounds.stop_reason(stop, rows(0.9, no_mistakes=True))


@pytest.mark.parametrize(
  "plan, policy, count",
  [
    (("exam", "feedback", "train"), "right_over_wrong", 1),
    (("exam", "pair", "prefer"), "right_over_wrong", 1),
    (("exam", "pair", "prefer"), "both", 1),
    (("exam", "pair", "prefer"), "cot_over_plain", 4),
    (("exam", "rationalize", "train"), "both", 4),
    (("exam", "demonstrate", "train"), "both", 4),
  ],
)
def test_a_round_without_a_mistake_ends_where_it_would_learn_from_them(
  plan, policy, count, tmp_path, monkeypatch
):
  """Pairs of styles need none, nor do demonstrations and a student that teaches itself."""
  done = []

  def run_phase(name, ctx, round_index, out):
    done.append(name)
    out.finish({"mistakes": 0})

  monkeypatch.setattr(rounds.phases, "run_phase", run_phase)
  monkeypatch.setattr(summary, "row", lambda run, round_index, no_mistakes=False: no_mistakes)
  pair = types.SimpleNamespace(policy=policy)
  ctx = types.SimpleNamespace(
    settings=types.SimpleNamespace(each_round=plan, pair=pair),
    run_dir=RunDir(tmp_path),
    task=types.SimpleNamespace(problems=lambda split: []),
  )
  assert rounds.run_round(ctx, 1) == (count == 1)
  assert done == [*plan, "evaluate"][:count]


def test_examples_show_an_attempt_with_the_voted_answer(tmp_path):
  """It is not simply the last of several attempts."""
  run_dir = RunDir(tmp_path)
  of = lambda text, answer, number: records.Attempt(
    "p", text, answer, answer == "7", round=number, sample=0, finish="stop", tokens=1, logprob=0.0
  )
  written = (
    [of("a", "8", 0), of("b", "8", 0), of("c", "7", 0)],
    [of("d", "7", 1), of("e", None, 1)],
  )
  for number, (attempts, answer) in enumerate(zip(written, "87", strict=True)):
    out = run_dir.phase(number, 0, "evaluate")
    out.write(phase_dir.ATTEMPTS, attempts)
    out.write("verdicts.jsonl", [records.Verdict("p", answer, answer == "7")])
    out.finish({})
  problem = records.Problem("p", "validation", "3 + 4?", "7")
  task = types.SimpleNamespace(problems=lambda split: [problem])
  ctx = types.SimpleNamespace(run_dir=run_dir, task=task)
  assert summary.before_and_after(ctx, 1) == [("3 + 4?", "a", "d", "7")]


def test_the_best_round_is_the_first_of_the_best():
  assert rounds.best_round(rows(0.1, 0.5, 0.5)) == 1
