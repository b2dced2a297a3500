"""A teacher that runs where the trainer does not: requests are written as files, results are read.

  FOLDER/round_00_0_demonstrate_001.jsonl       what is asked, for `vllm run-batch -i`
  FOLDER/round_00_0_demonstrate_001.out.jsonl   what came, as its `-o` writes it

An ask stops the run (exit code 75) until its results lie there. Whatever a result file has is
stored, in whatever order; lines that are missing in it, or failed, stand in the next file.
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

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import format, results
from distill_jax.teacher.client import client, request_jobs

RESULT = ".out.jsonl"
NOWHERE = "http://localhost/v1"  # an address that nothing is sent to
SHOWN = 3  # commands in the message


@dataclasses.dataclass(frozen=True)
class Paper:
  """A file of requests: {(custom_id, completion tokens)}, and whether its result is whole."""

  path: pathlib.Path
  asks: frozenset[tuple[str, int]]
  over: bool

  def has(self, line) -> bool:
    return (line.name, line.limit) in self.asks


class FileTeacher(client.Client):
  """A Teacher that connects nowhere. Its terms are client.Client's, and

  folder  where the files are
  most    requests in one file
  """

  def __init__(self, *, directory, batch_size: int, base_url: str, identity: str, **terms):
    name = identity or base_url.rstrip("/") or "files"
    terms |= {"key_env": "", "key_file": "", "send_seed": True}
    super().__init__(base_url=NOWHERE, identity=name, **terms)
    self._directory, self._batch_size = pathlib.Path(directory), batch_size

  async def _send(self, jobs, place, temperature, total: int, on_progress) -> None:
    with self._disk():
      self._directory.mkdir(parents=True, exist_ok=True)
      papers = self._papers({key for job in jobs for key in job.missing.values()})
      failures, tried, why = 0, collections.Counter(), {}
      for paper in papers:
        failures += self._read(paper, jobs, place, tried, why)
        tried.update(paper.asks if paper.over else ())
    waiting = [paper for paper in papers if not paper.over]
    fresh = []
    for line, job in _lines(jobs):
      times = tried[line.name, line.limit]
      if times >= self._config.max_attempts:
        reason = f"no result in {times} files ({why.get(line.name, 'answered in part')})"
        failed = types.Failure("gave_up", reason, times)
        self._store.store(job.request, {item: failed for item in line.keys.items()}, place)
        failures += len(line.keys)
        for sample in line.keys:
          del job.missing[sample]
      elif not any(paper.has(line) for paper in waiting):
        fresh.append((line, dataclasses.replace(job, missing=line.keys)))
    left = sum(len(job.missing) for job in jobs)
    if on_progress is not None:
      dollars = self.ledger.total().dollars
      on_progress(types.Progress(total - left, total, failures, 0, dollars))
    if left:
      paths = [paper.path for paper in waiting if any(paper.has(line) for line, _ in _lines(jobs))]
      again = sum(tried[line.name, line.limit] > 0 for line, _ in fresh)
      reasons = [why[line.name] for line, _ in _lines(jobs) if line.name in why]
      raise self._wait(paths + self._write(fresh, again, place, temperature), left, reasons)

  def _papers(self, wanted: set[str]) -> list[Paper]:
    """The files that ask for something wanted, in the order in which they were written."""
    found = []
    for path in sorted(self._directory.glob("*.jsonl"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
      if path.name.endswith(RESULT):
        continue
      try:
        rows = [json.loads(raw) for raw in path.read_bytes().split(b"\n") if raw.strip()]
        asks = {(row["custom_id"], row["body"][self._config.max_tokens_field]) for row in rows}
      except (ValueError, TypeError, KeyError, RecursionError):
        raise errors.data(f"{path} is no file of requests; move it elsewhere") from None
      if not wanted.isdisjoint(name for name, _ in asks):
        found.append(Paper(path, frozenset(asks), _whole(_result(path))))
    return found

  def _read(self, paper: Paper, jobs, place, tried, why: dict) -> int:
    """Stores what has come of a file and takes it from what is missing; how much of it failed.
    `why` is told of each line that is asked for again."""
    result = _result(paper.path)
    if not result.exists():
      return 0
    lines = [(line, job) for line, job in _lines(jobs) if paper.has(line)]
    found = results.Results(
      self._store, place, self._config, self._redact, lambda line: tried[line.name, line.limit]
    )
    found.read(result.read_bytes(), {line.name: line for line, _ in lines})
    if found.stop is not None:
      raise errors.teacher(f"{result}: {found.stop.reason}; {found.stop.advice}, and remove {result}")
    failures = 0
    for line, job in lines:
      if line.name in found.again:
        why[line.name] = found.again[line.name].why
      elif line.name not in found.heard:
        why[line.name] = f"nothing of it can be read in {result.name}"
      for sample, key in line.keys.items():
        if key in found.longer:  # for another file, which may ask for more tokens
          limit = min(2 * found.longer[key], self._config.max_tokens_retry_limit)
          jobs.append(dataclasses.replace(job, missing={sample: key}, limit=limit))
        elif key in found.outcomes:
          failures += isinstance(found.outcomes[key], types.Failure)
        else:
          continue
        del job.missing[sample]
    return failures

  def _write(self, fresh, again: int, place, temperature: float) -> list[pathlib.Path]:
    """The new files that ask for these lines."""
    rows = [
      (
        line,
        format.written(line.name, request_jobs.body(self._config, job, temperature)),
        request_jobs.max_dollars(self._config, job),
      )
      for line, job in fresh
    ]
    if rows:
      format.check_caps(
        self._store, place.run, rows, held=0.0,
        max_dollars=self._max_dollars, max_requests=self._max_requests,
      )  # fmt: skip
      self._store.record_sent(place, len(rows), again)
    stem = f"round_{place.round:02}_{re.sub(r'[^A-Za-z0-9_-]', '_', place.phase)}"
    with self._disk():
      return [
        _written(self._directory, stem, b"".join(raw for _, raw, _ in part))
        for part in format.parts(rows, self._batch_size)
      ]

  def _wait(self, paths, left: int, reasons: list[str]) -> errors.UserError:
    """What a person has to do now; `reasons` why requests are asked again."""
    model = shlex.quote(self._config.model)
    commands = [
      f"vllm run-batch -i {shlex.quote(str(p))} -o {shlex.quote(str(_result(p)))} --model {model}"
      for p in paths
    ]
    more = f" and likewise for {len(paths) - SHOWN} more in {self._directory}"
    again = f"{len(reasons)} requests came to nothing before ({reasons[0]}); " if reasons else ""
    return errors.UserError(
      f"{again}{left} replies are asked for in {', '.join(str(p) for p in paths[:SHOWN])}; where"
      f" the model is, type: {' && '.join(commands[:SHOWN])}{more if len(paths) > SHOWN else ''};"
      " then run the same command again",
      errors.PREEMPTED,
    )

  @contextlib.contextmanager
  def _disk(self):
    try:
      yield
    except OSError as error:
      where = error.filename or self._directory
      raise errors.data(
        f"{where}: {error.strerror}; free the disk, or name another folder with"
        " --config.teacher.batch_dir=FOLDER"
      ) from None


def _lines(jobs):
  """(batch_book.Line, job) of everything that is missing."""
  return [(line, job) for job in jobs for line in format.lines_of(job)]


def _result(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix(RESULT)


def _whole(path: pathlib.Path) -> bool:
  """Is the file there, and its last line not in the middle of being written?"""
  if not path.exists() or not path.stat().st_size:
    return False
  with open(path, "rb") as file:
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _written(folder: pathlib.Path, stem: str, content: bytes) -> pathlib.Path:
  """A new file with this content, whole or not there at all."""
  made = folder / f".{stem}.{os.getpid()}"
  try:
    with open(made, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    for number in itertools.count(1):
      path = folder / f"{stem}_{number:03}.jsonl"
      with contextlib.suppress(FileExistsError):
        os.link(made, path)
        break
  finally:
    made.unlink(missing_ok=True)
  descriptor = os.open(folder, os.O_RDONLY)
  os.fsync(descriptor)
  os.close(descriptor)
  return path
