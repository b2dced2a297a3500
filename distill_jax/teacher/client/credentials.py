"""Where the teacher is, and the key that opens it: read from the environment or from a file, and
shown nowhere."""

import ipaddress
import os
import pathlib
import stat
import urllib.parse

from distill_jax import errors

LONGEST = 4096  # bytes of a key, with the white space around it
_DO = "--config.teacher.base_url=https://HOST/v1"


def is_local(base_url: str) -> bool:
  """Does this address name this machine's loopback?"""
  host = _host(base_url)
  if host == "localhost":
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def check_address(base_url: str, *, insecure_http: bool) -> None:
  """Raises errors.UserError if the address is unsound, would take a key with it into files, or would
  show it to a network: plain http to another machine, without `insecure_http`."""
  hidden = "@" in base_url or "?" in base_url or "#" in base_url
  if hidden:
    allowed = "an address without user name, password, ? or #: a key stands in no config"
    raise errors.config("teacher.base_url", "(hidden)", allowed, _DO)
  parts = _parts(base_url) if base_url.isprintable() and " " not in base_url else None
  if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
    raise errors.config("teacher.base_url", base_url, "an address such as https://HOST/v1", _DO)
  if parts.scheme == "http" and not (insecure_http or is_local(base_url)):
    allowed = (
      "https, or http to this machine only, since key and texts would travel in the clear; where"
      " the network in between is yours, --config.teacher.insecure_http=True allows it"
    )
    raise errors.config("teacher.base_url", base_url, allowed, _DO)


def key(base_url: str, *, key_env: str, key_file: str) -> str:
  """The key in `key_file`, or, if that is "", in the environment variable `key_env`; "" where there
  is none and none is needed: on this machine, and where http is not encrypted anyway.

  Raises errors.UserError if it is missing, if others may read the file, or if it cannot be a key.
  """
  found = _in_file(key_file) if key_file else os.environ.get(key_env, "").strip() if key_env else ""
  place = f"file {key_file}" if key_file else f"environment variable {key_env}"
  if not found and base_url.startswith("https:") and not is_local(base_url):
    name = key_env or "OPENAI_API_KEY"
    raise _refused(
      f"no key for {base_url}: the environment variable {name} (config.teacher.key_env) is not set",
      f"export {name}=... (or name a file with --config.teacher.key_file=FILE)",
    )
  if not found.isprintable() or not found.isascii() or " " in found:
    raise _refused(f"the key in the {place} has characters no key has", "put it there once more")
  return found


def check_name(key_env: str) -> None:
  """Raises errors.UserError, without showing it, if this is no variable's name but maybe a key."""
  sound = not key_env or (key_env.isascii() and key_env.isidentifier())
  long = len(key_env) >= 20 and key_env != key_env.upper() and key_env not in os.environ
  if not sound or long:
    allowed = "the name of an environment variable, not the key itself"
    raise errors.config("teacher.key_env", "(hidden)", allowed, "export OPENAI_API_KEY=...")


def _in_file(name: str) -> str:
  at = f"the key file {name} (config.teacher.key_file)"
  try:
    with open(pathlib.Path(name).expanduser(), "rb") as file:
      mode = os.fstat(file.fileno()).st_mode
      raw = file.read(LONGEST + 1) if stat.S_ISREG(mode) else b""
  except (OSError, ValueError) as error:
    why = getattr(error, "strerror", None) or "no file can have this name"
    raise _refused(f"{at} cannot be read ({why})", "name a file that is there") from None
  if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
    raise _refused(f"{at} is open to everybody on this machine", f"chmod 600 {name}")
  found = raw.decode("latin-1").strip()
  if not found or len(raw) > LONGEST:
    raise _refused(f"{at} holds no key", "put the key into it, and nothing else")
  return found


def _refused(what: str, do: str) -> errors.UserError:
  return errors.UserError(f"{what}; {do}", errors.CONFIG)


def _parts(base_url: str):
  try:
    parts = urllib.parse.urlsplit(base_url)
    return None if parts.port == 0 else parts
  except ValueError:
    return None


def _host(base_url: str) -> str:
  parts = _parts(base_url)
  return parts.hostname or "" if parts else ""
