"""Teachers: opens the one that the settings describe. The only package that uses the network.

types          requests, replies and the Teacher protocol
pool           several teachers in one config
replay         recorded files
local_student  a student that acts as teacher
client/        any server with OpenAI's chat completions API
batch/         OpenAI's Batch API, and files for an offline server
builtin/       the built-in teacher, a local server
store/         the cache of replies, and the ledger
prompts/       what is asked, and how replies are parsed
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypedDict

from distill_jax.settings import Settings, Taxonomy, World
from distill_jax.settings import Teacher as TeacherSettings
from distill_jax.settings_teacher import Prices
from distill_jax.teacher import local_student, presets, types
from distill_jax.teacher.client import request_body

BATCHES = "batches"  # directory in the run directory, unless config.teacher.batch_dir is set
CACHE = "teacher.sqlite"  # file in the run directory, unless config.teacher.cache is set

Path = str | os.PathLike[str]


class HasWorld(Protocol):
  """A task; `world` is its generator, None for published data."""

  world: Any


class RunLike(Protocol):
  """What `open` needs of a run. `runtime.context.RunContext` is one."""

  @property
  def settings(self) -> Settings:
    """The run's settings."""
    ...

  @property
  def workdir(self) -> pathlib.Path:
    """The run directory."""
    ...

  @property
  def task(self) -> HasWorld:
    """The run's task; the built-in teacher answers from its world."""
    ...

  def warn(self, text: str) -> None:
    """Shows a warning."""
    ...

  def student_teacher(self, settings: TeacherSettings, name: str) -> local_student.StudentBackend:
    """Opens the student that acts as teacher `name`; called only if one does."""
    ...


def open(run: RunLike) -> types.Teacher:
  """Opens the teacher of a run: that of config.teacher, or a pool of several.

  Raises:
    UserError: The teacher cannot be used as configured.
  """
  from distill_jax.teacher import pool

  teacher_settings = run.settings.teacher
  if not teacher_settings.pool and not teacher_settings.by_phase:
    return _open_one(run, pool.MAIN)
  return pool.Pool(
    lambda name: _open_one(run, name),
    lambda phase: pool.phase_weights(run.settings, phase),
    seed=run.settings.seed,
    **_cache_options(teacher_settings, run.workdir),
  )


def _open_one(run: RunLike, name: str) -> types.Teacher:
  """Opens the teacher `name`."""
  from distill_jax.teacher import pool

  settings = pool.get(run.settings, name)
  if name != pool.MAIN and settings.batch == "files":  # each teacher has its own directory
    parent = pathlib.Path(settings.batch_dir or run.workdir / BATCHES)
    settings = dataclasses.replace(settings, batch_dir=str(parent / name))
  builtin = settings.kind == "builtin"
  world_settings = world_of(run.settings)
  return make(
    settings,
    workdir=run.workdir,
    world=run.task.world if builtin else None,
    world_identity=repr(world_settings) if builtin else "",
    seed=world_settings.seed,
    demonstrations=run.settings.demonstrate.rationales * run.settings.demonstrate.passes,
    warn=run.warn,
    open_student=lambda: run.student_teacher(settings, name),
  )


def world_of(settings: Settings) -> World | Taxonomy:
  """The settings of the task's world; config.world for published data."""
  return settings.taxonomy if settings.task.name == "taxonomy" else settings.world


def make(
  settings: TeacherSettings,
  *,
  workdir: Path,
  world: Any,
  world_identity: str,
  seed: int,
  demonstrations: int = 1,
  warn: Callable[[str], None] = warnings.warn,
  open_student: Callable[[], local_student.StudentBackend] | None = None,
) -> types.Teacher:
  """Opens the teacher that some settings describe.

  Args:
    settings: config.teacher, or one of config.teachers.
    workdir: The run directory.
    world: The world that the built-in teacher answers from; None for other kinds.
    world_identity: A text that determines the world; part of the built-in teacher's cache keys.
    seed: Seed of the built-in teacher's deliberate errors.
    demonstrations: Rationales of a question that round 0 requests, for recorded teachers.
    warn: Shows a warning.
    open_student: Opens the student that acts as teacher, if the kind is "student".

  Raises:
    UserError: The teacher cannot be used as configured.
  """
  settings = presets.fill_in(settings)
  cache_options = _cache_options(settings, workdir)
  if settings.kind == "replay":
    from distill_jax.teacher import replay

    return replay.ReplayTeacher(
      path=settings.replay.path,
      questions=settings.replay.questions,
      question=settings.replay.question,
      rationale=settings.replay.rationale,
      answer=settings.replay.answer,
      demonstrations=demonstrations,
      **cache_options,
    )
  if settings.kind == "student":
    if open_student is None:
      raise ValueError("a student as teacher needs open_student")
    return local_student.LocalStudentTeacher(
      open_student(), max_tokens=settings.max_tokens, **cache_options
    )
  shaper = request_body.RequestShaper(
    extra=settings.extra_body, structured=settings.structured, warn=warn
  )
  if settings.kind == "builtin":
    return _LocalServerTeacher(settings, cache_options, shaper, world, world_identity, seed)
  return _open_client(
    settings,
    cache_options,
    shaper,
    batch_dir=settings.batch_dir or str(pathlib.Path(workdir) / BATCHES),
    base_url=settings.base_url,
    key_env=settings.key_env,
    key_file=settings.key_file,
    insecure_http=settings.insecure_http,
    identity=settings.identity.rstrip("/"),
  )


def retry_failed(
  settings: TeacherSettings, workdir: Path, finished: Iterable[tuple[int, str]]
) -> int:
  """Resets the failures of a run, so that their samples are requested again.

  Args:
    settings: config.teacher.
    workdir: The run directory.
    finished: (round, phase) pairs to leave as they are.

  Returns:
    The number of failures that were reset.
  """
  from distill_jax.teacher.store import cache

  cache_options = _cache_options(settings, workdir)
  if not pathlib.Path(cache_options["cache_path"]).exists():
    return 0
  with contextlib.closing(cache.ReplyCache(cache_options["cache_path"])) as store:
    return store.reset_failures(cache_options["run"], finished)


def has_replies(settings: TeacherSettings, workdir: Path) -> bool:
  """Returns whether a run has stored replies.

  Args:
    settings: config.teacher.
    workdir: The run directory.
  """
  from distill_jax.teacher.store import cache

  cache_options = _cache_options(settings, workdir)
  if not pathlib.Path(cache_options["cache_path"]).exists():
    return False
  with contextlib.closing(cache.ReplyCache(cache_options["cache_path"])) as store:
    return store.totals(cache_options["run"]).calls > 0


def check_cache(settings: TeacherSettings, workdir: Path) -> None:
  """Checks that the cache of a run is still there. Raises UserError if it was deleted.

  Args:
    settings: config.teacher.
    workdir: The run directory.
  """
  from distill_jax.teacher.store import marker

  marker.check(workdir, _cache_options(settings, workdir)["cache_path"])


def record_cache(settings: TeacherSettings, workdir: Path) -> None:
  """Records in the run directory which cache holds its replies; the cache exists.

  Args:
    settings: config.teacher.
    workdir: The run directory.

  Raises:
    UserError: It is not the file that the run has used before.
  """
  from distill_jax.teacher.store import marker

  marker.record(workdir, _cache_options(settings, workdir)["cache_path"])


class _CacheOptions(TypedDict):
  cache_path: str
  run: str  # name of the run in the cache


def _cache_options(settings: TeacherSettings, workdir: Path) -> _CacheOptions:
  """The cache of a run.

  A cache inside the run directory can be moved with it. In a shared one, a run is identified by
  the location of its directory.
  """
  if not settings.cache:
    return {"cache_path": str(pathlib.Path(workdir) / CACHE), "run": "this run"}
  return {"cache_path": settings.cache, "run": os.path.realpath(workdir)}


def _open_client(
  settings: TeacherSettings,
  cache_options: _CacheOptions,
  shaper: request_body.RequestShaper,
  *,
  batch_dir: str,
  base_url: str,
  key_env: str,
  key_file: str = "",
  insecure_http: bool = False,
  identity: str,
) -> types.Teacher:
  """Opens an HTTP client, or one of its batch variants."""
  from distill_jax.teacher.client import client, credentials, headers

  options: dict[str, Any] = {
    "base_url": base_url,
    "model": settings.model,
    "key_env": key_env,
    "key_file": key_file,
    "insecure_http": insecure_http,
    "identity": identity,
    "max_tokens": settings.max_tokens,
    "max_tokens_field": settings.max_tokens_field,
    "max_tokens_retry_limit": settings.max_tokens_retry_limit,
    "max_concurrency": settings.max_concurrency,
    "requests_per_minute": settings.requests_per_minute,
    "tokens_per_minute": settings.tokens_per_minute,
    "timeout": settings.timeout,
    "unsupported": settings.unsupported,
    "stream": settings.stream,
    "connect_timeout": settings.connect_timeout,
    "total_timeout": settings.total_timeout,
    "max_attempts": settings.max_attempts,
    "max_wait": settings.max_wait,
    "deadline": settings.deadline,
    "prices": _without_unknown(settings.prices),
    "max_dollars": settings.max_dollars,
    "max_requests": settings.max_requests,
    "send_seed": credentials.is_local(base_url),  # not all vendors accept one
    "shaper": shaper,
    "extra_headers": headers.resolve(settings.extra_headers),
    **cache_options,
  }
  if settings.batch == "api":
    from distill_jax.teacher.batch import api

    return api.BatchTeacher(
      poll=settings.batch_poll,
      discount=settings.batch_discount,
      batch_size=settings.batch_size,
      **options,
    )
  if settings.batch == "files":
    from distill_jax.teacher.batch import files

    return files.FileTeacher(directory=batch_dir, batch_size=settings.batch_size, **options)
  return client.Client(**options)


def _without_unknown(prices: Prices) -> Prices:
  """Prices with 0 for what is not known; a price of cached tokens that is unset stays so."""
  return dataclasses.replace(prices, input=max(prices.input, 0.0), output=max(prices.output, 0.0))


class _LocalServerTeacher:
  """The built-in teacher: a client and the server it talks to, in one process."""

  def __init__(
    self,
    settings: TeacherSettings,
    cache_options: _CacheOptions,
    shaper: request_body.RequestShaper,
    world: Any,
    world_identity: str,
    seed: int,
  ):
    from distill_jax.teacher.builtin import teacher

    own = settings.builtin
    determines = f"{world_identity} {own.error_rate!r} {seed} {teacher.VERSION}"
    identity = f"builtin:{hashlib.sha256(determines.encode()).hexdigest()[:16]}"
    server = teacher.make_server(
      world, port=0, latency=own.latency, error_rate=own.error_rate, seed=seed, log=""
    )
    self._stack = contextlib.ExitStack()
    base_url = self._stack.enter_context(server.running())
    try:
      self._client = _open_client(
        settings,
        cache_options,
        shaper,
        batch_dir="",
        base_url=base_url,
        key_env="",
        identity=identity,
      )
    except BaseException:
      self._stack.close()
      raise

  @property
  def ledger(self) -> types.Ledger:
    """What this run has used and spent."""
    return self._client.ledger

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Outcome]]:
    """See `types.Teacher.ask`."""
    return self._client.ask(
      requests, round=round, phase=phase, temperature=temperature, on_progress=on_progress
    )

  def estimate(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Estimate:
    """See `types.Teacher.estimate`."""
    return self._client.estimate(requests, round=round, phase=phase, temperature=temperature)

  def close(self) -> None:
    """Closes the cache and stops the server."""
    self._client.close()
    self._stack.close()
