"""Whoever teaches: the seam (asking), what is said (prompts), who answers (client, builtin, ...).

Host wing. The only room that uses the network.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import warnings

from distill_jax.teacher.client import request_body

BATCHES = "batches"  # a folder in the run folder, unless config.teacher.batch_dir names another
CACHE = "teacher.sqlite"  # in the run folder, unless config.teacher.cache names another file


def open(run):
  """The asking.Teacher of a run: that of config.teacher, or several over one cache file.

  `run` has settings, run_dir.path, console.warn; for the built-in teacher task.world, for a student
  as teacher student_teacher(settings, folder), see local.Local. Raises errors.UserError.
  """
  from distill_jax.teacher import pool

  settings = run.settings
  if not settings.teacher.pool and not settings.teacher.by_phase:
    return _one(run, pool.MAIN)
  return pool.Pool(
    lambda name: _one(run, name),
    lambda phase: pool.phase_weights(settings, phase),
    seed=settings.seed,
    **_kept(settings.teacher, run.run_dir.path),
  )


def _one(run, name: str):
  """The teacher of that name."""
  from distill_jax.teacher import pool

  settings = pool.get(run.settings, name)
  if name != pool.MAIN and settings.batch == "files":  # each has a folder of its own
    folder = pathlib.Path(settings.batch_dir or pathlib.Path(run.run_dir.path) / BATCHES) / name
    settings = dataclasses.replace(settings, batch_dir=str(folder))
  within = settings.kind == "builtin"
  return make(
    settings,
    workdir=run.run_dir.path,
    world=run.task.world if within else None,
    world_identity=f"{world_of(run.settings)!r}" if within else "",
    seed=world_of(run.settings).seed,
    warn=run.console.warn,
    local=lambda: run.student_teacher(settings, name),
  )


def world_of(settings):
  """The settings of the world the task comes from; config.world for published data."""
  return settings.taxonomy if settings.task.name == "taxonomy" else settings.world


def make(
  settings, *, workdir, world, world_identity: str, seed: int, warn=warnings.warn, local=None
):
  """The asking.Teacher that the settings (config.teacher) describe.

  world, world_identity, seed: what the built-in teacher answers from, a text that decides it, and
  what decides its slips; warn(text): is told what goes on all the same; local(): the student that
  answers, where one does. Unused by the others. Raises errors.UserError.
  """
  kept = _kept(settings, workdir)
  if settings.kind == "replay":
    from distill_jax.teacher import replay

    columns = settings.replay
    return replay.ReplayTeacher(
      path=columns.path,
      questions=columns.questions,
      question=columns.question,
      rationale=columns.rationale,
      **kept,
    )
  if settings.kind == "student":
    from distill_jax.teacher import local_student as locals_

    return locals_.LocalStudentTeacher(local(), max_tokens=settings.max_tokens, **kept)
  shaper = request_body.RequestShaper(
    extra=settings.extra_body, structured=settings.structured, warn=warn
  )
  if settings.kind == "builtin":
    return _Builtin(settings, kept | {"shaper": shaper}, world, world_identity, seed)
  names = ("base_url", "key_env", "key_file", "insecure_http")
  address = {name: getattr(settings, name) for name in names}
  folder = settings.batch_dir or str(pathlib.Path(workdir) / BATCHES)
  return _client(settings, kept | {"shaper": shaper}, folder, **address, identity="")


def retry_failed(settings, workdir, finished) -> int:
  """Has the failures of a run asked for again, but for those of finished (round, phase) pairs; how
  many there are. `settings` are config.teacher's."""
  from distill_jax.teacher.store import cache

  kept = _kept(settings, workdir)
  if not pathlib.Path(kept["cache_path"]).exists():
    return 0
  with contextlib.closing(cache.ReplyCache(kept["cache_path"])) as store:
    return store.reset_failures(kept["run"], finished)


def _kept(settings, workdir) -> dict:
  """Where replies are kept, and what the run is called there. A file inside the folder moves with
  it; in a shared file, a run is where its folder is."""
  if not settings.cache:
    return {"cache_path": str(pathlib.Path(workdir) / CACHE), "run": "this run"}
  return {"cache_path": settings.cache, "run": os.path.realpath(workdir)}


def _client(settings, kept: dict, folder: str = "", **address):
  from distill_jax.teacher.client import client, credentials

  names = (
    "model",
    "max_tokens",
    "max_tokens_field",
    "max_tokens_retry_limit",
    "max_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "timeout",
    "max_attempts",
    "max_wait",
    "deadline",
  )
  terms = {
    name: getattr(settings, name) for name in (*names, "prices", "max_dollars", "max_requests")
  }
  terms |= kept | address
  terms["send_seed"] = credentials.is_local(address["base_url"])  # vendors differ in taking one
  if settings.batch == "api":
    from distill_jax.teacher.batch import api

    poll, discount, batch_size = settings.batch_poll, settings.batch_discount, settings.batch_size
    return api.BatchTeacher(poll=poll, discount=discount, batch_size=batch_size, **terms)
  if settings.batch == "files":
    from distill_jax.teacher.batch import files

    return files.FileTeacher(directory=folder, batch_size=settings.batch_size, **terms)
  return client.Client(**terms)


class _Builtin:
  """A client and the server it talks to, in one process."""

  def __init__(self, settings, kept: dict, world, world_identity: str, seed: int):
    from distill_jax.teacher.builtin import teacher

    own = settings.builtin
    decides = f"{world_identity} {own.error_rate!r} {seed} {teacher.VERSION}"
    identity = f"builtin:{hashlib.sha256(decides.encode()).hexdigest()[:16]}"
    self._stack = contextlib.ExitStack()
    server = teacher.make_server(
      world, port=0, latency=own.latency, error_rate=own.error_rate, faults_script=own.faults,
      seed=seed, log="",
    )  # fmt: skip
    base_url = self._stack.enter_context(server.running())
    try:
      self._client = _client(settings, kept, base_url=base_url, key_env="", identity=identity)
    except BaseException:
      self._stack.close()
      raise
    self.ask, self.ledger = self._client.ask, self._client.ledger
    self.estimate = self._client.estimate

  def close(self) -> None:
    """Closes the cache and stops the server."""
    self._client.close()
    self._stack.close()
