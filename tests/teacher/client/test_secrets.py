"""The key leaves the process in one header, and is in no text that anyone keeps."""

import asyncio
import json
import logging
import socket
import threading
import traceback

import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher.client import credentials, verdicts

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def planted(monkeypatch):
  monkeypatch.setenv("PLANTED_KEY", KEY)


def test_the_key_is_sent_and_nothing_else_has_it(serve, connect, tmp_path, caplog, capfd):
  script = ["500", "cut", "429:retry_after=0.01", f"400:say=bad {KEY}", "refusal", "html", "close"]
  server = serve(script)
  with caplog.at_level(logging.DEBUG):
    ask(connect(server.url, key_env="PLANTED_KEY"), wanted(12))
  assert server.authorizations == {f"Bearer {KEY}"}
  assert caplog.records and not any(KEY in record.getMessage() for record in caplog.records)
  assert not any(KEY in str(record.args) for record in caplog.records)
  assert KEY not in "".join(capfd.readouterr())
  for file in tmp_path.rglob("*"):
    assert KEY.encode() not in file.read_bytes(), file


def test_a_key_that_comes_back_in_a_reply_is_taken_out_of_it(serve, connect, tmp_path):
  server = serve(answer=lambda messages, n, temperature, seed: [f"You are {KEY}."] * n)
  ((reply,),) = ask(connect(server.url, key_env="PLANTED_KEY"), wanted(1))
  assert reply.text == "You are [key]."
  assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*"))


def test_a_crash_amid_an_answer_shows_no_key_in_any_frame_of_ours(serve, connect, monkeypatch):
  def crash(*_):
    raise RuntimeError("planted")

  teacher = connect(serve().url, key_env="PLANTED_KEY")
  monkeypatch.setattr(verdicts, "parse_body", crash)
  with pytest.raises(RuntimeError, match="planted") as crashed:
    ask(teacher, wanted(1))
  told = traceback.TracebackException.from_exception(crashed.value, capture_locals=True)
  said = "".join(told.format())
  assert "parse_body" in said and KEY not in said
  assert not any(KEY in repr(value) for value in vars(teacher).values() if value != KEY)


@pytest.mark.parametrize(
  "fault", ["401", "403", "429:code=insufficient_quota", "500", "429:retry_after=99"]
)
def test_no_refusal_shows_the_key(serve, connect, fault, caplog):
  server = serve([f"{fault}:say=the key {KEY} is bad"] * 99)
  teacher = connect(server.url, key_env="PLANTED_KEY")
  with caplog.at_level(logging.DEBUG), pytest.raises(errors.UserError) as refusal:
    ask(teacher, wanted(3))
  assert KEY not in str(refusal.value) and "[key]" in str(refusal.value)
  assert refusal.value.__cause__ is None and KEY not in caplog.text


def test_a_server_on_this_machine_needs_no_key(serve, connect):
  server = serve()
  ask(connect(server.url, key_env="NO_SUCH_VARIABLE"), wanted(1))
  assert KEY not in str(server.authorizations)


def test_a_server_elsewhere_needs_a_key(connect):
  with pytest.raises(errors.UserError, match="export NO_SUCH_VARIABLE=") as refusal:
    connect("https://example.com/v1", key_env="NO_SUCH_VARIABLE")
  assert refusal.value.code == errors.CONFIG


@pytest.mark.parametrize(
  "url",
  [
    "http://example.com/v1", "http://127.0.0.1.example.com/v1", "http://10.0.0.1/v1", "ftp://127.0.0.1/v1",
    "https://", "example.com/v1", "", "https://me:hunter2@example.com/v1", "http://[::1", "http://127.0.0.1:x/v1",
    "https://example.com/v1?key=hunter2", "https://example.com/v1#hunter2", "https://\nexample.com",
  ],
)  # fmt: skip
def test_an_address_that_would_give_the_key_away_or_is_none_is_refused(connect, url):
  with pytest.raises(errors.UserError, match=r"config\.teacher\.base_url") as refusal:
    connect(url, key_env="PLANTED_KEY")
  assert KEY not in str(refusal.value) and "hunter2" not in str(refusal.value)


def test_a_key_that_cannot_be_one_is_refused_unseen(connect, monkeypatch):
  monkeypatch.setenv("PLANTED_KEY", "sk-two\nlines")
  with pytest.raises(errors.UserError, match="PLANTED_KEY") as refusal:
    connect("https://example.com/v1", key_env="PLANTED_KEY")
  assert "sk-two" not in str(refusal.value)


@pytest.mark.parametrize("around", ["", "\n", "  \t\r\n"])
def test_a_key_file_is_read_without_the_white_space_around_the_key(
  serve, connect, tmp_path, around
):
  file = tmp_path / "key"
  file.write_text(f"{around}{KEY}{around}")
  file.chmod(0o640)
  server = serve()
  ask(connect(server.url, key_file=str(file), key_env="PATH"), wanted(1))  # the file is what counts
  assert server.authorizations == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
  "content, mode, say",
  [
    (None, 0, "cannot be read"),
    (KEY, 0o644, "accessible to everyone.*chmod 600"),
    (KEY, 0o602, "accessible to everyone.*chmod 600"),
    ("", 0o600, "contains no key"),
    (" \n", 0o600, "contains no key"),
    (f"{KEY}\n{KEY}", 0o600, "characters that no key has"),
    (f"OPENAI_API_KEY = {KEY}", 0o600, "characters that no key has"),
    (f"\u2018{KEY}\u2019", 0o600, "characters that no key has"),
    (KEY * 200, 0o600, "contains no key"),
  ],
)
def test_a_key_file_that_is_missing_open_or_no_key_is_refused_in_one_line(
  connect, tmp_path, content, mode, say
):
  file = tmp_path / "key"
  if content is not None:
    file.write_text(content, encoding="utf-8")
    file.chmod(mode)
  with pytest.raises(errors.UserError, match=say) as refusal:
    connect("https://example.com/v1", key_file=str(file))
  assert str(file) in str(refusal.value) and refusal.value.code == errors.CONFIG
  assert KEY not in str(refusal.value) and "\n" not in str(refusal.value)
  assert refusal.value.__cause__ is None


@pytest.mark.parametrize("name", ["", ".", "/dev/null", "key\0"])
def test_what_is_no_file_holds_no_key(name, tmp_path):
  address = {"base_url": "https://example.com/v1", "key_env": "PLANTED_KEY"}
  if not name:
    assert credentials.key(**address, key_file="") == KEY
    return
  with pytest.raises(errors.UserError, match="key file"):
    credentials.key(**address, key_file=name)


@pytest.mark.parametrize(
  "name", [KEY, KEY.replace("-", "_"), "sk-x", "two words", "gsk_aBcD0123456789abcdefgh"]
)
def test_a_key_in_the_place_of_a_variables_name_is_refused_unseen(name):
  with pytest.raises(
    errors.UserError, match=r"config\.teacher\.key_env is '\(hidden\)'"
  ) as refusal:
    credentials.check_name(name)
  assert name not in str(refusal.value)


@pytest.mark.parametrize(
  "name", ["", "OPENAI_API_KEY", "MY_COMPANYS_LONG_VARIABLE_FOR_A_KEY", "key"]
)
def test_a_variables_name_is_one(name):
  credentials.check_name(name)


def test_plain_http_to_another_machine_wants_a_switch(connect):
  with pytest.raises(errors.UserError, match=r"teacher\.insecure_http=True"):
    connect("http://10.0.0.1/v1", key_env="PLANTED_KEY")
  connect("http://10.0.0.1/v1", key_env="PLANTED_KEY", insecure_http=True)
  connect("http://10.0.0.1/v1", key_env="NO_SUCH_VARIABLE", insecure_http=True)  # may need none
  with pytest.raises(errors.UserError, match="no key"):
    connect("https://10.0.0.1/v1", key_env="NO_SUCH_VARIABLE", insecure_http=True)


def test_nobody_is_followed_elsewhere(serve, connect):
  """Who redirects could have questions, and answers, sent anywhere."""
  elsewhere = serve()

  moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/chat/completions\r\n"

  def listen(connection):
    with connection:
      while connection.recv(65536):
        connection.sendall(f"{moved}Content-Length: 0\r\n\r\n".encode())

  with socket.create_server(("127.0.0.1", 0)) as here:
    port = here.getsockname()[1]
    thread = threading.Thread(target=lambda: listen(here.accept()[0]), daemon=True)
    thread.start()
    teacher = connect(f"http://127.0.0.1:{port}/v1", key_env="PLANTED_KEY", max_concurrency=1)
    with pytest.raises(errors.UserError, match=r"HTTP 307.*config\.teacher\.base_url"):
      ask(teacher, wanted(3))
    thread.join()
  assert elsewhere.stats.requests == 0 and elsewhere.authorizations == set()


def test_a_proxy_does_not_come_between_us_and_this_machine(serve, connect, monkeypatch):
  for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
  assert ask(connect(serve().url), wanted(1))[0][0].text == "q0 #0 at 0.5"


def answered(status: str, body: str, *headers: str):
  """A server that gives every request this answer: its address."""
  lines = (f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body)

  def listen(connection):
    with connection:
      while connection.recv(65536):
        connection.sendall("\r\n".join(lines).encode())

  def accept():
    with socket.create_server(("127.0.0.1", port)) as here:
      ready.set()
      while True:
        threading.Thread(target=listen, args=(here.accept()[0],), daemon=True).start()

  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  ready = threading.Event()
  threading.Thread(target=accept, daemon=True).start()
  ready.wait()
  return f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize(
  ("status", "body", "headers"),
  [
    ("302 Found", "", [f"Location: http://x/?key={KEY}"]),
    ("401 No", "{}", [f"x-request-id: {KEY}"]),
    ("400 No", "{}", [f"x-request-id: {KEY}"]),
    ("400 No", '{"error": {"message": "' + "a" * 280 + KEY + '"}}', []),  # cut off amid the key
    ("200 OK", "b" * 280 + KEY, []),
    ("200 OK", '{"choices": [{"message": {"content": null}}], "id": "' + KEY + '"}', []),
  ],
)
def test_no_header_shows_the_key_and_nothing_a_part_of_it(connect, tmp_path, status, body, headers):
  teacher = connect(answered(status, body, *headers), key_env="PLANTED_KEY")
  try:
    said = str(ask(teacher, wanted(1)))
  except errors.UserError as refusal:
    said = str(refusal)
  files = b"".join(file.read_bytes() for file in tmp_path.rglob("*"))
  assert KEY[:9] not in said and KEY[:9].encode() not in files


def test_a_key_that_json_writes_otherwise_is_found_there_too(connect, monkeypatch):
  key = 'sk-"planted"\\0123/456'
  monkeypatch.setenv("PLANTED_KEY", key)
  for told in (json.dumps(key), json.dumps(key).replace("/", "\\/")):
    url = answered("400 No", f'{{"error": {{"message": [{told}]}}}}')
    ((failure,),) = ask(connect(url, key_env="PLANTED_KEY"), wanted(1))
    assert "planted" not in failure.message and "[key]" in failure.message


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("HTTPS_PROXY", "ftp://me:secret@x"),
    ("HTTP_PROXY", "http://[::1"),
    ("SSL_CERT_FILE", "/no/such/file"),
  ],
)
def test_an_environment_that_lets_no_connection_be_made_is_told_of_in_one_line(
  connect, monkeypatch, name, value
):
  monkeypatch.setenv(name, value)
  with pytest.raises(errors.UserError, match=name) as refusal:
    ask(connect("https://10.0.0.1/v1", key_env="PLANTED_KEY"), wanted(1))
  assert "secret" not in str(refusal.value)


def test_what_the_environment_has_for_another_server_is_not_sent_to_this_one(connect, monkeypatch):
  for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    monkeypatch.setenv(name, f"planted-{name}")
  monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: planted")
  teacher = connect("http://127.0.0.1:9/v1")

  async def headers():
    async with teacher._openai_client() as made:
      return {**made.default_headers, **made.auth_headers}

  assert "planted" not in str(asyncio.run(headers()))
