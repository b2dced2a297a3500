"""A student behind OpenAI's API: what the openai client gets, and what is refused."""

import contextlib
import dataclasses
import json
import threading

import jax.numpy as jnp
import numpy as np
import openai
import pytest

from distill_jax import students
from distill_jax.cli import open_run, serve
from distill_jax.config.read import read_settings
from distill_jax.decoding import decode_loop, rollout
from distill_jax.formats import turns
from distill_jax.phases import evaluate
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import export
from distill_jax.serving import api, batching, engine
from distill_jax.students import token_rows
from tests import recipes, servers
from tests.recipes import config, run

quick = recipes.quick
CHANGES = {"train__steps": 40, "train__lr": 1e-2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """(run context, round, what is served, server, engine, client) of a run of one round."""
  path = tmp_path_factory.mktemp("serving") / "run"
  run(path, "cot", **CHANGES)
  settings = read_settings(config("cot", **CHANGES))
  with serve.open_workdir(settings, str(path), -1) as (served, name):
    with servers.running(served, name) as (server, started):
      url = f"http://127.0.0.1:{server.port}/v1"
      with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield served, server, started, client, name, path


def test_the_model_is_listed(tiny):
  _, _, _, client, name, _ = tiny
  assert [model.id for model in client.models.list()] == [name] and name == "run-round-0"


def test_greedy_text_is_that_of_evaluate(tiny, tmp_path):
  served, _, _, client, name, path = tiny
  with open_run.open_run(read_settings(config("cot", **CHANGES)), str(path)) as ctx:
    problems = ctx.task.problems("test")
    out = RunDir(tmp_path).final("test")
    evaluate.score(ctx, out, problems, "test", round_index=0)
    attempts = {json.loads(line)["problem"]: json.loads(line)
                for line in (out.path / "attempts.jsonl").read_text().splitlines()}  # fmt: skip
    prompts = [ctx.prompt(problem) for problem in problems]
  stop = list(served.stop)
  completed = client.completions.create(
    model=name, prompt=prompts, temperature=0, max_tokens=12, stop=stop
  )
  for problem, prompt, choice in zip(problems, prompts, completed.choices, strict=True):
    expected = attempts[problem.id]
    assert (choice.text, choice.finish_reason) == (expected["text"], expected["finish"])
    chat = client.chat.completions.create(
      model=name, temperature=0, messages=[{"role": "user", "content": problem.question}]
    )
    assert chat.choices[0].message.content == expected["text"]
    assert chat.usage.completion_tokens == expected["tokens"]
    assert chat.usage.prompt_tokens == len(served.student.encode_prompt(prompt))


def test_seed_and_sample_decide_a_row_and_other_requests_do_not(tiny):
  _, _, _, client, name, _ = tiny
  ask = {"model": name, "prompt": "Question: 2 + 2?\n", "temperature": 1.0, "max_tokens": 8}
  first = [c.text for c in client.completions.create(**ask, seed=7, n=3).choices]
  alone = client.completions.create(**ask, seed=7).choices[0].text
  assert first[0] == alone and len(set(first)) > 1
  assert [c.text for c in client.completions.create(**ask, seed=7, n=3).choices] == first
  assert [c.text for c in client.completions.create(**ask, seed=8, n=3).choices] != first


def test_echo_gives_the_log_likelihood_of_every_token(tiny):
  served, _, _, client, name, _ = tiny
  text = "Question: Tom has 3 apples.\nReasoning:\nTom has 3."
  got = client.completions.create(
    model=name, prompt=text, max_tokens=1, echo=True, logprobs=1, temperature=0
  ).choices[0]
  ids = served.student.encode_prompt(text)
  student = served.student
  tokens, positions, segments = map(jnp.asarray, export.pad_texts([np.array(ids)]))
  rows = token_rows.Rows(tokens, positions, segments)
  params = export.merged_params(student, served.params)
  states = students.of(student.config).hidden(student.config, params, rows)
  logits = np.asarray(students.logits(student.config, params, states), np.float64)[0]
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = [logp[n, ids[n + 1]] for n in range(len(ids) - 1)]
  values = got.logprobs.token_logprobs
  assert values[0] is None and got.logprobs.top_logprobs[0] is None
  np.testing.assert_allclose(values[1 : len(ids)], expected, atol=1e-4)
  assert len(values) == len(ids) + 1
  np.testing.assert_allclose(values[-1], logp[len(ids) - 1].max(), atol=1e-4)
  for n, top in enumerate(got.logprobs.top_logprobs[1 : len(ids)]):
    np.testing.assert_allclose(max(top.values()), logp[n].max(), atol=1e-4)
  by_ids = client.completions.create(
    model=name, prompt=[ids], max_tokens=0, echo=True, logprobs=1
  ).choices[0]
  assert by_ids.logprobs.token_logprobs == values[:-1]


def test_logprobs_of_a_completion_are_those_of_the_decoder(tiny):
  _, _, _, client, name, _ = tiny
  choice = client.completions.create(
    model=name, prompt="Question: 1?\n", max_tokens=5, logprobs=2, temperature=0
  ).choices[0]
  found = choice.logprobs
  assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs)
  for value, top in zip(found.token_logprobs, found.top_logprobs, strict=True):
    assert abs(max(top.values()) - value) < 1e-4  # greedy


def test_a_stream_has_the_text_of_the_whole_and_its_usage(tiny):
  _, _, _, client, name, _ = tiny
  ask = {"model": name, "messages": [{"role": "user", "content": "How many?"}], "temperature": 0}
  whole = client.chat.completions.create(**ask)
  chunks = list(client.chat.completions.create(
    **ask, stream=True, stream_options={"include_usage": True}))  # fmt: skip
  text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
  assert text == whole.choices[0].message.content
  assert chunks[-1].usage == whole.usage and not chunks[-1].choices


def test_stop_and_max_tokens_end_a_completion(tiny):
  _, _, _, client, name, _ = tiny
  ask = {"model": name, "prompt": "Question: 1?\n", "temperature": 0}
  whole = client.completions.create(**ask, max_tokens=12).choices[0]
  cut = client.completions.create(**ask, max_tokens=2)
  assert whole.text.startswith(cut.choices[0].text) and cut.usage.completion_tokens == 2
  assert cut.choices[0].finish_reason == "length"
  mark = whole.text[3:6]
  stopped = client.completions.create(**ask, max_tokens=12, stop=[mark]).choices[0]
  assert (stopped.text, stopped.finish_reason) == (whole.text.partition(mark)[0], "stop")


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"prompt": []}, "prompt must be"),
    ({"prompt": [[10**9]]}, "tokens from 0 to"),
    ({"prompt": "x" * 5000}, "--config.rollout.buckets"),
    ({"temperature": -1}, "temperature must be"),
    ({"n": 0}, "n must be"),
    ({"n": True}, "n must be"),
    ({"seed": 1.5}, "seed must be"),
    ({"logprobs": 99}, "logprobs must be"),
    ({"stop": [""]}, "stop must be"),
    ({"stop": 5}, "stop must be"),
    ({"stop": {"a": 1}}, "stop must be"),
    ({"echo": 1}, "echo must be"),
    ({"stream": "yes"}, "stream must be"),
    ({"model": "gpt"}, "no model 'gpt'"),
    ({"presence_penalty": 0.5}, "presence_penalty is not supported; only 0"),
    ({"frequency_penalty": -1}, "frequency_penalty is not supported"),
    ({"logit_bias": {"5": -100}}, "logit_bias is not supported"),
    ({"best_of": 4}, "best_of is not supported"),
    ({"suffix": "x"}, "suffix is not supported"),
    ({"top_k": 5}, "top_k is not supported: leave it out"),
    ({"messages": []}, "messages is not supported"),
  ],
)
def test_a_wrong_field_is_refused_with_its_name(tiny, fields, message):
  _, _, _, client, name, _ = tiny
  body = {"model": name, "prompt": "x", **fields}
  with pytest.raises(openai.BadRequestError, match=message):
    client.post("/completions", body=body, cast_to=object)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    ({"tools": [{"type": "function"}]}, "tools is not supported"),
    ({"top_logprobs": 2}, "top_logprobs is not supported"),
    ({"logprobs": True}, "use /v1/completions"),
    ({"prompt": "x"}, "prompt is not supported"),
    ({"max_tokens": 0}, "max_tokens must be an integer from 1"),
  ],
)
def test_a_chat_refuses_what_it_would_ignore(tiny, fields, message):
  _, _, _, client, name, _ = tiny
  body = {"model": name, "messages": [{"role": "user", "content": "x"}], **fields}
  with pytest.raises(openai.BadRequestError, match=message):
    client.post("/chat/completions", body=body, cast_to=object)


def test_fields_that_ask_for_nothing_are_accepted(tiny):
  _, _, _, client, name, _ = tiny
  ask = {"model": name, "messages": [{"role": "user", "content": "How many?"}], "temperature": 0}
  neutral = {**api.NEUTRAL, "user": "me", "tool_choice": None}
  same = client.post("/chat/completions", body={**ask, **neutral}, cast_to=object)
  text = client.chat.completions.create(**ask).choices[0].message.content
  assert same["choices"][0]["message"]["content"] == text


def test_max_tokens_below_the_limit_cuts_a_conversation_of_several_turns(tiny):
  served = tiny[0]
  text = "Tom has 3 apples."

  class TwoTurns:
    def conversation(self, question):
      for _ in range(2):
        yield (turns.Turn("student", f"Question: {question}\n"),)
      return text

  ids = served.student.tokenizer.encode(text)
  question, greedy = (("user", "1?"),), engine.Sampling(0.0)
  with contextlib.closing(engine.Engine(dataclasses.replace(served, task=TwoTurns()))) as other:
    ask = lambda limit: other.chat(question, greedy, n=1, max_tokens=limit, seed=None)
    whole, cut = (ask(limit).result(60)[0] for limit in (served.limit, 3))
  assert whole.text == text and whole.tokens > 3
  assert whole.prompt_tokens == 2 * len(served.student.encode_prompt("Question: 1?\n"))
  assert (cut.text, cut.finish, cut.tokens) == (
    served.student.tokenizer.decode(ids[:3]), "length", 3)  # fmt: skip


def test_requests_beyond_the_queue_are_refused(tiny, monkeypatch):
  _, _, _, client, name, _ = tiny
  monkeypatch.setattr(engine, "WAITING", 0)
  with pytest.raises(openai.RateLimitError, match="too many requests are waiting"):
    client.completions.create(model=name, prompt="x")


@pytest.fixture
def gated(tiny, monkeypatch):
  """(rows that run at each call of the decode program, an event that lets the calls return).

  The host looks at the rows after every second token.
  """
  running, go = [], threading.Event()
  original = decode_loop.decode

  def decode(config, params, state, running_R, *args, **options):
    running.append(int(running_R.sum()))
    assert go.wait(60)
    return original(config, params, state, running_R, *args, **options)

  monkeypatch.setattr(decode_loop, "decode", decode)
  monkeypatch.setattr(rollout, "STOP_INTERVAL", 2)
  yield running, go
  go.set()


def test_requests_join_the_batch_that_is_decoded_and_change_no_token(tiny, gated):
  served, _, started, _, _, _ = tiny
  running, go = gated
  go.set()
  ids = [served.student.encode_prompt(text) for text in ("Question: 1?\n", "x", "Question: 22?\n")]
  ask = lambda n, max_tokens=12, stop=(): started.complete(
    ids[n], engine.Sampling(1.0, stop=stop), n=1, max_tokens=max_tokens, seed=n
  )
  alone = [ask(n).result(60) for n in range(3)]
  go.clear()
  running.clear()
  first = ask(0)
  servers.wait_for(lambda: running)
  others = [ask(1), ask(2, max_tokens=5), ask(2, stop=("\x00",))]
  go.set()
  together = [future.result(60) for future in (first, *others)]
  assert running[0] == 1 and max(running) == 4  # they joined, whatever their limit and stop texts
  assert [together[0], together[1], together[3]] == alone
  assert together[2][0].ids == alone[2][0].ids[:5]
  assert running[-1] < 4 and len(running) < 4 * 6  # and were not decoded one after the other


def test_groups_take_turns_and_none_waits_for_ever(tiny, gated):
  served, _, started, _, _, _ = tiny
  running, go = gated
  ids = served.student.encode_prompt("x")
  ask = lambda temperature: started.complete(
    ids, engine.Sampling(temperature), n=1, max_tokens=12, seed=1
  )
  groups = [ask(1.0 + k) for k in range(batching.LIVE)]
  servers.wait_for(lambda: running)
  late, same = ask(9.0), ask(1.0)
  go.set()
  assert all(future.result(60) for future in (*groups, late, same))
  assert groups[0].result() == same.result()
  assert set(running) == {1}  # the younger row did not join: another group waited


def test_a_client_that_leaves_frees_its_row(tiny, gated):
  served, _, started, _, _, _ = tiny
  running, go = gated
  ids, greedy = served.student.encode_prompt("x"), engine.Sampling(0.0)
  ask = lambda: started.complete(ids, greedy, n=1, max_tokens=12, seed=None)
  first = ask()
  servers.wait_for(lambda: running)
  waiting = [ask() for _ in range(3)]
  assert first.cancel() and waiting[1].cancel()
  go.set()
  texts = {future.result(60)[0].text for future in (waiting[0], waiting[2])}
  assert len(texts) == 1
  assert running[0] == 1 and max(running) == 2  # the first row ended when the host looked


def test_a_failing_batch_is_an_error_of_its_requests_only(tiny, monkeypatch):
  _, _, _, client, name, _ = tiny
  fail = lambda *_, **__: 1 // 0
  with monkeypatch.context() as patch:
    patch.setattr(rollout.Rollout, "step", fail)
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
      client.completions.create(model=name, prompt="x", temperature=0)
  assert client.completions.create(model=name, prompt="x", temperature=0).choices


def test_an_exported_student_answers_as_the_run_does(tiny, tmp_path):
  from distill_jax.cli import main

  _, _, _, client, name, path = tiny
  out = tmp_path / "exported"
  assert main.main(["export", f"--workdir={path}", f"--out={out}"]) == 0
  ask = {"temperature": 0, "messages": [{"role": "user", "content": "How many apples?"}]}
  expected = client.chat.completions.create(model=name, **ask).choices[0].message.content
  words = [f"--model={out}", "--batch=16", "--config.evaluate.max_new_tokens=12",
           "--config.rollout.buckets=192"]  # fmt: skip
  parsed, _ = serve.parse(words)
  settings = read_settings(parsed, teacher=False)
  settings = dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, batch=16))
  with serve.open_model(settings, str(out)) as (served, exported):
    with servers.running(served, exported) as (server, _):
      url = f"http://127.0.0.1:{server.port}/v1"
      with openai.OpenAI(base_url=url, api_key="none") as other:
        got = other.chat.completions.create(model=exported, **ask).choices[0].message.content
  assert got == expected


def test_the_command_needs_a_run_or_a_model(capsys):
  from distill_jax import errors
  from distill_jax.cli import main

  assert main.main(["serve", "--model=x", "--workdir=y"]) == errors.USAGE
  assert main.main(["serve", "--model=/nowhere"]) == errors.USAGE
  assert main.main(["serve", "--model=x", "--round=1"]) == errors.USAGE
  assert main.main(["serve", "--model=x", "--config.student.init=y"]) == errors.USAGE
  assert main.main(["serve", "--model=x", "--key_env=NO_SUCH_VARIABLE"]) == errors.USAGE
  assert capsys.readouterr().err.count("\n") == 5


def test_an_exported_student_decodes_by_the_recipe_that_is_given():
  parsed = [serve.parse(["--model=x", *words])[0]["recipe"] for words in ([], ["--config=star"])]
  assert parsed == ["base", "star"]
