"""Jobs under a real SLURM: preempted, queued again, killed, refused; and a sweep as an array.

Minutes each; they need Debian's packages slurm-wlm and munge, and are skipped without them:

  python -m pytest -m heavy tests/engines/test_slurm.py
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from distill_jax import errors
from tests.engines import slurm
from tests.faults import test_kill as kills
from tests.multiprocess import commands
from tests.small_sweeps import ROOT, sweep_file

pytestmark = [
  pytest.mark.heavy,
  pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "SLURM is there"),
]

NODES = 2
RUN = [f"--config.{o}" for o in (*kills.TINY, "train.steps=80", "teacher.builtin.latency=0.05")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
  with slurm.cluster(tmp_path_factory.mktemp("slurm")) as running:
    yield running


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
  """What the jobs get: this Python, one CPU device each, a shared cache of compiled programs."""
  return {
    "DISTILL_JAX_PYTHON": sys.executable,
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "NPROC": "2",  # threads of each process: their number changes the last bits
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


def submit(cluster, environment, workdir, *words) -> str:
  """Submits a run on NODES nodes. Names of nodes do not resolve here: the address is given."""
  address = f"127.0.0.1:{slurm.free_ports(1)[0]}"
  return cluster.submit(
    ROOT / "launch/slurm.sbatch",
    ["--config=configs/quickstart.py", f"--workdir={workdir}", *words],
    options=[f"--nodes={NODES}"],
    cwd=ROOT,
    environment={**environment, "DISTILL_JAX_COORDINATOR": address},
  )


def processes(workdir: pathlib.Path) -> list[int]:
  """The processes of a run, by its directory."""
  found = []
  for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      words = file.read_bytes().split(b"\0")
    except OSError:
      continue
    if f"--workdir={workdir}".encode() in words and words[1:3] == [b"-m", b"distill_jax"]:
      found.append(int(file.parent.name))
  return sorted(found)


def uninterrupted(workdir: pathlib.Path, environment: dict[str, str]) -> None:
  """The same run in one process with as many devices, without SLURM."""
  words = [sys.executable, "-m", "distill_jax", "run", "--config=configs/quickstart.py"]
  devices = {"JAX_NUM_CPU_DEVICES": str(NODES)}
  subprocess.run(
    [*words, f"--workdir={workdir}", *RUN],
    cwd=ROOT,
    env={**os.environ, **environment, **devices},
    check=True,
    capture_output=True,
  )


def test_a_preempted_requeued_and_killed_job_ends_with_the_uninterrupted_bytes(
  cluster, environment, tmp_path
):
  workdir = tmp_path / "run"
  job = submit(cluster, environment, workdir, *RUN)
  restarts = 0

  def interrupt(sign: str, how) -> None:
    nonlocal restarts
    cluster.wait(job, lambda: any(workdir.glob(sign)) or cluster.ended(job))
    assert not cluster.ended(job), cluster.log(job).read_text()
    how()
    restarts += 1
    cluster.wait(job, lambda: cluster.state(job)["Restarts"] == str(restarts))

  def kill() -> None:
    os.kill(processes(workdir)[-1], signal.SIGKILL)

  interrupt("round_00/2_train/metrics.jsonl", lambda: cluster.call("scancel", "-s", "TERM", job))
  interrupt("round_01/0_exam/attempts.jsonl", lambda: cluster.call("scontrol", "requeue", job))
  interrupt("round_01/2_train/metrics.jsonl", kill)
  cluster.wait(job, lambda: cluster.ended(job), seconds=600)
  log = cluster.log(job).read_text()
  assert cluster.state(job)["JobState"] == "COMPLETED", log
  assert f"Exit code {errors.PREEMPTED}: the job is queued again (restart 1)" in log
  assert "the job is queued again (restart 3)" in log and "Traceback" not in log
  assert processes(workdir) == []
  uninterrupted(tmp_path / "alone", environment)
  commands.assert_equal(tmp_path / "alone", workdir)


@pytest.mark.parametrize(
  ("words", "code"), [(["--config.rounds=-1"], errors.CONFIG), (["--no_such"], errors.USAGE)]
)
def test_a_job_that_would_fail_again_is_not_queued_again(
  cluster, environment, tmp_path, words, code
):
  job = submit(cluster, environment, tmp_path / "run", *words)
  cluster.wait(job, lambda: cluster.ended(job))
  state = cluster.state(job)
  assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", f"{code}:0", "0")
  assert "distill-jax: " in cluster.log(job).read_text()


def test_a_cancelled_job_is_not_queued_again(cluster, environment, tmp_path):
  workdir = tmp_path / "run"
  job = submit(cluster, environment, workdir, *RUN)
  cluster.wait(job, lambda: any(workdir.glob("round_00/1_exam/attempts.jsonl")))
  cluster.call("scancel", job)
  cluster.wait(job, lambda: cluster.ended(job))
  cluster.wait(job, lambda: not processes(workdir))
  assert cluster.state(job)["JobState"] == "CANCELLED" and cluster.state(job)["Restarts"] == "0"


def test_a_sweep_as_an_array_of_jobs_has_the_table_of_a_sweep_on_one_host(
  cluster, environment, tmp_path
):
  tables = []
  env = {**os.environ, **environment}
  for name in ("array", "here"):
    (tmp_path / name).mkdir()
    file = sweep_file(tmp_path / name)
    ablate = [sys.executable, "-m", "distill_jax", "ablate", f"--config={file}"]
    ablate += [f"--workdir={tmp_path / name / 'sweep'}"]
    if name == "array":
      printed = subprocess.check_output([*ablate, "--print"], cwd=ROOT, env=env, text=True)
      (tmp_path / "commands.txt").write_text(printed)
      assert len(printed.splitlines()) == 4
      job = cluster.submit(
        ROOT / "launch/array.sbatch",
        [str(tmp_path / "commands.txt")],
        options=["--array=1-5"],
        cwd=ROOT,
        environment=environment,
      )
      tasks = [f"{job}_{n}" for n in range(1, 6)]
      for task in tasks:
        cluster.wait(task, lambda task=task: cluster.ended(task))
      assert [cluster.state(task)["ExitCode"] for task in tasks] == ["0:0"] * 4 + ["2:0"]
      assert subprocess.check_output([*ablate, "--print"], cwd=ROOT, env=env) == b""
    subprocess.run(ablate, cwd=ROOT, env=env, check=True, capture_output=True)
    tables.append(json.loads((tmp_path / name / "sweep" / "table.json").read_text()))
  for table in tables:
    for row in table["rows"]:
      del row["seconds"], row["replies"]  # runs that ask at the same time may both pay
  assert tables[0]["rows"] == tables[1]["rows"] and tables[0]["claims"] == tables[1]["claims"]
