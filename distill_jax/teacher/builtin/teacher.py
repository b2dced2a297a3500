"""The built-in teacher: knows the world its questions come from, and answers like a language model.

Its replies are a function of the messages and the number of the sample, whatever is asked when and
with what; so a run that was interrupted gets the replies it would have got.
"""

import re

from distill_jax.teacher.builtin import faults, server
from distill_jax.teacher.prompts import messages as prompts

MODEL = "builtin"
VERSION = 1  # of its replies; part of the cache key
WORDINGS = 4  # wordings a world has at least

_UNKNOWN = "I am sorry, I do not know this problem and would rather not guess."
_NUMBER = re.compile(r"-?\d+")


class BuiltinTeacher:
  """What a server.Server answers with: `brain(messages, n, temperature, seed)` -> n texts.

  `error_rate` is the share of replies with a wrong step and a wrong answer, 0 to 1.
  """

  def __init__(self, world, *, error_rate: float, seed: int):
    self._world, self._error_rate, self._seed = world, error_rate, seed

  def __call__(self, messages, n: int, temperature: float, seed: int | None = None) -> list[str]:
    """At temperature 0 one text, n times; else text k is decided by content and (seed or 0) + k."""
    content = messages[-1][1]
    first = seed or 0
    samples = [0] * n if temperature == 0 else range(first, first + n)
    problem = self._find(content)
    if problem is None or (messages[0][1].startswith(prompts.STAGE) and not problem.choices):
      return [_UNKNOWN] * n
    name = f"{self._seed} {content}"
    offset = 0 if temperature == 0 else int(faults.chance(f"wording {name}") * WORDINGS)
    return [
      self._reply(messages, problem, offset + sample, f"{name} {sample}") for sample in samples
    ]

  def _find(self, content: str):
    """The problem that a message is about, its options in the question or beside it."""
    question, options = (prompts.untag(content, tag) for tag in ("question", "options"))
    if question is None:
      return None
    return self._world.find(question if options is None else f"{question}\n{options}")

  def _reply(self, messages, problem, variant: int, name: str) -> str:
    (_, asked), (_, content) = messages[0], messages[-1]
    slips = faults.chance(f"error {name}") < self._error_rate
    believed = [_mistaken(problem, name)] if slips and problem.choices else []
    if asked.startswith(prompts.STAGE):
      parts = self._world.staged(problem.id, variant, *believed)
      return prompts.join_stages(parts, *(believed or [problem.gold]))
    if asked.startswith(prompts.DECOMPOSE):
      parts = self._world.decomposed(problem.id, variant, *believed)
      text = prompts.join_steps(parts, *(believed or [problem.gold]))
    else:
      text = self._world.wording(problem.id, variant, *believed)
    if slips and not believed:
      text = corrupt(text, name)
    attempt = prompts.untag(content, "attempt")
    return text if attempt is None else self._critique(problem, attempt) + text

  def _critique(self, problem, attempt: str) -> str:
    found = self._world.first_wrong_step(problem.id, attempt)
    if found is None:
      why = "The steps are right; only the way they are written down could be clearer."
    else:
      why = " ".join(found[1].split())
      why = why[:1].upper() + why[1:]
    return f"Mistake: {why}\nReasoning:\n"


def _mistaken(problem, name: str) -> str:
  """The label of a wrong option; `name` decides which."""
  wrong = [label for label, _ in problem.choices if label != problem.gold]
  return wrong[int(faults.chance(f"slip {name}") * len(wrong))]


def corrupt(rationale: str, name: str) -> str:
  """The rationale with a wrong result in its last step and a wrong answer; `name` decides which."""
  *steps, last = rationale.strip().split("\n")
  found = list(_NUMBER.finditer(last))
  if not found:
    return rationale
  old = found[-1][0]
  off = 1 + int(faults.chance(f"slip {name}") * 9)
  new = str(int(old) + (off if int(old) < off or off % 2 else -off))
  exact = re.compile(rf"(?<![\d.-]){re.escape(old)}(?![\d]|\.\d)")
  for index in range(len(steps) - 1, -1, -1):
    places = list(exact.finditer(steps[index]))
    if places:
      start, end = places[-1].span()
      steps[index] = steps[index][:start] + new + steps[index][end:]
      break
  return "\n".join([*steps, last[: found[-1].start()] + new + last[found[-1].end() :]])


def make_server(
  world, *, port: int, latency: float, error_rate: float, faults_script: str, seed: int, log: str
):
  """A server.Server with a BuiltinTeacher behind it. Raises errors.UserError if the script cannot be read."""
  return server.Server(
    BuiltinTeacher(world, error_rate=error_rate, seed=seed), port=port, model=MODEL, latency=latency,
    script=faults.Script(faults_script, seed), log=log,
  )  # fmt: skip


def serve(
  world, *, port: int, latency: float, error_rate: float, faults: str, seed: int, log: str
) -> None:
  """Serves until interrupted, after printing its base URL. Port 0 takes a free one."""
  made = make_server(
    world,
    port=port,
    latency=latency,
    error_rate=error_rate,
    faults_script=faults,
    seed=seed,
    log=log,
  )
  made.serve_forever(lambda url: print(url, flush=True))
