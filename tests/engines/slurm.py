"""A SLURM cluster of two nodes on this machine, from Debian's packages, in one directory."""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests import real_servers

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
CONFIG = """ClusterName=here
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={path}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool-%n
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/slurmd-%n.pid
SlurmctldLogFile={path}/slurmctld.log
SlurmdLogFile={path}/slurmd-%n.log
SlurmctldTimeout=60
SlurmdTimeout=120
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=30
JobRequeue=1
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
  """Returns why there can be no cluster here, or ""."""
  lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
  packages = "apt-get install --no-install-recommends slurm-wlm munge"
  return f"{', '.join(lacking)} not found: {packages}" if lacking else ""


def free_ports(count: int) -> list[int]:
  """Returns TCP ports of loopback that nothing uses."""
  with contextlib.ExitStack() as stack:
    bound = [stack.enter_context(socket.socket()) for _ in range(count)]
    for one in bound:
      one.bind(("127.0.0.1", 0))
    return [one.getsockname()[1] for one in bound]


class Cluster:
  """A running cluster. Commands get its configuration in SLURM_CONF."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def call(self, *words: str, check: bool = True, **environment: str) -> str:
    """Runs a command of SLURM and returns its output."""
    done = subprocess.run(
      words,
      env={**os.environ, "PATH": PATH, "SLURM_CONF": str(self.path / "slurm.conf"), **environment},
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert not check or done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout

  def submit(
    self,
    script: pathlib.Path,
    arguments: Sequence[str],
    *,
    options: Sequence[str],
    cwd: pathlib.Path,
    environment: Mapping[str, str],
  ) -> str:
    """Submits a script from a directory and returns the job's ID; its log is `log` of the ID."""
    output = (
      f"--output={self.path}/job-%A_%a.log" if _is_array(options) else f"--output={self.log('%j')}"
    )
    words = ["sbatch", "--parsable", f"--chdir={cwd}", output, *options, str(script), *arguments]
    return self.call(*words, **environment).strip()

  def log(self, job: str) -> pathlib.Path:
    """The output of a job."""
    return self.path / f"job-{job}.log"

  def state(self, job: str) -> dict[str, str]:
    """What SLURM says about a job: {field: value}."""
    words = self.call("scontrol", "--oneliner", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)

  def wait(self, job: str, done: Callable[[], bool], *, seconds: float = 300) -> None:
    """Waits until something is true of a job; a job that waits to be started again is started."""
    deadline = time.monotonic() + seconds
    while not done():
      state = self.state(job)
      text = self.log(job).read_text()[-3000:] if self.log(job).exists() else ""
      assert time.monotonic() < deadline, f"{state}\n{text}"
      if state["JobState"] == "PENDING" and state["Reason"] == "BeginTime":
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
      time.sleep(0.2)

  def ended(self, job: str) -> bool:
    """Whether a job has ended for good."""
    return self.state(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def _is_array(options: Sequence[str]) -> bool:
  return any(option.startswith("--array") for option in options)


@contextlib.contextmanager
def cluster(path: pathlib.Path) -> Iterator[Cluster]:
  """Starts a cluster in a directory, and ends every process of it at the end."""
  (path / "state").mkdir(parents=True)
  (path / "munge.key").write_bytes(os.urandom(1024))
  (path / "munge.key").chmod(0o400)
  path.chmod(0o755)  # munged wants that others cannot write
  config = CONFIG.format(path=path, user=getpass.getuser(), ports=free_ports(3))
  (path / "slurm.conf").write_text(config)
  daemons = [
    [
      "munged", "--foreground", "--force", "--num-threads=2",
      f"--key-file={path}/munge.key", f"--socket={path}/munge.socket",
      f"--pid-file={path}/munged.pid", f"--seed-file={path}/munged.seed",
    ],
    ["slurmctld", "-D", "-f", f"{path}/slurm.conf"],
    *(["slurmd", "-D", "-N", node, "-f", f"{path}/slurm.conf"] for node in ("node1", "node2")),
  ]  # fmt: skip
  made = Cluster(path)
  with contextlib.ExitStack() as stack:
    for words in daemons:
      log = stack.enter_context(open(path / f"daemon-{len(words)}-{words[0]}.log", "ab"))
      process = subprocess.Popen(words, env={**os.environ, "PATH": PATH}, stdout=log, stderr=log)
      stack.callback(real_servers.end, process)
      if words[0] == "munged":
        _until((path / "munge.socket").exists, "munged has no socket")
    _until(lambda: made.call("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2",
           f"the nodes are not idle; see {path}")  # fmt: skip
    stack.callback(made.call, "scancel", "--user", getpass.getuser(), check=False)
    yield made


def _until(true: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
  deadline = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < deadline, otherwise
    time.sleep(0.2)
