"""Whoever teaches: the seam (asking), what is said (prompts), who answers (client, builtin, ...).

Host wing. The only room that uses the network.
"""

import contextlib
import hashlib
import os
import pathlib

CACHE = "teacher.sqlite"  # in the run folder, unless config.teacher.cache names another file


def open(run):
  """The asking.Teacher of a run.

  `run` has settings, folder.path and, for the built-in teacher, task.world. Raises errors.Refusal.
  """
  settings = run.settings
  identity = f"{world_of(settings)!r}" if settings.teacher.kind == "builtin" else ""
  world = run.task.world if settings.teacher.kind == "builtin" else None
  return make(
    settings.teacher,
    workdir=run.folder.path,
    world=world,
    world_identity=identity,
    seed=world_of(settings).seed,
  )


def world_of(settings):
  """The settings of the world the task comes from; config.world for published data."""
  return settings.taxonomy if settings.task.name == "taxonomy" else settings.world


def make(settings, *, workdir, world, world_identity: str, seed: int):
  """The asking.Teacher that the settings (config.teacher) describe.

  world, world_identity, seed: what the built-in teacher answers from, a text that decides it, and
  what decides its slips; unused by the others. Raises errors.Refusal.
  """
  kept = {"cache_path": settings.cache or str(pathlib.Path(workdir) / CACHE)}
  # A file inside the folder moves with it; in a shared file, a run is where its folder is.
  kept["run"] = os.path.realpath(workdir) if settings.cache else "this run"
  if settings.kind == "replay":
    from distill_jax.teacher import replay

    columns = settings.replay
    return replay.Replay(
      path=columns.path,
      questions=columns.questions,
      question=columns.question,
      rationale=columns.rationale,
      **kept,
    )
  if settings.kind == "builtin":
    return _Builtin(settings, kept, world, world_identity, seed)
  names = ("base_url", "key_env", "key_file", "insecure_http")
  address = {name: getattr(settings, name) for name in names}
  return _client(settings, kept, **address, identity="")


def _client(settings, kept: dict, **address):
  from distill_jax.teacher import access, client

  names = (
    "model",
    "max_tokens",
    "max_tokens_field",
    "concurrency",
    "timeout",
    "attempts",
    "patience",
  )
  terms = {
    name: getattr(settings, name) for name in (*names, "prices", "max_dollars", "max_requests")
  }
  send_seed = access.is_local(address["base_url"])  # vendors differ in whether they take one
  return client.Client(**terms, **kept, **address, send_seed=send_seed)


class _Builtin:
  """A client and the server it talks to, in one process."""

  def __init__(self, settings, kept: dict, world, world_identity: str, seed: int):
    from distill_jax.teacher import builtin

    own = settings.builtin
    decides = f"{world_identity} {own.error_rate!r} {seed} {builtin.VERSION}"
    identity = f"builtin:{hashlib.sha256(decides.encode()).hexdigest()[:16]}"
    self._stack = contextlib.ExitStack()
    server = builtin.make_server(
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

  def close(self) -> None:
    """Closes the cache and stops the server."""
    self._client.close()
    self._stack.close()
