"""Writes reports: of a run, of a sweep, as HTML or Markdown."""

import contextlib
import pathlib
from collections.abc import Sequence

from distill_jax import console, errors, together
from distill_jax.report import load, markdown, page, sweep
from distill_jax.run_dir import phase_dir

REPORT = "report.html"
Path = str | pathlib.Path


def render(
  path: Path, others: Sequence[Path] = (), *, as_markdown: bool = False, folder: Path = ""
) -> str:
  """Returns the report of a run or a sweep, as HTML or Markdown.

  Args:
    path: The run directory, or the sweep's directory.
    others: Directories of runs to compare the run with.
    as_markdown: Markdown instead of HTML.
    folder: The directory that the report is written to; "" = `path`.

  Raises:
    UserError: The directory is neither a run's nor a sweep's, or a file in it is damaged.
  """
  path = pathlib.Path(path)
  if sweep.is_sweep(path):
    if others:
      raise errors.usage("--with compares runs; a sweep compares its rows already")
    if as_markdown:
      file = path / "table.md"
      with phase_dir.report_os_errors(file):
        return file.read_text("utf-8")
    return sweep.of_directory(path, REPORT, pathlib.Path(folder or path))
  run, compared = load.read(path), [load.read(other) for other in others]
  return markdown.of_run(run, compared) if as_markdown else page.of_run(run, compared)


def write(out: Path, content: str) -> None:
  """Writes a report, atomically. Raises UserError if it cannot be written."""
  target = pathlib.Path(out)
  if target.is_dir():
    raise errors.usage(f"--out={out} is a directory; name a file, for example {target / REPORT}")
  phase_dir.write_bytes(target, content.encode())


@together.on_first
def write_at_end(workdir: Path, screen: console.Console) -> None:
  """Writes report.html of a run or sweep that has ended. A failure is a warning, never an error."""
  target = pathlib.Path(workdir) / REPORT
  try:
    write(target, render(workdir))
  except Exception as error:  # the results are on disk; the page is only a view of them
    with contextlib.suppress(Exception):
      first = (str(error) or type(error).__name__).splitlines()[0]
      screen.warn(f"no report was written ({first}); try: distill-jax report --workdir={workdir}")
    return
  screen.line(f"Report: {target}")
