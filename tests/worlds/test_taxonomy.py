"""The taxonomy world is consistent and deterministic, with disjoint splits and no word cues."""

import collections
import hashlib
import math
import os
import re
import subprocess
import sys

import pytest

from distill_jax import errors, tasks
from distill_jax.tasks import answers
from distill_jax.worlds import lore, queries, taxonomy, tellings

SETTINGS = {
  "seed": 0, "train": 3000, "validation": 300, "test": 500, "out_of_domain": 300, "kinds": 40,
  "options": 4, "exceptions": 0.25,
}  # fmt: skip


def _world(**changes) -> taxonomy.TaxonomyWorld:
  return taxonomy.TaxonomyWorld(**(SETTINGS | changes))


@pytest.fixture(scope="module")
def world() -> taxonomy.TaxonomyWorld:
  return _world()


@pytest.fixture(scope="module")
def everything(world):
  return [problem for split in taxonomy.SPLITS for problem in world.problems(split)]


@pytest.fixture(scope="module")
def some(everything):
  return everything[::20]


ABLE = {ability: word for word, ability in lore.ABILITIES.items()}


def _solve(known, problem) -> list[str]:
  """The labels that fit, found from the question's words and the facts alone."""

  def has(kind, word):
    word = ABLE.get(word, word)
    if kind in known.exceptions:
      return word in known.exceptions[kind]
    return word in known.rules[known.group[kind]]

  food = known.food
  readings = (
    (r"Which of these has food that (?:can|is) (.+)\?", lambda o, w: has(food[o], w)),
    (r"Which of these (?:can|is) (?!a )(.+)\?", lambda o, w: has(o, w)),
    (r"Which of these is a (.+)\?", lambda o, group: known.group[o] == group),
    (r"What (?:is|can) the food of (\w+) (?:like|do)\?", lambda o, kind: has(food[kind], o)),
    (r"What (?:is|can) (\w+) (?:like|do)\?", lambda o, kind: has(kind, o)),
    (r"What is the food of (\w+)\?", lambda o, kind: food[kind] == o),
  )
  ((word, test),) = [
    (found[1], test)
    for pattern, test in readings
    if (found := re.fullmatch(pattern, problem.question))
  ]
  return [label for label, text in problem.choices if test(text, word)]


def test_gold_is_the_only_option_that_the_facts_make_right(world, everything):
  assert all(_solve(world.lore, problem) == [problem.gold] for problem in everything)
  assert {world.query(p.id).form.name for p in everything} == set(queries.FORMS)


def test_knowledge_is_balanced(world):
  known = world.lore
  assert {len(set(known.nature(kind))) for kind in known.kinds} == {2}
  held = collections.Counter(word for rule in known.rules.values() for word in rule)
  assert set(held) == set(lore.PROPERTIES) and set(held.values()) == {2}
  assert len(set(known.rules.values())) == len(lore.GROUPS)
  assert len(known.exceptions) == 10
  for kind, nature in known.exceptions.items():
    assert len(set(nature) & set(known.rules[known.group[kind]])) == 1
  assert sorted(known.food.values()) == sorted(known.kinds)
  assert all(kind != food for kind, food in known.food.items())


def test_options_are_distinct_and_as_many_as_configured(everything):
  for problem in everything:
    assert [label for label, _ in problem.choices] == list("ABCD")
    assert len({text for _, text in problem.choices}) == 4
  for options in (3, 5):
    small = _world(options=options, train=50)
    assert {len(problem.choices) for problem in small.problems("train")} == {options}


def test_splits_share_no_question_whatever_the_order_of_options(world):
  contents = [[world.query(p.id).content for p in world.problems(s)] for s in taxonomy.SPLITS]
  assert all(len(set(mine)) == len(mine) for mine in contents)
  for number, mine in enumerate(contents):
    for other in contents[number + 1 :]:
      assert not set(mine) & set(other)


def test_the_order_of_options_does_not_make_another_question():
  form = queries.FORMS["like"]
  assert (
    queries.Query(form, "tall", ("b", "a")).content
    == queries.Query(form, "tall", ("a", "b")).content
  )


def test_every_fact_that_a_test_asks_for_is_asked_for_in_training(world):
  """Facts are the sentences of `Problem.facts`: all that a gold chain of thought states."""
  facts = lambda split: {fact for problem in world.problems(split) for fact in problem.facts}
  known = facts("train")
  for split in ("validation", "test", "out_of_domain"):
    assert facts(split) <= known
  kinds, groups, words = len(world.lore.kinds), len(lore.GROUPS), len(lore.PROPERTIES)
  assert len(known) == 2 * kinds + groups + 2 * words + len(world.lore.exceptions)


def test_out_of_domain_takes_two_hops_and_training_never_does(world):
  hops = lambda problem: (
    any(" has food " in fact for fact in problem.facts)
    and any(" is a " in fact for fact in problem.facts)
  )
  assert all(hops(problem) for problem in world.problems("out_of_domain"))
  assert not any(hops(problem) for problem in world.problems("train"))


def test_skipping_the_first_hop_does_no_better_than_chance(world):
  known = world.lore
  right = 0.0
  for problem in world.problems("out_of_domain"):
    query = world.query(problem.id)
    kinds = query.form.subject == "kind"
    fits = [
      label
      for label, option in zip("ABCD", query.options, strict=True)
      if (option in known.nature(query.subject) if kinds else query.subject in known.nature(option))
    ] or list("ABCD")
    right += (problem.gold in fits) / len(fits)
  assert right / 300 == pytest.approx(0.25, abs=0.08)


def test_gold_is_equally_likely_at_every_position(world):
  counts = collections.Counter(problem.gold for problem in world.problems("train"))
  assert all(count == pytest.approx(750, abs=4 * math.sqrt(3000 * 3 / 16)) for count in
             counts.values())  # fmt: skip


def test_option_frequencies_hardly_predict_the_answer(world):
  """Guessing the option that was right most often in training is hardly better than 25 %."""
  shown, right = collections.Counter(), collections.Counter()
  for problem in world.problems("train"):
    for label, text in problem.choices:
      shown[text] += 1
      right[text] += label == problem.gold
  rate = lambda text: right[text] / shown[text]
  guessed = sum(
    max(problem.choices, key=lambda choice: rate(choice[1]))[0] == problem.gold
    for problem in world.problems("test")
  )
  assert guessed / 500 < 0.32


def test_the_question_without_its_options_does_not_predict_the_label(world):
  votes = collections.defaultdict(collections.Counter)
  for problem in world.problems("train"):
    for word in problem.question.split():
      votes[word][problem.gold] += 1
  score = lambda problem, label: sum(
    math.log((votes[word][label] + 1) / (votes[word].total() + 4))
    for word in problem.question.split()
  )
  guessed = sum(
    max("ABCD", key=lambda label: score(problem, label)) == problem.gold
    for problem in world.problems("test")
  )
  assert guessed / 500 < 0.32


def test_every_wording_is_right_and_they_differ(world, some):
  task = tasks.get("taxonomy", **SETTINGS)
  for problem in some:
    texts = [world.wording(problem.id, n) for n in range(len(tellings.STYLES))]
    assert texts[0] == problem.rationale and len(set(texts)) == len(texts) >= 4
    for text in texts:
      assert task.is_correct(task.read_answer(text, problem), problem)
      assert world.first_wrong_step(problem.id, text) is None
    assert world.wording(problem.id, len(texts)) == texts[0]


def test_a_mistaken_rationale_is_consistent_and_detected(world, some):
  for problem in some:
    for label, _ in problem.choices:
      for variant in range(4):
        text = world.wording(problem.id, variant, label)
        assert answers.read_choice(text, tuple("ABCD")) == label
        found = world.first_wrong_step(problem.id, text)
        assert (found is None) == (label == problem.gold)
        assert text.count("\n") == problem.rationale.count("\n")


def test_every_telling_follows_from_the_facts(world, some):
  """The grader accepts chains of thought; stages and sub-questions have the same lines."""
  for problem in some:
    for variant in range(4):
      lines = world.wording(problem.id, variant)
      stages = world.staged(problem.id, variant)
      assert [name for name, _ in stages] == ["recall", *(label for label, _ in problem.choices)]
      assert all(f"({label}) {text}" in lines for label, text in stages[1:])
      steps = world.decomposed(problem.id, variant)
      assert steps[-1][0] == problem.question
      assert answers.read_choice(steps[-1][1], tuple("ABCD")) == problem.gold
      assert all(solution in lines for _, solution in steps[-5:-1])
    assert len({world.staged(problem.id, n) for n in range(4)}) == 4
    assert world.decomposed(problem.id, 0) == problem.decomposition


def test_key_information_is_true_and_independent_of_the_options(world, some):
  known = world.lore
  for problem in some:
    recall = world.staged(problem.id, 0)[0][1]
    query = world.query(problem.id)
    if query.form.subject in ("ability", "property"):
      groups = set(re.findall(r"\w+", recall)) & set(lore.GROUPS)
      assert groups == {g for g in lore.GROUPS if query.subject in known.rules[g]}
    other = queries.Query(query.form, query.subject, query.options[::-1])
    assert tellings.recalled(known, other, tellings.STYLES[0]) == recall


def test_the_first_wrong_step_is_found_and_explained(world, some):
  for problem in some:
    lines = problem.rationale.split("\n")
    for n in range(1, len(lines) - 1):
      cut = "\n".join(lines[:n] + lines[n + 1 :])
      assert world.first_wrong_step(problem.id, cut)[0] == n + 1
      verdicts = ("fits", "fails") if "fits" in lines[n] else ("fails", "fits")
      turned = lines[n].replace(*verdicts)
      found = world.first_wrong_step(problem.id, "\n".join([*lines[:n], turned, *lines[n + 1 :]]))
      assert found[0] == n + 1 and "verdict" in found[1] and "\n" not in found[1]
    assert world.first_wrong_step(problem.id, "\n".join(lines[:-1]))[0] == len(lines)
    assert world.first_wrong_step(problem.id, "")[0] == 2


def test_a_false_claim_is_named(world):
  problem = next(p for p in world.problems("train") if world.query(p.id).form.name == "member")
  kind = problem.choices[0][1]
  group = world.lore.group[kind]
  other = next(name for name in lore.GROUPS if name != group)
  attempt = problem.rationale.replace(f"{kind} is a {group}", f"{kind} is a {other}")
  number, why = world.first_wrong_step(problem.id, attempt)
  assert number == 2 and f'not so that "{kind} is a {other}"' in why
  stranger = next(k for k in world.lore.kinds if k not in dict(problem.choices).values())
  swapped = problem.rationale.replace(
    f"{kind} is a {group}", f"{stranger} is a {world.lore.group[stranger]}"
  )
  assert f"not about {stranger}" in world.first_wrong_step(problem.id, swapped)[1]


def test_a_verdict_on_another_word_is_not_a_verdict_on_the_option(world):
  problem = next(p for p in world.problems("train") if world.query(p.id).form.name == "properties")
  word = problem.choices[1][1]
  other = next(w for w in lore.PROPERTIES if w not in dict(problem.choices).values())
  attempt = problem.rationale.replace(f"(B) {word}", f"(B) {other}")
  number, why = world.first_wrong_step(problem.id, attempt)
  assert number == 3 and why.startswith(f"(B) is about {word}")


@pytest.mark.parametrize("piece", ["(A) ", "a zibbo is a ", "answer:", " ", "Answer: A\n", "no "])
def test_a_megabyte_is_marked_quickly(world, piece):
  assert world.first_wrong_step("taxonomy/train/0", piece * (1_000_000 // len(piece)))


def test_a_problem_is_found_by_its_question_in_any_layout(world, some):
  task = tasks.get("taxonomy", **SETTINGS)
  for problem in some:
    rendered = task.render(problem)
    assert world.find(rendered) == world.find(f"\n {rendered.replace(' ', '  ')}") == problem
    assert world.find(problem.question, problem.choices) == problem
    lettered = "\n".join(f"{label}. {text}" for label, text in problem.choices)
    assert world.find(f"{problem.question}\n{lettered}") == problem
    assert world.find(problem.question) is None


def test_texts_stay_short(world, everything):
  """Counts words and punctuation of gold chains of thought."""
  lengths = [
    len(re.findall(r"\w+|[^\w\s]", problem.rationale))
    for problem in everything
    if problem.split != "out_of_domain"
  ]
  assert sum(lengths) / len(lengths) <= 65 and max(lengths) <= 120


def test_a_smaller_split_is_a_prefix_of_a_larger_one_and_other_splits_do_not_matter(world):
  small = _world(train=50, validation=0, test=3)
  assert small.problems("train") == world.problems("train")[:50]
  assert small.problems("test") == world.problems("test")[:3]
  assert _world(seed=1, train=50).problems("train") != small.problems("train")


def test_a_world_is_the_same_in_every_process(world):
  digest = lambda w: hashlib.sha256(repr(w.problems("train")[:200]).encode()).hexdigest()
  program = (
    "import hashlib\nfrom distill_jax.worlds import taxonomy\n"
    f"w = taxonomy.TaxonomyWorld(**{SETTINGS!r})\n"
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
  ("setting", "value"),
  [
    ("kinds", 19), ("kinds", 145), ("options", 2), ("options", 6), ("exceptions", 1.1),
    ("train", -1), ("train", 10**9), ("out_of_domain", 10**9),
  ],
)  # fmt: skip
def test_an_invalid_setting_is_rejected_by_name(setting, value):
  with pytest.raises(errors.UserError, match=rf"taxonomy\.{setting} is {value}, but must be"):
    _world(**{setting: value})


@pytest.mark.parametrize("changes", [{"kinds": 20, "options": 5}, {"kinds": 144}, {"exceptions": 1},
                                     {"exceptions": 0}, {"kinds": 41, "options": 3}])  # fmt: skip
def test_a_world_of_any_size_is_consistent(changes):
  world = _world(**{"train": 200, "validation": 20, "test": 20, "out_of_domain": 20} | changes)
  for split in taxonomy.SPLITS:
    assert all(_solve(world.lore, p) == [p.gold] for p in world.problems(split))


@pytest.mark.parametrize(
  "name", ["", "taxonomy/train", "taxonomy/train/99999", "arithmetic/test/0"]
)
def test_an_unknown_problem_or_split_is_rejected(world, name):
  with pytest.raises(errors.UserError, match="no problem"):
    world.wording(name, 0)
  with pytest.raises(errors.UserError, match="no split"):
    world.problems("dev")
