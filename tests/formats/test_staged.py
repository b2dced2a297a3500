"""Recall, analyze, summarize: training and inference use the same prompts, and options are data."""

import itertools

import pytest

from distill_jax import errors, records
from distill_jax.formats import staged
from distill_jax.tasks import answers, task
from tests.formats import led

# As in OpenBookQA, options have commas and refer to each other.
CHOICES = (("A", "such as a tall building, or a cave"), ("B", "a lamp, lit"), ("C", "(A) and (B)"))
PROBLEM = records.Problem("p", "train", "What gives light?", "B", "choice", choices=CHOICES)
TASK = task.Task("toy", lambda split: [], kind="choice")
QUESTION = TASK.render(PROBLEM)
PARTS = (
  ("recall", "Lamps give light,\nwhen lit."),
  ("A", "it stands in the way: the answer is (C), not option A."),
  ("B", "it gives light."),
  ("C", "the answer is option A."),
)
ALL = ("recall", "analyze", "summarize")
STAGES = [(*some, "summarize") for some in ((), ALL[:1], ALL[1:2], ALL[:2])]


def examples(stages=ALL):
  return staged.Staged(stages).examples(PROBLEM, QUESTION, led.rationale(PARTS, answer="B"))


def test_the_stages_are_as_drawn():
  recall, a, _, c, summary = examples()
  before = f"Question: {QUESTION}\nRecall: Lamps give light, when lit.\n"
  assert (recall.prompt, recall.target) == (
    f"Question: {QUESTION}\nRecall:\n",
    "Lamps give light, when lit.",
  )
  assert (a.prompt, a.target) == (f"{before}Analyze: For option A,\n", PARTS[1][1])
  assert c.prompt == f"{before}Analyze: For option C,\n"
  assert summary.prompt == (
    f"{before}Analyze: For option A, {PARTS[1][1]}\nFor option B, {PARTS[2][1]}\n"
    f"For option C, {PARTS[3][1]}\nSummarize:\n"
  )
  assert summary.target == "So the answer is option B."
  assert [x.stage for x in examples()] == ["recall", *["analyze"] * 3, "summarize"]


@pytest.mark.parametrize("stages", STAGES)
def test_a_student_is_prompted_as_it_is_trained(stages):
  shape, shown = staged.Staged(stages), examples(stages)
  asked, text = led.lead(shape.conversation(PROBLEM, QUESTION), led.taught(shown))
  assert asked == [staged.turns.Turn(*x) for x in led.pairs(shown)]
  assert asked[0].prompt == shape.prompt(QUESTION)
  assert TASK.read_answer(text, PROBLEM) == "B"
  assert shape.request_kind == ("stage" if len(stages) > 1 else "")


def test_options_are_prompted_together_and_in_the_problems_order():
  conversation = staged.Staged().conversation(PROBLEM, QUESTION)
  assert len(next(conversation)) == 1
  options = conversation.send(["A fact."])
  assert [turn.prompt.splitlines()[-1] for turn in options] == [
    f"Analyze: For option {label}," for label, _ in CHOICES
  ]


def test_the_order_of_a_rationales_parts_does_not_matter():
  for parts in itertools.permutations(PARTS):
    rationale = led.rationale(parts, answer="B")
    assert staged.Staged().examples(PROBLEM, QUESTION, rationale) == examples()


@pytest.mark.parametrize("label", ["A", "B", "C"])
@pytest.mark.parametrize("reason", [text for _, text in PARTS])
def test_the_summary_decides_whatever_the_analyses_say(label, reason):
  summaries = {"summarize": staged.summary(label)}
  reply = lambda turn: summaries.get(turn.stage, reason)
  _, text = led.lead(staged.Staged().conversation(PROBLEM, QUESTION), reply)
  assert reason.split()[0] in text and TASK.read_answer(text, PROBLEM) == label


@pytest.mark.parametrize(
  ("summary", "answer"),
  [("", None), ("So the answer is", None), ("I do not know.", None), ("B", "B"), ("(B)", "B")],
)
def test_without_an_answer_in_the_summary_there_is_none_whatever_the_analyses_say(summary, answer):
  reply = lambda turn: summary if turn.stage == "summarize" else "the answer is option A."
  _, text = led.lead(staged.Staged().conversation(PROBLEM, QUESTION), reply)
  assert TASK.read_answer(text, PROBLEM) == answer == answers.read_choice(summary, ("A", "B", "C"))


def test_given_parts_are_not_sampled_and_are_seen_by_later_stages():
  shown = examples()
  conversation = staged.Staged().conversation(PROBLEM, QUESTION, given=PARTS[:1])
  asked, transcript = led.lead(conversation, led.taught(shown))
  assert [t.prompt for t in asked] == [x.prompt for x in shown[1:]]
  assert transcript.startswith("Recall: Lamps give light, when lit.\nAnalyze: For option A, it")
  conversation = staged.Staged().conversation(PROBLEM, QUESTION, given=PARTS)
  assert [t.prompt for t in led.lead(conversation, led.taught(shown))[0]] == [shown[-1].prompt]
  with pytest.raises(ValueError, match="D"):
    next(staged.Staged().conversation(PROBLEM, QUESTION, given=(("D", "x"),)))


def test_separators_survive_a_tokenizer_that_collapses_white_space():
  for example in examples():
    collapsed = " ".join(example.prompt.split())
    last = example.prompt.splitlines()[-1]
    assert collapsed.endswith(last)
    assert example.target == " ".join(example.target.split()) and "\n" not in example.target


def test_a_problem_without_options_is_rejected():
  bare = records.Problem("p", "train", "How many?", "7")
  with pytest.raises(errors.UserError, match="options"):
    conversation = staged.Staged().conversation(bare, "How many?")
    next(conversation)


def test_a_rationale_without_a_part_is_rejected():
  with pytest.raises(ValueError, match="C"):
    staged.Staged().examples(PROBLEM, QUESTION, led.rationale(PARTS[:3]))


def test_the_defects_of_the_released_code_can_be_reproduced():
  garbled = staged.Staged(split_on_commas=True).examples(
    PROBLEM, QUESTION, led.rationale(PARTS, answer="B")
  )
  assert "(s) h as" not in garbled[0].prompt  # only text after a comma is garbled
  assert "(A) such as a tall building\n(o) a cave\n(B) a lamp\n(l) \n" in garbled[0].prompt
  asked, _ = led.lead(
    staged.Staged(split_on_commas=True).conversation(PROBLEM, QUESTION), led.taught(garbled)
  )
  assert [turn.prompt for turn in asked] == [x.prompt for x in garbled]

  backwards = led.rationale((PARTS[0], *PARTS[:0:-1]), answer="B")
  ours, theirs = (
    staged.Staged(teachers_order=released).examples(PROBLEM, QUESTION, backwards)[-1].prompt
    for released in (False, True)
  )
  assert ours.index("For option A") < ours.index("For option B") < ours.index("For option C")
  assert theirs.index("For option C") < theirs.index("For option B") < theirs.index("For option A")
