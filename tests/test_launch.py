import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = [
  *(f.relative_to(ROOT).as_posix() for f in sorted((ROOT / "launch").glob("*.*sh"))),
  *(f.relative_to(ROOT).as_posix() for f in sorted((ROOT / "launch").glob("*.sbatch"))),
  ".ci/run",
]

PYTHON = """#!/usr/bin/env bash
# Replaces .venv/bin/python: logs its arguments, one line per call, separated by |.
IFS='|'; echo "$*" >>"$CALLS"
[[ -z ${ENVIRONMENT:-} ]] || env | grep ^DISTILL_JAX_ | sort >"$ENVIRONMENT"
if [[ $* == *pip*install* ]]; then exit "${PIP_EXIT:-0}"; fi
if [[ $* == *"$FAILING"* && -n $FAILING ]]; then exit 1; fi
"""


@pytest.fixture
def checkout(tmp_path):
  """A copy of the scripts in a directory with a space, and a Python that only logs its calls."""
  root = tmp_path / "a checkout"
  for file in (*SCRIPTS, *(f.name for f in ROOT.glob("requirements*.txt"))):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / file, root / file)
  for file in (".venv/bin/python", "fake/python3"):
    executable(root / file, PYTHON)
  executable(root / "fake/nvidia-smi", "exit 9")
  return root


def executable(file: pathlib.Path, text: str) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
  file.chmod(0o755)


def launch(checkout, script, *arguments, cwd=None, **extra):
  """Returns (result, calls of the fake Python), the latter with relative paths."""
  calls = checkout / "calls"
  calls.unlink(missing_ok=True)
  path = f"{checkout / 'fake'}:{os.environ['PATH']}"
  environment = {**os.environ, "PATH": path, "CALLS": str(calls), "FAILING": "", **extra}
  for name in (
    "PYTHON",
    "DISTILL_JAX_PYTHON",
    "CUDA_VISIBLE_DEVICES",
    "TPU_NAME",
    "TPU_WORKER_ID",
    "TPU_ACCELERATOR_TYPE",
  ):
    environment.pop(name, None) if name not in extra else None
  result = subprocess.run(
    ["bash", checkout / script, *arguments],
    cwd=cwd or checkout,
    env=environment,
    text=True,
    capture_output=True,
  )
  lines = calls.read_text().splitlines() if calls.exists() else []
  return result, [line.replace(f"{checkout}/", "") for line in lines]


def installs(calls):
  return [c for c in calls if "|install|" in c]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_bash(script):
  subprocess.run(["bash", "-n", ROOT / script], check=True)


RUN = "-m|distill_jax|run|--config="


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ([], "configs/quickstart.py|--workdir=runs/quickstart"),
    (["--config.rounds=1"], "configs/quickstart.py|--workdir=runs/quickstart|--config.rounds=1"),
    (["configs/tailored.py"], "configs/tailored.py|--workdir=runs/tailored"),
    (["configs/tailored.py:quick"], "configs/tailored.py:quick|--workdir=runs/tailored-quick"),
    (
      ["configs/tailored.py", "--workdir=runs/my run", "--config.task.path=a b*"],
      "configs/tailored.py|--workdir=runs/tailored|--workdir=runs/my run|--config.task.path=a b*",
    ),
    (["--workdir", "x"], "configs/quickstart.py|--workdir=runs/quickstart|--workdir|x"),
    (["--help"], "configs/quickstart.py|--workdir=runs/quickstart|--help"),
  ],
)
def test_arguments_reach_the_program_unchanged(checkout, arguments, expected):
  result, calls = launch(checkout, "launch/local.sh", *arguments)
  assert result.returncode == 0, result.stderr
  assert calls[-1] == RUN + expected


def test_a_config_is_found_from_the_current_directory(checkout, tmp_path):
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "mine.py").touch()
  _, calls = launch(checkout, "launch/local.sh", "mine.py:tiny", cwd=tmp_path / "elsewhere")
  assert calls[-1] == f"{RUN}{tmp_path}/elsewhere/mine.py:tiny|--workdir=runs/mine-tiny"
  _, calls = launch(checkout, "launch/local.sh", "configs/tailored.py", cwd=tmp_path / "elsewhere")
  assert calls[-1] == f"{RUN}configs/tailored.py|--workdir=runs/tailored"


@pytest.mark.parametrize("arguments", [["--config=a.py"], ["--config", "a.py"]])
def test_a_config_given_as_a_flag_is_rejected_with_a_hint(checkout, arguments):
  result, calls = launch(checkout, "launch/local.sh", *arguments)
  assert result.returncode == 2 and "first" in result.stderr and not calls


def test_requirements_are_installed_again_only_after_they_change(checkout):
  assert len(installs(launch(checkout, "launch/local.sh")[1])) == 1
  result, calls = launch(checkout, "launch/local.sh")
  assert not installs(calls) and result.stderr == ""
  with open(checkout / "requirements.txt", "a") as opened:
    opened.write("more>=1\n")
  assert len(installs(launch(checkout, "launch/local.sh")[1])) == 1
  assert len(installs(launch(checkout, "launch/test.sh")[1])) == 1


def test_a_failed_installation_is_reported_and_repeated(checkout):
  result, calls = launch(checkout, "launch/local.sh", PIP_EXIT="1")
  assert result.returncode != 0 and "failed" in result.stderr
  assert not any("distill_jax" in c for c in calls)
  assert len(installs(launch(checkout, "launch/local.sh")[1])) == 1


def test_the_accelerator_decides_what_is_installed(checkout):
  assert installs(launch(checkout, "launch/local.sh")[1])[0].endswith(
    "--quiet|--disable-pip-version-check|-r|requirements.txt"
  )
  executable(checkout / "fake/nvidia-smi", "exit 0")
  with_gpu = installs(launch(checkout, "launch/local.sh")[1])[0]
  assert with_gpu.endswith("-r|requirements.txt|-r|requirements-gpu.txt")


def test_a_missing_environment_is_created_with_the_selected_python(checkout):
  shutil.rmtree(checkout / ".venv")
  executable(checkout / "fake/python9", PYTHON + 'mkdir -p "$3/bin"; cp "$0" "$3/bin/python"\n')
  result, calls = launch(checkout, "launch/local.sh", PYTHON="python9")
  assert result.returncode == 0, result.stderr
  assert "-m|venv|.venv" in calls and calls[-1].startswith(RUN)


def test_requirements_are_installed_again_for_another_python(checkout):
  python = PYTHON + 'if [[ $* == *version_info* ]]; then echo "${VERSION:-3.11}"; fi\n'
  executable(checkout / ".venv/bin/python", python)
  assert len(installs(launch(checkout, "launch/local.sh")[1])) == 1
  assert not installs(launch(checkout, "launch/local.sh")[1])
  assert len(installs(launch(checkout, "launch/local.sh", VERSION="3.12")[1])) == 1
  assert not installs(launch(checkout, "launch/local.sh", VERSION="3.12")[1])


def test_an_environment_whose_python_is_gone_is_reported_and_left_alone(checkout):
  python = checkout / ".venv/bin/python"
  python.unlink()
  python.symlink_to("/nonexistent/python3")
  result, calls = launch(checkout, "launch/local.sh")
  assert result.returncode != 0 and "remove that directory" in result.stderr
  assert python.is_symlink() and not calls


def test_a_python_that_is_too_old_or_missing_is_rejected(checkout):
  shutil.rmtree(checkout / ".venv")
  for python in ("fake-old", "not-there"):
    executable(checkout / "fake/fake-old", "exit 1")
    result, calls = launch(checkout, "launch/local.sh", PYTHON=python)
    assert result.returncode != 0 and "3.11" in result.stderr and not calls


@pytest.mark.parametrize(
  "failing", ["", "ruff|check", "ruff|format", "-m|pyright", "-m|mkdocs", "-m|pytest"]
)
def test_all_five_checks_run_and_any_failure_fails(checkout, failing):
  result, calls = launch(checkout, "launch/test.sh", "-k", "a b", FAILING=failing)
  site = calls[-2].rpartition("|")[2]
  assert calls[-5:] == [
    "-m|ruff|check",
    "-m|ruff|format|--check",
    "-m|pyright",
    f"-m|mkdocs|build|--strict|--quiet|--site-dir|{site}",
    "-m|pytest|-n|2|--dist|loadfile|--no-loadscope-reorder|-k|a b",
  ]
  assert result.returncode == (1 if failing else 0)
  assert not pathlib.Path(site).exists()
  assert launch(checkout, ".ci/run", FAILING=failing)[0].returncode == result.returncode


def test_a_process_of_many_gets_its_words_and_its_numbers(checkout, tmp_path):
  environment = tmp_path / "environment"
  words = ["run", "--config=quickstart", "--workdir=runs/my run", "--config.task.path=a b*"]
  result, calls = launch(checkout, "launch/process.sh", *words, ENVIRONMENT=str(environment))
  assert result.returncode == 0, result.stderr
  assert calls[-1] == "|".join(["-m|distill_jax", *words]) and len(installs(calls)) == 1
  assert environment.read_text() == "DISTILL_JAX_PROCESSES=auto\nDISTILL_JAX_TRIES=3\n"
  own = tmp_path / "own python"
  executable(own, PYTHON)
  given = {"DISTILL_JAX_PROCESSES": "2", "DISTILL_JAX_PROCESS": "1", "DISTILL_JAX_PYTHON": str(own)}
  given["DISTILL_JAX_TRIES"] = "7"
  shutil.rmtree(checkout / ".venv")
  _, calls = launch(checkout, "launch/process.sh", "run", ENVIRONMENT=str(environment), **given)
  assert calls == ["-m|distill_jax|run"]  # nothing is installed
  assert environment.read_text() == "".join(f"{k}={v}\n" for k, v in sorted(given.items()))


def test_hosts_that_share_a_checkout_install_one_after_the_other(checkout):
  slow = PYTHON.replace('exit "${PIP_EXIT:-0}"', "sleep 0.5; exit 0")
  executable(checkout / ".venv/bin/python", slow)
  environment = {**os.environ, "CALLS": str(checkout / "calls"), "FAILING": ""}
  environment["PATH"] = f"{checkout / 'fake'}:{os.environ['PATH']}"
  environment.pop("DISTILL_JAX_PYTHON", None)
  words = ["bash", str(checkout / "launch/process.sh"), "run"]
  hosts = [
    subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
  ]
  assert sorted("Installing" in host.communicate()[1] for host in hosts) == [False, True]
  assert [host.returncode for host in hosts] == [0, 0]


def test_accelerators_that_are_in_use_are_reported_with_the_process_and_left_alone(checkout):
  executable(
    checkout / "fake/nvidia-smi", 'echo "$*" >>"$CALLS"; [[ $# == 0 ]] || echo "77, train"'
  )
  result, calls = launch(
    checkout, "launch/process.sh", "run", ACCELERATOR_TRIES="1", CUDA_VISIBLE_DEVICES="2,3"
  )
  assert result.returncode == 3 and "in use by process 77, train" in result.stderr
  assert "--id=2,3 --query-compute-apps=pid,name --format=csv,noheader" in calls
  assert not any("distill_jax" in call for call in calls)
  # An error of nvidia-smi is not a process.
  none = '[[ $* != *query* ]] || { echo "No devices were found"; exit 6; }'
  executable(checkout / "fake/nvidia-smi", none)
  result, calls = launch(
    checkout, "launch/process.sh", "run", ACCELERATOR_TRIES="1", CUDA_VISIBLE_DEVICES="-1"
  )
  assert result.returncode == 0 and calls[-1] == "-m|distill_jax|run", result.stderr
  # A process that ends is waited for.
  gone = (
    'if [[ -e "$CALLS.gone" ]]; then exit 0; fi; [[ $# == 0 ]] || { touch "$CALLS.gone"; echo 7; }'
  )
  executable(checkout / "fake/nvidia-smi", gone)
  result, calls = launch(checkout, "launch/process.sh", "run", ACCELERATOR_TRIES="2")
  assert result.returncode == 0 and calls[-1] == "-m|distill_jax|run"


@pytest.mark.parametrize("code", [0, 1, 3, 6, 75, 127, 134, 137, 139, 143])
def test_a_slurm_job_is_queued_again_only_if_the_machine_ended_it(checkout, tmp_path, code):
  srun = 'while [[ $1 == --* ]]; do shift; done; SLURM_NTASKS=2 SLURM_PROCID=1 "$@"'
  executable(checkout / "fake/srun", f"{srun}; exit {code}")
  executable(checkout / "fake/scontrol", 'echo "scontrol $*" >>"$CALLS"; echo node1; echo node2')
  executable(checkout / "fake/sleep", "")
  (checkout / "commands").write_text("env A=1 python one\nenv A=2 python two\n")
  environment = tmp_path / "environment"
  slurm = {"SLURM_JOB_ID": "20009", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_ARRAY_TASK_ID": "2"}
  again = code in (75, 134, 137, 139, 143)
  for script, words, call in (
    ("slurm", ["--workdir=a b"], "-m|distill_jax|run|--workdir=a b"),
    ("array", ["commands"], "two"),
  ):
    result, calls = launch(
      checkout, f"launch/{script}.sbatch", *words, ENVIRONMENT=str(environment), **slurm
    )
    assert call in calls, result.stderr
    assert ("scontrol requeue 20009" in calls) == again
    assert ("queued again" in result.stderr) == again
    assert again or result.returncode == code
    if script == "slurm":
      numbers = "DISTILL_JAX_PROCESS=1\nDISTILL_JAX_PROCESSES=2\nDISTILL_JAX_TRIES=3\n"
      assert environment.read_text() == f"DISTILL_JAX_COORDINATOR=node1:20009\n{numbers}"


def test_every_requirement_is_bounded_on_both_sides():
  for file in ROOT.glob("requirements*.txt"):
    for line in file.read_text().splitlines():
      requirement = line.split("#")[0].strip()
      if requirement:
        assert ">=" in requirement and "<" in requirement, f"{file.name}: {line}"
