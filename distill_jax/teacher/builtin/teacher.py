"""The built-in teacher: knows the world its questions come from, and replies like a language model.

Its replies are a function of the messages and the sample number, so an interrupted run gets the
same replies as an uninterrupted one.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol, cast

from distill_jax.teacher.builtin import server
from distill_jax.teacher.prompts import messages as prompts

MODEL = "builtin"
VERSION = 1  # of its replies; part of the cache key
WORDINGS = 4  # a world has at least this many

_UNKNOWN = "I am sorry, I do not know this problem and would rather not guess."
_NUMBER = re.compile(r"-?\d+")


class Problem(Protocol):
  """The parts of `records.Problem` that the teacher reads."""

  @property
  def id(self) -> str: ...  # noqa: D102

  @property
  def gold(self) -> str: ...  # noqa: D102

  @property
  def choices(self) -> Sequence[tuple[str, str]]: ...  # noqa: D102


class World(Protocol):
  """A world that the teacher answers from."""

  def find(self, question_text: str) -> Problem | None:
    """The problem with this question, options included."""
    ...

  def wording(self, problem_id: str, variant: int) -> str:
    """A rationale."""
    ...

  def decomposed(self, problem_id: str, variant: int) -> tuple[tuple[str, str], ...]:
    """(sub-question, solution) pairs."""
    ...

  def first_wrong_step(self, problem_id: str, attempt_text: str) -> tuple[int, str] | None:
    """(step number from 1, what is wrong with it); None if the attempt is right."""
    ...


class ChoiceWorld(World, Protocol):
  """A world whose problems have options. `answer` is a wrong option to argue for; "" for none."""

  def wording(self, problem_id: str, variant: int, answer: str = "") -> str:
    """A rationale."""
    ...

  def decomposed(
    self, problem_id: str, variant: int, answer: str = ""
  ) -> tuple[tuple[str, str], ...]:
    """(sub-question, solution) pairs."""
    ...

  def staged(self, problem_id: str, variant: int, answer: str = "") -> tuple[tuple[str, str], ...]:
    """("recall", key information), then (label, reason) of each option."""
    ...


class BuiltinTeacher:
  """Makes the replies of a `server.Server`."""

  def __init__(self, world: World, *, error_rate: float, seed: int):
    """Creates a teacher.

    Args:
      world: Knows the problems and their solutions.
      error_rate: Share of replies with a wrong step and a wrong answer, from 0 to 1.
      seed: Decides which replies are wrong, and how.
    """
    self._world, self._error_rate, self._seed = world, error_rate, seed

  def __call__(
    self, messages: Sequence[tuple[str, str]], n: int, temperature: float, seed: int | None = None
  ) -> list[str]:
    """Replies to a conversation.

    Args:
      messages: (role, content) pairs.
      n: Number of replies.
      temperature: At 0, all replies are the same; any other value has the same effect.
      seed: Number of the first sample; None for 0.

    Returns:
      `n` texts. Text k is a function of the messages and the sample's number, seed + k.
    """
    content = messages[-1][1]
    first = seed or 0
    samples = [0] * n if temperature == 0 else range(first, first + n)
    problem = self._find(content)
    if problem is None or (messages[0][1].startswith(prompts.STAGE) and not problem.choices):
      return [_UNKNOWN] * n
    name = f"{self._seed} {content}"
    offset = 0 if temperature == 0 else int(chance(f"wording {name}") * WORDINGS)
    return [
      self._reply(messages, problem, offset + sample, f"{name} {sample}") for sample in samples
    ]

  def _find(self, content: str) -> Problem | None:
    """The problem that a message is about, its options in the question or apart from it."""
    question, options = prompts.untag(content, "question"), prompts.untag(content, "options")
    if question is None:
      return None
    return self._world.find(question if options is None else f"{question}\n{options}")

  def _reply(
    self, messages: Sequence[tuple[str, str]], problem: Problem, variant: int, name: str
  ) -> str:
    """One reply; `name` decides whether it is wrong, and how."""
    (_, instructions), (_, content) = messages[0], messages[-1]
    is_wrong = chance(f"error {name}") < self._error_rate
    # With options, the world argues for a wrong one; without, the right text is corrupted.
    wrong_label = _wrong_label(problem, name) if is_wrong and problem.choices else ""
    answer = wrong_label or problem.gold
    if instructions.startswith(prompts.STAGE):
      parts = self._choice_world().staged(problem.id, variant, wrong_label)
      return prompts.join_stages(parts, answer)
    if instructions.startswith(prompts.DECOMPOSE):
      if wrong_label:
        steps = self._choice_world().decomposed(problem.id, variant, wrong_label)
      else:
        steps = self._world.decomposed(problem.id, variant)
      text = prompts.join_steps(steps, answer)
    elif wrong_label:
      text = self._choice_world().wording(problem.id, variant, wrong_label)
    else:
      text = self._world.wording(problem.id, variant)
    if is_wrong and not wrong_label:
      text = corrupt(text, name)
    attempt = prompts.untag(content, "attempt")
    return text if attempt is None else self._critique(problem, attempt) + text

  def _choice_world(self) -> ChoiceWorld:
    return cast(ChoiceWorld, self._world)

  def _critique(self, problem: Problem, attempt: str) -> str:
    wrong_step = self._world.first_wrong_step(problem.id, attempt)
    if wrong_step is None:
      critique = "The steps are right; only the way they are written down could be clearer."
    else:
      critique = " ".join(wrong_step[1].split())
      critique = critique[:1].upper() + critique[1:]
    return f"Mistake: {critique}\nReasoning:\n"


def chance(text: str) -> float:
  """A pseudo-random number in [0, 1), as a function of `text`."""
  digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
  return int.from_bytes(digest[:7], "big") / 2**56


def _wrong_label(problem: Problem, name: str) -> str:
  """The label of a wrong option; `name` decides which."""
  wrong = [label for label, _ in problem.choices if label != problem.gold]
  return wrong[int(chance(f"slip {name}") * len(wrong))]


def corrupt(rationale: str, name: str) -> str:
  """A rationale with a wrong result in its last step and a wrong answer; `name` decides which."""
  *steps, last = rationale.strip().split("\n")
  numbers = list(_NUMBER.finditer(last))
  if not numbers:
    return rationale
  old = numbers[-1][0]
  offset = 1 + int(chance(f"slip {name}") * 9)
  new = str(int(old) + (offset if int(old) < offset or offset % 2 else -offset))
  exact = re.compile(rf"(?<![\d.-]){re.escape(old)}(?![\d]|\.\d)")
  for index in range(len(steps) - 1, -1, -1):
    matches = list(exact.finditer(steps[index]))
    if matches:
      start, end = matches[-1].span()
      steps[index] = steps[index][:start] + new + steps[index][end:]
      break
  return "\n".join([*steps, last[: numbers[-1].start()] + new + last[numbers[-1].end() :]])


def make_server(
  world: World, *, port: int, latency: float, error_rate: float, seed: int, log: str
) -> server.Server:
  """A server with the built-in teacher behind it.

  Args:
    world: Knows the problems and their solutions.
    port: TCP port; 0 for a free one.
    latency: Seconds before each answer.
    error_rate: Share of wrong replies.
    seed: Of the errors.
    log: File that gets a line of JSON for each request answered in full; "" for none.
  """
  return server.Server(
    BuiltinTeacher(world, error_rate=error_rate, seed=seed),
    port=port,
    model=MODEL,
    latency=latency,
    log=log,
  )


def serve(
  world: World, *, port: int, latency: float, error_rate: float, seed: int, log: str
) -> None:
  """Serves until interrupted, after printing the base URL. See `make_server` for the arguments."""
  chat_server = make_server(
    world, port=port, latency=latency, error_rate=error_rate, seed=seed, log=log
  )
  chat_server.serve_forever(lambda url: print(url, flush=True))
