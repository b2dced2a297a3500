"""Sub-questions and solutions: two alternating students, or one."""

import re

import pytest

from distill_jax import errors, records
from distill_jax.formats import decompositions, socratic
from distill_jax.tasks import task
from tests.formats import led

QUESTION = "Tom has 3 apples and buys 4 more. He sells half of 8. How many are left?"
STEPS = (
  ("How many has he?", "He has 3 + 4 = 7 apples."),
  ("How many  does he\nsell?", "He sells\n8 / 2 = 4."),
  ("How many are left?", "There are 7 - 4 = 3 left."),
)
PROBLEM = records.Problem("p", "train", QUESTION, "3", decomposition=STEPS)
TASK = task.Task("toy", lambda split: [])
# Like StrategyQA: sub-questions without solutions, with references, and facts.
BOOLEAN = records.Problem(
  *("q", "train", "Would a pear sink in water?", "no", "boolean"),
  decomposition=(
    ("What is the density of a pear?", ""),
    ("What is the density of water?", ""),
    ("Is #1 greater than #2?", ""),
  ),
  facts=("Water has a density of 1 g/cm3.", "A pear has a density of 0.59.", "Objects float."),
)
CHOICE = records.Problem(
  *("c", "train", "Which shines?", "B", "choice"),
  choices=(("A", "a cave"), ("B", "a lamp")),
  decomposition=(("Does (A) shine?", "A cave is dark."), ("Does (B)?", "A lamp shines.")),
)
SHAPES = {
  f"{mode} {solutions} {marks}": make(solutions, marks)
  for solutions in (True, False)
  for marks in (True, False)
  for mode, make in {
    "model": lambda s, m: socratic.Iterative("model", 8, s, m),
    "gold": lambda s, m: socratic.Iterative("gold", 8, s, m),
    "unified": lambda s, m: socratic.Unified(m),
  }.items()
}


def shown(shape, problem=PROBLEM, steps=None):
  steps = problem.decomposition if steps is None else steps
  return shape.examples(problem, problem.question, led.rationale(steps, answer=problem.gold))


def test_prompts_are_as_drawn():
  examples = shown(socratic.Iterative(), steps=STEPS[:1])
  assert [(x.student, x.prompt, x.target) for x in examples] == [
    ("decomposer", f"Question: {QUESTION}\nSub-question:\n", "How many has he?"),
    (
      "solver",
      f"Question: {QUESTION}\nSub-question: How many has he?\nSolution:\n",
      "He has 3 + 4 = 7 apples. Answer: 3",
    ),
    (
      "decomposer",
      f"Question: {QUESTION}\nSub-question: How many has he?\n"
      "Solution: He has 3 + 4 = 7 apples. Answer: 3\nSub-question:\n",
      "No more questions.",
    ),
  ]
  (example,) = shown(socratic.Unified(), steps=STEPS[:1])
  assert (example.student, example.prompt, example.target) == (
    "student",
    f"Question: {QUESTION}\nSteps:\n",
    "Sub-question: How many has he?\nSolution: He has 3 + 4 = 7 apples.\nAnswer: 3",
  )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("problem", [PROBLEM, BOOLEAN, CHOICE], ids=lambda p: p.kind)
def test_students_are_prompted_as_they_are_trained_and_perfect_ones_are_right(name, problem):
  shape, examples = SHAPES[name], shown(SHAPES[name], problem)
  asked, text = led.lead(shape.conversation(problem, problem.question), led.taught(examples))
  wanted = led.pairs(examples)
  if "gold" in name:
    wanted = [x for x in wanted if x[0] == "solver"]
  assert [(t.student, t.prompt, t.stage) for t in asked] == wanted
  assert asked[0].prompt == shape.prompt(problem.question) or "gold" in name
  assert TASK.read_answer(text, problem) == problem.gold
  assert "<<" not in text and text.splitlines()[-1] == f"Answer: {problem.gold}"


def test_the_decomposer_sees_solutions_only_if_configured():
  blind = [
    x.prompt for x in shown(socratic.Iterative(solutions=False)) if x.student == "decomposer"
  ]
  assert "Solution:" not in "".join(blind) and "How many has he?" in blind[1]
  seeing = [x.prompt for x in shown(socratic.Iterative()) if x.student == "decomposer"]
  assert "Solution: He has 3 + 4 = 7 apples." in seeing[1]


def test_the_students_alternate_until_there_are_no_more_questions_or_steps():
  for limit, ends_at in [(8, 3), (2, 8)]:
    asked = []

    def reply(turn, asked=asked, ends_at=ends_at):
      asked.append(turn.student)
      over = len(asked) > 2 * ends_at
      return ("  NO more\nquestions" if over else "q?") if turn.student == "decomposer" else "1"

    shape = socratic.Iterative(max_steps=limit)
    led.lead(shape.conversation(PROBLEM, QUESTION), reply)
    steps = min(limit, ends_at)
    assert asked == ["decomposer", "solver"] * steps + (["decomposer"] if limit > ends_at else [])


@pytest.mark.parametrize(
  ("problem", "last", "answer"),
  [
    (PROBLEM, "He is left with 3.", "3"),
    (PROBLEM, "There are 1,200.50 left. Answer: $1,200.50", "1200.5"),
    (PROBLEM, "Answer: 5. No, 7 - 4 = 3. Answer: 3", "3"),
    (PROBLEM, "The answer is one third: 1/3. Answer: 1/3", "1/3"),
    (PROBLEM, "I do not know.", None),
    (PROBLEM, "", None),
    (BOOLEAN, "Fruit floats, so no.", "no"),
    (BOOLEAN, "That is true. Answer: no", "no"),
    (BOOLEAN, "Who knows?", None),
    (CHOICE, "A lamp shines: (B)", "B"),
    (CHOICE, "(A) does not. Answer: B", "B"),
    (CHOICE, "Nothing shines.", None),
  ],
)
def test_only_the_last_solutions_answer_counts(problem, last, answer):
  replies = iter(
    ["q1?", "First, yes: the answer is 9. Answer: (A)", "q2?", last, "No more questions."]
  )
  _, text = led.lead(
    socratic.Iterative().conversation(problem, problem.question), lambda turn: next(replies)
  )
  assert TASK.read_answer(text, problem) == answer


def test_without_a_sub_question_there_is_no_answer():
  _, text = led.lead(socratic.Iterative().conversation(PROBLEM, QUESTION), lambda turn: " ")
  assert text == "" and TASK.read_answer(text, PROBLEM) is None


def test_missing_gold_sub_questions_are_rejected():
  bare = records.Problem("p", "test", QUESTION, "3")
  with pytest.raises(errors.UserError, match=r"socratic\.questions"):
    next(socratic.Iterative("gold").conversation(bare, QUESTION))
  assert shown(socratic.Iterative(), bare) == [] == shown(socratic.Unified(), bare)


def test_separators_survive_a_tokenizer_that_collapses_white_space():
  for example in shown(socratic.Iterative()):
    assert "\n" not in example.target
    assert re.search(r"(Sub-question|Solution):$", " ".join(example.prompt.split()))
  (example,) = shown(socratic.Unified())
  assert TASK.read_answer(" ".join(example.target.split()), PROBLEM) == "3"


def test_facts_become_solutions_of_the_questions_they_share_words_with():
  solved = decompositions.with_solutions(BOOLEAN, BOOLEAN.decomposition)
  assert [solution for _, solution in solved] == [
    "A pear has a density of 0.59.",
    "Water has a density of 1 g/cm3.",
    "Objects float. Answer: no",
  ]
  bare = records.Problem("q", "train", "?", "no", "boolean", decomposition=BOOLEAN.decomposition)
  assert decompositions.with_solutions(bare, bare.decomposition) == ()
  assert decompositions.with_solutions(PROBLEM, STEPS) == STEPS


def test_references_to_earlier_answers_are_resolved_for_the_solver():
  steps = (("What?", "Long is it. Answer: 0.59"), ("And?", "one two three four."))
  asked = ("Is #1 below #2, not #3 nor #12?", "")
  resolved = decompositions.resolve_references(BOOLEAN, [*steps, asked])
  assert resolved[2][0] == "Is 0.59 below (one two three four), not #3 nor #12?"
  assert decompositions.resolve_references(PROBLEM, [*steps, asked])[2] == asked


def test_a_wrong_mark_is_corrected_before_it_is_shown():
  replies = iter(["How many?", "He has 3 + 4 = <<3+4=8>>8. Answer: 8", "No more questions."])
  shape = socratic.Iterative(calculator=True)
  asked, text = led.lead(shape.conversation(PROBLEM, QUESTION), lambda turn: next(replies))
  assert text == "Sub-question: How many?\nSolution: He has 3 + 4 = 7.\nAnswer: 7"
  assert "<<3+4=7>>7. Answer: 7" in asked[2].prompt
