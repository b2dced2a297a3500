"""The teacher's address, and the API key, which comes from the environment or a file."""

import ipaddress
import json
import os
import pathlib
import stat
import urllib.parse
from collections.abc import Callable

from distill_jax import disk, errors

MAX_KEY_BYTES = 4096  # with surrounding white space
MIN_SECRET = 8  # characters; shorter secrets would be found in ordinary text
_EXAMPLE = "--config.teacher.base_url=https://HOST/v1"


def is_local(base_url: str) -> bool:
  """Whether the address is on this machine's loopback interface."""
  host = _host(base_url)
  if host == "localhost":
    return True
  try:
    address = ipaddress.ip_address(host)
    return address.is_loopback or address.is_unspecified  # servers print http://0.0.0.0:PORT
  except ValueError:
    return False


def check_address(base_url: str, *, insecure_http: bool) -> None:
  """Checks the teacher's address.

  Args:
    base_url: The address.
    insecure_http: Allow plain http to other machines.

  Raises:
    UserError: The address is malformed, contains credentials (which would end up in files), or
      would send the key unencrypted over a network.
  """
  if any(mark in base_url for mark in "@?#"):
    allowed = "an address without user name, password, ? or #: keys do not belong in a config"
    raise errors.config("teacher.base_url", "(hidden)", allowed, _EXAMPLE)
  parts = _split(base_url) if base_url.isprintable() and " " not in base_url else None
  if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
    allowed = "an address such as https://HOST/v1"
    raise errors.config("teacher.base_url", base_url, allowed, _EXAMPLE)
  if parts.scheme == "http" and not (insecure_http or is_local(base_url)):
    allowed = (
      "https, or http to this machine only, since http sends key and texts unencrypted; if you"
      " trust the network in between, --config.teacher.insecure_http=True allows it"
    )
    raise errors.config("teacher.base_url", base_url, allowed, _EXAMPLE)


def key(base_url: str, *, key_env: str, key_file: str) -> str:
  """Reads the API key.

  Args:
    base_url: The teacher's address.
    key_env: Environment variable with the key; "" for none.
    key_file: File with the key; takes precedence unless "".

  Returns:
    The key; "" if there is none and none is required: on this machine, and with plain http.

  Raises:
    UserError: The key is missing or malformed, or the file is accessible to everyone.
  """
  if key_file:
    found, source = _read_file(key_file), f"file {key_file}"
  else:
    found = os.environ.get(key_env, "").strip() if key_env else ""
    source = f"environment variable {key_env}"
  if not found and base_url.lower().startswith("https:") and not is_local(base_url):
    name = key_env or "OPENAI_API_KEY"
    raise _error(
      f"no key for {base_url}: the environment variable {name} (config.teacher.key_env) is not set",
      f"export {name}=... (or name a file with --config.teacher.key_file=FILE)",
    )
  if not found.isprintable() or not found.isascii() or " " in found:
    raise _error(f"the key in the {source} contains characters that no key has", "set it again")
  return found


def check_name(key_env: str) -> None:
  """Checks that config.teacher.key_env is the name of a variable.

  Raises:
    UserError: It is not a valid name, or looks like the key itself. The value is not shown.
  """
  valid = not key_env or (key_env.isascii() and key_env.isidentifier())
  like_a_key = len(key_env) >= 20 and key_env != key_env.upper() and key_env not in os.environ
  if not valid or like_a_key:
    allowed = "the name of an environment variable, not the key itself"
    raise errors.config("teacher.key_env", "(hidden)", allowed, "export OPENAI_API_KEY=...")


def redactor(*secrets: str) -> Callable[[str], str]:
  """A function that removes secrets from a text, also in their JSON spellings."""
  spellings = [
    spelling
    for secret in secrets
    if len(secret) >= MIN_SECRET
    for spelling in (secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/"))
  ]

  def redact(text: str) -> str:
    for spelling in spellings:
      text = text.replace(spelling, "[key]")
    return text

  return redact


def _read_file(name: str) -> str:
  subject = f"the key file {name} (config.teacher.key_file)"
  try:
    with disk.open_regular(pathlib.Path(name).expanduser()) as file:
      mode = os.fstat(file.fileno()).st_mode
      raw = file.read(MAX_KEY_BYTES + 1)
  except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such ~user
    reason = getattr(error, "strerror", None) or "invalid file name"
    raise _error(f"{subject} cannot be read ({reason})", "name an existing file") from None
  if mode & (stat.S_IROTH | stat.S_IWOTH):
    raise _error(f"{subject} is accessible to everyone on this machine", f"chmod 600 {name}")
  found = raw.decode("latin-1").strip()
  if not found or len(raw) > MAX_KEY_BYTES:
    raise _error(f"{subject} contains no key", "put the key into it, and nothing else")
  return found


def _error(problem: str, advice: str) -> errors.UserError:
  return errors.UserError(f"{problem}; {advice}", errors.CONFIG)


def _split(base_url: str) -> urllib.parse.SplitResult | None:
  try:
    parts = urllib.parse.urlsplit(base_url)
    (parts.hostname or "").encode("idna")  # as connecting would
    return None if parts.port == 0 else parts
  except ValueError:
    return None


def _host(base_url: str) -> str:
  parts = _split(base_url)
  return parts.hostname or "" if parts else ""
