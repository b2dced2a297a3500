"""Answers requests of a server in a thread of its own.

A request becomes rows, which join those of earlier requests (see `batching`); texts to score are
scored one by one between the steps of decoding.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from distill_jax import errors, records
from distill_jax.formats import turns
from distill_jax.runtime import conversations
from distill_jax.runtime.completions import Completion, Written
from distill_jax.runtime.student import Params, Student
from distill_jax.serving import batching, scoring

WAITING = 1024  # requests without a result; further ones are refused


class BadRequest(Exception):
  """A request that cannot be answered; the message says why and what to do."""


class Busy(Exception):
  """Too many requests are waiting."""


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are chosen."""

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
  """

  students: dict[str, tuple[Student, Params]]
  task: Task | None
  stop: tuple[str, ...]
  limit: int
  longest: int

  @property
  def student(self) -> Student:
    """The first student."""
    return next(iter(self.students.values()))[0]

  @property
  def params(self) -> Params:
    """The weights of the first student."""
    return next(iter(self.students.values()))[1]


class Job:
  """A request: what it waits for, and where the result goes."""

  def __init__(self, count: int):
    """`count`: the number of its results."""
    self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    self._results: dict[int, Any] = {}
    self._count = count

  def is_wanted(self) -> bool:
    """Whether somebody still waits for the result."""
    return not self.future.done()

  def put(self, index: int, result: Any) -> None:
    """Sets a result. When all are there, the future gets them in order."""
    self._results[index] = result
    if len(self._results) == self._count:
      with contextlib.suppress(concurrent.futures.InvalidStateError):  # it was canceled
        self.future.set_result([self._results[k] for k in range(self._count)])

  def fail(self, error: Exception) -> None:
    """Sets the error."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):
      self.future.set_exception(error)


class _Text(NamedTuple):
  """A text to score."""

  job: Job
  index: int  # of its result
  ids: list[int]
  top: int  # alternatives at each position


class Engine:
  """Computes replies. Its methods may be called from any thread and return futures."""

  def __init__(self, served: Served):
    self.served = served
    # (request, what starts it); None ends the thread
    self._arrived: queue.Queue[tuple[Job, Callable[[], None]] | None] = queue.Queue()
    self._texts: collections.deque[_Text] = collections.deque()
    self._batcher = batching.Batcher(served.students, served.limit)
    self._names = itertools.count()
    self._open: set[concurrent.futures.Future[Any]] = set()  # of requests without a result
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends the thread soon; requests without a result are canceled."""
    self._arrived.put(None)
    self._thread.join()
    for future in list(self._open):
      future.cancel()

  def complete(
    self, ids: Sequence[int], sampling: Sampling, *, n: int, max_tokens: int, seed: int | None
  ) -> concurrent.futures.Future[list[Reply]]:
    """Continues a prompt `n` times.

    Raises:
      BadRequest: The prompt is empty or too long.
      Busy: Too many requests are waiting.
    """
    self.check_length(len(ids))
    names, job = self._row_names(n, seed), Job(n)
    name = next(iter(self.served.students))

    def start() -> None:
      for index, row_name in enumerate(names):

        def done(written: Written, index: int = index) -> None:
          job.put(index, _reply(len(ids), written))

        self._add(job, name, list(ids), row_name, sampling, max_tokens, done)

    return self._put(job, start)

  def chat(
    self, messages: records.Messages, sampling: Sampling, *, n: int, max_tokens: int,
    seed: int | None,
  ) -> concurrent.futures.Future[list[Reply]]:  # fmt: skip
    """Answers the last message `n` times, through the prompt that the student was trained on."""
    served = self.served
    sampling = dataclasses.replace(sampling, stop=(*served.stop, *sampling.stop))
    asks = len(messages) == 1 and messages[0][0] == "user"
    task, question = served.task, messages[0][1]
    if task is None or not asks:
      return self.complete(
        self.encode_chat(messages), sampling, n=n, max_tokens=max_tokens, seed=seed
      )
    names, job = self._row_names(n, seed), Job(n)

    def start() -> None:
      for index, name in enumerate(names):
        dialogue = conversations.Dialogue(task.conversation(question), name)

        def done(transcript: conversations.Transcript, index: int = index) -> None:
          job.put(index, self._conversed(transcript, max_tokens))

        self._continue(job, dialogue, sampling, done)

    return self._put(job, start)

  def score(
    self, texts: Sequence[Sequence[int]], top: int
  ) -> concurrent.futures.Future[list[scoring.Scores]]:
    """Returns the log-probabilities of the tokens of each text but its first."""
    if self.served.student.decoder_start is not None:
      raise BadRequest("echo with logprobs needs a student without an encoder")
    limit = self.served.longest + self.served.limit
    for ids in texts:
      if not 0 < len(ids) <= limit:
        raise BadRequest(f"the text has {len(ids)} tokens, but must have 1 to {limit}")
    job = Job(len(texts))
    wanted = [_Text(job, index, list(ids), top) for index, ids in enumerate(texts)]
    return self._put(job, lambda: self._texts.extend(wanted))

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

  def _put(self, job: Job, start: Callable[[], None]) -> concurrent.futures.Future[Any]:
    if len(self._open) >= WAITING:
      raise Busy
    self._open.add(job.future)
    job.future.add_done_callback(self._open.discard)
    self._arrived.put((job, start))
    return job.future

  def _work(self) -> None:
    """Starts requests as they arrive, and computes, until the queue holds None."""
    while True:
      is_idle = not (self._texts or self._batcher.has_work)
      while is_idle or not self._arrived.empty():
        arrived = self._arrived.get()
        if arrived is None:
          return
        is_idle = False
        self._start(*arrived)
      if self._texts:
        self._score(*self._texts.popleft())
      self._batcher.step()

  def _start(self, job: Job, start: Callable[[], None]) -> None:
    if not job.is_wanted():
      return
    try:
      start()
    except errors.UserError as error:
      job.fail(BadRequest(str(error)))
    except Exception as error:
      job.fail(error)

  def _add(
    self, job: Job, student: str, ids: Sequence[int], name: str, sampling: Sampling,
    max_tokens: int, done: Callable[[Written], None],
  ) -> None:  # fmt: skip
    """Adds a row of a request."""
    bucket = self.served.students[student][0].bucket(len(ids))
    group = batching.Group(student, bucket, sampling.temperature, sampling.top_p)
    self._batcher.add(
      batching.Row(group, ids, name, sampling.stop, max_tokens, done, job.fail, job.is_wanted)
    )

  def _continue(
    self, job: Job, dialogue: conversations.Dialogue, sampling: Sampling,
    done: Callable[[conversations.Transcript], None],
  ) -> None:  # fmt: skip
    """Adds the turns of a conversation that wait, and after them the next ones until its end."""
    if dialogue.transcript is not None:
      done(dialogue.transcript)
      return
    answers: dict[int, Completion] = {}
    for number, (turn, name) in enumerate(dialogue.pending):

      def answered(written: Written, number: int = number) -> None:
        answers[number] = written.completion()
        if len(answers) == len(dialogue.pending):
          dialogue.answer([answers[k] for k in range(len(answers))])
          self._continue(job, dialogue, sampling, done)

      ids = self.served.students[turn.student][0].fit_prompt(turn.prompt)
      self._add(job, turn.student, ids, name, sampling, self.served.limit, answered)

  def _conversed(self, transcript: conversations.Transcript, max_tokens: int) -> Reply:
    """Returns the reply of a conversation, of which the client wants at most `max_tokens`."""
    student = self.served.student
    text, finish, tokens = transcript.text, transcript.finish, transcript.tokens
    prompts = [student.encode_prompt(prompt) for _, prompt, _ in transcript.turns]
    # Without max_tokens, only the turns are limited; all of them may have more.
    if max_tokens < self.served.limit and tokens > max_tokens:
      ids = student.tokenizer.encode(text)[:max_tokens]
      text, finish, tokens = student.tokenizer.decode(ids), "length", len(ids)
    return Reply(text, finish, sum(map(len, prompts)), tokens)

  def _score(self, job: Job, index: int, ids: list[int], top: int) -> None:
    if not job.is_wanted():
      return
    try:
      (found,) = scoring.score(self.served.student, self.served.params, [ids], top)
    except Exception as error:
      job.fail(error)
    else:
      job.put(index, found)


def _reply(prompt_tokens: int, written: Written) -> Reply:
  return Reply(
    text=written.text,
    finish=written.finish,
    prompt_tokens=prompt_tokens,
    tokens=len(written.ids),
    ids=tuple(map(int, written.ids)),
    logprobs=tuple(map(float, written.logprobs)),
  )


def explain(error: Exception) -> str:
  """Returns why a batch failed, in one line."""
  if isinstance(error, errors.UserError):
    return str(error)
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
