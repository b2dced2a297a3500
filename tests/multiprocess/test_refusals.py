"""What stops process 0 alone, in the middle of a run, ends all: one line, its code, nothing lost.

python -m pytest -m heavy tests/multiprocess/test_refusals.py
"""

import contextlib
import http.server
import os
import pathlib
import shutil
import threading
from collections.abc import Iterator

import pytest

from distill_jax import errors
from tests.multiprocess import commands

pytestmark = pytest.mark.heavy


class Refuses(http.server.BaseHTTPRequestHandler):
  """A teacher that does not know the key."""

  def do_POST(self):
    self.rfile.read(int(self.headers["Content-Length"]))
    self.send_response(401)
    self.send_header("Content-Length", "0")
    self.end_headers()

  def log_message(self, format, *args):
    pass


@contextlib.contextmanager
def refusing() -> Iterator[list[str]]:
  """Yields the words that name such a teacher."""
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield ["--config.teacher.kind=openai", f"--config.teacher.base_url={url}"]
    server.shutdown()


def assert_all_leave(logs: pathlib.Path, words: list[str], code: int, text: str, **options) -> None:
  with commands.started(logs, words, 2, **options) as run:
    assert run.wait(300) == [code] * 2, run.err(0) + run.err(1)
  lines = [line for line in run.err(0).splitlines() if line.startswith("distill-jax: ")]
  assert len(lines) == 1 and text in lines[0] and "Traceback" not in run.err(0)
  assert run.err(1) == ""


def assert_goes_on(tmp_path: pathlib.Path, words: list[str]) -> None:
  """The same command ends as an undisturbed run of one process with two devices does."""
  commands.run(tmp_path / "again", [*words, f"--workdir={tmp_path / 'run'}"], 2)
  commands.run(tmp_path / "other", [*words, f"--workdir={tmp_path / 'one'}"], 1, devices=2)
  (tmp_path / "run/changes.jsonl").unlink(missing_ok=True)  # of a setting that was changed
  commands.assert_equal(tmp_path / "one", tmp_path / "run")


def test_a_teacher_that_refuses_the_key(tmp_path):
  words, run = ["run", *commands.tiny()], f"--workdir={tmp_path / 'run'}"
  with refusing() as teacher:
    assert_all_leave(tmp_path / "logs", [*words, *teacher, run], errors.TEACHER, "HTTP 401")


def test_a_budget_that_is_used_up(tmp_path):
  words = ["run", *commands.tiny()]
  less = ["--config.teacher.max_requests=20", f"--workdir={tmp_path / 'run'}"]
  assert_all_leave(tmp_path / "logs", [*words, *less], errors.BUDGET, "max_requests")
  assert_goes_on(tmp_path, words)


def test_a_disk_that_fails(tmp_path):
  """The first write to a new file of the exam fails."""
  hooks = tmp_path / "hooks"
  hooks.mkdir()
  shutil.copy(pathlib.Path(__file__).parent / "audit.py", hooks / "sitecustomize.py")
  environment = {
    "PYTHONPATH": os.pathsep.join([str(hooks), str(commands.ROOT)]),
    "AUDIT_FAIL": "0:attempts.jsonl:OSError",
  }
  words = ["run", *commands.tiny()]
  command = [*words, f"--workdir={tmp_path / 'run'}"]
  text = "Input/output error"
  assert_all_leave(tmp_path / "logs", command, errors.DATA, text, environment=environment)
  assert_goes_on(tmp_path, words)


def test_a_file_that_was_damaged(tmp_path):
  words, run = ["run", *commands.tiny()], f"--workdir={tmp_path / 'run'}"
  commands.run(tmp_path / "first", [*words, run, "--config.rounds=0"], 2)
  file = next((tmp_path / "run").rglob("examples.jsonl"))
  content = file.read_bytes()
  file.write_bytes(content.replace(b"a", b"b", 1))
  assert_all_leave(tmp_path / "logs", [*words, run], errors.DATA, "examples.jsonl")
  file.write_bytes(content)
  assert_goes_on(tmp_path, words)
