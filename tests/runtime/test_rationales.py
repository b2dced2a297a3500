"""Which replies of the teacher are kept, which answer counts, and when training warns.

No student is needed for these laws.
"""

import dataclasses
import types

import pytest

from configs import cot
from distill_jax import errors, records
from distill_jax.config.read import read_settings
from distill_jax.phases import demonstrate, evaluate
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, rationales, results
from distill_jax.tasks import task
from distill_jax.teacher import types as asking


class Teacher:
  """Gives the scripted replies, request by request; None is a failure."""

  def __init__(self, *replies):
    self.replies, self.asked = list(replies), []
    cost = types.SimpleNamespace(calls=0, cache_hits=0, tokens_in=0, tokens_out=0, dollars=0.0)
    self.ledger = types.SimpleNamespace(of=lambda *_: cost, unanswered=lambda *_: cost)

  def ask(self, requests, **_):
    self.asked.append([(r.question, r.first, r.samples) for r in requests])
    return [[self._reply() for _ in range(r.samples)] for r in requests]

  def _reply(self):
    text = self.replies.pop(0)
    if text is None:
      return asking.Failure("timeout", "", 1)
    if isinstance(text, asking.Failure):
      return text
    return asking.Reply(text, "stop", "m", 1, 1, 0.0, False)


@pytest.fixture
def ctx(tmp_path):
  c = cot.get_config()
  c.world.train, c.world.test, c.world.out_of_domain, c.task.validation = 4, 1, 0, 1
  c.teacher.min_reply_rate = 0.0
  s = read_settings(c.to_dict())
  return context.RunContext(s, RunDir(tmp_path), Console())


class Console:
  def __init__(self):
    self.warnings = []

  def warn(self, text):
    self.warnings.append(text)

  def progress(self, *_):
    return self

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def update(self, *_, **__):
    pass


def rationale(answer, reason="Because of this."):
  return f"{reason}\nAnswer: {answer}"


def collect(ctx, replies, *, samples=1, problems=1, parse=None, **rules):
  """Returns (facts, rationales kept, what was asked)."""
  ctx.teacher = Teacher(*replies)
  out = ctx.run_dir.phase(0, 0, "demonstrate")
  parse = parse or (lambda text, problem: rationales.ParsedReply(text))
  requests = [
    rationales.TeacherRequest(p, asking.Request("annotate", p.id, (), samples))
    for p in ctx.task.problems("train")[:problems]
  ]
  rationales.collect(ctx, 0, out, requests, parse, **rules)
  return out.facts, out.rows(phase_dir.RATIONALES, records.Rationale), ctx.teacher.asked


def gold(ctx):
  return ctx.task.problems("train")[0].gold


def test_unusable_replies_are_requested_again_as_new_samples(ctx):
  right = rationale(gold(ctx)), rationale(gold(ctx), "Otherwise.")
  facts, kept, asked = collect(ctx, ["no answer here", None, *right], samples=2, passes=2)
  name = ctx.task.problems("train")[0].id
  assert asked == [[(name, 0, 2)], [(name, 2, 2)]]
  assert facts["kept"] == 2 and [r.sample for r in kept] == [2, 3]
  assert facts["dropped"] == {"no_answer": 1, "timeout": 1}


def test_a_wrong_answer_is_an_answer_and_is_not_requested_again(ctx):
  facts, kept, asked = collect(ctx, [rationale("-1")], passes=3)
  assert len(asked) == 1 and kept == [] and facts["dropped"] == {"wrong_answer": 1}


def test_a_phase_that_keeps_no_rationale_says_why(ctx):
  collect(ctx, [rationale("-1"), None], problems=2)
  assert ctx.console.warnings == [
    "round 0 demonstrate: none of 2 rationales was kept: 1 timeout, 1 wrong_answer"
  ]


def test_a_phase_that_keeps_a_rationale_does_not_warn(ctx):
  collect(ctx, [rationale(gold(ctx)), None], problems=2)
  assert ctx.console.warnings == []


def test_a_question_is_asked_at_most_once_per_pass(ctx):
  facts, _, asked = collect(ctx, [None] * 3, passes=3)
  assert [r[0][1:] for r in asked] == [(0, 1), (1, 1), (2, 1)] and facts["dropped"] == {
    "timeout": 3
  }


def test_a_phase_with_too_few_replies_is_not_finished(ctx):
  teacher = dataclasses.replace(ctx.settings.teacher, min_reply_rate=0.5)
  ctx.settings = dataclasses.replace(ctx.settings, teacher=teacher)
  with pytest.raises(errors.UserError, match="only 1 of the 3 samples of round 0 0_demon") as error:
    collect(ctx, [rationale("1"), None, None], problems=3)
  assert error.value.code == errors.TEACHER and "2 timeout" in str(error.value)
  assert not ctx.run_dir.phase(0, 0, "demonstrate").finished
  assert (
    collect(ctx, [rationale("1"), rationale("2"), None, None], problems=4)[0]["dropped"]["timeout"]
    == 2
  )


def test_unrecorded_replies_do_not_count_as_missing(ctx):
  teacher = dataclasses.replace(ctx.settings.teacher, min_reply_rate=1.0)
  ctx.settings = dataclasses.replace(ctx.settings, teacher=teacher)
  unrecorded = asking.Failure("unrecorded", "nothing is recorded for it", 0)
  facts = collect(ctx, [rationale("1"), unrecorded, unrecorded], problems=3)[0]
  assert facts["dropped"]["unrecorded"] == 2


def test_only_questions_with_missing_replies_are_asked_again(ctx):
  first, second = ctx.task.problems("train")[:2]
  replies = [rationale(first.gold), None, rationale(second.gold)]
  _, kept, asked = collect(ctx, replies, problems=2, passes=2)
  assert asked[1] == [(second.id, 1, 1)] and {r.problem for r in kept} == {first.id, second.id}


REASONS = ("Since this.", "As that.", "For it is so.", "It must be.")


def replies(ctx, *answers):
  names = {"gold": gold(ctx)}
  return [
    rationale(names.get(answer, answer), reason)
    for answer, reason in zip(answers, REASONS, strict=False)
  ]


@pytest.mark.parametrize(
  "answers, keep, majority, drop",
  [
    (("gold", "-1", "-1"), 1, 2, 0),  # two of three disagree with gold
    (("gold", "gold", "-1"), 2, 2, 2),
    (("gold", "-1"), 1, 1, 1),  # ties go to gold
    (("-1", "-2", "-2"), 0, 2, 0),
    (("-1", "-2"), 0, 1, 0),  # a tie without gold: the first one
  ],
)
@pytest.mark.parametrize("relabel", ["keep", "majority", "drop"])
def test_whose_answer_counts_where_replies_disagree_with_gold(
  ctx, answers, keep, majority, drop, relabel
):
  count = {"keep": keep, "majority": majority, "drop": drop}[relabel]
  some = replies(ctx, *answers)
  facts, kept, _ = collect(ctx, some, samples=len(answers), relabel=relabel)
  assert facts["kept"] == len(kept) == count
  assert sum(facts["dropped"].values()) == len(answers) - count
  overruled = relabel == "majority" and any(r.answer != gold(ctx) for r in kept)
  assert facts["relabelled"] == int(overruled)
  assert len({r.answer for r in kept}) <= 1
  assert all(r.text.endswith(f"Answer: {r.answer}") for r in kept)


def test_a_dropped_question_counts_as_overruled_not_relabelled(ctx):
  facts, _, _ = collect(ctx, replies(ctx, "gold", "-1", "-1"), samples=3, relabel="drop")
  assert facts["dropped"] == {"overruled": 3} and facts["relabelled"] == 0


@pytest.mark.parametrize("distance, kept", [(0, 3), (1, 2), (2, 2), (40, 1)])
def test_rationales_of_a_question_differ_by_more_edits_than_the_distance(ctx, distance, kept):
  """cat and cats differ by one edit, the last by many."""
  some = [
    rationale(gold(ctx), reason) for reason in ("A cat.", "A cats.", "Something quite different.")
  ]
  facts, found, _ = collect(ctx, some, samples=3, distance=distance)
  assert facts["kept"] == len(found) == kept
  assert facts["dropped"] == ({"duplicate": 3 - kept} if kept < 3 else {})


def test_staged_rationales_must_differ_in_their_key_information(ctx):
  def parse(text, problem):
    recall, analysis = text.split("/")
    text = f"{recall}\n{analysis}\nAnswer: {problem.gold}"
    return rationales.ParsedReply(text, parts=(("recall", recall), ("A", analysis)))

  some = ["Cats purr./One.", "Cats purr!/Quite another one.", "Dogs bark loudly./One."]
  _, found, _ = collect(ctx, some, samples=3, distance=2, parse=parse)
  assert [r.parts[0][1] for r in found] == ["Cats purr.", "Dogs bark loudly."]


@pytest.mark.parametrize(
  "answers, voted",
  [
    (["A", "B", "B"], "B"),
    (["A", "B", "B", "A"], "A"),
    (["B", "A", "A", "B"], "B"),
    ([None, None, "C"], "C"),
    ([None, None], None),
    ([], None),
  ],
)
def test_the_most_frequent_answer_wins_ties_go_to_the_first_and_none_has_no_vote(answers, voted):
  assert evaluate.vote(answers) == voted


def test_a_chosen_side_that_keeps_falling_is_detected():
  assert results.is_falling((-10.0, -11.0, -12.0, -13.0, -14.0, -15.0))
  assert not results.is_falling((-10.0, -11.0, -12.0, -13.0, -14.0))
  assert not results.is_falling((-20.0, -11.0, -12.0, -13.0, -14.0, -15.0, -16.0))
  assert not results.is_falling((-10.0, -11.0, -12.0, -11.5, -14.0, -15.0))


@pytest.mark.parametrize("end", ["So the answer is (b) meadow.", "\nAnswer: B", "\n\nAnswer: (B)."])
def test_without_analyses_a_chain_of_thought_is_parsed_as_a_recall_without_its_answer(end):
  choices = (("A", "road"), ("B", "meadow"))
  problem = records.Problem("p", "train", "Where?", "B", "choice", choices=choices)
  toy = task.Task("toy", lambda split: [], kind="choice")
  found = demonstrate.parse_recall(f"It has flowers. Only a meadow does. {end}", toy, problem)
  assert found.parts == (("recall", "It has flowers. Only a meadow does."),)
  assert toy.read_answer(found.text, problem) == "B"
  assert demonstrate.parse_recall("So the answer is (b).", toy, problem) is None
  assert demonstrate.parse_recall("It has flowers.", toy, problem) is None
