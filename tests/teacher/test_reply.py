"""A message's thinking is separated from its answer in every vendor's spelling."""

import dataclasses
import json

import pytest

from distill_jax import thinking
from distill_jax.teacher import reply, types
from distill_jax.teacher.client import verdicts
from distill_jax.teacher.store import cache

DRAFT = "Is it 12? Answer: 12\nNo: 3 + 4 = 7."
TEXT = "Tom has 3 + 4 = 7 apples.\nAnswer: 7"

MARKED = {
  "deepseek": f"<think>\n{DRAFT}\n</think>\n\n{TEXT}",
  "template opened it": f"{DRAFT}\n</think>\n\n{TEXT}",
  "upper case": f"<THINK>{DRAFT}</THINK>{TEXT}",
  "thinking": f"<thinking>{DRAFT}</thinking>\n{TEXT}",
  "gemini": f"<thought>{DRAFT}</thought>{TEXT}",
  "attributes": f'<think duration="3">{DRAFT}</think>{TEXT}',
  "magistral": f"[THINK]{DRAFT}[/THINK]{TEXT}",
  "kimi": f"◁think▷{DRAFT}◁/think▷{TEXT}",
  "sky-t1": (
    f"<|begin_of_thought|>\n{DRAFT}\n<|end_of_thought|>\n"
    f"<|begin_of_solution|>\n{TEXT}\n<|end_of_solution|>"
  ),
  "command a": f"<|START_THINKING|>{DRAFT}<|END_THINKING|><|START_RESPONSE|>{TEXT}<|END_RESPONSE|>",
  "seed-oss": f"<seed:think>{DRAFT}</seed:think>{TEXT}",
  "minimax": f"<mm:think>{DRAFT}</mm:think>{TEXT}",
  "longcat": f"<longcat_think>{DRAFT}</longcat_think>{TEXT}",
  "tencent": f"<think:opensource>{DRAFT}</think:opensource>{TEXT}",
  "apertus": f"<|inner_prefix|>{DRAFT}<|inner_suffix|>{TEXT}",
  "medgemma": f"<unused94>thought\n{DRAFT}<unused95>{TEXT}",
  "a second closing mark": f"<think>{DRAFT}</think>{TEXT}\n</think>",
  "gemma": f"<|channel>thought\n{DRAFT}<channel|>{TEXT}",
  "hunyuan": f"<think>\n{DRAFT}\n</think>\n<answer>\n{TEXT}\n</answer>",
  "gpt-oss": (
    f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>"
    f"{TEXT}<|return|>"
  ),
  "granite": f"Here is my thought process:\n\n{DRAFT}\n\nHere is my response:\n\n{TEXT}",
  "granite, contracted": f"Here's my thought process: {DRAFT}\nHere's my response: {TEXT}",
  "ollama's terminal": f"Thinking...\n{DRAFT}\n...done thinking.\n\n{TEXT}",
  "glm": f"<think>{DRAFT}</think><|begin_of_box|>{TEXT}<|end_of_box|>",
  "glm, a boxed number": f"<think>{DRAFT}</think>{TEXT[:-1]}<|begin_of_box|>7<|end_of_box|>",
  "gpt-oss without its tokens": f"analysis{DRAFT}assistantfinal{TEXT}",
}
MESSAGES = {name: {"content": text} for name, text in MARKED.items()} | {
  "reasoning": {"content": TEXT, "reasoning": DRAFT},
  "reasoning_content": {"content": f"\n\n{TEXT}\n", "reasoning_content": f"{DRAFT}\n"},
  "both fields": {"content": TEXT, "reasoning": DRAFT, "reasoning_content": DRAFT},
  "field and marks": {"content": f"<think>{DRAFT}</think>{TEXT}", "reasoning": DRAFT},
  "openrouter": {
    "content": TEXT,
    "reasoning": DRAFT,
    "reasoning_details": [{"type": "reasoning.text", "text": DRAFT}],
  },
  "details alone": {
    "content": TEXT,
    "reasoning_details": [
      {"type": "reasoning.summary", "summary": DRAFT},
      {"type": "reasoning.encrypted", "data": "eA=="},
    ],
  },
  "mistral": {
    "content": [
      {"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
      {"type": "text", "text": TEXT},
    ]
  },
  "mistral, streamed": {
    "content": [
      *({"type": "thinking", "thinking": [{"type": "text", "text": c}]} for c in DRAFT),
      {"type": "text", "text": TEXT[:5]},
      {"type": "text", "text": TEXT[5:]},
    ]
  },
  "anthropic": {
    "content": [
      {"type": "thinking", "thinking": DRAFT, "signature": "x"},
      {"type": "redacted_thinking", "data": "x"},
      {"type": "text", "text": TEXT},
    ]
  },
  "openai responses": {
    "content": [
      {"type": "reasoning", "summary": [{"type": "summary_text", "text": DRAFT}]},
      {"type": "output_text", "text": TEXT, "annotations": []},
    ]
  },
}


def parse(message, finish="stop"):
  body = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}]}
  completed = verdicts.parse_body(json.dumps(body).encode(), "m")
  assert isinstance(completed, verdicts.Completed)
  return completed.choices[0]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_thinking_of_every_spelling_is_kept_apart_from_the_answer(name):
  choice = parse(MESSAGES[name])
  assert choice.failure == ""
  found = reply.separate(choice.text, choice.thinking)
  assert found.text.strip() == TEXT and found.thinking == DRAFT


@pytest.mark.parametrize(
  "text",
  [
    *(TEXT, f"\n{TEXT} \n", "x <b>1</b> [1] analysis final", "a < b"),
    f"Here is my thought process:\n{TEXT}",
    f"3 + 4 = 7.\nHere is my thought process: so.\nHere is my response: {TEXT}",
  ],
)
def test_text_without_thinking_is_unchanged(text):
  assert reply.separate(text) == (text, "")


def test_several_blocks_are_thinking_and_quoted_marks_are_part_of_a_block():
  found = thinking.split("<think>a</think>\nx\n<think>b <thinking> c</think>\ny")
  assert found == ("x\n\ny", "a\n\nb <thinking> c")


@pytest.mark.parametrize("text", [f"<think>{DRAFT}", f"{DRAFT}</think>", "<think>a</think> \n"])
def test_a_reply_that_is_all_thinking_is_empty_and_says_so(text):
  choice = parse({"content": text})
  assert choice.failure == "empty" and "only thinking" in choice.message
  assert parse({"content": text}, finish="length").failure == "length"


def test_a_reply_that_came_in_the_field_for_thinking_is_the_reply():
  for message in ({"content": None, "reasoning": TEXT}, {"content": "", "reasoning_content": TEXT}):
    choice = parse(message)
    assert choice.failure == "" and reply.separate(choice.text, choice.thinking) == (TEXT, "")
  marked = parse({"content": None, "reasoning": f"{DRAFT}</think>{TEXT}"})
  assert reply.separate(marked.text, marked.thinking) == (TEXT, DRAFT)
  assert parse({"content": None, "reasoning": DRAFT}, finish="length").failure == "length"


def test_a_refusal_among_the_parts_is_a_refusal():
  choice = parse({"content": [{"type": "refusal", "refusal": "I cannot."}]})
  assert (choice.failure, choice.message) == ("refusal", "I cannot.")


@pytest.mark.parametrize("content", [7, {"text": "a"}, True])
def test_content_of_another_type_is_malformed(content):
  assert reply.read_message({"content": content}) is None


@pytest.mark.parametrize("content", [[], [7, None, {"type": 3}], [{"type": "image_url"}], [[[[]]]]])
def test_parts_without_text_are_an_empty_reply(content):
  assert parse({"content": content}).failure == "empty"


def test_replies_are_stored_as_they_came_and_read_apart(tmp_path):
  store, phase = cache.ReplyCache(tmp_path / "c.sqlite"), cache.RunPhase("r", 0, "p")
  raw = MARKED["deepseek"]
  stored = types.Reply(raw, "stop", "m", 1, 1, 0.0, False, thinking="first")
  store.store("{}", {(0, "k"): stored}, phase)
  assert store.query("select text, thinking from replies") == [(raw, "first")]
  expected = dataclasses.replace(stored, text=TEXT, thinking=f"first\n\n{DRAFT}")
  assert store.get("k", phase) == expected
  assert store.lookup(["k"], phase) == {"k": expected}
  store.close()
