"""Whether a student learns its teacher's thinking, and how it is laid out."""

import dataclasses
import json

import pytest

from configs import cot as recipe
from distill_jax import errors, formats, records, settings, thinking
from distill_jax.config.read import read_settings
from distill_jax.formats import cot
from distill_jax.phases import demonstrate, exam
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import completions, context, conversations, rationales
from distill_jax.teacher import types
from distill_jax.teacher.client import verdicts
from distill_jax.teacher.store import cache
from tests.runtime.test_rationales import Console

DRAFT = "Is it {wrong}? Answer: {wrong}\n\nNo."


def messages(gold):
  """One right reply in six spellings; its draft states a wrong answer."""
  draft, text = DRAFT.format(wrong=int(gold) + 1), f"A step.\nAnswer: {gold}"
  harmony = f"<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant<|channel|>final"
  parts = [{"type": "thinking", "thinking": [{"type": "text", "text": draft}]}, text]
  return [
    {"content": f"<think>\n{draft}\n</think>\n\n{text}"},
    {"content": f"{draft}</think>{text}"},
    {"content": text, "reasoning": draft},
    {"content": text, "reasoning_content": draft},
    {"content": parts},
    {"content": f"{harmony}<|message|>{text}<|return|>"},
  ]


def stored_replies(path, gold):
  """The six messages as they come out of the cache."""
  store, phase = cache.ReplyCache(path), cache.RunPhase("r", 0, "p")
  for n, message in enumerate(messages(gold)):
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    completed = verdicts.parse_body(json.dumps(body).encode(), "m")
    assert isinstance(completed, verdicts.Completed)
    (choice,) = completed.choices
    made = types.Reply(choice.text, "stop", "m", 1, 1, 0.0, False, thinking=choice.thinking)
    store.store("{}", {(n, f"{n}"): made}, phase)
  replies = [store.get(f"{n}", phase) for n in range(6)]
  store.close()
  return replies


def context_with(path, mode):
  c = recipe.get_config()
  c.world.train, c.world.test, c.world.out_of_domain, c.task.validation = 4, 1, 0, 1
  c.teacher.thinking = mode
  return context.RunContext(read_settings(c.to_dict()), RunDir(path), Console())


def test_six_spellings_train_on_no_thinking_or_exactly_on_it_with_equal_verdicts(tmp_path):
  kept, targets = {}, {}
  for mode in ("drop", "keep"):
    ctx = context_with(tmp_path / mode, mode)
    source = demonstrate.build_requests(ctx, 0)[0]
    replies = stored_replies(tmp_path / f"{mode}.sqlite", source.problem.gold)
    received = []
    for n, found in enumerate(replies):
      parsed = demonstrate.parse_annotation(found.text, source.problem)
      answer = ctx.task.read_answer(parsed.text, source.problem)
      received.append(rationales.ReceivedReply(source, n, found, parsed, answer))
    made = [rationales.build_rationale(ctx, 0, r, source.problem.gold) for r in received]
    assert all(isinstance(rationale, records.Rationale) for rationale in made)
    kept[mode] = made
    targets[mode] = {ctx.format.examples(source.problem, "Q", r)[0].target for r in made}
  assert kept["drop"] == kept["keep"] and len(kept["drop"]) == 6
  gold = kept["drop"][0].answer
  draft, text = DRAFT.format(wrong=int(gold) + 1), f"A step.\nAnswer: {gold}"
  assert {rationale.thinking for rationale in kept["drop"]} == {draft}
  assert targets["drop"] == {text}
  assert targets["keep"] == {f"<think>\n{draft}\n</think>\n\n{text}"}


def kept_format(template):
  teacher = dataclasses.replace(settings.Settings().teacher, thinking="keep")
  s = dataclasses.replace(settings.Settings(), teacher=teacher)
  return formats.get(s, template=lambda: template)


@pytest.mark.parametrize(
  ("template", "written"),
  [
    ("", "<think>\nhm\n</think>\n\nA: 7"),
    ("{{ '<think>\\n' }}...</think>", "<think>\nhm\n</think>\n\nA: 7"),
    ("{% if x %}[THINK]{{ t }}[/THINK]{% endif %}", "[THINK]hm[/THINK]A: 7"),
    ("◁think▷{{ t }}◁/think▷", "◁think▷hm◁/think▷A: 7"),
    ("{{ messages }}", "<think>\nhm\n</think>\n\nA: 7"),
  ],
)
def test_kept_thinking_stands_in_the_marks_of_the_students_template(template, written):
  rationale = records.Rationale("p", "A: 7", "7", "m", 0, "annotate", 0, 0.0, thinking="hm")
  made = kept_format(template).written(rationale)
  assert made == written and thinking.split(made) == ("A: 7", "hm")
  assert kept_format(template).written(dataclasses.replace(rationale, thinking="")) == "A: 7"


def test_blank_lines_in_a_students_thinking_do_not_end_its_attempt():
  text = "<think>\nMaybe 9.\n\nAnswer: 9\n</think>\n\nIt is 7.\nAnswer: 7"
  assert cot.cut_at_stop(f"{text}\n\nQuestion: 2") == text
  assert completions.text_before(f"{text}\n\nQuestion: 2", ["\n\n"]) == text
  for end in range(len(text)):
    assert completions.text_before(text[:end], ["\n\n"]) is None
  assert completions.text_before("a\n\n<think>b", ["\n\n"]) == "a"


def test_a_students_thinking_is_not_read_as_its_answer(tmp_path):
  ctx = context_with(tmp_path, "keep")
  problem = ctx.task.problems("train")[0]
  for text, correct in (
    (f"<think>\nAnswer: {problem.gold}\n</think>\n\nI do not know.", False),
    (f"<think>\nAnswer: {problem.gold}", False),
    (f"<think>\nAnswer: 99999\n</think>\n\nAnswer: {problem.gold}", True),
  ):
    transcript = conversations.Transcript(text, "stop", 3, 0.0, (("", "p", text),))
    attempt = exam.grade(ctx.task, exam.ExamItem(problem), 0, 0, transcript)
    assert attempt.correct is correct and attempt.text == text


def test_thinking_can_be_kept_only_where_a_format_lays_it_out():
  from configs import socratic

  c = socratic.get_config()
  c.teacher.thinking = "keep"
  with pytest.raises(errors.UserError, match=r"teacher.thinking is set.*format=cot or instruct"):
    read_settings(c.to_dict())
