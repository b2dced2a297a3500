"""Complete runs of the other recipes by a tiny student with the built-in teacher.

Tested are what they write, what their settings change, and that preferences start at log 2.
"""

import collections
import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest

from distill_jax import console, errors, phases, records
from distill_jax.cli import commands, main
from distill_jax.config.read import read_settings
from distill_jax.machine import hf_read
from distill_jax.phases import pair
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import reference_logprobs
from tests import recipes
from tests.recipes import PAIRED, attempts, config, examples, metrics, pairs, recipe_run, rows, run
from tests.report import report_numbers

quick, shared = recipes.quick, recipes.shared

self_refine = recipe_run("self_refine", **PAIRED)
tinythinker = recipe_run("tinythinker")
socratic = recipe_run("socratic")
unified = recipe_run("socratic", "unified", socratic__mode="unified")
star = recipe_run("star", opening=("demonstrate", "train"), demonstrate__questions=8, cot__shots=0)
answer_only = recipe_run("answer_only")
cot = recipe_run("cot")


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
def test_a_recipe_runs_to_its_end_and_its_summary_has_a_row_per_round(name, plan, request):
  summary, run_dir = request.getfixturevalue(name)
  assert json.loads((run_dir.path / "summary.json").read_text())["test"]["n"] == 4
  assert [row["round"] for row in summary["rounds"]] == list(range(len(plan)))
  for row, names in zip(summary["rounds"], plan, strict=True):
    assert list(run_dir.finished(row["round"])) == [*names, "evaluate"]
    assert row["validation"]["n"] == 4
    assert (row["pairs"] > 0) == ("pair" in names)
  assert summary["rounds"][0]["steps"] > 0 and summary["rounds"][0]["kept"] > 0


@pytest.mark.parametrize("name", ("self_refine", "tinythinker", "socratic", "star", "cot"))
def test_a_report_has_the_numbers_of_the_summary(name, request):
  summary, run_dir = request.getfixturevalue(name)
  report_numbers.assert_equal(summary, run_dir)


# Preference training starts at the reference policy.


def test_the_first_preference_loss_is_log_2(self_refine):
  recipes.assert_begins_at_log_2(self_refine[1])
  assert all(m.kl > 0 for m in metrics(self_refine[1], 1, "prefer")[1:])


def test_the_first_preference_loss_is_log_2_for_an_encoder_decoder(tinythinker):
  assert tinythinker[0]["config"]["student"]["arch"] == "t5"
  recipes.assert_begins_at_log_2(tinythinker[1])


def test_it_is_log_2_with_lora_and_where_rounds_train_from_the_base(shared, tmp_path):
  """Only `train` starts from the base again: preferences are about what was trained."""
  changes = {"student__lora__rank": 2, "start_from": "base", **PAIRED, **shared}
  _, run_dir = run(tmp_path / "run", "self_refine", **changes)
  recipes.assert_begins_at_log_2(run_dir)
  assert pairs(run_dir)[0].reference_chosen != 0


def test_recorded_references_are_those_of_the_policy_before_its_first_step(self_refine):
  """Compares with log-probabilities computed from the loaded weights."""
  run_dir = self_refine[1]
  with commands.open_run(read_settings(config("self_refine", **PAIRED)), str(run_dir.path)) as ctx:
    some = pairs(run_dir)
    params = ctx.students(0)["student"][1]
    encoded = [pair.encode_pair(ctx.student, p) for p in some]
    live = reference_logprobs.compute_batch(ctx, params, encoded[:8])
  written = [(p.reference_chosen, p.reference_rejected) for p in some]
  np.testing.assert_allclose(written[:8], live, rtol=0, atol=1e-4)
  assert all(c < 0 and r < 0 for c, r in written)


def record_computed(monkeypatch) -> list:
  """Returns a list that grows by one with each pair whose reference is computed."""
  seen, original = [], reference_logprobs.compute_batch

  def compute_batch(ctx, params, pairs):
    seen.extend(pairs)
    return original(ctx, params, pairs)

  monkeypatch.setattr(reference_logprobs, "compute_batch", compute_batch)
  return seen


def new_run(path, recipe, **changes):
  """Returns the context of a run without any finished phase."""
  s = read_settings(config(recipe, **changes))
  return commands.context.RunContext(s, RunDir(path), console.Console(quiet=True))


def test_a_second_run_computes_no_reference_and_another_template_dtype_or_model_all_of_them(
  shared, tmp_path, monkeypatch
):
  """DPO only: the reference is the base, whose weights are the same in all of these runs."""
  seen = record_computed(monkeypatch)
  plan = {"opening": ("exam", "pair", "prefer"), "rounds": 0, **PAIRED}
  cache = {"pair__cache": str(tmp_path / "references.sqlite"), **plan, **shared}

  def computed(name, **changes):
    del seen[:]
    with new_run(tmp_path / name, "self_refine", **cache, **changes) as ctx:
      for place, phase in enumerate(("exam", "pair")):
        phases.run_phase(phase, ctx, 0, ctx.run_dir.phase(0, place, phase))
      return len(seen), len({(p.prompt, p.chosen, p.rejected) for p in pairs(ctx.run_dir, 0)})

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


def test_references_do_not_depend_on_which_of_them_are_cached(self_refine, tmp_path, monkeypatch):
  """A run killed between two batches, or a cache with some of the pairs, changes no number."""
  run_dir = self_refine[1]
  with commands.open_run(read_settings(config("self_refine", **PAIRED)), str(run_dir.path)) as ctx:
    encoded = [pair.encode_pair(ctx.student, p) for p in pairs(run_dir)]
    params = ctx.students(0)["student"][1]
    ctx.run_dir.path = tmp_path
    some = reference_logprobs.score(ctx, params, encoded[:3], "some")
    seen = record_computed(monkeypatch)
    every = reference_logprobs.score(ctx, params, encoded, "every")
    assert seen
  assert every == [(p.reference_chosen, p.reference_rejected) for p in pairs(run_dir)]
  assert every[:3] == some


def test_a_round_without_pairs_leaves_the_student_unchanged(shared, tmp_path, monkeypatch):
  monkeypatch.setattr(pair, "build_pairs", lambda *_: iter(()))
  summary, run_dir = run(tmp_path / "run", "self_refine", **PAIRED, **shared)
  row = summary["rounds"][1]
  assert row["pairs"] == row["steps"] == 0 and row["loss"] is None
  before, after = (r["validation"]["accuracy"] for r in summary["rounds"])
  assert before == after and not (run_dir.find(1, "prefer").path / "student").exists()


# Self-refine.


def test_every_pair_has_the_prompt_that_asks_for_a_chain_of_thought(self_refine):
  """cot_over_plain: chains of thought over plain answers to the same question."""
  run_dir = self_refine[1]
  texts = collections.defaultdict(set)
  for a in attempts(run_dir):
    texts[a.problem, a.style].add(a.text)
  assert {style for _, style in texts} == {"cot", "plain"}
  for p in pairs(run_dir):
    assert p.prompt.endswith("### Response:\nLet's think step by step.\n")
    assert p.chosen in texts[p.problem, "cot"] | texts[p.problem, ""]
    assert p.rejected in texts[p.problem, "plain"]


def test_cross_self_refine_tunes_on_one_task_and_prefers_on_another(shared, tmp_path):
  """It is trained on word problems; exam, pairs and the cross test are of the taxonomy."""
  summary, run_dir = run(
    tmp_path / "run", "self_refine", cross__name="taxonomy", **PAIRED, **shared
  )
  choice = {
    p.id for p in commands.context.open_task(read_settings(config("tinythinker"))).problems("train")
  }
  assert {a.problem for a in attempts(run_dir)} <= choice
  assert not {x.problem for x in examples(run_dir)} & choice
  assert summary["cross"]["n"] == 4 and summary["test"]["n"] == 4 and pairs(run_dir)


def test_a_finished_run_is_also_scored_on_a_task_named_later_and_nothing_is_scored_again(
  cot, shared, tmp_path
):
  """Word problems, then options: answers of the second task are read by its own kind."""
  path, own = tmp_path / "run", tmp_path / "own"
  shutil.copytree(cot[1].path, path)
  own.mkdir()
  asked = [{"question": f"Which is {x}?", "choices": ["2", "3"], "answer": "A"} for x in range(5)]
  for split in ("train", "test"):
    lines = [json.dumps({**row, "question": f"{row['question']} ({split})"}) for row in asked]
    (own / f"{split}.jsonl").write_text("\n".join(lines))
  before = {p.path.name: p.facts for p in RunDir(path).phases()}
  changes = {"evaluate__also__name": "file", "evaluate__also__path": str(own), **shared}
  summary, run_dir = run(path, "cot", **changes)
  assert summary["also"]["n"] == 5 and summary["test"] == cot[0]["test"]
  after = {p.path.name: p.facts for p in run_dir.phases()}
  assert after.pop("also")["split"] == "also" and after == before
  also = run_dir.final("also").rows(phase_dir.ATTEMPTS, records.Attempt)
  assert len(also) == 5 and {a.problem.partition("/")[0] for a in also} != {"arithmetic"}
  with commands.open_run(read_settings(config("cot", **changes)), str(path)) as ctx:
    assert ctx.of_split("also").task.kind == "choice" and ctx.of_split("test") is ctx
  left_out, _ = run(path, "cot", **shared)
  assert left_out["also"] is None and left_out["test"] == cot[0]["test"]


# Socratic.


def test_a_decomposer_and_a_solver_are_trained_separately(socratic):
  run_dir = socratic[1]
  assert {x.student for x in examples(run_dir)} == {"decomposer", "solver"}
  log = metrics(run_dir, 0, "train")
  assert collections.Counter(m.student for m in log) == {"decomposer": 4, "solver": 4}
  assert run_dir.find(0, "train").facts["steps"] == 8
  both = [run_dir.find(0, "train").path / name for name in ("decomposer", "solver")]
  assert all(path.is_dir() for path in both)


def test_a_unified_student_writes_the_same_decompositions_in_one_text(unified, socratic):
  some = examples(unified[1])
  assert {x.student for x in some} == {"student"}
  asked = [x.target for x in examples(socratic[1]) if x.student == "decomposer"]
  assert all(x.target.startswith("Sub-question: ") for x in some)
  assert any(asked[0] in x.target for x in some)


def examples_with(socratic, **changes):
  """Returns the examples that other settings make of the same decompositions."""
  s = read_settings(config("socratic", **changes))
  with commands.open_run(s, str(socratic[1].path)) as ctx:
    return ctx.examples(ctx.rationales([0]))


def test_without_solutions_a_decomposer_sees_none_in_its_prompts(socratic):
  assert examples_with(socratic) == examples(socratic[1])
  by = lambda some, name: [x.prompt for x in some if x.student == name]
  blind = examples_with(socratic, socratic__solutions=False)
  assert not any("Solution:" in prompt for prompt in by(blind, "decomposer"))
  assert any("Solution:" in prompt for prompt in by(examples_with(socratic), "decomposer"))
  assert by(blind, "solver") == by(examples_with(socratic), "solver")


def test_a_calculator_marks_equations_in_the_targets(socratic):
  assert any("<<" in x.target for x in examples_with(socratic, socratic__calculator=True))
  assert not any("<<" in x.target for x in examples_with(socratic))


def test_gold_decompositions_need_no_teacher(tmp_path):
  with new_run(tmp_path / "run", "socratic", demonstrate__source="gold") as ctx:
    phases.run_phase("demonstrate", ctx, 0, ctx.run_dir.phase(0, 0, "demonstrate"))
    written, problems = ctx.rationales([0]), ctx.task.problems("train")
  assert not (tmp_path / "run" / "teacher.sqlite").exists()
  gold = {p.id: p.decomposition for p in problems}
  assert len(written) == 16
  assert all(r.writer == "gold" and r.parts == gold[r.problem] for r in written)


def test_sub_questions_without_solutions_are_not_kept(tmp_path):
  """As in strategyqa without its facts."""
  with new_run(tmp_path / "run", "socratic", demonstrate__source="gold") as ctx:
    bare = lambda p: dataclasses.replace(p, decomposition=(("What?", ""),), facts=())
    every = ctx.task.problems("train")
    ctx.task = types.SimpleNamespace(problems=lambda split: [bare(every[0]), *every[1:]])
    out = ctx.run_dir.phase(0, 0, "demonstrate")
    phases.run_phase("demonstrate", ctx, 0, out)
  assert out.facts == {"kept": 15, "dropped": {"no_rationale": 1}}


def test_missing_gold_sub_questions_are_rejected_before_any_phase_runs(tmp_path):
  """As in svamp."""
  with new_run(tmp_path / "run", "socratic", socratic__questions="gold") as ctx:
    commands.check_run(ctx)
    (bare,) = [dataclasses.replace(p, decomposition=()) for p in ctx.task.problems("test")[:1]]
    ctx.final_problems = lambda: {"test": [bare]}
    with pytest.raises(
      errors.UserError, match=r"config\.socratic\.questions.*have no sub-questions"
    ):
      commands.check_run(ctx)


def test_gold_sub_questions_are_asked_of_a_finished_run(socratic, capsys, monkeypatch):
  taken = recipes.record_attempts(monkeypatch)
  assert recipes.evaluate(socratic[1], "socratic", capsys, socratic__questions="gold")["n"] == 4
  problems = commands.context.open_task(read_settings(config("socratic"))).problems("test")
  questions = {p.id: [asked for asked, _ in p.decomposition] for p in problems}
  for a in taken:
    prompts = [prompt for _, prompt, _ in a.turns]
    if len(questions[a.problem]) == 1:
      assert prompts == []  # the turns of a single-turn attempt are not recorded
    else:
      assert len(prompts) == len(questions[a.problem])
    for prompt, asked in zip(prompts, questions[a.problem], strict=False):
      assert prompt.rstrip().split("\n")[-2] == f"Sub-question: {asked}"


def command(capsys, *words):
  """Runs a command and returns the lines it prints."""
  capsys.readouterr()
  assert main.main(words) == 0
  return capsys.readouterr().out.splitlines()


def test_a_command_may_change_decoding_settings(socratic, capsys, monkeypatch):
  taken = recipes.record_attempts(monkeypatch)
  workdir = f"--workdir={socratic[1].path}"
  (line,) = command(capsys, "evaluate", workdir, "--config.evaluate.num_votes=3")
  assert json.loads(line)["n"] == 4 and len(taken) == 12
  (line,) = command(capsys, "evaluate", workdir, "--config.socratic.questions=gold")
  assert json.loads(line)["split"] == "test"
  (line,) = command(capsys, "sample", workdir, "--question=Tom has 3 pears and 4 figs. How many?")
  assert set(json.loads(line)) >= {"text", "answer", "finish"}


def test_a_decomposer_and_a_solver_are_exported_to_two_directories(socratic, capsys, tmp_path):
  run_dir, out = socratic[1], tmp_path / "out"
  command(capsys, "export", f"--workdir={run_dir.path}", f"--out={out}")
  assert sorted(path.name for path in out.iterdir()) == ["decomposer", "solver"]
  with commands.open_run(read_settings(config("socratic")), str(run_dir.path)) as ctx:
    family, shape = ctx.student.base.family, ctx.student.config
    for name, (student, params) in ctx.students(0).items():
      back = hf_read.load(
        out / name, family.tensors(shape), spare=family.spare(shape), prefix=family.PREFIX,
        like=student.abstract_params,
      )  # fmt: skip
      jax.tree.map(np.testing.assert_array_equal, back, params)
  cards = {name: (out / name / "README.md").read_text() for name in ("decomposer", "solver")}
  assert "Question: QUESTION\nSub-question:\n\n```" in cards["decomposer"]
  assert "Question: QUESTION\nSub-question: SUB-QUESTION\nSolution:\n\n```" in cards["solver"]


def test_no_more_sub_questions_are_asked_than_max_steps(socratic, capsys, monkeypatch):
  taken = recipes.record_attempts(monkeypatch)
  recipes.evaluate(socratic[1], "socratic", capsys, socratic__max_steps=1)
  assert taken and all(len(a.turns) in (0, 2) for a in taken)


# Baselines.


def test_answer_only_needs_no_teacher(answer_only):
  summary, run_dir = answer_only
  assert summary["rounds"][0]["teacher"]["calls"] == 0
  assert all(x.target.startswith("Answer: ") and "\n" not in x.target for x in examples(run_dir))


def test_star_trains_on_what_it_got_right_alone_or_with_the_answer_as_a_hint(star):
  run_dir = star[1]
  facts = run_dir.find(1, "rationalize").facts
  written = rows(run_dir, 1, "rationalize", phase_dir.RATIONALES, records.Rationale)
  assert facts["kept"] == len(written) <= facts["right_alone"] + facts["right_hinted"]
  assert all(r.writer == "student" for r in written)
  hinted = rows(run_dir, 1, "rationalize", "hinted.jsonl", records.Attempt)
  right = {a.problem for a in attempts(run_dir) if a.correct and a.finish == "stop"}
  assert {a.problem for a in attempts(run_dir)} == right | {a.problem for a in hinted}
  assert not right & {a.problem for a in hinted}
