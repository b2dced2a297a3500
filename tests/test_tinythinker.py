"""Complete runs of TinyThinker by a tiny student: sampled stages, pairs of both, votes."""

import collections
import json
import types

import pytest

from distill_jax import errors
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.phases import exam, train
from tests import recipes
from tests.recipes import LEARNED, attempts, config, examples, pairs, recipe_run, run

quick, shared = recipes.quick, recipes.shared
thinker = recipe_run("tinythinker", "learned", **LEARNED)


def test_recalls_are_sampled_first_and_analyses_from_the_correct_ones(thinker):
  some = attempts(thinker[1])
  recalled = [a for a in some if a.stage == "recall"]
  assert len(recalled) == 20 * 3 and some[:60] == recalled
  right = {(a.problem, a.turns[0][2]) for a in recalled if a.correct and a.finish == "stop"}
  wrong = {(a.problem, a.turns[0][2]) for a in recalled if not a.correct}
  prompts = collections.defaultdict(set)
  for a in some[60:]:
    assert a.stage == "analyze" and [stage for stage, *_ in a.turns] == ["analyze"] * 3 + [
      "summarize"
    ]
    prompts[a.problem].add(a.turns[0][1])
  assert {p for p, _ in right - wrong} == set(prompts)
  for problem, recall in right - wrong:
    line = " ".join(recall.split())
    assert sum(f"Recall: {line}\n" in prompt for prompt in prompts[problem]) == 1


def test_pairs_of_both_stages_exist_and_have_prompts_of_the_exam(thinker):
  run_dir = thinker[1]
  asked = {(a.problem, stage, prompt) for a in attempts(run_dir) for stage, prompt, _ in a.turns}
  found = collections.Counter(p.stage for p in pairs(run_dir))
  assert set(found) == {"recall", "analyze"}
  for p in pairs(run_dir):
    assert (p.problem, p.stage, p.prompt) in asked and p.chosen != p.rejected


def test_a_recall_that_led_to_correct_and_wrong_answers_is_in_no_pair(thinker):
  run_dir = thinker[1]
  right, wrong = collections.defaultdict(set), collections.defaultdict(set)
  for a in attempts(run_dir):
    if a.stage == "recall":
      (right if a.correct else wrong)[a.problem].add(a.turns[0][2])
  for p in pairs(run_dir):
    if p.stage == "recall":
      assert p.rejected in wrong[p.problem] - right[p.problem]
      assert p.chosen not in wrong[p.problem]


def test_each_stage_has_its_own_examples(thinker):
  found = collections.Counter(x.stage for x in examples(thinker[1]))
  assert found["analyze"] == 3 * found["summarize"] == 3 * found["recall"] > 0


def test_a_decoder_runs_tinythinker_too_and_learns_only_the_configured_stages(shared, tmp_path):
  _, run_dir = run(
    tmp_path / "run", "tinythinker", student__arch="llama",
    staged__stages=("analyze", "summarize"), staged__reflect=("analyze", "summarize"), **shared,
  )  # fmt: skip
  assert {x.stage for x in examples(run_dir)} == {"analyze", "summarize"}
  assert {a.stage for a in attempts(run_dir)} == {"analyze", "summarize"}
  assert all("Recall" not in prompt for a in attempts(run_dir) for _, prompt, _ in a.turns)


def test_reflection_may_be_limited_to_summaries(shared, tmp_path):
  _, run_dir = run(
    tmp_path / "run", "tinythinker", student__arch="llama", train__steps=20, train__lr=5e-3,
    staged__stages=("summarize",), staged__reflect=("summarize",), exam__samples=4, **shared,
  )  # fmt: skip
  assert pairs(run_dir) and {p.stage for p in pairs(run_dir)} == {"summarize"}
  prompts = {x.prompt for x in examples(run_dir)}
  assert all(p.prompt in prompts and not p.chosen.startswith("Summarize") for p in pairs(run_dir))


def test_the_interval_decides_which_stages_a_step_trains(thinker):
  def stages(interval):
    s = read_settings(config("tinythinker", **LEARNED | {"staged__interval": interval}))
    with commands.open_run(s, str(thinker[1].path)) as ctx:
      corpus = train.build_corpus(ctx, 0, examples(thinker[1]), [])
    by_step = [corpus.batch_order[n][2] for n in range(5)]
    return [{corpus.examples[n].stage for row in rows for n in row} for rows in by_step]

  assert stages(1) == [{"recall"}, {"analyze"}, {"analyze"}, {"analyze"}, {"summarize"}]
  assert stages(2)[:2] == [{"recall"}, {"recall"}]
  assert any(len(found) > 1 for found in stages(0))


def test_no_more_recalls_of_a_question_are_analyzed_than_configured(thinker):
  """Compares starts=1 with no limit, on the recalls of the exam."""
  recalled = [a for a in attempts(thinker[1]) if a.stage == "recall"]
  problems = [types.SimpleNamespace(id=name) for name in dict.fromkeys(a.problem for a in recalled)]
  every, one = (exam.items_from_correct_recalls(problems, recalled, n) for n in (0, 1))
  assert len(one) == len({s.problem.id for s in every}) > 0
  assert {s.given for s in one} <= {s.given for s in every}


def test_several_attempts_vote_on_the_answer(thinker, capsys, monkeypatch):
  taken = recipes.record_attempts(monkeypatch)
  facts = recipes.evaluate(thinker[1], "tinythinker", capsys, evaluate__num_votes=3, **LEARNED)
  assert facts["n"] == 4 and len(taken) == 12
  by_problem = collections.defaultdict(list)
  for a in taken:
    by_problem[a.problem].append(a)
  assert any(len({a.text for a in some}) > 1 for some in by_problem.values()), "they are sampled"
  for some in by_problem.values():  # recalls and analyses are sampled, the summary is greedy
    last = {}
    for a in some:
      assert last.setdefault(a.turns[-1][1], a.turns[-1][2]) == a.turns[-1][2]


def test_a_staged_student_answers_questions_with_options(thinker, capsys):
  capsys.readouterr()
  commands.sample(
    read_settings(config("tinythinker", **LEARNED), teacher=False),
    workdir=str(thinker[1].path), round=-1, samples=1, temperature=0.0, questions="",
    question="Which of these can sing?\n(A) spoon\n(B) lark",
  )  # fmt: skip
  row = json.loads(capsys.readouterr().out)
  assert row["answer"] in ("A", "B", None) and row["text"]
  with pytest.raises(errors.UserError, match="options"):
    commands.sample(
      read_settings(config("tinythinker", **LEARNED), teacher=False),
      workdir=str(thinker[1].path), round=-1, samples=1, temperature=0.0, questions="",
      question="Which of these can sing?",
    )  # fmt: skip
