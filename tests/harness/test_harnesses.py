"""lm-evaluation-harness and inspect_ai, against `distill-jax serve` with a tiny student.

They need an environment of their own, named by HARNESS_PYTHON:

python -m venv HARNESS; HARNESS/bin/pip install "lm_eval[api,hf]" inspect-ai openai torch==2.13.0
HARNESS_PYTHON=HARNESS/bin/python bash launch/test.sh -m heavy tests/harness
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from distill_jax import records
from distill_jax.cli import main
from distill_jax.tasks import harness
from tests import recipes
from tests.harness import differences

quick = recipes.quick
ROOT = pathlib.Path(__file__).resolve().parents[2]
# Some answers of this student are right, some wrong and some cut off.
CHANGES = {
  "student__arch": "llama", "student__scratch__vocab": 512, "student__scratch__width": 64,
  "student__scratch__layers": 2, "world__train": 400, "world__test": 50, "world__steps_max": 1,
  "train__steps": 160, "train__lr": 5e-3, "train__batch": 32, "train__buckets": (192,),
  "evaluate__max_new_tokens": 48,
}  # fmt: skip
OPTIONS_TASK = """\
task: options
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: options
doc_to_target: 0
target_delimiter: ""
num_fewshot: 0
metric_list: [{metric: acc}]
"""


@pytest.fixture(scope="module")
def python() -> str:
  found = os.environ.get("HARNESS_PYTHON", "")
  if not found:
    pytest.skip("needs HARNESS_PYTHON; see the first lines of this file")
  return found


def call(python: str, *words: str, cwd: pathlib.Path, stdin: str = "") -> str:
  """Runs a program of the harness environment offline, with distill_jax importable."""
  env = {
    **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
    "OPENAI_API_KEY": "none", "HF_HOME": str(cwd / "hf"), "TOKENIZERS_PARALLELISM": "false",
  }  # fmt: skip
  done = subprocess.run([python, *words], cwd=cwd, env=env, input=stdin, text=True,
                        capture_output=True, timeout=600)  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stdout


@contextlib.contextmanager
def serving(*words: str):
  """Yields (base URL, model name) of `distill-jax serve`."""
  command = [sys.executable, "-m", "distill_jax", "serve", "--port=0", *words]
  with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout is not None
      match = re.match(r"Serving (\S+) at (\S+) ", process.stdout.readline())
      assert match, "the server did not start"
      yield match[2], match[1]
    finally:
      process.terminate()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(run directory, exported student, attempts by question of the final test, its tasks)."""
  folder = tmp_path_factory.mktemp("harness")
  _, run_dir = recipes.run(folder / "run", "cot", **CHANGES)
  for words in (["export", f"--out={folder / 'exported'}"],
                ["data", "harness", f"--out={folder / 'tasks'}"]):  # fmt: skip
    assert main.main([*words, f"--workdir={run_dir.path}"]) == 0
  rows = run_dir.final("test").rows("attempts.jsonl", records.Attempt)
  attempts = {attempt.problem: attempt for attempt in rows}
  assert len(attempts) == len(rows) == 50
  return run_dir.path, folder / "exported", attempts, folder / "tasks"


@pytest.fixture(scope="module")
def server(run):
  with serving(f"--workdir={run[0]}") as served:
    yield served


def lm_eval(python, out, task, include, model, model_args) -> tuple[dict, list[dict]]:
  """Runs a task; returns its metrics and its samples in the order of the questions."""
  chat = ["--apply_chat_template"] if "chat" in model else []
  call(
    python, "-m", "lm_eval", "run", "--model", model, "--model_args", model_args, "--tasks", task,
    "--include_path", str(include), "--output_path", str(out), "--log_samples", *chat, cwd=out,
  )  # fmt: skip
  (results,) = out.rglob("results_*.json")
  (samples,) = out.rglob("samples_*.jsonl")
  rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
  return json.loads(results.read_text("utf-8"))["results"][task], sorted(
    rows, key=lambda row: row["doc_id"]
  )


def local(url: str, name: str, path: str = "completions") -> str:
  return (f"model={name},base_url={url}/{path},num_concurrent=8,"
          "tokenizer_backend=None,tokenized_requests=False")  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize(
  ("suffix", "model", "path"),
  [
    ("", "local-completions", "completions"),
    ("_chat", "local-chat-completions", "chat/completions"),
  ],
)
def test_lm_eval_gets_the_texts_and_the_accuracy_of_evaluate(
  python, run, server, tmp_path, suffix, model, path
):
  _, _, attempts, tasks = run
  task = f"distill_jax_arithmetic{suffix}"
  found, rows = lm_eval(python, tmp_path, task, tasks, model, local(*server, path))
  texts = {row["doc"]["id"]: row["resps"][0][0] for row in rows}
  assert {k: text.strip() for k, text in texts.items()} == {k: a.text for k, a in attempts.items()}
  whole = {row["doc"]["id"]: harness.verdict(row["doc"]["problem"], texts[row["doc"]["id"]])[1]
           for row in rows}  # fmt: skip
  assert found["exact_match,none"] == np.mean(list(whole.values()))
  assert 0 < sum(whole.values()) < 50
  # The harness does not know which texts were cut off; only their verdicts may differ.
  for problem, attempt in attempts.items():
    assert attempt.correct == whole[problem] or attempt.finish == "length"


@pytest.mark.heavy
def test_the_tasks_of_gsm8k_run_with_its_stock_prompt(python, run, server, tmp_path):
  """The YAML of the harness, on questions of the layout of GSM8K."""
  _, _, _, tasks = run
  source = call(python, "-c", "import lm_eval; print(lm_eval.__path__[0])", cwd=tmp_path).strip()
  stock = (pathlib.Path(source) / "tasks" / "gsm8k" / "gsm8k.yaml").read_text("utf-8")
  lines = (tasks / "distill_jax_arithmetic.jsonl").read_text("utf-8").splitlines()
  rows = [json.loads(line) for line in lines]
  questions = tmp_path / "gsm8k.jsonl"
  questions.write_text("".join(
    json.dumps({"question": r["question"], "answer": f"So.\n#### {r['gold']}"}) + "\n"
    for r in rows))  # fmt: skip
  changed = stock.replace("task: gsm8k", "task: like_gsm8k").replace("num_fewshot: 5",
                                                                     "num_fewshot: 0")  # fmt: skip
  files = json.dumps({"data_files": {"train": str(questions), "test": str(questions)}})
  changed = changed.replace(
    "dataset_path: openai/gsm8k", f"dataset_path: json\ndataset_kwargs: {files}"
  )
  changed = changed.replace("dataset_name: main\n", "")
  (tmp_path / "like_gsm8k.yaml").write_text(changed)
  found, samples = lm_eval(
    python, tmp_path, "like_gsm8k", tmp_path, "local-completions", local(*server)
  )
  assert len(samples) == 2 * 50  # one of each filter
  assert 0 <= found["exact_match,flexible-extract"] <= 1


@pytest.mark.heavy
def test_log_likelihoods_are_those_of_transformers_on_the_export(python, run, tmp_path):
  _, exported, attempts, tasks = run
  lines = (tasks / "distill_jax_arithmetic.jsonl").read_text("utf-8").splitlines()
  questions = tmp_path / "options.jsonl"
  texts = [attempt.text for attempt in attempts.values()]
  rows = [{"prompt": json.loads(line)["prompt"], "options": [texts[n], texts[n - 1], texts[n - 7]]}
          for n, line in enumerate(lines)]  # fmt: skip
  questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
  (tmp_path / "options.yaml").write_text(OPTIONS_TASK.replace("FILE", str(questions)))
  values = []
  with serving(f"--model={exported}", "--config.rollout.buckets=192") as (url, name):
    served = f"model={name},base_url={url}/completions,num_concurrent=4,tokenizer={exported}"
    for model, given in (("local-completions", served),
                         ("hf", f"pretrained={exported},dtype=float32")):  # fmt: skip
      out = tmp_path / model
      out.mkdir()
      _, samples = lm_eval(python, out, "options", tmp_path, model, given)
      values.append([[float(option[0][0]) for option in row["resps"]] for row in samples])
  ours, theirs = map(np.array, values)
  assert ours.shape == (50, 3) and np.std(theirs) > 1
  np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.heavy
def test_verdicts_are_those_of_flexible_extract_but_for_the_written_list(python, run, tmp_path):
  _, _, attempts, tasks = run
  lines = (tasks / "distill_jax_arithmetic.jsonl").read_text("utf-8").splitlines()
  problems = [json.loads(line) for line in lines]
  written = [(text, gold) for text, gold, _ in differences.listed()]
  same = [(attempts[problem["id"]].text, problem["gold"]) for problem in problems]
  same += differences.SAME
  script = ROOT / "tests" / "harness" / "flexible.py"
  output = call(python, str(script), cwd=tmp_path, stdin=json.dumps([*written, *same]))
  theirs = [is_correct for _, is_correct in json.loads(output)]
  ours = [differences.verdict(text, gold) for text, gold in [*written, *same]]
  differing = [n for n in range(len(ours)) if ours[n] != theirs[n]]
  assert differing == list(range(len(written)))
  assert 0 < sum(ours[len(written) : len(written) + 50]) < 50


@pytest.mark.heavy
def test_inspect_gets_the_verdicts_of_evaluate(python, run, server, tmp_path):
  _, _, attempts, tasks = run
  url, name = server
  call(
    python, "-m", "inspect_ai", "eval", "distill_jax_arithmetic.py", "--model",
    f"openai-api/local/{name}", "--model-base-url", url, "-M", "api_key=none", "--log-dir",
    str(tmp_path / "logs"), "--log-format", "json", "--display", "plain", "--max-connections", "8",
    cwd=tasks,
  )  # fmt: skip
  (log,) = (tmp_path / "logs").glob("*.json")
  samples = json.loads(log.read_text("utf-8"))["samples"]
  found = {s["id"]: s["scores"]["verdict"] for s in samples}
  assert len(found) == 50
  for problem, attempt in attempts.items():
    score = found[problem]
    assert score["explanation"] == attempt.text
    assert (score["answer"], score["value"] == "C") == (attempt.answer, attempt.correct)


def test_the_written_list_is_what_the_reader_does():
  listed = differences.listed()
  assert len(listed) >= 20
  assert [differences.verdict(text, gold) for text, gold, _ in listed] == [
    ours for *_, ours in listed
  ]
