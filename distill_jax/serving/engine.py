"""Answers requests of a server in batches, in a thread of its own.

Requests that wait while a batch is decoded are decoded together in the next one, if they have the
same sampling settings. The tokens of a request do not depend on the others.
"""

import concurrent.futures
import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distill_jax import errors, records
from distill_jax.formats import turns
from distill_jax.runtime import conversations
from distill_jax.runtime.student import Params, Student, Written
from distill_jax.serving import scoring

WAITING = 1024  # requests that may wait; further ones are refused


class BadRequest(Exception):
  """A request that cannot be answered; the message says why and what to do."""


class Busy(Exception):
  """Too many requests are waiting."""


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are chosen. Requests with equal settings share a batch."""

  temperature: float = 1.0
  top_p: float = 1.0
  stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reply:
  """One choice of a response."""

  text: str
  finish: str  # stop | length
  prompt_tokens: int
  tokens: int
  ids: tuple[int, ...] = ()
  logprobs: tuple[float, ...] = ()


class Task(Protocol):
  """What questions are laid out with; a run's context has it."""

  def conversation(self, question: str) -> turns.Conversation:
    """Starts the conversation of the student's format about a question."""
    ...


@dataclasses.dataclass(frozen=True)
class Served:
  """A student that is served.

  Attributes:
    students: {name: (student, weights)}; the first is the one of /v1/completions.
    task: Lays out the questions of a run's student; None for an exported model, whose chat template
      does.
    stop: What ends an answer in the chat, besides the end token.
    limit: The most tokens of a completion.
    longest: The most tokens of a prompt.
    batch: Rows decoded together.
  """

  students: dict[str, tuple[Student, Params]]
  task: Task | None
  stop: tuple[str, ...]
  limit: int
  longest: int
  batch: int

  @property
  def student(self) -> Student:
    """The first student."""
    return next(iter(self.students.values()))[0]

  @property
  def params(self) -> Params:
    """The weights of the first student."""
    return next(iter(self.students.values()))[1]


@dataclasses.dataclass
class Job:
  """A request in the queue: what to compute, and where the result goes."""

  group: tuple[Any, ...]  # jobs of equal groups are computed together
  run: Callable[[Sequence["Job"]], list[Any]]
  content: Any
  future: concurrent.futures.Future[Any]


class Engine:
  """Computes replies. Its methods may be called from any thread and return futures."""

  def __init__(self, served: Served):
    self.served = served
    self._waiting: queue.Queue[Job | None] = queue.Queue()
    self._names = itertools.count()
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends the thread after the batch it is computing."""
    self._waiting.put(None)
    self._thread.join()

  def complete(
    self, ids: Sequence[int], sampling: Sampling, *, n: int, max_tokens: int, seed: int | None
  ) -> concurrent.futures.Future[list[Reply]]:
    """Continues a prompt `n` times.

    Raises:
      BadRequest: The prompt is empty or too long.
      Busy: Too many requests are waiting.
    """
    self.check_length(len(ids))
    names = self._row_names(n, seed)
    return self._put(
      ("complete", sampling), self._complete, (list(ids), names, max_tokens, sampling)
    )

  def chat(
    self, messages: records.Messages, sampling: Sampling, *, n: int, max_tokens: int,
    seed: int | None,
  ) -> concurrent.futures.Future[list[Reply]]:  # fmt: skip
    """Answers the last message `n` times, through the prompt that the student was trained on."""
    served = self.served
    sampling = dataclasses.replace(sampling, stop=(*served.stop, *sampling.stop))
    asks = len(messages) == 1 and messages[0][0] == "user"
    if served.task is None or not asks:
      return self.complete(
        self.encode_chat(messages), sampling, n=n, max_tokens=max_tokens, seed=seed
      )
    names = self._row_names(n, seed)
    content = (messages[0][1], names, max_tokens, sampling)
    return self._put(("chat", sampling), self._chat, content)

  def score(self, ids: Sequence[int], top: int) -> concurrent.futures.Future[scoring.Scores]:
    """Returns the log-probability of each token of a text but the first."""
    if self.served.student.decoder_start is not None:
      raise BadRequest("echo with logprobs needs a student without an encoder")
    limit = self.served.longest + self.served.limit
    if not 0 < len(ids) <= limit:
      raise BadRequest(f"the text has {len(ids)} tokens, but must have 1 to {limit}")
    return self._put(("score", top), self._score, (list(ids), top))

  def encode_chat(self, messages: records.Messages) -> list[int]:
    """Returns the tokens of a conversation as the student's chat template lays them out."""
    student = self.served.student
    if student.chat:
      return student.encode_prompt(messages)
    if self.served.task is not None:
      raise BadRequest("this student answers one user message; it has no chat template for more")
    tokens = student.tokenizer
    masked = tuple((role, tokens.mask_special(text)) for role, text in messages)
    try:
      text, hidden = (
        tokens.render_chat(found, generation=True, thinking=False) for found in (messages, masked)
      )
    except Exception as error:  # jinja2's, and whatever a template calls
      first = (str(error).splitlines() or [type(error).__name__])[0]
      raise BadRequest(f"the tokenizer has no chat template, or it fails: {first}") from None
    return tokens.encode_special(text, hidden if len(hidden) == len(text) else text)

  def check_length(self, length: int) -> None:
    """Raises BadRequest if a prompt is empty or too long."""
    if not 0 < length <= self.served.longest:
      raise BadRequest(
        f"the prompt has {length} tokens, but must have 1 to {self.served.longest}: serve with a "
        "larger --config.rollout.buckets"
      )

  def _row_names(self, n: int, seed: int | None) -> list[str]:
    """Names that seed the rows: of the request's seed, or of none that was used before."""
    base = f"serve/{next(self._names)}" if seed is None else f"serve/seed/{seed}"
    return [f"{base}/{k}" for k in range(n)]

  def _put(self, group: tuple[Any, ...], run: Callable, content: Any) -> concurrent.futures.Future:
    if self._waiting.qsize() >= WAITING:
      raise Busy
    job = Job(group, run, content, concurrent.futures.Future())
    self._waiting.put(job)
    return job.future

  def _work(self) -> None:
    """Computes jobs in batches until the queue holds None."""
    while (job := self._waiting.get()) is not None:
      jobs, last = [job], False
      while len(jobs) < self.served.batch and not self._waiting.empty():
        more = self._waiting.get()
        if more is None:
          last = True
          break
        jobs.append(more)
      groups: dict[tuple[Any, ...], list[Job]] = {}
      for job in jobs:
        if job.future.set_running_or_notify_cancel():
          groups.setdefault(job.group, []).append(job)
      for group in groups.values():
        self._answer(group)
      if last:
        return

  def _answer(self, jobs: Sequence[Job]) -> None:
    try:
      results = jobs[0].run(jobs)
    except Exception as error:
      for job in jobs:
        job.future.set_exception(error)
      return
    for job, result in zip(jobs, results, strict=True):
      job.future.set_result(result)

  def _complete(self, jobs: Sequence[Job]) -> list[list[Reply]]:
    sampling: Sampling = jobs[0].content[3]
    served = self.served
    rows = [(ids, name) for job in jobs for ids, names, *_ in [job.content] for name in names]
    written = served.student.complete_tokens(
      served.params,
      rows,
      temperature=sampling.temperature,
      top_p=sampling.top_p,
      max_new_tokens=served.limit,
      stop=sampling.stop,
    )
    left = iter(written)
    return [
      [self._cut(len(ids), next(left), max_tokens) for _ in names]
      for ids, names, max_tokens, _ in (job.content for job in jobs)
    ]

  def _cut(self, prompt_tokens: int, written: Written, max_tokens: int) -> Reply:
    """Returns the first `max_tokens` of what was written."""
    text, finish, ids = written.text, written.finish, written.ids
    if len(ids) > max_tokens:
      ids, finish = ids[:max_tokens], "length"
      text = self.served.student.decode(ids)
    logprobs = written.logprobs[: len(ids)]
    return Reply(
      text=text,
      finish=finish,
      prompt_tokens=prompt_tokens,
      tokens=len(ids),
      ids=tuple(map(int, ids)),
      logprobs=tuple(map(float, logprobs)),
    )

  def _chat(self, jobs: Sequence[Job]) -> list[list[Reply]]:
    sampling: Sampling = jobs[0].content[3]
    served = self.served
    assert served.task is not None
    rows = [(job, name) for job in jobs for name in job.content[1]]
    transcripts = conversations.run_conversations(
      [served.task.conversation(job.content[0]) for job, _ in rows],
      [name for _, name in rows],
      students=served.students,
      temperature=sampling.temperature,
      top_p=sampling.top_p,
      max_new_tokens=served.limit,
      stop=sampling.stop,
    )
    replies: dict[int, list[Reply]] = {id(job): [] for job in jobs}
    for (job, _), transcript in zip(rows, transcripts, strict=True):
      text, finish, tokens = transcript.text, transcript.finish, transcript.tokens
      encode = served.student.encode_prompt
      prompt_tokens = sum(len(encode(prompt)) for _, prompt, _ in transcript.turns)
      # Without max_tokens, only the turns are limited; all of them may have more.
      if job.content[2] < served.limit and tokens > job.content[2]:
        ids = served.student.tokenizer.encode(text)[: job.content[2]]
        text, finish, tokens = served.student.tokenizer.decode(ids), "length", len(ids)
      replies[id(job)].append(Reply(text, finish, prompt_tokens, tokens))
    return [replies[id(job)] for job in jobs]

  def _score(self, jobs: Sequence[Job]) -> list[scoring.Scores]:
    texts = [job.content[0] for job in jobs]
    return scoring.score(self.served.student, self.served.params, texts, jobs[0].content[1])


def explain(error: Exception) -> str:
  """Returns why a batch failed, in one line."""
  if isinstance(error, errors.UserError):
    return str(error)
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
