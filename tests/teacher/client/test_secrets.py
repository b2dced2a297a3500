"""The API key leaves the process in one header, and appears in no text that is kept."""

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


def test_the_key_is_sent_and_appears_nowhere_else(serve, connect, tmp_path, caplog, capfd):
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


def test_a_key_in_a_reply_is_redacted(serve, connect, tmp_path):
  server = serve(answer=lambda messages, n, temperature, seed: [f"You are {KEY}."] * n)
  ((reply,),) = ask(connect(server.url, key_env="PLANTED_KEY"), wanted(1))
  assert reply.text == "You are [key]."
  assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*"))


def test_a_crash_during_a_response_shows_no_key_in_our_frames(serve, connect, monkeypatch):
  def crash(*_):
    raise RuntimeError("planted")

  teacher = connect(serve().url, key_env="PLANTED_KEY")
  monkeypatch.setattr(verdicts, "parse_body", crash)
  with pytest.raises(RuntimeError, match="planted") as crashed:
    ask(teacher, wanted(1))
  captured = traceback.TracebackException.from_exception(crashed.value, capture_locals=True)
  text = "".join(captured.format())
  assert "parse_body" in text and KEY not in text
  assert not any(KEY in repr(value) for value in vars(teacher).values() if value != KEY)


@pytest.mark.parametrize(
  "fault", ["401", "403", "429:code=insufficient_quota", "500", "429:retry_after=99"]
)
def test_no_error_message_shows_the_key(serve, connect, fault, caplog):
  server = serve([f"{fault}:say=the key {KEY} is bad"] * 99)
  teacher = connect(server.url, key_env="PLANTED_KEY")
  with caplog.at_level(logging.DEBUG), pytest.raises(errors.UserError) as error:
    ask(teacher, wanted(3))
  assert KEY not in str(error.value) and "[key]" in str(error.value)
  assert error.value.__cause__ is None and KEY not in caplog.text


def test_a_server_on_this_machine_needs_no_key(serve, connect):
  server = serve()
  ask(connect(server.url, key_env="NO_SUCH_VARIABLE"), wanted(1))
  assert KEY not in str(server.authorizations)


def test_a_server_elsewhere_needs_a_key(connect):
  with pytest.raises(errors.UserError, match="export NO_SUCH_VARIABLE=") as error:
    connect("https://example.com/v1", key_env="NO_SUCH_VARIABLE")
  assert error.value.code == errors.CONFIG


@pytest.mark.parametrize(
  "url",
  [
    "http://example.com/v1", "http://127.0.0.1.example.com/v1", "http://10.0.0.1/v1", "ftp://127.0.0.1/v1",
    "https://", "example.com/v1", "", "https://me:hunter2@example.com/v1", "http://[::1", "http://127.0.0.1:x/v1",
    "https://example.com/v1?key=hunter2", "https://example.com/v1#hunter2", "https://\nexample.com",
  ],
)  # fmt: skip
def test_an_address_that_is_invalid_or_would_leak_the_key_is_rejected(connect, url):
  with pytest.raises(errors.UserError, match=r"config\.teacher\.base_url") as error:
    connect(url, key_env="PLANTED_KEY")
  assert KEY not in str(error.value) and "hunter2" not in str(error.value)


def test_a_malformed_key_is_rejected_without_being_shown(connect, monkeypatch):
  monkeypatch.setenv("PLANTED_KEY", "sk-two\nlines")
  with pytest.raises(errors.UserError, match="PLANTED_KEY") as error:
    connect("https://example.com/v1", key_env="PLANTED_KEY")
  assert "sk-two" not in str(error.value)


@pytest.mark.parametrize("around", ["", "\n", "  \t\r\n"])
def test_a_key_file_is_read_without_surrounding_white_space(serve, connect, tmp_path, around):
  file = tmp_path / "key"
  file.write_text(f"{around}{KEY}{around}")
  file.chmod(0o640)
  server = serve()
  ask(
    connect(server.url, key_file=str(file), key_env="PATH"), wanted(1)
  )  # the file takes precedence
  assert server.authorizations == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
  "content, mode, message",
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
def test_a_key_file_that_is_missing_world_readable_or_malformed_is_rejected_in_one_line(
  connect, tmp_path, content, mode, message
):
  file = tmp_path / "key"
  if content is not None:
    file.write_text(content, encoding="utf-8")
    file.chmod(mode)
  with pytest.raises(errors.UserError, match=message) as error:
    connect("https://example.com/v1", key_file=str(file))
  assert str(file) in str(error.value) and error.value.code == errors.CONFIG
  assert KEY not in str(error.value) and "\n" not in str(error.value)
  assert error.value.__cause__ is None


@pytest.mark.parametrize("name", ["", ".", "/dev/null", "key\0"])
def test_a_path_that_is_not_a_regular_file_has_no_key(name, tmp_path):
  address = {"base_url": "https://example.com/v1", "key_env": "PLANTED_KEY"}
  if not name:
    assert credentials.key(**address, key_file="") == KEY
    return
  with pytest.raises(errors.UserError, match="key file"):
    credentials.key(**address, key_file=name)


@pytest.mark.parametrize(
  "name", [KEY, KEY.replace("-", "_"), "sk-x", "two words", "gsk_aBcD0123456789abcdefgh"]
)
def test_a_key_in_place_of_a_variables_name_is_rejected_without_being_shown(name):
  with pytest.raises(errors.UserError, match=r"config\.teacher\.key_env is '\(hidden\)'") as error:
    credentials.check_name(name)
  assert name not in str(error.value)


@pytest.mark.parametrize(
  "name", ["", "OPENAI_API_KEY", "MY_COMPANYS_LONG_VARIABLE_FOR_A_KEY", "key"]
)
def test_valid_names_of_variables_are_accepted(name):
  credentials.check_name(name)


def test_plain_http_to_another_machine_needs_a_setting(connect):
  with pytest.raises(errors.UserError, match=r"teacher\.insecure_http=True"):
    connect("http://10.0.0.1/v1", key_env="PLANTED_KEY")
  connect("http://10.0.0.1/v1", key_env="PLANTED_KEY", insecure_http=True)
  connect(
    "http://10.0.0.1/v1", key_env="NO_SUCH_VARIABLE", insecure_http=True
  )  # a key may not be needed
  with pytest.raises(errors.UserError, match="no key"):
    connect("https://10.0.0.1/v1", key_env="NO_SUCH_VARIABLE", insecure_http=True)


def test_redirects_are_not_followed(serve, connect):
  """A redirect could send questions anywhere."""
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


def test_local_requests_bypass_proxies(serve, connect, monkeypatch):
  for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
  assert ask(connect(serve().url), wanted(1))[0][0].text == "q0 #0 at 0.5"


def fixed_server(status: str, body: str, *headers: str):
  """Starts a server that gives every request the same response; returns its address."""
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
    (
      "400 No",
      '{"error": {"message": "' + "a" * 280 + KEY + '"}}',
      [],
    ),  # an excerpt would end inside the key
    ("200 OK", "b" * 280 + KEY, []),
    ("200 OK", '{"choices": [{"message": {"content": null}}], "id": "' + KEY + '"}', []),
  ],
)
def test_neither_the_key_in_a_header_nor_a_part_of_it_is_shown(
  connect, tmp_path, status, body, headers
):
  teacher = connect(fixed_server(status, body, *headers), key_env="PLANTED_KEY")
  try:
    shown = str(ask(teacher, wanted(1)))
  except errors.UserError as error:
    shown = str(error)
  files = b"".join(file.read_bytes() for file in tmp_path.rglob("*"))
  assert KEY[:9] not in shown and KEY[:9].encode() not in files


def test_a_key_that_json_escapes_is_redacted_too(connect, monkeypatch):
  key = 'sk-"planted"\\0123/456'
  monkeypatch.setenv("PLANTED_KEY", key)
  for spelling in (json.dumps(key), json.dumps(key).replace("/", "\\/")):
    url = fixed_server("400 No", f'{{"error": {{"message": [{spelling}]}}}}')
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
def test_an_environment_that_prevents_connections_is_reported_in_one_line(
  connect, monkeypatch, name, value
):
  monkeypatch.setenv(name, value)
  with pytest.raises(errors.UserError, match=name) as error:
    ask(connect("https://10.0.0.1/v1", key_env="PLANTED_KEY"), wanted(1))
  assert "secret" not in str(error.value)


def test_the_environments_openai_settings_are_not_sent(connect, monkeypatch):
  for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    monkeypatch.setenv(name, f"planted-{name}")
  monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: planted")
  teacher = connect("http://127.0.0.1:9/v1")

  async def headers():
    async with teacher._openai_client() as made:
      return {**made.default_headers, **made.auth_headers}

  assert "planted" not in str(asyncio.run(headers()))
