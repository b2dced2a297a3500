"""The built-in teacher: right unless an error rate is set, and deterministic; its server."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
import scripted
from scripted import ask

from distill_jax import errors, records, settings, tasks, teacher
from distill_jax.teacher import types
from distill_jax.teacher.builtin import teacher as builtin
from distill_jax.teacher.prompts import messages as prompts
from distill_jax.teacher.prompts import parsing
from tests import teacher_faults as faults
from tests import teacher_server as server

OPTIONS = {
  "seed": 0, "train": 150, "validation": 2, "test": 2, "out_of_domain": 2, "steps_min": 1,
  "steps_max": 3, "operand_max": 12, "families": 0, "distractors": 0.0, "ood_extra_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def task():
  return tasks.get("arithmetic", **OPTIONS)


@pytest.fixture(scope="module")
def problems(task):
  return task.problems("train")


def right(task, problem, text):
  answer = task.read_answer(text, problem)
  return task.is_correct(answer, problem)


def test_annotations_are_right_and_differ(task, problems):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.0, seed=0)
  for problem in problems:
    texts = builtin_teacher(prompts.annotate(problem.question), 4, 0.7)
    assert len(set(texts)) == 4 and all(right(task, problem, text) for text in texts)
    assert all(text.splitlines()[-1] == f"Answer: {problem.gold}" for text in texts)


def test_at_temperature_zero_every_sample_is_the_same(task, problems):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.3, seed=0)
  assert len(set(builtin_teacher(prompts.annotate(problems[0].question), 5, 0.0, 3))) == 1


def test_a_sample_does_not_depend_on_the_samples_requested_with_it(task, problems):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.3, seed=0)
  messages = prompts.annotate(problems[1].question)
  assert builtin_teacher(messages, 6, 0.7) == [
    builtin_teacher(messages, 1, 0.7, k)[0] for k in range(6)
  ]


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_the_share_of_wrong_replies_is_the_error_rate(task, problems, rate):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=rate, seed=0)
  wrong = [
    not right(task, problem, text)
    for problem in problems
    for text in builtin_teacher(prompts.annotate(problem.question), 4, 0.7)
  ]
  assert sum(wrong) / len(wrong) == pytest.approx(rate, abs=0.05)


def test_a_corrupted_rationale_is_wrong_in_a_step_too():
  assert builtin.corrupt("2 + 3 = 5.\n5 * 4 = 20 pens.\nAnswer: 20", "x") != (
    "2 + 3 = 5.\n5 * 4 = 20 pens.\nAnswer: 20"
  )
  for name in "abcdefghij":
    step, answer = builtin.corrupt("So 20 - 5 = 15 pens.\nAnswer: 15", name).split("\n")
    new = answer.removeprefix("Answer: ")
    assert new != "15" and int(new) >= 0 and step == f"So 20 - 5 = {new} pens."


def test_a_correction_names_the_mistake_and_then_is_right(task, problems):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.0, seed=0)
  for problem in problems[:40]:
    attempt = builtin.corrupt(task.world.wording(problem.id, 0), "x")
    (text,) = builtin_teacher(prompts.correct(problem.question, attempt, None), 1, 0.7)
    critique, rationale = parsing.split_correction(text)
    _, why = task.world.first_wrong_step(problem.id, attempt)
    assert right(task, problem, rationale) and critique.lower() == why.lower()


@pytest.mark.parametrize("text", ["", "What is love?", "Answer: 3"])
def test_unknown_questions_get_no_answer(task, problems, text):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.0, seed=0)
  (reply,) = builtin_teacher(prompts.annotate(text), 1, 0.7)
  assert task.read_answer(reply, problems[0]) is None
  assert builtin_teacher((("user", text),), 1, 0.7) == [reply]


def test_an_empty_attempt_is_corrected_like_any_other(task, problems):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.0, seed=0)
  (text,) = builtin_teacher(prompts.correct(problems[0].question, "", "1"), 1, 0.7)
  assert parsing.split_correction(text) is not None


def test_an_arithmetic_question_is_decomposed_and_has_no_options(task, problems):
  builtin_teacher = builtin.BuiltinTeacher(task.world, error_rate=0.0, seed=0)
  for problem in problems[:40]:
    texts = builtin_teacher(prompts.decompose(problem.question), 4, 0.7)
    assert len(set(texts)) == 4
    for text in texts:
      parts = parsing.split_steps(text)
      assert [asked for asked, _ in parts] == [asked for asked, _ in problem.decomposition]
      assert right(task, problem, text)
      assert task.world.first_wrong_step(problem.id, text) is None
  (reply,) = builtin_teacher(prompts.stage(problems[0].question, (), None), 1, 0.7)
  assert reply == builtin_teacher(prompts.annotate("What is love?"), 1, 0.7)[0]


KINDS = {
  "seed": 0, "train": 150, "validation": 2, "test": 2, "out_of_domain": 20, "kinds": 40,
  "options": 4, "exceptions": 0.25,
}  # fmt: skip


@pytest.fixture(scope="module")
def choices():
  return tasks.get("taxonomy", **KINDS)


def answer_of(choices, problem, messages, text):
  """The answer of a reply to any kind of request; None if it is not in its layout."""
  labels = tuple(label for label, _ in problem.choices)
  if messages[0][1] == prompts.STAGE:
    stages = parsing.split_stages(text, labels)
    return stages and stages[1]
  if messages[0][1] == prompts.DECOMPOSE and parsing.split_steps(text) is None:
    return None
  return choices.read_answer(text, problem)


def every_message(choices, problem):
  question = choices.render(problem)
  wrong = choices.world.wording(problem.id, 0, "A" if problem.gold != "A" else "B")
  return (
    prompts.annotate(question, choices.shots),
    prompts.correct(question, wrong, problem.gold),
    prompts.stage(problem.question, problem.choices, problem.gold),
    prompts.stage(problem.question, problem.choices, None),
    prompts.decompose(question, (), problem.gold),
  )


def test_choices_are_annotated_corrected_judged_and_decomposed(choices):
  builtin_teacher = builtin.BuiltinTeacher(choices.world, error_rate=0.0, seed=0)
  for problem in choices.problems("train")[:60] + choices.problems("out_of_domain"):
    for messages in every_message(choices, problem):
      texts = builtin_teacher(messages, 4, 0.7)
      assert len(set(texts)) == 4
      for text in texts:
        assert answer_of(choices, problem, messages, text) == problem.gold, text


def test_stages_and_steps_are_read_as_the_world_has_them(choices):
  builtin_teacher = builtin.BuiltinTeacher(choices.world, error_rate=0.0, seed=0)
  for problem in choices.problems("train")[:60] + choices.problems("out_of_domain"):
    labels = tuple(label for label, _ in problem.choices)
    messages = prompts.stage(problem.question, problem.choices, None)
    staged = [parsing.split_stages(text, labels)[0] for text in builtin_teacher(messages, 4, 0.7)]
    assert set(staged) == {choices.world.staged(problem.id, n) for n in range(4)}
    messages = prompts.decompose(choices.render(problem))
    steps = [parsing.split_steps(text) for text in builtin_teacher(messages, 4, 0.7)]
    assert set(steps) == {choices.world.decomposed(problem.id, n) for n in range(4)}


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_a_wrong_reply_about_choices_argues_for_a_wrong_option_in_the_right_layout(choices, rate):
  builtin_teacher = builtin.BuiltinTeacher(choices.world, error_rate=rate, seed=0)
  asked = [(p, m) for p in choices.problems("train") for m in every_message(choices, p)]
  given = [
    (problem, answer_of(choices, problem, messages, text))
    for problem, messages in asked
    for text in builtin_teacher(messages, 2, 0.7)
  ]
  assert None not in {answer for _, answer in given}
  wrong = sum(answer != problem.gold for problem, answer in given) / len(given)
  assert wrong == pytest.approx(rate, abs=0.05)


def test_a_correction_of_choices_names_the_mistake(choices):
  builtin_teacher = builtin.BuiltinTeacher(choices.world, error_rate=0.0, seed=0)
  for problem in choices.problems("train")[:40]:
    attempt = choices.world.wording(problem.id, 1, "A" if problem.gold != "A" else "B")
    (text,) = builtin_teacher(prompts.correct(choices.render(problem), attempt, None), 1, 0.7)
    critique, rationale = parsing.split_correction(text)
    assert critique.lower() == choices.world.first_wrong_step(problem.id, attempt)[1].lower()
    assert right(choices, problem, rationale)


def teacher_settings(**changes):
  default = settings.Teacher()
  fields = {
    "max_concurrency": 8,
    "timeout": 5.0,
    "max_wait": 30.0,
    "max_dollars": 1.0,
    "max_requests": 10_000,
    "builtin": dataclasses.replace(default.builtin, error_rate=0.1),
  }
  return dataclasses.replace(default, **fields | changes)


def opened(task, run_dir, identity="w", **changes):
  return teacher.make(
    teacher_settings(**changes), workdir=run_dir, world=task.world, world_identity=identity, seed=0
  )


def requests(problems, samples=2):
  return [
    types.Request("annotate", p.question, prompts.annotate(p.question), samples) for p in problems
  ]


def test_the_built_in_teacher_is_a_client_of_a_real_server(task, problems, tmp_path):
  before, one = set(threading.enumerate()), opened(task, tmp_path)
  first = ask(one, requests(problems[:10]))
  one.close()
  assert {reply.model for row in first for reply in row} == {"builtin"}
  two = opened(task, tmp_path)
  assert ask(two, requests(problems[:10])) == first
  assert two.ledger.total().calls == two.ledger.of(0, "s").calls == 20
  two.close()
  assert set(threading.enumerate()) <= before


def test_another_world_is_another_teacher(task, problems, tmp_path):
  for identity in ("w", "v"):
    made = opened(task, tmp_path, identity)
    ask(made, requests(problems[:3]))
    made.close()
  assert made.ledger._store.path == tmp_path / teacher.CACHE
  again = opened(task, tmp_path, "v")
  assert again.ledger.total().calls == 12
  again.close()


def test_a_run_opens_its_own_teacher(task, problems, tmp_path):
  made = teacher.open(scripted.Run(settings.Settings(teacher=teacher_settings()), tmp_path, task))
  assert ask(made, requests(problems[:1]))[0][0].text
  made.close()


def test_a_server_reached_by_its_address_gives_the_same_replies(task, problems, tmp_path):
  made = builtin.make_server(task.world, port=0, latency=0.0, error_rate=0.1, seed=0, log="")
  with made.running() as url:
    outer = opened(task, tmp_path / "a", kind="openai", base_url=url)
    inner = opened(task, tmp_path / "b")
    texts = [
      [[reply.text for reply in row] for row in ask(one, requests(problems[:10]))]
      for one in (outer, inner)
    ]
    outer.close(), inner.close()
  assert texts[0] == texts[1]


def test_a_port_in_use_is_one_line(serve):
  port = int(re.search(r":(\d+)/", serve().url)[1])
  other = server.Server(None, port=port, model="m", latency=0.0, script=faults.Sequence([]), log="")
  with pytest.raises(errors.UserError, match="--port=0"), other.running():
    pass


@pytest.mark.parametrize(
  "script", ["500", "500@2", "500@0.6,429@0.6", "999@0.1", "maybe@0.1", "429:when=1@0.1", "500@x"]
)
def test_an_invalid_script_of_faults_is_rejected(script):
  with pytest.raises(errors.UserError, match="the script of faults"):
    faults.Script(script, 0)


def test_a_script_of_faults_is_a_function_of_seed_and_number():
  script = faults.Script("429:retry_after=1@0.05,500@0.1,cut@0.02,hang@0.01", 3)
  drawn = [script.pick(k) for k in range(5000)]
  assert drawn == [script.pick(k) for k in range(5000)]
  kinds = [fault.kind for fault in drawn if fault]
  assert kinds.count("500") == pytest.approx(500, abs=80)
  assert kinds.count("429") == pytest.approx(250, abs=60)


def get(url):
  with urllib.request.urlopen(url) as reply:
    return json.load(reply)


def test_the_server_speaks_the_protocol_to_anyone(serve):
  url = serve().url
  assert get(f"{url}/models")["data"][0]["id"] == "echo-1"
  asked = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "n": 2,
    "temperature": 0,
  }
  data = json.dumps(asked).encode()
  for _ in range(2):
    with urllib.request.urlopen(f"{url}/chat/completions", data) as reply:
      answer = json.load(reply)
  assert [choice["message"]["content"] for choice in answer["choices"]] == [
    f"hello #{k} at 0.0" for k in (0, 1)
  ]
  assert answer["usage"]["total_tokens"] > 0
  stats = get(url.removesuffix("/v1") + "/stats")
  assert (stats["requests"], stats["completed"], stats["paid_twice"]) == (2, 4, 2)
  endless = json.dumps(asked | {"seed": float("inf")}).encode()
  for path, body, status in (
    ("/nowhere", None, 404),
    ("/chat/completions", b"{", 400),
    ("/chat/completions", endless, 400),
  ):
    with pytest.raises(urllib.error.HTTPError) as refused:
      urllib.request.urlopen(url + path, body)
    refused.value.close()
    assert refused.value.code == status


SERVE = """
import json
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore it
sys.path.insert(0, ".")
from distill_jax import tasks
from distill_jax.teacher.builtin import teacher
world = tasks.get("arithmetic", **json.loads(sys.argv[1])).world
teacher.serve(world, port=0, latency=0.0, error_rate=0.0, seed=0, log="")
"""


def test_serve_prints_the_url_and_stops_when_interrupted():
  words = [sys.executable, "-c", SERVE, json.dumps(OPTIONS)]
  process = subprocess.Popen(
    words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
  )
  url = process.stdout.readline().strip()
  assert get(f"{url}/models")["data"][0]["id"] == "builtin"
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=10)
  assert (process.returncode, out, err) == (0, "", "")


def test_a_problem_is_found_by_the_text_of_its_question(task, problems):
  assert isinstance(task.world.find(problems[0].question), records.Problem)
