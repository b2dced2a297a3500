"""Attempts that ran out of tokens: never right by their last number, and no mistakes."""

import pytest

from distill_jax import records
from distill_jax.phases import exam, feedback
from distill_jax.runtime import conversations
from distill_jax.tasks import task

TASK = task.Task("t", lambda split: [])
PROBLEM = records.Problem("p", "train", "?", "7")


def _attempt(text: str, finish: str, problem: records.Problem = PROBLEM) -> records.Attempt:
  transcript = conversations.Transcript(text, finish, 4, -1.0, ())
  return exam.grade(TASK, exam.ExamItem(problem), 0, 0, transcript)


@pytest.mark.parametrize(
  ("text", "finish", "is_right"),
  [
    ("3 + 4 = 7", "stop", True),
    ("3 + 4 = 7", "length", False),
    ("3 + 4 = 7 so there are 7", "length", False),
    ("Answer: 7\nThat is so since 3 +", "length", True),
    ("<think>Answer: 7", "length", False),
  ],
)
def test_an_attempt_that_was_cut_off_is_read_only_after_a_marker(text, finish, is_right):
  assert _attempt(text, finish).correct is is_right


def test_a_label_of_an_attempt_that_was_cut_off_is_not_read():
  problem = records.Problem("p", "train", "?", "B", "choice", choices=(("A", "x"), ("B", "y")))
  assert _attempt("So (B)", "stop", problem).correct
  assert not _attempt("So (B)", "length", problem).correct


def test_attempts_that_were_cut_off_are_sent_as_mistakes_only_if_asked_for():
  attempts = [_attempt("3 + 4", "length"), _attempt("Answer: 8", "stop"), _attempt("a 9", "length")]
  assert [a.text for a in feedback.select_mistakes(attempts, 3)] == ["Answer: 8"]
  assert len(feedback.select_mistakes(attempts, 3, cut=True)) == 3
