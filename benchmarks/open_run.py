"""What it costs to open a run: every file is read and compared with its SHA-256.

  python -m benchmarks.open_run
  python -m benchmarks.open_run --attempts=100000 --rounds=4

Writes a run directory of attempts to a temporary directory and opens it in new processes, so that
no digest is remembered. The first opening may find the files in the page cache: drop it first
(`echo 1 > /proc/sys/vm/drop_caches`, as root) to include the disk.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile

from distill_jax import records
from distill_jax.run_dir.run_dir import RunDir

TEXT = "Tom has 12 apples and buys 7 more. That is 12 + 7 = 19. He gives 4 away: 19 - 4 = 15.\n"
OPEN = """
import sys, time
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import results
run = RunDir(sys.argv[1])
start = time.perf_counter()
run.verify()
checked = time.perf_counter()
run.verify()
again = time.perf_counter()
for phase in run.phases():
  results.exam(phase)
print(checked - start, again - checked, time.perf_counter() - again)
"""


def write_run(path: pathlib.Path, attempts: int, rounds: int) -> int:
  """Writes a run whose exams have `attempts` attempts together; returns the size in bytes."""
  run = RunDir(path)
  run.claim({"rounds": rounds})
  for round_index in range(rounds):
    phase = run.phase(round_index, 0, "exam")
    rows = (
      records.Attempt(
        problem=f"arithmetic/train/{n // 4}",
        text=3 * TEXT + f"Answer: {n}",
        answer=str(n),
        correct=n % 2 == 0,
        round=round_index,
        sample=n % 4,
        finish="stop",
        tokens=96,
        logprob=-12.345678901234567,
      )
      for n in range(attempts // rounds)
    )
    phase.write("attempts.jsonl", rows)
    phase.finish({})
  run.release()
  return sum(file.stat().st_size for file in path.rglob("*.jsonl"))


def main() -> None:
  """Prints the seconds of opening a run, of opening it again, and of counting its verdicts."""
  parser = argparse.ArgumentParser(description="Times the opening of a run directory.")
  parser.add_argument("--attempts", type=int, default=100_000)
  parser.add_argument("--rounds", type=int, default=4)
  parser.add_argument("--repeats", type=int, default=5)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch) / "run"
    size = write_run(path, options.attempts, options.rounds)
    times = []
    for _ in range(options.repeats):
      command = [sys.executable, "-c", OPEN, str(path)]
      output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
      times.append([float(word) for word in output.split()])
  medians = [statistics.median(column) for column in zip(*times, strict=True)]
  print(f"{options.attempts} attempts in {options.rounds} exams, {size / 1e6:.0f} MB")
  labels = ("check all files", "check them again in the same process", "count the verdicts")
  for label, seconds in zip(labels, medians, strict=True):
    print(f"{label}: {seconds:.3f} s")


if __name__ == "__main__":
  main()
