"""Takes a picture of the first page of a run's report, with Chromium.

python -m benchmarks.report_picture --workdir=runs/quickstart --out=docs/img/report.png
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

from distill_jax.report import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 1130


def browser() -> str | None:
  """Returns the path of an installed Chromium."""
  return next(filter(None, map(shutil.which, BROWSERS)), None)


def take(page: pathlib.Path, out: pathlib.Path, *, width: int, height: int, dark: bool) -> str:
  """Writes a picture of a page and returns what the browser wrote on its console."""
  program = browser()
  if program is None:
    sys.exit(f"none of {', '.join(BROWSERS)} is installed")
  with tempfile.TemporaryDirectory() as profile:
    words = [
      program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
      f"--user-data-dir={profile}", f"--window-size={width},{height}", "--enable-logging=stderr",
      "--virtual-time-budget=10000", f"--screenshot={out}",
      f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
  return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def main() -> None:
  """Writes the report of a run to a temporary file and its picture to --out."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--out", default="docs/img/report.png")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    page = pathlib.Path(folder) / "report.html"
    page.write_text(write.render(options.workdir), "utf-8")
    take(page, pathlib.Path(options.out), width=WIDTH, height=HEIGHT, dark=False)
  print(f"Wrote {options.out}")


if __name__ == "__main__":
  main()
