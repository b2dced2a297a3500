"""teacher check sends one real request, and shows how a run would use the reply."""

import pytest

from distill_jax import errors
from distill_jax.cli import args
from distill_jax.cli import main as commands
from distill_jax.config.read import read_settings
from distill_jax.runtime import context

SMALL = ("--config.world.train=20", "--config.task.validation=2", "--config.world.test=2")


@pytest.fixture(scope="module")
def gold():
  """The answer to the question that is asked."""
  words = ["--config=quickstart", *SMALL]
  config, _, _ = args.parse(words, {}, config="required")
  return context.open_task(read_settings(config)).problems("train")[0].gold


def check(url, *words):
  return commands.main(
    [
      *("teacher", "check", "--config=quickstart", *SMALL, "--config.demonstrate.questions=20"),
      *("--config.teacher.kind=openai", "--config.teacher.model=m", *words),
      f"--config.teacher.base_url={url}",
    ]
  )


def test_a_good_reply_is_shown_as_it_is_trained_on_with_its_cost(serve, gold, capsys):
  text = f"<think>Is it 99999?</think>\nA step.\nSo the answer is {gold}."
  server = serve(["spent"], answer=lambda m, n, t, s: [text] * n)
  words = ("--config.teacher.prices.input=1000", "--config.teacher.prices.output=1000")
  assert check(server.url, *words) == 0
  out = capsys.readouterr().out
  assert f"Kept: the answer {gold} is right" in out
  assert f"  | A step.\n  | Answer: {gold}\n" in out and "99999" not in out
  assert "Thinking: 12 characters" in out and "teacher.thinking=drop" in out
  assert " tokens in, " in out and " out (" in out and "Round 0, demonstrate: 20 replies" in out
  each = float(out.split(" cached, $")[1].split()[0])
  assert 0 < each and f"about ${20 * each:.4f} at the price" in out


def test_what_the_server_takes_is_found_out(serve, gold, capsys):
  script = [
    *("spent", "spent", "400:say=max_completion_tokens is not supported", "spent"),
    *("400:say=temperature does not support 0.7", "spent", "fewer", "500:say=no such field"),
  ]
  server = serve(script, answer=lambda m, n, t, s: [f"A step.\nAnswer: {gold}"] * n)
  assert check(server.url) == 0
  out = capsys.readouterr().out
  assert "  max_tokens: taken\n" in out and "  system role: taken\n" in out
  assert "  max_completion_tokens: refused (HTTP 400: max_completion_tokens is not supp" in out
  assert "  temperature=0.7: refused (HTTP 400" in out and "  seed: taken\n" in out
  assert "  n=2: ignored (1 reply)\n" in out and "  response_format: refused (HTTP 500" in out
  assert server.stats.requests == 8 and "7 small requests" in out


def test_a_wrong_answer_is_shown_as_dropped(serve, capsys):
  assert check(serve(answer=lambda m, n, t, s: ["A step.\nAnswer: 99999"] * n).url) == 0
  assert "Dropped (wrong_answer): answer 99999, gold" in capsys.readouterr().out


@pytest.mark.parametrize("script", [["refusal"], ["spent"]])
def test_a_reply_that_cannot_be_read_ends_with_5(serve, capsys, script):
  server = serve(script, answer=lambda m, n, t, s: ["I would rather not."] * n)
  assert check(server.url) == errors.TEACHER
  out = capsys.readouterr().out
  assert "No reply (refusal" in out or "Dropped (no_answer): no answer can be read" in out


def test_a_dead_port_ends_with_5_in_one_line(capsys):
  assert check("http://127.0.0.1:1/v1", "--config.teacher.max_attempts=1") == errors.TEACHER
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "127.0.0.1:1" in error


def test_doctor_says_that_nothing_was_sent(capsys):
  assert commands.main(["doctor", "--config=quickstart"]) == 0
  assert "nothing was sent; `distill-jax teacher check`" in capsys.readouterr().out
