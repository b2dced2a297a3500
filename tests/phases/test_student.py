"""A student's answers depend on what is asked and by what name; conversations are led together."""

import types

import jax
import numpy as np
import pytest

from distill_jax import errors
from distill_jax.data import tokenizer
from distill_jax.phases import conversations, student
from tests import compilations
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

SHAPE = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_width": 8, "mlp": 16}
DETAILS = {"rope_theta": 100.0, "norm_eps": 1e-5, "tied": True, "dtype": "float32"}
DECODING = {"temperature": 1.0, "new_tokens": 6}


def settings(data: int = -1, seed: int = 0, batch: int = 8):
  return types.SimpleNamespace(
    seed=seed,
    student=types.SimpleNamespace(**SHAPE, **DETAILS),
    rollout=types.SimpleNamespace(batch=batch, buckets=(8, 16)),
    mesh=types.SimpleNamespace(data=data, fsdp=1, tensor=1),
  )


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
  path = tmp_path_factory.mktemp("made") / "tokenizer"
  tokenizer.train(["a few words to learn from"] * 4, vocab=270, path=path)
  return tokenizer.Tokenizer(path)


@pytest.fixture(scope="module")
def learner(tok):
  return student.Student(settings(), tok)


@pytest.fixture(scope="module")
def params(learner):
  return jax.device_put(oracle.params(learner.config, scale=0.4), learner.places)


ASKED = [(f"{'word ' * (n % 3)}{n}", f"p{n}/0") for n in range(12)]


@pytest.fixture(scope="module")
def answers(learner, params):
  return learner.answer(params, ASKED, **DECODING)


def assert_same(a, b):
  assert [x[:3] for x in a] == [x[:3] for x in b]
  np.testing.assert_allclose([x.logprob for x in a], [x.logprob for x in b], rtol=1e-4)


def test_answers_come_in_the_order_they_were_asked_for_whatever_that_is(learner, params, answers):
  order = np.random.Generator(np.random.PCG64(0)).permutation(12).tolist()
  shuffled = learner.answer(params, [ASKED[n] for n in order], **DECODING)
  assert_same(shuffled, [answers[n] for n in order])


def test_asking_a_few_at_a_time_gives_the_same_answers(learner, params, answers):
  parts = [learner.answer(params, ASKED[n : n + 5], **DECODING) for n in range(0, 12, 5)]
  assert_same([x for part in parts for x in part], answers)


def test_equal_prompts_share_a_prefill_and_are_told_apart_by_their_names(learner, params):
  names = [f"p/{n}" for n in range(4)]
  together = learner.answer(params, [("word", name) for name in names], **DECODING)
  assert len({x.text for x in together}) > 1
  alone = [learner.answer(params, [("word", name)], **DECODING)[0] for name in names]
  assert_same(together, alone)


def test_the_name_and_the_seed_decide_the_numbers(learner, params, answers, tok):
  renamed = learner.answer(params, [(p, f"{name}!") for p, name in ASKED], **DECODING)
  assert sum(a.text != b.text for a, b in zip(renamed, answers, strict=True)) > 6
  other = student.Student(settings(seed=1), tok).answer(params, ASKED, **DECODING)
  assert sum(a.text != b.text for a, b in zip(other, answers, strict=True)) > 6
  assert_same(learner.answer(params, ASKED, **DECODING), answers)


def test_an_answer_says_how_it_ended_and_what_it_weighs(answers, tok):
  for x in answers:
    assert x.finish in ("stop", "length") and 1 <= x.tokens <= 6 and x.logprob < 0
    assert x.finish == "stop" or x.tokens == 6


def test_neighbours_share_a_prefill_by_the_samples_asked_for_and_no_further():
  asked = [("p", n) for n in range(5)] + [("q", 5)]
  assert student._runs(asked, 2) == [("p", [0, 1]), ("p", [2, 3]), ("p", [4]), ("q", [5])]
  assert student._runs(asked, 9) == [("p", [0, 1, 2, 3, 4]), ("q", [5])]


def test_a_prompt_too_long_for_every_bucket_is_cut_at_the_front(learner, params, tok):
  long = " ".join(str(n) for n in range(30))
  kept = tok.decode(tok.encode(long)[-16:])
  assert tok.encode(kept) == tok.encode(long)[-16:], "or this test compares two prompts"
  assert_same(
    learner.answer(params, [(long, "p")], **DECODING),
    learner.answer(params, [(kept, "p")], **DECODING),
  )


def test_nothing_asked_is_nothing_answered(learner, params):
  assert learner.answer(params, [], **DECODING) == []


def test_a_batch_has_as_many_prompts_as_the_settings_say_in_whole_shards(tok):
  """However few are asked, so that a row's arithmetic does not depend on them."""
  at_a_time = lambda batch, samples: student.Student(settings(batch=batch), tok)._prompts_at_a_time(
    samples
  )
  assert [at_a_time(*x) for x in ((64, 1), (64, 4), (60, 4), (8, 100), (1, 1))] == [
    64,
    16,
    16,
    8,
    8,
  ]


def test_fresh_weights_follow_the_seed_and_lie_where_they_belong(learner, tok):
  fresh = learner.fresh()
  places = jax.tree.map(lambda x: x.sharding, fresh)
  same = jax.tree.map(lambda x, a, b: a.is_equivalent_to(b, x.ndim), fresh, places, learner.places)
  assert all(jax.tree.leaves(same))
  again, other = learner.fresh(), student.Student(settings(seed=1), tok).fresh()
  jax.tree.map(np.testing.assert_array_equal, fresh, again)
  assert (np.asarray(fresh["embed"]) != np.asarray(other["embed"])).any()
  like = jax.tree.map(lambda x: (x.shape, x.dtype), learner.like)
  assert like == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)


def test_a_mesh_that_does_not_fit_the_devices_is_refused(tok):
  with pytest.raises(errors.Refusal, match=r"config\.mesh") as refusal:
    student.Student(settings(data=3), tok)
  assert refusal.value.code == errors.CONFIG


class Echo:
  """A student that repeats the last word of its prompt, and notes whom it was asked with."""

  def __init__(self, mark: str):
    self.mark, self.batches = mark, []

  def answer(self, params, asked, *, suffix: str):
    self.batches.append(asked)
    return [
      student.Answer(f"{self.mark}{params}:{p.split()[-1]}{suffix}", f"end of {n}", len(p), -1.0)
      for p, n in asked
    ]


def socratic(question: str, turns: int):
  """One sub-question and its solution a turn."""
  said = []
  for turn in range(turns):
    said.append((yield "decomposer", f"{question} ask {turn}"))
    said.append((yield "solver", f"solve {said[-1]}"))
  said.append((yield "solver", f"{question} sum"))
  return " | ".join(said)


def led(turns, names=None):
  asks, solves = Echo("d"), Echo("s")
  spoken = conversations.lead(
    [socratic(f"q{n}", t) for n, t in enumerate(turns)],
    names or [f"q{n}" for n in range(len(turns))],
    students={"decomposer": (asks, 1), "solver": (solves, 2)},
    suffix=".",
  )
  return spoken, asks, solves


def test_each_conversation_hears_its_own_student_and_returns_its_own_words():
  spoken, _, _ = led([1, 2, 0])
  assert [x.text for x in spoken] == [
    "d1:0. | s2:d1:0.. | s2:sum.",
    "d1:0. | s2:d1:0.. | d1:1. | s2:d1:1.. | s2:sum.",
    "s2:sum.",
  ]


def test_those_who_wait_for_the_same_student_are_answered_together():
  _, asks, solves = led([1, 2, 0])
  names = lambda echo: [[name for _, name in asked] for asked in echo.batches]
  assert names(asks) == [["q0/0", "q1/0"], ["q1/2"]]
  assert names(solves) == [["q2/0"], ["q0/1", "q1/1"], ["q0/2"], ["q1/3"], ["q1/4"]]


def test_a_conversation_does_not_depend_on_those_it_is_led_with():
  together, _, _ = led([1, 2, 0])
  alone, _, _ = led([1])
  assert together[0] == alone[0]


def test_tokens_and_log_probabilities_add_up_and_the_last_turn_says_how_it_ended():
  (spoken,), asks, solves = led([2])
  said = [p for echo in (asks, solves) for asked in echo.batches for p, _ in asked]
  assert spoken.tokens == sum(map(len, said))
  assert (spoken.logprob, spoken.finish) == (-5.0, "end of q0/4")


def test_no_conversation_is_no_answer():
  assert conversations.lead([], [], students={}) == []
