"""distill-jax report: a run or a sweep as one page; see `distill_jax.report`."""

import pathlib
import sys
from collections.abc import Sequence

from distill_jax import errors
from distill_jax.report import write


def run(workdir: str, others: Sequence[str], out: str, *, markdown: bool) -> None:
  """Writes a report and prints where it is, or prints it as Markdown.

  Args:
    workdir: The directory of a run or a sweep.
    others: Directories of runs to compare with.
    out: The file to write; "" = report.html in `workdir`, or standard output for Markdown.
    markdown: Markdown instead of HTML.
  """
  if not workdir:
    raise errors.missing("workdir", "runs/quickstart")
  folder = pathlib.Path(out).parent if out else workdir
  content = write.render(workdir, others, as_markdown=markdown, folder=folder)
  if markdown and not out:
    sys.stdout.write(content)
    return
  target = pathlib.Path(out or pathlib.Path(workdir) / write.REPORT)
  write.write(target, content)
  kilobytes = len(content.encode()) / 1e3
  size = f"{kilobytes:.0f} kB" if kilobytes < 1000 else f"{kilobytes / 1e3:.1f} MB"
  print(f"Report: {target} ({size})")
