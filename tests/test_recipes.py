"""The recipes beside tailored learning, played whole by a tiny student with the built-in teacher:
what they write, what their settings change, and that preferences start at log 2."""

import collections
import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from distill_jax import __main__ as main
from distill_jax import console, errors, phases, records
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.machine import hf_read
from distill_jax.phases import pair
from distill_jax.run_dir import phase_dir, run_dir
from distill_jax.runtime import reference_logprobs
from tests import recipes
from tests.recipes import PAIRED, attempts, config, examples, metrics, pairs, played, rows, run

quick, shared = recipes.quick, recipes.shared

self_refine = played("self_refine", **PAIRED)
tinythinker = played("tinythinker")
socratic = played("socratic")
unified = played("socratic", "unified", socratic__mode="unified")
star = played("star", opening=("demonstrate", "train"), demonstrate__questions=8, cot__shots=0)
answer_only = played("answer_only")
cot = played("cot")


@pytest.mark.parametrize(
  "name, plan",
  [
    ("self_refine", (["demonstrate", "train"], ["exam", "pair", "prefer"])),
    ("tinythinker", (["demonstrate", "train"], ["exam", "pair", "prefer"])),
    ("socratic", (["demonstrate", "train"],)),
    ("unified", (["demonstrate", "train"],)),
    ("star", (["demonstrate", "train"], ["exam", "rationalize", "train"])),
    ("answer_only", (["demonstrate", "train"],)),
    ("cot", (["demonstrate", "train"],)),
  ],
)
def test_a_recipe_runs_to_its_end_and_its_summary_tells_each_round(name, plan, request):
  summary, folder = request.getfixturevalue(name)
  assert json.loads((folder.path / "summary.json").read_text())["test"]["n"] == 4
  assert [row["round"] for row in summary["rounds"]] == list(range(len(plan)))
  for row, names in zip(summary["rounds"], plan, strict=True):
    assert list(folder.finished(row["round"])) == [*names, "evaluate"]
    assert row["validation"]["n"] == 4
    assert (row["pairs"] > 0) == ("pair" in names)
  assert summary["rounds"][0]["steps"] > 0 and summary["rounds"][0]["kept"] > 0


# Preferences begin where the reference policy is.


def test_the_first_preference_loss_is_log_2(self_refine):
  recipes.assert_begins_at_log_2(self_refine[1])
  assert all(m.kl > 0 for m in metrics(self_refine[1], 1, "prefer")[1:])


def test_the_first_preference_loss_is_log_2_for_an_encoder_decoder(tinythinker):
  assert tinythinker[0]["config"]["student"]["arch"] == "t5"
  recipes.assert_begins_at_log_2(tinythinker[1])


def test_it_is_log_2_with_low_rank_updates_and_where_rounds_train_from_the_base(shared, tmp_path):
  """Only train starts afresh: preferences are about what was trained."""
  changes = {"student__lora__rank": 2, "start_from": "base", **PAIRED, **shared}
  _, folder = run(tmp_path / "run", "self_refine", **changes)
  recipes.assert_begins_at_log_2(folder)
  assert pairs(folder)[0].reference_chosen != 0


def test_written_references_are_what_the_policy_says_before_its_first_step(self_refine):
  """Chosen and rejected log-probabilities of the first step, from the live weights."""
  folder = self_refine[1]
  with commands.opened(read_settings(config("self_refine", **PAIRED)), str(folder.path)) as what:
    some = pairs(folder)
    params = what.students(0)["student"][1]
    encoded = [pair.encode_pair(what.student, p) for p in some]
    live = reference_logprobs.compute_batch(what, params, encoded[:8])
  written = [(p.reference_chosen, p.reference_rejected) for p in some]
  np.testing.assert_allclose(written[:8], live, rtol=0, atol=1e-4)
  assert all(c < 0 and r < 0 for c, r in written)


def computing(monkeypatch) -> list:
  """Returns a list that grows by one with each pair whose reference is computed."""
  seen, before = [], reference_logprobs.compute_batch

  def compute(run, params, some):
    seen.extend(some)
    return before(run, params, some)

  monkeypatch.setattr(reference_logprobs, "compute_batch", compute)
  return seen


def begun(path, recipe, **changes):
  """A run of which no phase is played yet."""
  s = read_settings(config(recipe, **changes))
  return commands.context.RunContext(s, run_dir.RunDir(path), console.Console(quiet=True))


def test_a_second_run_computes_no_reference_and_another_template_dtype_or_model_all(
  shared, tmp_path, monkeypatch
):
  """DPO alone: the reference is the base, whose weights are the same in all of these runs."""
  seen = computing(monkeypatch)
  plan = {"opening": ("exam", "pair", "prefer"), "rounds": 0, **PAIRED}
  cache = {"pair__cache": str(tmp_path / "references.sqlite"), **plan, **shared}

  def computed(name, **changes):
    del seen[:]
    with begun(tmp_path / name, "self_refine", **cache, **changes) as what:
      for place, phase in enumerate(("exam", "pair")):
        phases.run_phase(phase, what, 0, what.run_dir.phase(0, place, phase))
      return len(seen), len({(p.prompt, p.chosen, p.rejected) for p in pairs(what.run_dir, 0)})

  first, unique = computed("first")
  assert first == unique > 0
  assert computed("again") == (0, unique)
  for name, change in (
    ("template", {"instruct__elicitation": "Think."}),
    ("dtype", {"student__dtype": "bfloat16"}),
    ("model", {"student__scratch__rope_theta": 500.0}),
  ):
    some, unique = computed(name, **change)
    assert some == unique > 0, name


def test_what_is_left_of_the_references_comes_out_as_if_nothing_had_been_known(
  self_refine, tmp_path, monkeypatch
):
  """A run killed between two parts, or a cache that knows some pairs, changes no number."""
  folder = self_refine[1]
  with commands.opened(read_settings(config("self_refine", **PAIRED)), str(folder.path)) as what:
    encoded = [pair.encode_pair(what.student, p) for p in pairs(folder)]
    params = what.students(0)["student"][1]
    what.run_dir.path = tmp_path
    some = reference_logprobs.score(what, params, encoded[:3], "some")
    seen = computing(monkeypatch)
    every = reference_logprobs.score(what, params, encoded, "every")
    assert seen
  assert every == [(p.reference_chosen, p.reference_rejected) for p in pairs(folder)]
  assert every[:3] == some


def test_a_round_without_a_pair_leaves_the_student_as_it_is(shared, tmp_path, monkeypatch):
  monkeypatch.setattr(pair, "build_pairs", lambda *_: iter(()))
  summary, folder = run(tmp_path / "run", "self_refine", **PAIRED, **shared)
  row = summary["rounds"][1]
  assert row["pairs"] == row["steps"] == 0 and row["loss"] is None
  before, after = (r["validation"]["accuracy"] for r in summary["rounds"])
  assert before == after and not (folder.find(1, "prefer").path / "student").exists()


# Self-refine.


def test_every_pair_hangs_on_the_prompt_that_asks_for_a_chain_of_thought(self_refine):
  """cot_over_plain: chains of thought over plain answers, of one question."""
  folder = self_refine[1]
  said = collections.defaultdict(set)
  for a in attempts(folder):
    said[a.problem, a.style].add(a.text)
  assert {style for _, style in said} == {"cot", "plain"}
  for p in pairs(folder):
    assert p.prompt.endswith("### Response:\nLet's think step by step.\n")
    assert p.chosen in said[p.problem, "cot"] | said[p.problem, ""]
    assert p.rejected in said[p.problem, "plain"]


def test_cross_self_refine_tunes_on_one_task_and_prefers_on_another(shared, tmp_path):
  """What is taught are word problems; what is examined, paired and scored, too, is the taxonomy."""
  summary, folder = run(tmp_path / "run", "self_refine", cross__name="taxonomy", **PAIRED, **shared)
  choice = {
    p.id for p in commands.context.open_task(read_settings(config("tinythinker"))).problems("train")
  }
  assert {a.problem for a in attempts(folder)} <= choice
  assert not {x.problem for x in examples(folder)} & choice
  assert summary["cross"]["n"] == 4 and summary["test"]["n"] == 4 and pairs(folder)


# Socratic.


def test_a_decomposer_and_a_solver_learn_apart(socratic):
  folder = socratic[1]
  assert {x.student for x in examples(folder)} == {"decomposer", "solver"}
  log = metrics(folder, 0, "train")
  assert collections.Counter(m.student for m in log) == {"decomposer": 4, "solver": 4}
  assert folder.find(0, "train").facts["steps"] == 8
  both = [folder.find(0, "train").path / name for name in ("decomposer", "solver")]
  assert all(path.is_dir() for path in both)


def test_one_student_writes_the_same_decompositions_in_one_text(unified, socratic):
  some = examples(unified[1])
  assert {x.student for x in some} == {"student"}
  asked = [x.target for x in examples(socratic[1]) if x.student == "decomposer"]
  assert all(x.target.startswith("Sub-question: ") for x in some)
  assert any(asked[0] in x.target for x in some)


def taught(socratic, **changes):
  """The examples that other settings make of the same decompositions."""
  s = read_settings(config("socratic", **changes))
  with commands.opened(s, str(socratic[1].path)) as what:
    return what.examples(what.rationales([0]))


def test_a_decomposer_that_sees_no_solutions_is_shown_none(socratic):
  assert taught(socratic) == examples(socratic[1])
  by = lambda some, name: [x.prompt for x in some if x.student == name]
  blind = taught(socratic, socratic__solutions=False)
  assert not any("Solution:" in prompt for prompt in by(blind, "decomposer"))
  assert any("Solution:" in prompt for prompt in by(taught(socratic), "decomposer"))
  assert by(blind, "solver") == by(taught(socratic), "solver")


def test_a_calculator_marks_the_equations_that_are_taught(socratic):
  assert any("<<" in x.target for x in taught(socratic, socratic__calculator=True))
  assert not any("<<" in x.target for x in taught(socratic))


def test_gold_decompositions_need_no_teacher(tmp_path):
  with begun(tmp_path / "run", "socratic", demonstrate__source="gold") as what:
    phases.run_phase("demonstrate", what, 0, what.run_dir.phase(0, 0, "demonstrate"))
    written, problems = what.rationales([0]), what.task.problems("train")
  assert not (tmp_path / "run" / "teacher.sqlite").exists()
  gold = {p.id: p.decomposition for p in problems}
  assert len(written) == 16
  assert all(r.writer == "gold" and r.parts == gold[r.problem] for r in written)


def test_sub_questions_that_nothing_answers_are_not_kept(tmp_path):
  """As strategyqa's without their facts."""
  with begun(tmp_path / "run", "socratic", demonstrate__source="gold") as what:
    bare = lambda p: dataclasses.replace(p, decomposition=(("What?", ""),), facts=())
    every = what.task.problems("train")
    what.task = types.SimpleNamespace(problems=lambda split: [bare(every[0]), *every[1:]])
    here = what.run_dir.phase(0, 0, "demonstrate")
    phases.run_phase("demonstrate", what, 0, here)
  assert here.facts == {"kept": 15, "dropped": {"no_rationale": 1}}


def test_gold_sub_questions_that_there_are_not_are_refused_before_anything_is_played(tmp_path):
  """As svamp's."""
  with begun(tmp_path / "run", "socratic", socratic__questions="gold") as what:
    commands.refuse_early(what)
    (bare,) = [dataclasses.replace(p, decomposition=()) for p in what.task.problems("test")[:1]]
    what.final_problems = lambda: {"test": [bare]}
    with pytest.raises(
      errors.UserError, match=r"config\.socratic\.questions.*without sub-questions"
    ):
      commands.refuse_early(what)


def test_gold_sub_questions_are_asked_of_a_finished_run(socratic, capsys, monkeypatch):
  taken = recipes.spying(monkeypatch)
  assert recipes.scored(socratic[1], "socratic", capsys, socratic__questions="gold")["n"] == 4
  problems = commands.context.open_task(read_settings(config("socratic"))).problems("test")
  questions = {p.id: [asked for asked, _ in p.decomposition] for p in problems}
  for a in taken:
    prompts = [prompt for _, prompt, _ in a.turns]
    if len(questions[a.problem]) == 1:
      assert prompts == []  # of one turn none is kept
    else:
      assert len(prompts) == len(questions[a.problem])
    for prompt, asked in zip(prompts, questions[a.problem], strict=False):
      assert prompt.rstrip().split("\n")[-2] == f"Sub-question: {asked}"


def command(capsys, *words):
  """What a command prints, of which the last line is JSON."""
  capsys.readouterr()
  assert main.main(words) == 0
  return capsys.readouterr().out.splitlines()


def test_settings_of_decoding_may_be_changed_by_the_command(socratic, capsys, monkeypatch):
  taken, there = recipes.spying(monkeypatch), f"--workdir={socratic[1].path}"
  (line,) = command(capsys, "evaluate", there, "--config.evaluate.num_votes=3")
  assert json.loads(line)["n"] == 4 and len(taken) == 12
  (line,) = command(capsys, "evaluate", there, "--config.socratic.questions=gold")
  assert json.loads(line)["split"] == "test"
  (line,) = command(capsys, "sample", there, "--question=Tom has 3 pears and 4 figs. How many?")
  assert set(json.loads(line)) >= {"text", "answer", "finish"}


def test_a_decomposer_and_a_solver_leave_as_two_directories(socratic, capsys, tmp_path):
  folder, out = socratic[1], tmp_path / "out"
  command(capsys, "export", f"--workdir={folder.path}", f"--out={out}")
  assert sorted(path.name for path in out.iterdir()) == ["decomposer", "solver"]
  with commands.opened(read_settings(config("socratic")), str(folder.path)) as what:
    family, shape = what.student.base.family, what.student.config
    for name, (student, params) in what.students(0).items():
      back = hf_read.load(
        out / name, family.tensors(shape), spare=family.spare(shape), prefix=family.PREFIX,
        like=student.abstract_params,
      )  # fmt: skip
      jax.tree.map(np.testing.assert_array_equal, back, params)
  cards = {name: (out / name / "README.md").read_text() for name in ("decomposer", "solver")}
  assert "Question: QUESTION\nSub-question:\n```" in cards["decomposer"]
  assert "Question: QUESTION\nSub-question: SUB-QUESTION\nSolution:\n```" in cards["solver"]


def test_no_more_sub_questions_are_asked_than_the_most(socratic, capsys, monkeypatch):
  taken = recipes.spying(monkeypatch)
  recipes.scored(socratic[1], "socratic", capsys, socratic__max_steps=1)
  assert taken and all(len(a.turns) in (0, 2) for a in taken)


# Baselines.


def test_the_answer_alone_is_taught_without_a_teacher(answer_only):
  summary, folder = answer_only
  assert summary["rounds"][0]["teacher"]["calls"] == 0
  assert all(x.target.startswith("Answer: ") and "\n" not in x.target for x in examples(folder))


def test_a_star_trains_on_what_it_got_right_alone_or_with_the_answer_as_a_hint(star):
  folder = star[1]
  facts = folder.find(1, "rationalize").facts
  written = rows(folder, 1, "rationalize", phase_dir.RATIONALES, records.Rationale)
  assert facts["kept"] == len(written) <= facts["right_alone"] + facts["right_hinted"]
  assert all(r.writer == "student" for r in written)
  hinted = rows(folder, 1, "rationalize", "hinted.jsonl", records.Attempt)
  right = {a.problem for a in attempts(folder) if a.correct and a.finish == "stop"}
  assert {a.problem for a in attempts(folder)} == right | {a.problem for a in hinted}
  assert not right & {a.problem for a in hinted}
