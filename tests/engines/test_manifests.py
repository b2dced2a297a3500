"""The files for Kubernetes and SkyPilot: their fields, and that they restart on the right codes."""

import copy
import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from distill_jax.ablations import children
from distill_jax.cli import restarts
from tests.engines import kubernetes
from tests.small_sweeps import ROOT

RESTARTED = [75, 134, 137, 139, 143]
SKYPILOT = os.environ.get("SKYPILOT_PYTHON", "")  # Python of an environment with skypilot


@pytest.fixture
def jobset() -> dict:
  return yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())


@pytest.fixture(scope="module")
def skypilot() -> dict:
  return yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())


def pod(jobset: dict) -> dict:
  return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_the_jobset_has_only_fields_that_exist(jobset):
  assert kubernetes.faults(jobset, kubernetes.JOBSET) == []


@pytest.mark.parametrize(
  ("path", "value", "fault"),
  [
    (("spec", "failurePolicy", "maxRestart"), 3, ".spec.failurePolicy.maxRestart is unknown"),
    (("spec", "failurePolicy", "maxRestarts"), "3", ".spec.failurePolicy.maxRestarts is '3'"),
    (("spec", "failurePolicy", "restartStrategy"), "Blocking", "not one of"),
    (("spec", "replicatedJobs"), {}, "not a list"),
    (("metadata", "name"), True, ".metadata.name is True"),
    (("kind",), None, ".kind is None"),
  ],
)
def test_a_wrong_field_of_a_jobset_is_found(jobset, path, value, fault):
  place = jobset
  for name in path[:-1]:
    place = place[name]
  place[path[-1]] = value
  assert any(fault in text for text in kubernetes.faults(jobset, kubernetes.JOBSET))


def test_every_misspelt_field_of_the_jobset_is_found(jobset):
  def misspelt(value):
    if isinstance(value, dict):
      for name in value:
        yield {(f"{n}x" if n == name else n): part for n, part in value.items()}
        for changed in misspelt(value[name]):
          yield {**value, name: changed}
    if isinstance(value, list):
      for n, part in enumerate(value):
        for changed in misspelt(part):
          yield [*value[:n], changed, *value[n + 1 :]]

  found = list(misspelt(copy.deepcopy(jobset)))
  assert len(found) > 50
  missed = [m for m in found if not kubernetes.faults(m, kubernetes.JOBSET)]
  limits = {"nvidia.com/gpux": 8}  # any name of a resource is valid
  assert [pod(m)["containers"][0]["resources"]["limits"] for m in missed] == [limits]


def test_the_jobset_starts_one_process_per_host_and_restarts_on_its_codes(jobset):
  (replicated,) = jobset["spec"]["replicatedJobs"]
  job, (container,) = replicated["template"]["spec"], pod(jobset)["containers"]
  variables = {entry["name"]: entry for entry in container["env"]}
  assert children.MANY_HOSTS - {"DISTILL_JAX_PATIENCE"} <= set(variables)
  hosts = variables["DISTILL_JAX_PROCESSES"]["value"]
  assert [hosts] * 2 == [str(job["completions"]), str(job["parallelism"])]
  address = f"{jobset['metadata']['name']}-{replicated['name']}-0-0.{jobset['metadata']['name']}"
  assert variables["DISTILL_JAX_COORDINATOR"]["value"].rpartition(":")[0] == address
  (rule,) = job["podFailurePolicy"]["rules"]
  codes = rule["onExitCodes"]
  assert (rule["action"], codes["operator"], codes["values"]) == ("FailJob", "NotIn", RESTARTED)
  assert codes["containerName"] == container["name"]
  (refused,) = jobset["spec"]["failurePolicy"]["rules"]
  assert (refused["action"], refused["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
  assert (job["backoffLimit"], pod(jobset)["restartPolicy"]) == (0, "Never")
  assert pod(jobset)["terminationGracePeriodSeconds"] >= 120


def test_skypilot_restarts_on_the_codes_of_the_machine(skypilot):
  recovery = skypilot["resources"]["job_recovery"]
  assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": RESTARTED}


def test_the_shell_scripts_restart_on_the_same_codes():
  script = f'source "{ROOT}/launch/environment.sh"; '
  script += "for c in {0..255}; do ended_by_machine $c && echo $c; done; true"
  codes = subprocess.check_output(["bash", "-c", script], text=True).split()
  assert [int(code) for code in codes] == RESTARTED


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("code", [0, 4, 75, 137])
def test_a_job_that_is_not_ended_after_its_requeue_keeps_its_exit_code(code, accepted, tmp_path):
  answer = "true" if accepted else "false"
  (tmp_path / "scontrol").write_text(f"#!/usr/bin/env bash\necho >'{tmp_path}/calls'; {answer}")
  (tmp_path / "scontrol").chmod(0o755)
  environment = {
    "PATH": f"{tmp_path}:{os.environ['PATH']}",
    "SLURM_JOB_ID": "7",
    "REQUEUE_SECONDS": "0",
  }
  script = f'source "{ROOT}/launch/environment.sh"; exit_or_requeue {code}; echo goes on'
  done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (code, "")
  assert (tmp_path / "calls").exists() == (code in RESTARTED)


def test_every_launcher_limits_restarts_without_progress(jobset, tmp_path):
  (container,) = pod(jobset)["containers"]
  assert {"name": restarts.VARIABLE, "value": "3"} in container["env"]
  (tmp_path / "python").write_text(f"#!/usr/bin/env bash\necho ${restarts.VARIABLE}")
  (tmp_path / "python").chmod(0o755)
  words = ["bash", str(ROOT / "launch/process.sh"), "run"]
  environment = os.environ | {"DISTILL_JAX_PYTHON": str(tmp_path / "python")}
  assert subprocess.check_output(words, env=environment, text=True) == "3\n"
  environment[restarts.VARIABLE] = "0"
  assert subprocess.check_output(words, env=environment, text=True) == "0\n"
  assert f"export {restarts.VARIABLE}=" in (ROOT / "launch/array.sbatch").read_text()
  others = [(ROOT / "launch" / name).read_text() for name in ("slurm.sbatch", "skypilot.yaml")]
  assert all("bash launch/process.sh" in text for text in others)


@pytest.mark.parametrize(("rank", "command"), [(0, None), (1, "run --config=a --workdir='my run'")])
def test_skypilot_starts_the_process_of_each_host(skypilot, tmp_path, rank, command):
  (tmp_path / "launch").mkdir()
  (tmp_path / "launch/process.sh").write_text('printf "%s|" "$@"; env | grep ^DISTILL_JAX_ | sort')
  environment = {
    **{name: value for name, value in os.environ.items() if not name.startswith("DISTILL_JAX")},
    **skypilot["envs"],
    **({"COMMAND": command} if command else {}),
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": str(rank),
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
  }
  out = subprocess.check_output(
    ["bash", "-c", skypilot["run"]], cwd=tmp_path, env=environment, text=True
  )
  words = shlex.split(environment["COMMAND"])
  assert out.startswith("".join(f"{word}|" for word in words) + "DISTILL_JAX")
  assert f"DISTILL_JAX_COORDINATOR=10.0.0.1:12321\nDISTILL_JAX_PROCESS={rank}\n" in out
  assert "DISTILL_JAX_PROCESSES=2\n" in out


@pytest.mark.heavy
@pytest.mark.skipif(not SKYPILOT, reason="SKYPILOT_PYTHON names no Python with skypilot")
def test_skypilot_accepts_the_file_and_rejects_a_misspelt_field(tmp_path):
  """Needs an environment with skypilot.

  python -m venv DIR && DIR/bin/pip install skypilot==0.14.1
  SKYPILOT_PYTHON=DIR/bin/python python -m pytest -m heavy tests/engines/test_manifests.py
  """
  text = (ROOT / "launch/skypilot.yaml").read_text()

  def load(content: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "task.yaml"
    file.write_text(content)
    program = (
      "import sky, sys; task = sky.Task.from_yaml(sys.argv[1]);"
      "print(task.num_nodes, [r.job_recovery['recover_on_exit_codes'] for r in task.resources])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    return subprocess.run(
      [SKYPILOT, "-c", program, file], cwd=ROOT, env=environment, capture_output=True, text=True
    )

  assert load(text).stdout.splitlines()[-1] == f"2 {[RESTARTED]}"
  for name in ("num_nodes:", "job_recovery:", "use_spot:", "secrets:", "volumes:"):
    assert load(text.replace(name, f"{name[:-1]}x:")).returncode != 0, name


@pytest.mark.heavy
@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck (Debian, PyPI) is missing")
def test_shellcheck_has_nothing_to_say_about_the_scripts():
  scripts = sorted([*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch")])
  done = subprocess.run(
    ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts], capture_output=True, text=True, cwd=ROOT
  )
  assert len(scripts) >= 8 and done.returncode == 0, done.stdout


def test_the_files_name_no_key_and_no_path_of_a_machine():
  for file in (ROOT / "launch").iterdir():
    text = file.read_text()
    assert not re.search(r"sk-\w|/home/|/root/|/Users/", text), file
