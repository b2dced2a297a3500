"""The arithmetic world is exact and deterministic, has disjoint splits, and marks attempts."""

import hashlib
import os
import re
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies

from distill_jax import errors
from distill_jax.tasks import answers
from distill_jax.worlds import arithmetic, drawing, stories, wordings

SETTINGS = {
  "seed": 0,
  "train": 1500,
  "validation": 200,
  "test": 200,
  "out_of_domain": 200,
  "steps_min": 1,
  "steps_max": 3,
  "operand_max": 12,
  "families": 0,
  "distractors": 0.2,
  "ood_extra_steps": 2,
}
COMPUTE = {
  "+": lambda a, b: a + b,
  "-": lambda a, b: a - b,
  "*": lambda a, b: a * b,
  "/": lambda a, b: a / b,
}


def _world(**changes) -> arithmetic.ArithmeticWorld:
  return arithmetic.ArithmeticWorld(**(SETTINGS | changes))


@pytest.fixture(scope="module")
def world() -> arithmetic.ArithmeticWorld:
  return _world()


@pytest.fixture(scope="module")
def everything(world):
  return [problem for split in arithmetic.SPLITS for problem in world.problems(split)]


def test_every_family_appears_where_it_should(world):
  for split in arithmetic.SPLITS:
    met = {world.family(problem.id) for problem in world.problems(split)}
    families = stories.HELD_OUT if split == "out_of_domain" else stories.SEEN
    assert met == {story.name for story in families}
  assert len(stories.SEEN) >= 12 and len(stories.HELD_OUT) >= 4


@pytest.mark.parametrize("story", stories.SEEN + stories.HELD_OUT, ids=lambda story: story.name)
def test_every_family_has_a_path_of_every_length_and_reaches_all_its_states(story):
  for steps in range(1, arithmetic.MOST_STEPS + 1):
    assert drawing._walks(story.name, steps)
  reached = {story.start[0]} | {move.target for move in story.moves}
  assert reached == set(story.states)
  assert {move.operation for move in story.moves} == set("+-*/") or len(story.moves) >= 6


def test_every_step_is_exact_and_sensible(world, everything):
  met = set()
  for problem in everything:
    program = world.program(problem.id)
    for step in program:
      met.add(step.operation)
      assert COMPUTE[step.operation](step.left, step.right) == step.result
      assert 1 <= step.result <= drawing.largest(12)
      assert step.operation != "/" or step.right >= 2
      assert step.equation in step.line
    assert problem.gold == str(program[-1].result)
    assert problem.rationale.split("\n")[-1] == f"Answer: {problem.gold}"
    assert problem.decomposition[-1][0].endswith(program[-1].ask)
    assert problem.question.endswith(program[-1].ask)
  assert met == set("+-*/")


def test_a_program_uses_only_numbers_of_the_question_or_of_earlier_steps(world, everything):
  for problem in everything:
    known = {int(digits) for digits in re.findall(r"[0-9]+", problem.question)}
    for step in world.program(problem.id):
      assert {step.left, step.right} <= known
      known.add(step.result)


def test_step_counts_follow_the_settings():
  world = _world(steps_min=2, steps_max=3, train=200)
  counts = lambda split: {len(world.program(p.id)) for p in world.problems(split)}
  assert counts("train") == {2, 3} and counts("out_of_domain") == {4, 5}
  longest = _world(steps_min=4, steps_max=5, train=100)
  assert {len(longest.program(p.id)) for p in longest.problems("out_of_domain")} == {4, 5}


def test_splits_share_no_question_even_up_to_names(world):
  contents = [{drawing.content(p.question) for p in world.problems(s)} for s in arithmetic.SPLITS]
  for number, mine in enumerate(contents):
    for other in contents[number + 1 :]:
      assert not mine & other


def test_names_things_and_distractors_do_not_make_another_question():
  content = drawing.content("Tom has 3 apples in a basket. Ann gives Tom 4 apples.")
  assert content == drawing.content(
    "Eva has 3 plums in a basket. Max is 7 years old. Zoe gives Eva 4 plums."
  )
  assert content != drawing.content("Tom has 3 apples in a basket. Ann gives Tom 5 apples.")


def test_questions_of_a_split_are_distinct(world):
  for split in arithmetic.SPLITS:
    questions = [problem.question for problem in world.problems(split)]
    assert len(set(questions)) == len(questions)


def test_a_world_without_enough_questions_repeats_some_instead_of_hanging():
  world = _world(families=1, operand_max=6, steps_max=1, distractors=0.0, validation=2000)
  assert len(world.problems("validation")) == 2000


def test_english_agrees_in_number(everything, world):
  wrong = re.compile(r"\b1 [a-z]+s\b|\b(?:[02-9]|[0-9]{2,}) (?:coin|egg|box|card|apple|row)\b")
  for problem in everything:
    for text in (problem.question, problem.rationale):
      assert not wrong.search(re.sub(r"[0-9]+ [-+*/] ", "", text)), text
      assert "{" not in text and "  " not in text
  assert [drawing.plural(noun) for noun in ("box", "bunch", "shelf", "story", "day", "pen")] == [
    "boxes",
    "bunches",
    "shelves",
    "stories",
    "days",
    "pens",
  ]


def test_questions_stay_short(world):
  for problem in world.problems("train"):
    if len(world.program(problem.id)) <= 2:
      assert len(problem.question.split()) <= 45


def test_every_wording_is_right_and_they_differ(world, everything):
  for problem in everything:
    texts = [world.wording(problem.id, n) for n in range(len(wordings.WORDINGS))]
    assert texts[0] == problem.rationale
    assert len(set(texts)) == len(texts) >= 4
    for text in texts:
      assert answers.read_number(text) == problem.gold
      assert world.first_wrong_step(problem.id, text) is None
    assert world.wording(problem.id, len(texts)) == texts[0]


def _mutations(world, problem):
  """(number of the wrong step, attempt) pairs."""
  program, lines = world.program(problem.id), problem.rationale.split("\n")
  for n, step in enumerate(program):
    result = str(step.result)
    head, _, tail = lines[n].partition(f"= {result}")
    yield n + 1, "\n".join([*lines[:n], f"{head}= {result}1{tail}", *lines[n + 1 :]])
    other = "-" if step.operation == "+" else "+"
    changed = lines[n].replace(f" {step.operation} ", f" {other} ", 1)
    yield n + 1, "\n".join([*lines[:n], changed, *lines[n + 1 :]])
    changed = lines[n].replace(f"{step.left} {step.operation}", f"99999 {step.operation}", 1)
    yield n + 1, "\n".join([*lines[:n], changed, *lines[n + 1 :]])
    yield n + 1, "\n".join([*lines[:n], lines[-1]])
  yield len(program) + 1, "\n".join(lines[:-1])
  yield len(program) + 1, "\n".join([*lines[:-1], f"Answer: {problem.gold}7"])
  yield len(program) + 1, "\n".join([*lines[:-1], "1 + 1 = 2", lines[-1]])


def test_the_first_wrong_step_is_found_and_explained(world):
  for problem in world.problems("train")[:150] + world.problems("out_of_domain")[:50]:
    for number, attempt in _mutations(world, problem):
      found = world.first_wrong_step(problem.id, attempt)
      assert found is not None and found[0] == number, attempt
      assert found[1] and "\n" not in found[1]


def test_the_explanation_says_what_is_wrong():
  steps = (
    drawing.Step("-", 12, 5, 7, "egg", "Tom eats 5 eggs.", "Tom has 12 - 5 = 7 eggs.", "How many?"),
    drawing.Step("*", 7, 2, 14, "egg", "The hens lay 2.", "Tom has 7 * 2 = 14 eggs.", "How many?"),
  )
  mark = lambda attempt: arithmetic.marking.first_wrong_step(steps, attempt)
  assert mark("12 - 5 = 8") == (1, "12 - 5 is 7, not 8")
  assert mark("12 + 5 = 17") == (1, "step 1 should take 5 away from 12, because Tom eats 5 eggs")
  assert mark("12 − 5 = 7\n2 × 7 = 14\nAnswer: 14") is None
  assert mark("12 - 5 = 7\n7 * 2 = 14\nAnswer: 7") == (
    3,
    "the last step gives 14, so the answer is not 7",
  )
  assert mark("12 - 5 = 7\nAnswer: 7") == (
    2,
    "step 2 is missing: it should multiply 7 by 2, because the hens lay 2",
  )


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(
  text=strategies.text(strategies.sampled_from("0123 +-*/x=\nAnswer:\ud800$.,"), max_size=120)
)
def test_no_attempt_breaks_the_marking(text):
  world = _world(train=1)
  found = world.first_wrong_step("arithmetic/train/0", text)
  assert found is None or (found[0] >= 1 and found[1])


@pytest.mark.parametrize("piece", ["1", "1 + ", "1 + 1 = ", "-", "answer:", " ", "Answer: 1\n"])
def test_a_megabyte_is_marked_quickly(world, piece):
  assert world.first_wrong_step("arithmetic/train/0", piece * (1_000_000 // len(piece)))


def test_a_problem_is_found_by_its_question_whatever_the_white_space(world, everything):
  for problem in everything[:: len(everything) // 40]:
    assert world.find("\n " + problem.question.replace(" ", "\n ")) == problem
  assert world.find("How many?") is None


def test_a_smaller_split_is_a_prefix_of_a_larger_one_and_other_splits_do_not_matter(world):
  small = _world(train=50, validation=0, test=3)
  assert small.problems("train") == world.problems("train")[:50]
  assert small.problem("test", 2) == world.problem("test", 2)
  assert _world(seed=1, train=50).problems("train") != small.problems("train")


def test_a_world_is_the_same_in_every_process(world):
  digest = lambda w: hashlib.sha256(repr(w.problems("train")[:200]).encode()).hexdigest()
  program = (
    "import hashlib\nfrom distill_jax.worlds import arithmetic\n"
    f"w = arithmetic.ArithmeticWorld(**{SETTINGS!r})\n"
    "print(hashlib.sha256(repr(w.problems('train')[:200]).encode()).hexdigest())"
  )
  for hash_seed in ("0", "12345"):
    made = subprocess.run(
      [sys.executable, "-c", program],
      env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
      capture_output=True,
      text=True,
      check=True,
    )
    assert made.stdout.strip() == digest(world)


@pytest.mark.parametrize(
  "name", ["", "arithmetic/train", "arithmetic/train/99999", "arithmetic/train/-1", "gsm8k/train/0"]
)
def test_an_unknown_problem_or_split_is_rejected(world, name):
  with pytest.raises(errors.UserError, match="no problem"):
    world.program(name)
  with pytest.raises(errors.UserError, match="no split"):
    world.problems("dev")
