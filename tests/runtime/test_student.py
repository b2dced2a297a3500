"""Completions depend on prompt and name alone; conversations are run together."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import quickstart
from distill_jax import errors
from distill_jax.config.read import read_settings
from distill_jax.data import tokenizer
from distill_jax.decoding import rollout
from distill_jax.formats import turns
from distill_jax.runtime import base_model, conversations, student
from tests import compilations
from tests.students import oracle, oracle_t5

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

DECODING = {"temperature": 1.0, "max_new_tokens": 6}


def settings(data: int = -1, seed: int = 0, batch: int = 8, refill: float = 0.25):
  s = read_settings(quickstart.get_config().to_dict())
  rollout_settings = dataclasses.replace(s.rollout, batch=batch, refill=refill, buckets=(8, 16))
  mesh = dataclasses.replace(s.mesh, data=data)
  return dataclasses.replace(s, seed=seed, rollout=rollout_settings, mesh=mesh)


def student_of(tok, family=oracle.TINY, **changes):
  config = dataclasses.replace(family, vocab=tok.vocab, layers=1)
  return student.Student(settings(**changes), tok, base_model.BaseModel(None, config, {}))


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
  path = tmp_path_factory.mktemp("made") / "tokenizer"
  tokenizer.train(["a few words to learn from"] * 4, vocab=270, path=path)
  return tokenizer.Tokenizer(path)


@pytest.fixture(scope="module")
def tiny(tok):
  return student_of(tok)


@pytest.fixture(scope="module")
def params(tiny):
  return jax.device_put(oracle.params(tiny.config, scale=0.4), tiny.shardings)


ASKED = [(f"{'word ' * (n % 3)}{n}", f"p{n}/0") for n in range(12)]


@pytest.fixture(scope="module")
def completions(tiny, params):
  return tiny.generate(params, ASKED, **DECODING)


def assert_same(a, b):
  assert [x[:3] for x in a] == [x[:3] for x in b]
  np.testing.assert_allclose([x.logprob for x in a], [x.logprob for x in b], rtol=1e-4)


def test_completions_come_in_the_order_of_the_prompts(tiny, params, completions):
  order = np.random.Generator(np.random.PCG64(0)).permutation(12).tolist()
  shuffled = tiny.generate(params, [ASKED[n] for n in order], **DECODING)
  assert_same(shuffled, [completions[n] for n in order])


def test_a_few_prompts_at_a_time_give_the_same_completions(tiny, params, completions):
  parts = [tiny.generate(params, ASKED[n : n + 5], **DECODING) for n in range(0, 12, 5)]
  assert_same([x for part in parts for x in part], completions)


def test_equal_prompts_share_a_prefill_and_differ_by_their_names(tiny, params):
  names = [f"p/{n}" for n in range(4)]
  together = tiny.generate(params, [("word", name) for name in names], **DECODING)
  assert len({x.text for x in together}) > 1
  alone = [tiny.generate(params, [("word", name)], **DECODING)[0] for name in names]
  assert_same(together, alone)


def test_the_name_and_the_seed_decide_the_random_numbers(tiny, params, completions, tok):
  renamed = tiny.generate(params, [(p, f"{name}!") for p, name in ASKED], **DECODING)
  assert sum(a.text != b.text for a, b in zip(renamed, completions, strict=True)) > 6
  other = student_of(tok, seed=1).generate(params, ASKED, **DECODING)
  assert sum(a.text != b.text for a, b in zip(other, completions, strict=True)) > 6
  assert_same(tiny.generate(params, ASKED, **DECODING), completions)


def test_a_completion_has_its_end_its_length_and_its_log_probability(completions, tok):
  for x in completions:
    assert x.finish in ("stop", "length") and 1 <= x.tokens <= 6 and x.logprob < 0
    assert x.finish == "stop" or x.tokens == 6


def test_at_most_samples_neighbors_share_a_prefill():
  asked = [("p", n) for n in range(5)] + [("q", 5)]
  assert student.group_prompts(asked, 2) == [("p", [0, 1]), ("p", [2, 3]), ("p", [4]), ("q", [5])]
  assert student.group_prompts(asked, 9) == [("p", [0, 1, 2, 3, 4]), ("q", [5])]


def test_a_prompt_too_long_for_every_bucket_is_cut_at_the_front(tiny, params, tok):
  long = " ".join(str(n) for n in range(30))
  kept = tok.decode(tok.encode(long)[-16:])
  assert tok.encode(kept) == tok.encode(long)[-16:], "otherwise this test compares two prompts"
  assert_same(
    tiny.generate(params, [(long, "p")], **DECODING),
    tiny.generate(params, [(kept, "p")], **DECODING),
  )


def test_no_prompts_give_no_completions(tiny, params):
  assert tiny.generate(params, [], **DECODING) == []


@pytest.mark.parametrize(("batch", "refill"), [(1, 1.0), (16, 0.5), (24, 0.1)])
def test_neither_the_batch_nor_the_refill_changes_a_completion(
  tok, params, completions, batch, refill
):
  other = student_of(tok, batch=batch, refill=refill)
  assert_same(other.generate(params, ASKED, **DECODING), completions)


def test_an_encoder_decoder_has_the_same_interface(tok):
  tiny = student_of(tok, oracle_t5.SECOND)
  params = jax.device_put(oracle_t5.params(tiny.config, scale=0.4), tiny.shardings)
  completions = tiny.generate(params, ASKED, **DECODING)
  assert len({x.text for x in completions}) > 6
  assert_same(tiny.generate(params, ASKED[::-1], **DECODING), completions[::-1])


class Watcher:
  """Knows some completions, and keeps what it is told."""

  def __init__(self, known):
    self._known, self.new, self.tokens, self.waiting = known, {}, 0, []

  def known(self, name):
    return self._known.get(name)

  def begin(self, waiting):
    self.waiting.append(waiting)

  def progress(self, new, tokens, running, waiting):
    assert not self.new.keys() & new.keys() and running + waiting <= self.waiting[0]
    self.new |= new
    self.tokens += tokens
    self.waiting.append(waiting)


def test_known_completions_are_not_computed_again_and_the_others_stay_the_same(
  tiny, params, completions
):
  everything = Watcher({})
  assert_same(tiny.generate(params, ASKED, **DECODING, watcher=everything), completions)
  assert everything.new == {n: c for (_, n), c in zip(ASKED, completions, strict=True)}
  assert everything.tokens == sum(c.tokens for c in completions)
  assert everything.waiting[0] == 12 and everything.waiting[-1] == 0
  marked = {n: c._replace(text="known") for n, c in list(everything.new.items())[::2]}
  rest = Watcher(marked)
  again = tiny.generate(params, ASKED, **DECODING, watcher=rest)
  assert [c.text == "known" for c in again] == [n in marked for _, n in ASKED]
  assert_same(again[1::2], completions[1::2])
  assert rest.new.keys() == everything.new.keys() - marked.keys() and rest.waiting[0] == 6


def test_few_questions_do_not_cost_a_whole_batch_on_a_cpu(tok):
  assert student_of(tok, batch=0)._sizes(1).rows == student.CPU_ROWS
  assert student_of(tok, batch=8)._sizes(1).rows == 8


LONG = {"temperature": 1.0, "max_new_tokens": 40}
STOP = ("e", "or")


@pytest.fixture(scope="module")
def cut_by_hand(tiny, params, tok):
  """Completions that end at a text of STOP, cut token by token from rows sampled to their ends.

  Returns (requests, completions without stop texts, completions that are cut).
  """
  kept, original = [], rollout.sample
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rollout, "sample", lambda *a, **k: kept.append(original(*a, **k)) or kept[-1])
    asked = [("word", name) for _, name in ASKED]
    uncut = tiny.generate(params, asked, **LONG)
  (out,) = kept
  cut = []
  for row, answer in enumerate(uncut):
    for n in range(1, answer.tokens + 1):
      text = tok.decode(out.tokens[row, :n])
      if any(s in text for s in STOP):
        before = text[: min(text.index(s) for s in STOP if s in text)]
        answer = student.Completion(before, "stop", n, float(out.logprobs[row, :n].sum()))
        break
    cut.append(answer)
  return asked, uncut, cut


@pytest.mark.parametrize("interval", [1, 3, 16, 1000])
def test_a_completion_ends_before_the_first_stop_text_whenever_the_host_looks(
  tiny, params, cut_by_hand, interval, monkeypatch
):
  monkeypatch.setattr(rollout, "STOP_INTERVAL", interval)
  asked, _, cut = cut_by_hand
  assert_same(tiny.generate(params, asked, **LONG, stop=STOP), cut)


def test_some_completions_stop_at_a_text_and_some_do_not(cut_by_hand):
  _, uncut, cut = cut_by_hand
  changed = [a != b for a, b in zip(uncut, cut, strict=True)]
  assert 3 < sum(changed) < len(changed)
  assert len({a.tokens for a, c in zip(cut, changed, strict=True) if c}) > 3


def test_a_stop_text_that_never_occurs_changes_nothing(tiny, params, completions):
  assert_same(tiny.generate(params, ASKED, **DECODING, stop=("never said",)), completions)


def test_generating_again_compiles_nothing(tiny, params):
  with compilations.counted() as programs:
    for n in range(1, 12):
      decoding = {"temperature": n / 4, "top_p": 1 - n / 50, "max_new_tokens": 6}
      tiny.generate(params, ASKED[:n], **decoding)
  assert programs == []


def test_the_start_token_of_a_prompt_that_is_too_long_is_kept():
  assert student.fit_prompt([9, 1, 2, 3], 1, 4) == [9, 1, 2, 3]
  assert student.fit_prompt([9, 1, 2, 3, 4, 5], 1, 4) == [9, 3, 4, 5]
  assert student.fit_prompt([9, 1, 2], 1, 1) == [9]
  assert student.fit_prompt([1, 2, 3, 4, 5], 0, 4) == [2, 3, 4, 5]


def test_initial_weights_follow_the_seed_and_have_their_shardings(tiny, tok):
  fresh = tiny.init_params()
  places = jax.tree.map(lambda x: x.sharding, fresh)
  same = jax.tree.map(lambda x, a, b: a.is_equivalent_to(b, x.ndim), fresh, places, tiny.shardings)
  assert all(jax.tree.leaves(same))
  again, other = tiny.init_params(), student_of(tok, seed=1).init_params()
  jax.tree.map(np.testing.assert_array_equal, fresh, again)
  assert (np.asarray(fresh["embed"]) != np.asarray(other["embed"])).any()
  like = jax.tree.map(lambda x: (x.shape, x.dtype), tiny.abstract_params)
  assert like == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)


def test_a_mesh_that_does_not_fit_the_devices_is_rejected(tok):
  with pytest.raises(errors.UserError, match=r"config\.mesh") as error:
    student_of(tok, data=3)
  assert error.value.code == errors.CONFIG


class Echo:
  """A student that repeats the last word of its prompt and records its batches."""

  def __init__(self, mark: str, cut: str = ""):
    self.mark, self.batches, self.temperatures = mark, [], []
    self.cut = cut  # the name of the turn that is cut off

  def generate(self, params, asked, *, suffix: str, temperature: float = 1.0):
    self.batches.append(asked)
    self.temperatures.append(temperature)
    text = lambda p: f"{self.mark}{params}:{p.split()[-1]}{suffix}"
    end = lambda n: "length" if n == self.cut else "stop"
    return [student.Completion(text(p), end(n), len(p), -1.0) for p, n in asked]


def socratic(question: str, steps: int):
  """A conversation with one sub-question and its solution per step."""
  texts = []
  for turn in range(steps):
    texts += yield (turns.Turn("decomposer", f"{question} ask {turn}", "ask"),)
    texts += yield (turns.Turn("solver", f"solve {texts[-1]}", "solve"),)
  texts += yield (turns.Turn("solver", f"{question} sum", "sum"),)
  return " | ".join(texts)


def run_socratic(steps, names=None, cut=""):
  asks, solves = Echo("d", cut), Echo("s", cut)
  transcripts = conversations.run_conversations(
    [socratic(f"q{n}", t) for n, t in enumerate(steps)],
    names or [f"q{n}" for n in range(len(steps))],
    students={"decomposer": (asks, 1), "solver": (solves, 2)},
    suffix=".",
  )
  return transcripts, asks, solves


def test_each_conversation_gets_its_own_answers():
  transcripts, _, _ = run_socratic([1, 2, 0])
  assert [x.text for x in transcripts] == [
    "d1:0. | s2:d1:0.. | s2:sum.",
    "d1:0. | s2:d1:0.. | d1:1. | s2:d1:1.. | s2:sum.",
    "s2:sum.",
  ]


def test_conversations_that_wait_for_the_same_student_are_answered_together():
  _, asks, solves = run_socratic([1, 2, 0])
  names = lambda echo: [[name for _, name in asked] for asked in echo.batches]
  assert names(asks) == [["q0/0", "q1/0"], ["q1/2"]]
  assert names(solves) == [["q2/0"], ["q0/1", "q1/1"], ["q0/2"], ["q1/3"], ["q1/4"]]


def test_a_conversation_does_not_depend_on_the_others():
  together, _, _ = run_socratic([1, 2, 0])
  alone, _, _ = run_socratic([1])
  assert together[0] == alone[0]


def test_tokens_and_log_probabilities_of_all_turns_add_up():
  (transcript,), asks, solves = run_socratic([2])
  prompts = [p for echo in (asks, solves) for asked in echo.batches for p, _ in asked]
  assert transcript.tokens == sum(map(len, prompts))
  assert (transcript.logprob, transcript.finish) == (-5.0, "stop")


@pytest.mark.parametrize("turn", range(5))
def test_a_conversation_is_cut_off_if_any_of_its_turns_is(turn):
  transcripts, _, _ = run_socratic([2, 2], cut=f"q0/{turn}")
  assert [x.finish for x in transcripts] == ["length", "stop"]


def fanned(question: str):
  """A conversation with one turn, then two at once."""
  (fact,) = yield (turns.Turn("student", f"{question} fact", "recall"),)
  judged = yield tuple(turns.Turn("student", f"{fact} {x}", "judge") for x in "ab")
  return " | ".join([fact, *judged])


def test_turns_yielded_together_are_answered_together_and_in_order():
  echo = Echo("e")
  (transcript,) = conversations.run_conversations(
    [fanned("q")], ["q"], students={"student": (echo, 1)}, suffix="."
  )
  assert transcript.text == "e1:fact. | e1:a. | e1:b."
  assert [[name for _, name in asked] for asked in echo.batches] == [["q/0"], ["q/1", "q/2"]]
  assert transcript.turns == (
    ("recall", "q fact", "e1:fact."),
    ("judge", "e1:fact. a", "e1:a."),
    ("judge", "e1:fact. b", "e1:b."),
  )
  assert (transcript.logprob, transcript.finish) == (-3.0, "stop")


def test_only_the_sampled_stages_are_sampled():
  for sampled, temperatures in [(None, [0.7, 0.7]), ({"recall"}, [0.7, 0.0]), ((), [0.0, 0.0])]:
    echo = Echo("e")
    conversations.run_conversations(
      [fanned("q")],
      ["q"],
      students={"student": (echo, 1)},
      sampled_stages=sampled,
      temperature=0.7,
      suffix=".",
    )
    assert echo.temperatures == temperatures


def test_equal_prompts_become_neighbors():
  echo = Echo("e")
  conversations.run_conversations(
    [fanned("q"), fanned("q")], ["x", "y"], students={"student": (echo, 1)}, suffix="."
  )
  assert [name for _, name in echo.batches[1]] == ["x/1", "y/1", "x/2", "y/2"]


def test_no_conversations_give_no_transcripts():
  assert conversations.run_conversations([], [], students={}) == []
