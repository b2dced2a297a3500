"""Content of a data file as text, whether gzipped or not.

What is not data is named: a Git LFS pointer, an HTML page, a spreadsheet.
"""

import gzip
import pathlib
import zlib

from distill_jax import disk, errors


def read(path: pathlib.Path, option: str, expected: str = "") -> bytes:
  """The bytes of a file, without gzip compression.

  Raises:
    errors.UserError: The file does not exist or is not readable.
  """
  hint = f"; expected {expected}" if expected else ""
  try:
    if not path.exists():
      raise errors.data(f"no file {path}; set --config.{option} to where the files are{hint}")
    content = disk.read_bytes(path)
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise errors.data(f"{path}: damaged gzip file ({error}); download it again") from None
  except OSError as error:
    raise errors.data(
      f"{path}: cannot be read ({error.strerror}); check it and its permissions"
    ) from None


def decode(path: pathlib.Path, content: bytes) -> str:
  """The text of a file in UTF-8 or, with a byte order mark, UTF-16, with plain line ends.

  Raises:
    errors.UserError: It is not text, or another encoding, or not a data file at all.
  """
  head = content[:200].lstrip().lower()
  if head.startswith(b"version https://git-lfs"):
    raise errors.data(
      f"{path}: a Git LFS pointer, not the data; run `git lfs pull` in its repository, or download"
      " the file itself"
    )
  if head.startswith((b"<!doctype html", b"<html", b"<head")):
    raise errors.data(f"{path}: an HTML page, not data; download the raw file, not its web page")
  if head.startswith(b"pk\x03\x04"):
    raise errors.data(f"{path}: a zip archive or a spreadsheet; unpack it, or save it as CSV")
  is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
  try:
    text = content.decode("utf-16" if is_wide else "utf-8-sig")
  except UnicodeDecodeError as error:
    if any(byte < 9 for byte in content[:4096]):
      raise errors.data(
        f"{path}: a binary file, or text in UTF-16 without its mark; expected JSON, CSV or Parquet,"
        " gzipped or not, in UTF-8"
      ) from None
    line = content[: error.start].count(b"\n") + 1
    raise errors.data(
      f"{path}:{line}: not UTF-8 at byte {error.start}; convert it to UTF-8:"
      f" iconv -f latin1 -t utf-8 {path.name} > new_{path.name}"
    ) from None
  return text.replace("\r\n", "\n").replace("\r", "\n")
