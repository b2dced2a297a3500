"""Teacher for a model on another machine: writes requests to files and reads result files.

  DIRECTORY/round_00_0_demonstrate_001.jsonl       requests, for `vllm run-batch -i`
  DIRECTORY/round_00_0_demonstrate_001.out.jsonl   results, as its `-o` writes them

An `ask` stops the run (exit code 75) until its results exist. Every result is stored; results may
be in any order. Missing or failed lines go into the next file.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distill_jax import disk, errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import format, results
from distill_jax.teacher.client import client, features, request_jobs
from distill_jax.teacher.store import batches, cache, ledger

RESULT_SUFFIX = ".out.jsonl"
UNUSED_URL = "http://localhost/v1"  # nothing is sent to it
MAX_COMMANDS = 3  # in the message

Attempts = collections.Counter[tuple[str, int]]  # by (custom_id, completion tokens)
Lines = list[tuple[batches.BatchLine, request_jobs.Job]]


@dataclasses.dataclass(frozen=True)
class RequestFile:
  """A file of requests.

  Attributes:
    path: Where it is.
    requests: (custom_id, completion tokens) of its lines.
    answered: Whether it has a complete result file.
  """

  path: pathlib.Path
  requests: frozenset[tuple[str, int]]
  answered: bool

  def contains(self, line: batches.BatchLine) -> bool:
    """Whether the file asks for this line."""
    return (line.name, line.limit) in self.requests


class FileTeacher(client.Client):
  """A teacher that exchanges files and opens no connection."""

  def __init__(
    self,
    *,
    directory: str | pathlib.Path,
    batch_size: int,
    base_url: str,
    identity: str,
    **options: Any,
  ):
    """Creates a teacher.

    Args:
      directory: Where the files are.
      batch_size: Maximum number of requests in a file.
      base_url: Identifies the server in cache keys.
      identity: As for `client.Client`.
      **options: Of `client.Client`.
    """
    name = identity or base_url.rstrip("/") or "files"
    options |= {"key_env": "", "key_file": "", "send_seed": True}
    super().__init__(base_url=UNUSED_URL, identity=name, **options)
    self._directory, self._batch_size = pathlib.Path(directory), batch_size

  async def _dispatch(
    self,
    jobs: list[request_jobs.Job],
    run_phase: cache.RunPhase,
    temperature: float,
    total: int,
    on_progress: Callable[[types.Progress], None] | None,
    budget: ledger.Budget,
  ) -> None:
    failures = 0
    attempts: Attempts = collections.Counter()
    reasons: dict[str, str] = {}  # {line name: why it is requested again}
    with self._disk_errors():
      disk.make_private_dirs(self._directory)
      files = self._request_files({key for job in jobs for key in job.missing.values()})
      for file in files:
        failures += self._read(file, jobs, run_phase, attempts, reasons, budget)
        if file.answered:
          attempts.update(file.requests)
    waiting = [file for file in files if not file.answered]
    new: Lines = []
    for line, job in _missing_lines(jobs):
      if attempts[line.name, line.limit] >= self._config.max_attempts:
        self._give_up(line, job, run_phase, attempts, reasons)
        failures += len(line.keys)
      else:
        job = dataclasses.replace(job, missing=line.keys)
        if any(file.contains(line) for file in waiting):
          budget.spend(request_jobs.max_dollars(self._config, job))
        else:
          new.append((line, job))
    missing = sum(len(job.missing) for job in jobs)
    if on_progress is not None:
      dollars = self.ledger.total().dollars
      on_progress(
        types.Progress(total - missing, total, failures=failures, retries=0, dollars=dollars)
      )
    if missing:
      lines = [line for line, _ in _missing_lines(jobs)]
      paths = [f.path for f in waiting if any(f.contains(line) for line in lines)]
      retries = sum(attempts[line.name, line.limit] > 0 for line, _ in new)
      paths += self._write(new, retries, run_phase, temperature, budget)
      raise self._instructions(
        paths, missing, [reasons[x.name] for x in lines if x.name in reasons]
      )

  def _request_files(self, keys: set[str]) -> list[RequestFile]:
    """The files that ask for any of these keys, oldest first."""
    files = []
    for path in sorted(self._directory.glob("*.jsonl"), key=_age):
      if path.name.endswith(RESULT_SUFFIX):
        continue
      try:
        rows = [json.loads(raw) for raw in disk.read_bytes(path).split(b"\n") if raw.strip()]
        requests = {(row["custom_id"], features.limit_in(row["body"])) for row in rows}
      except (ValueError, TypeError, KeyError, RecursionError):
        raise errors.data(f"{path} is not a file of requests; move it elsewhere") from None
      if not keys.isdisjoint(name for name, _ in requests):
        files.append(RequestFile(path, frozenset(requests), _is_complete(_result_path(path))))
    return files

  def _read(
    self,
    file: RequestFile,
    jobs: list[request_jobs.Job],
    run_phase: cache.RunPhase,
    attempts: Attempts,
    reasons: dict[str, str],
    budget: ledger.Budget,
  ) -> int:
    """Stores the results of a file and removes them from the jobs.

    Args:
      file: The file.
      jobs: Jobs with missing samples. A truncated reply becomes a new job with a larger limit.
      run_phase: The phase that pays.
      attempts: How often each line was requested in earlier files.
      reasons: Receives why a line has to be requested again, by line name.
      budget: Receives what the results have cost.

    Returns:
      The number of failures.
    """
    path = _result_path(file.path)
    if not path.exists():
      return 0
    lines = [(line, job) for line, job in _missing_lines(jobs) if file.contains(line)]
    reader = results.ResultReader(
      self._store,
      run_phase,
      self._config,
      self._redact,
      attempts=lambda line: attempts[line.name, line.limit],
    )
    reader.read(disk.read_bytes(path), {line.name: line for line, _ in lines})
    budget.spend(reader.dollars)
    if reader.abort is not None:
      raise errors.teacher(
        f"{path}: {reader.abort.reason}; {reader.abort.advice}, and remove {path}"
      )
    failures = 0
    for line, job in lines:
      if line.name in reader.retries:
        reasons[line.name] = reader.retries[line.name].reason
      elif line.name not in reader.lines_read:
        reasons[line.name] = f"{path.name} has no readable result for it"
      for sample, key in line.keys.items():
        if key in reader.truncated:
          limit = min(2 * reader.truncated[key], self._config.max_tokens_retry_limit)
          jobs.append(dataclasses.replace(job, missing={sample: key}, limit=limit))
        elif key not in reader.outcomes:
          continue
        elif isinstance(reader.outcomes[key], types.Failure):
          failures += 1
        del job.missing[sample]
    return failures

  def _give_up(
    self,
    line: batches.BatchLine,
    job: request_jobs.Job,
    run_phase: cache.RunPhase,
    attempts: Attempts,
    reasons: dict[str, str],
  ) -> None:
    """Records a line that was requested too often as failed."""
    count = attempts[line.name, line.limit]
    reason = f"no result in {count} files ({reasons.get(line.name, 'answered in part')})"
    failure = types.Failure("gave_up", reason, count)
    self._store.store(job.request, {item: failure for item in line.keys.items()}, run_phase)
    for sample in line.keys:
      del job.missing[sample]

  def _write(
    self,
    lines: Lines,
    retries: int,
    run_phase: cache.RunPhase,
    temperature: float,
    budget: ledger.Budget,
  ) -> list[pathlib.Path]:
    """Writes the files that ask for these lines. Returns their paths."""
    rows = [format.request_row(self._config, line, job, temperature) for line, job in lines]
    if rows:
      budget.hold(sum(row.dollars for row in rows), len(rows))
      self._store.record_sent(run_phase, len(rows), retries)
    stem = f"round_{run_phase.round:02}_{re.sub(r'[^A-Za-z0-9_-]', '_', run_phase.phase)}"
    with self._disk_errors():
      return [
        _write_file(self._directory, stem, b"".join(row.content for row in part))
        for part in format.split_rows(rows, self._batch_size)
      ]

  def _instructions(
    self, paths: Sequence[pathlib.Path], missing: int, reasons: Sequence[str]
  ) -> types.ElsewhereError:
    """The error that tells the user how to get the results.

    Args:
      paths: The request files without results.
      missing: Number of missing replies.
      reasons: Why requests of earlier files are requested again.
    """
    model = shlex.quote(self._config.model)
    commands = [
      f"vllm run-batch -i {shlex.quote(str(path))} -o {shlex.quote(str(_result_path(path)))}"
      f" --model {model}"
      for path in paths[:MAX_COMMANDS]
    ]
    more = ""
    if len(paths) > MAX_COMMANDS:
      more = f" and likewise for {len(paths) - MAX_COMMANDS} more in {self._directory}"
    failed = f"{len(reasons)} earlier requests failed ({reasons[0]}); " if reasons else ""
    return types.ElsewhereError(
      f"{failed}{missing} replies are requested in"
      f" {', '.join(str(path) for path in paths[:MAX_COMMANDS])}; on the machine with the model,"
      f" type: {' && '.join(commands)}{more}; then run the same command again"
    )

  @contextlib.contextmanager
  def _disk_errors(self) -> Iterator[None]:
    """Turns errors of the file system into user errors."""
    try:
      yield
    except OSError as error:
      where = error.filename or self._directory
      raise errors.data(
        f"{where}: {error.strerror}; free disk space, or name another directory with"
        " --config.teacher.batch_dir=DIRECTORY"
      ) from None


def _missing_lines(jobs: Sequence[request_jobs.Job]) -> Lines:
  return [(line, job) for job in jobs for line in format.missing_lines(job, features.ANY_NUMBER)]


def _age(path: pathlib.Path) -> tuple[int, str]:
  return path.stat().st_mtime_ns, path.name


def _result_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix(RESULT_SUFFIX)


def _is_complete(path: pathlib.Path) -> bool:
  """Whether the file exists and its last line is complete."""
  if not path.exists() or not path.stat().st_size:
    return False
  with disk.open_regular(path) as file:
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _write_file(directory: pathlib.Path, stem: str, content: bytes) -> pathlib.Path:
  """Writes a file under the next free number, whole or not at all."""
  part = directory / f".{stem}.{os.getpid()}"
  path = part
  try:
    with open(part, "wb", opener=disk.open_private) as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    for number in itertools.count(1):
      path = directory / f"{stem}_{number:03}.jsonl"
      with contextlib.suppress(FileExistsError):
        os.link(part, path)
        break
  finally:
    part.unlink(missing_ok=True)
  disk.fsync(directory)
  return path
