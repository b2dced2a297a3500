"""Structured replies, and extra body fields.

JSON replies are parsed to the same results as plain ones. Servers without schemas, and replies that
do not follow theirs, are handled as plain text. Extra body fields reach the server and the key.
"""

import contextlib
import json
import time

import pytest
from scripted import CLIENT_OPTIONS, ask

from distill_jax import errors, tasks
from distill_jax.phases import demonstrate, feedback
from distill_jax.teacher import types
from distill_jax.teacher.builtin import http
from distill_jax.teacher.builtin import teacher as builtin
from distill_jax.teacher.client import client, request_body
from distill_jax.teacher.prompts import messages as prompts
from distill_jax.teacher.prompts import schema as prompts_schema
from tests import teacher_faults as faults
from tests import teacher_server as server

ARITHMETIC = {
  "seed": 0, "train": 40, "validation": 2, "test": 2, "out_of_domain": 2, "steps_min": 1,
  "steps_max": 3, "operand_max": 12, "families": 0, "distractors": 0.0, "ood_extra_steps": 1,
}  # fmt: skip
TAXONOMY = {
  "seed": 0, "train": 20, "validation": 2, "test": 2, "out_of_domain": 2, "kinds": 24, "options": 4,
  "exceptions": 0.1,
}  # fmt: skip
PARSERS = {
  "annotate": demonstrate.parse_annotation,
  "correct": feedback.parse_correction,
  "stage": demonstrate.parse_stages,
  "decompose": demonstrate.parse_decomposition,
}


@pytest.fixture(scope="module")
def prompted():
  """{kind: (built-in teacher, [(problem, messages)])}."""
  numbers, options = tasks.get("arithmetic", **ARITHMETIC), tasks.get("taxonomy", **TAXONOMY)
  teachers = [builtin.BuiltinTeacher(t.world, error_rate=0.2, seed=0) for t in (numbers, options)]
  sums, choices = numbers.problems("train"), options.problems("train")
  wrong = f"It is 1.\nAnswer: {10**6}"
  return {
    "annotate": (teachers[0], [(p, prompts.annotate(p.question)) for p in sums]),
    "correct": (teachers[0], [(p, prompts.correct(p.question, wrong, p.gold)) for p in sums]),
    "decompose": (teachers[0], [(p, prompts.decompose(p.question)) for p in sums]),
    "stage": (teachers[1], [(p, prompts.stage(p.question, p.choices, p.gold)) for p in choices]),
  }


@pytest.mark.parametrize("kind", PARSERS)
def test_a_json_reply_is_parsed_to_the_same_result_as_the_plain_one(prompted, kind):
  builtin_teacher, asked = prompted[kind]
  for problem, messages in asked:
    for plain in builtin_teacher(messages, 2, 0.7):
      as_json = prompts_schema.as_json(kind, plain)
      assert json.loads(as_json).keys() == prompts_schema.SCHEMAS[kind]["properties"].keys()
      wanted = PARSERS[kind](plain, problem)
      assert wanted is not None and PARSERS[kind](as_json, problem) == wanted
      fenced = f"```json\n{as_json}\n```\n"
      assert PARSERS[kind](fenced, problem) == wanted


@pytest.mark.parametrize("kind", PARSERS)
def test_the_json_instruction_does_not_change_the_built_in_teachers_reply(prompted, kind):
  builtin_teacher, asked = prompted[kind]
  for _, messages in asked[:10]:
    assert builtin_teacher(
      prompts_schema.with_json_instruction(messages, kind), 2, 0.7
    ) == builtin_teacher(messages, 2, 0.7)


@pytest.mark.parametrize("kind", PARSERS)
def test_a_schema_satisfies_strict_servers(kind):
  def objects(schema):
    if schema["type"] == "object":
      yield schema
    for inner in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
      yield from objects(inner)

  asked = prompts_schema.response_format(kind)
  assert asked["type"] == "json_schema" and asked["json_schema"]["strict"] is True
  for schema in objects(asked["json_schema"]["schema"]):
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])


GOOD = {"steps": ["3 + 4 = 7"], "answer": "7"}


@pytest.mark.parametrize(
  "reply",
  [
    "3 + 4 = 7\nAnswer: 7",
    "{",
    "[]",
    "7",
    json.dumps({"answer": "7"}),
    "The set is {1, 2}.\nAnswer: 2",
    '{"steps": ' + "[" * 100_000,
  ],
)
def test_a_reply_that_does_not_follow_the_schema_is_left_to_the_plain_parsers(reply):
  assert prompts_schema.parse_annotation(reply) is None
  assert demonstrate.parse_annotation(reply, None).text == reply


@pytest.mark.parametrize(
  "reply",
  [
    json.dumps(GOOD | {"steps": []}),
    json.dumps(GOOD | {"steps": "3 + 4 = 7"}),
    json.dumps(GOOD | {"steps": [["3 + 4 = 7"]]}),
    json.dumps(GOOD | {"answer": " "}),
    json.dumps(GOOD | {"answer": None}),
    json.dumps(GOOD | {"answer": True}),
    json.dumps(GOOD)[:-1],
    json.dumps(GOOD).replace('"7"', '"7",'),
  ],
)
def test_json_that_cannot_be_read_is_no_rationale(reply):
  assert prompts_schema.parse_annotation(reply) is None
  assert demonstrate.parse_annotation(reply, None) is None


AROUND = {
  "prose": "Here is the JSON:\n{}\nI hope this helps! {{smile}}",
  "fence in prose": "Sure. The set {{1, 2}} is used.\n```json\n{}\n```\nAnswer: 999",
  "fence without a language": "```\n{}\n```",
  "braces before": 'f(x) = {{x}} and {{ "a": }} then {}',
  "quote before": 'He said "{{" and left. {}',
  "draft before": '{{"steps": ["9"], "answer": "9"}} is wrong.\n{}',
  "schema before": '{{"properties": {{"steps": {{"type": "array"}}}}}}\n{}',
  "other object after": '{}\n{{"confidence": 0.9, "answer": "999"}}',
  "in an object": '{{"response": {}, "answer": "999"}}',
  "in a list": "[{}]",
  "long": "x {{ " * 1000 + "{}",
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize(
  "more", [{}, {"confidence": 0.5}, {"nested": {"steps": [], "answer": {}}}, {"a": '}}{ " \\'}]
)
def test_the_object_in_a_text_is_read_and_unknown_fields_are_ignored(name, more):
  reply = AROUND[name].format(json.dumps({**more, **GOOD}))
  assert demonstrate.parse_annotation(reply, None).text == "3 + 4 = 7\nAnswer: 7"


def test_line_ends_in_strings_and_an_object_over_several_lines_are_read():
  reply = '{\n  "steps": ["a\nb"],\n  "answer": "7"\n}'
  assert prompts_schema.parse_annotation(reply) == "a\nb\nAnswer: 7"


def test_an_answer_may_come_as_a_number():
  assert prompts_schema.parse_annotation('{"steps": ["a"], "answer": 7}') == "a\nAnswer: 7"
  assert prompts_schema.parse_annotation('{"steps": ["a"], "answer": 0.50}') == "a\nAnswer: 0.50"


@pytest.mark.parametrize(
  "rows",
  [
    [("A", True), ("B", True)],
    [("A", False), ("B", False)],
    [("A", True)],
    [("A", True), ("A", False)],
    [("A", True), ("B", False), ("C", False)],
  ],
)
def test_stages_need_each_option_once_and_exactly_one_correct(rows):
  explained = [{"option": o, "correct": c, "reason": "so"} for o, c in rows]
  reply = json.dumps({"key_information": "k", "explanations": explained})
  assert prompts_schema.parse_stages(reply, ("A", "B")) is None


def test_stages_keep_the_order_of_the_reply():
  explained = [{"option": o, "correct": o == "B", "reason": f" {o}\n is "} for o in "BA"]
  reply = json.dumps({"key_information": "k", "explanations": explained})
  parts = (("recall", "k"), ("B", "B is"), ("A", "A is"))
  assert prompts_schema.parse_stages(reply, ("A", "B")) == (parts, "B")


@pytest.mark.parametrize("kind", PARSERS)
def test_a_megabyte_is_parsed_quickly(kind):
  started = time.monotonic()
  for text in ('{"steps": [' * 90_000, '{"a": "' + "\\u0041" * 170_000 + '"}', "```" * 300_000):
    prompts_schema.as_json(kind, text)
    assert prompts_schema._fields(kind, text) is None
  assert time.monotonic() - started < 5


class Listener(server.Server):
  """Records request bodies; if `picky`, a body with a response_format gets status 400."""

  bodies: list
  picky = False

  async def _completion(self, reader, writer, raw, name):
    self.bodies.append(json.loads(raw))
    if self.picky and "response_format" in self.bodies[-1]:
      await http.send(writer, 400, http.error("response_format is not supported"))
      return True
    return await super()._completion(reader, writer, raw, name)


@pytest.fixture
def listening():
  """listening(answer, picky=False) -> a server with its `url` and `bodies`."""
  with contextlib.ExitStack() as stack:

    def start(answer, picky=False):
      made = Listener(answer, port=0, model="m", latency=0.0, script=faults.Sequence([]), log="")
      made.bodies, made.picky = [], picky
      made.url = stack.enter_context(made.running())
      return made

    yield start


@pytest.fixture
def structured(tmp_path):
  """structured(url, warned, extra="", structured=True, ...) -> a client that asks for JSON."""
  with contextlib.ExitStack() as stack:

    def start(url, warned, extra="", structured=True, **options):
      shaper = request_body.RequestShaper(extra=extra, structured=structured, warn=warned.append)
      cache_path = str(tmp_path / "teacher.sqlite")
      options = {"cache_path": cache_path, **CLIENT_OPTIONS, **options, "shaper": shaper}
      return stack.enter_context(contextlib.closing(client.Client(base_url=url, **options)))

    yield start


def requests(asked, kind):
  return [types.Request(kind, p.question, messages, 2) for p, messages in asked]


@pytest.mark.parametrize("kind", PARSERS)
def test_the_built_in_server_follows_the_schema(prompted, listening, structured, kind):
  builtin_teacher, asked = prompted[kind]
  made, warned = listening(builtin_teacher), []
  replies = ask(structured(made.url, warned), requests(asked[:6], kind))
  assert {body["response_format"]["json_schema"]["name"] for body in made.bodies} == {kind}
  for (problem, messages), row in zip(asked, replies, strict=False):
    plain = [PARSERS[kind](text, problem) for text in builtin_teacher(messages, 2, 0.5)]
    assert [PARSERS[kind](reply.text, problem) for reply in row] == plain
    assert all(reply.text.startswith("{") for reply in row)
  assert warned == []


def test_a_server_that_rejects_schemas_is_asked_for_plain_text_with_one_warning(
  prompted, listening, structured
):
  builtin_teacher, asked = prompted["annotate"]
  made, warned = listening(builtin_teacher, picky=True), []
  teacher = structured(made.url, warned, max_concurrency=4)
  replies = ask(teacher, requests(asked, "annotate"))
  assert [[r.text for r in row] for row in replies] == [
    builtin_teacher(m, 2, 0.5) for _, m in asked
  ]
  assert len(warned) == 1 and "response_format" in warned[0]
  rejected = sum("response_format" in body for body in made.bodies)
  assert 1 <= rejected <= 4 and len(made.bodies) == len(asked) + rejected
  plain = [body for body in made.bodies if "response_format" not in body]
  assert {body["messages"][0]["content"] for body in plain} == {prompts.ANNOTATE}
  ask(teacher, requests(asked, "annotate"), round=1)  # everything is stored
  ask(teacher, [types.Request("annotate", "q", prompts.annotate("q"), 1)], round=1)
  assert len(made.bodies) == len(asked) + rejected + 1 and len(warned) == 1


def test_a_bad_request_does_not_mean_that_schemas_are_rejected(prompted, serve, structured):
  builtin_teacher, asked = prompted["annotate"]
  made, warned = serve(["400", "400"], answer=builtin_teacher), []
  teacher = structured(made.url, warned, max_concurrency=1)
  (first, *_), second = ask(teacher, requests(asked[:2], "annotate"))
  assert first.kind == "bad_request" and warned == []
  assert all(reply.text.startswith("{") for reply in second)


def test_extra_fields_reach_the_server_and_are_part_of_the_key(listening, structured):
  made = listening(lambda messages, n, temperature, seed: ["x"] * n)
  wanted = [types.Request("annotate", "q", (("user", "q"),), 1)]
  extra = '{"top_k": 20, "chat_template_kwargs": {"enable_thinking": false}}'
  ask(structured(made.url, [], structured=False), wanted)
  ask(structured(made.url, [], extra, structured=False), wanted)
  ask(structured(made.url, [], '{"top_k": 21}', structured=False), wanted)
  ask(structured(made.url, [], extra, structured=False), wanted)
  plain, first, second = made.bodies
  assert first == plain | json.loads(extra) and second == plain | {"top_k": 21}


def test_without_either_the_keys_are_the_plain_ones():
  shape = request_body.RequestShaper(extra=" ", structured=False, warn=None)
  assert shape.key("annotate") == {} and shape.body("annotate", shape.schema("annotate")) == {}


@pytest.mark.parametrize("extra", ["top_k=3", "[]", "3", '{"model": "x"}', '{"n": 2, "a": 1}'])
def test_invalid_extra_body_fields_are_rejected(extra):
  with pytest.raises(errors.UserError, match=r"teacher\.extra") as caught:
    request_body.parse_extra_body(extra)
  assert caught.value.code == errors.CONFIG
