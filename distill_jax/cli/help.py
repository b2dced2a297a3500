"""Help texts and options of the commands."""

import math
from typing import Any

USAGE = """distill-jax COMMAND [options] [--config.a.b=VALUE ...]

  run            run every round of a recipe; re-run the same command to resume
  show           show the records of a phase with their questions and gold answers
  report         write a run or sweep as one page: curves, costs, mistakes
  evaluate       score a run's student on a split of the task
  sample         answer questions with a run's student
  export         export a run's student to Hugging Face format
  serve          serve a run's student, or an exported one, through OpenAI's API
  data show      show how your questions are read: splits, columns, kind of the answers
  data export    write the rationales or pairs of a run as a data set for other trainers
  data harness   write a task for lm-evaluation-harness and inspect_ai
  ablate         run a sweep: rows of overrides, several seeds, one table
  teacher serve  serve the built-in teacher to any OpenAI client
  teacher check  send one real request and show how a run would use the reply
  teacher cache  show, export, import or prune stored replies
  doctor         check this machine and, with --config, a recipe and its teacher

distill-jax COMMAND --help shows details and examples; distill-jax --version shows the version.
Without installation: python -m distill_jax COMMAND
"""

HELP = {
  "run": """Runs every round of a recipe.

  distill-jax run --config=quickstart --workdir=runs/quickstart
  distill-jax run --config=tailored:quick --workdir=runs/no_triplet \\
    --config.train.losses.triplet=0
  distill-jax run --config=tailored --workdir=runs/svamp \\
    --config.task.name=svamp --config.task.path=SVAMP_DIR \\
    --config.teacher.kind=replay --config.teacher.replay.path=RATIONALES.json \\
    --config.teacher.replay.question=instruction --config.teacher.replay.rationale=output

All output is written to --workdir, which belongs to one config. Re-run the same command to resume
after an interruption.""",
  "show": """Shows the records of a phase, each with its question and gold answer.

  distill-jax show --workdir=runs/quickstart --round=2 --phase=exam --filter=wrong
  distill-jax show --workdir=runs/quickstart --round=1 --phase=feedback --n=1
  distill-jax show --workdir=runs/quickstart --phase=test --filter=cut --n=0
  distill-jax show --workdir=runs/quickstart --id=arithmetic/train/7 --n=0 > rows.jsonl

Phases with records: exam and evaluate (attempts), demonstrate, feedback and rationalize
(rationales), pair (preference pairs), train (examples); test, out_of_domain, cross and also
(attempts of the final test). Filters: wrong, right, cut (the attempt reached max_new_tokens),
unread (no answer could be parsed), all. In a terminal, records are formatted as text; otherwise,
each is one line of JSON. The command works on unfinished runs and changes nothing.""",
  "report": """Writes a run or a sweep as one HTML page that needs no network and no server.

  distill-jax report --workdir=runs/quickstart
  distill-jax report --workdir=runs/quickstart --with=runs/no_triplet \\
    --out=compared.html
  distill-jax report --workdir=runs/claims_tailored
  distill-jax report --workdir=runs/quickstart --markdown

Every run and every sweep writes report.html when it ends; this command writes it again, and also
works on an unfinished run. Each --with adds a run to compare with. --markdown prints the main
tables for a model card or a pull request; with --out, it writes them.""",
  "evaluate": """Scores a run's student on a split, by default with greedy decoding, and prints the
accuracy and its 95% Wilson interval as one line of JSON.

  distill-jax evaluate --workdir=runs/quickstart
  distill-jax evaluate --workdir=runs/quickstart --round=0 --split=validation
  distill-jax evaluate --workdir=runs/quickstart --config.world.steps_max=3 --split=test
  distill-jax evaluate --student=FOLDER_OR_HUB_NAME --config.task.name=svamp \\
    --config.task.path=SVAMP_DIR --config.cot.shots=3

The config is the run's own; overrides change the task or the decoding. With --student, a pretrained
student is scored as it is, without a run directory.""",
  "sample": """Answers questions with a run's student and prints one JSON object per line.

  distill-jax sample --workdir=runs/quickstart --question="QUESTION"
  distill-jax sample --workdir=runs/quickstart --questions=FILE --samples=4 --temperature=0.7
  cat questions.txt | distill-jax sample --workdir=runs/quickstart

FILE (or standard input) has one question per line, or JSONL with a field "question".""",
  "export": """Exports a run's student to Hugging Face format: config, safetensors, tokenizer and
model card. The directory is written under a temporary name, read back, compared and renamed.

  distill-jax export --workdir=runs/quickstart --out=exported/quickstart
  distill-jax export --workdir=runs/quickstart --out=exported/round_0 --round=0
  distill-jax export --workdir=runs/quickstart --out=exported/small --dtype=bfloat16
  distill-jax export --workdir=runs/quickstart --out=exported/verified --verify
  distill-jax export --workdir=runs/lora --out=exported/adapter --adapter

With --adapter, only LoRA adapters are written, as adapter_config.json and
adapter_model.safetensors, which peft loads onto the model that the student started from.""",
  "serve": """Serves a run's student, or an exported one, through OpenAI's API, on loopback only.

  distill-jax serve --workdir=runs/quickstart --port=8800
  distill-jax serve --model=exported/quickstart --port=8800
  curl http://127.0.0.1:8800/v1/chat/completions -H "Content-Type: application/json" -d \\
    '{"messages": [{"role": "user", "content": "QUESTION"}], "temperature": 0}'

Paths: /v1/models, /v1/completions (prompts as text or tokens; echo, logprobs, seed, stop, n),
/v1/chat/completions (a user message is put into the prompt that the student was trained on).
Completions have at most evaluate.max_new_tokens tokens, prompts at most the largest of
rollout.buckets; raise them with --config.KEY=VALUE. With --key_env, requests need the API key in
that environment variable.""",
  "data": """Commands about data sets.

  distill-jax data show FILE
  distill-jax data export --workdir=RUN --format=messages --out=DIR
  distill-jax data harness --workdir=RUN --out=DIR

distill-jax data show --help, and likewise export and harness, shows the options.""",
  "data show": """Shows how the data of a task are read: the number of questions in each split, the
kind of their answers, the columns used, which rows were left out and why, and three questions.

  distill-jax data show questions.jsonl
  distill-jax data show questions.csv --config.task.columns.answer=gold
  distill-jax data show --config=tailored --config.task.name=gsm8k --config.task.path=GSM8K_DIR

In a terminal, the result is text; otherwise, it is one JSON object.""",
  "data export": """Writes the rationales or preference pairs of a run as a data set: JSONL, Parquet
and a data card.

  distill-jax data export --workdir=runs/quickstart --out=datasets/quickstart
  distill-jax data export --workdir=runs/quickstart --format=preference --out=datasets/pairs
  distill-jax data export --workdir=runs/quickstart --format=alpaca --out=datasets/alpaca \\
    --push=OWNER/NAME

Formats: messages, prompt_completion and preference (TRL and others), sharegpt and alpaca
(LLaMA-Factory and others). Thinking is separate from the answer. The format preference has the
run's preference pairs, and pairs of a correction and the attempt that it corrects. Nothing is
uploaded without --push; the uploaded data set is private.""",
  "data harness": """Writes a task for lm-evaluation-harness and inspect_ai: questions as JSONL,
YAML for lm_eval, and a Python file for inspect. It uses the student's prompts and reads answers as
this project does.

  distill-jax data harness --workdir=runs/quickstart --out=harness
  distill-jax data harness --config=cot --config.task.name=svamp --config.task.path=SVAMP_DIR \\
    --out=harness
  lm_eval --model local-completions --include_path harness --tasks distill_jax_svamp ...
  inspect eval harness/distill_jax_svamp.py --model openai-api/local/MODEL

Prompts are those of the run's student, or of the recipe. For a format of several turns, only the
chat task is written. The harness needs distill_jax, which may be installed without its
dependencies.""",
  "ablate": """Runs a sweep: every row of overrides with every seed. Writes a table of scores with
intervals, paired differences from the base row, and a verdict on each claim.

  distill-jax ablate --config=sweeps/tailored --workdir=runs/claims_tailored
  distill-jax ablate --config=sweeps/tailored:full --workdir=runs/full_tailored --jobs=2
  distill-jax ablate --config=sweeps/tailored:full --workdir=runs/full_tailored --print
  distill-jax ablate --config=sweeps/tailored:full --workdir=runs/full_tailored --status

Re-run the same command to resume: finished runs are skipped, failed ones are run again. All runs
share teacher replies and compiled programs. --jobs runs at a time divide the CPU cores. On an
accelerator, use --jobs=1, or use --print to get one command per line for a cluster's array job and
then run the same command without --print to build the table. A sweep takes no overrides; to change
settings, copy the sweep's file.""",
  "teacher": """Commands about teachers.

  distill-jax teacher check --config=RECIPE
  distill-jax teacher cache show --workdir=RUN
  distill-jax teacher serve --config=RECIPE

distill-jax teacher check --help, and likewise cache and serve, shows the options.""",
  "teacher serve": """Serves the built-in teacher as an OpenAI-compatible API, on loopback only.

  distill-jax teacher serve --config=quickstart --port=8899
  distill-jax run --config=quickstart --workdir=runs/by_hand \\
    --config.teacher.kind=openai --config.teacher.base_url=http://127.0.0.1:8899/v1

It answers questions of the config's built-in world. config.teacher.builtin sets its error rate
and latency.""",
  "teacher check": """Sends one real request to each teacher of the first phase that uses a teacher.
Shows the reply as it would be used for training, its usage, price and latency, the request features
that the server supports (n, seed, temperature, system role, token field, response_format; tested
with seven small requests), and the cost of the first round.

  export OPENAI_API_KEY=...
  distill-jax teacher check --config=quickstart --config.teacher.model=openai/gpt-4o-mini

Ends with exit code 0 if the reply can be parsed, else with 5. Nothing is stored.""",
  "teacher cache": """Shows, exports, imports or prunes the replies stored in a teacher cache.

  distill-jax teacher cache show --workdir=runs/quickstart
  distill-jax teacher cache show --workdir=runs/quickstart --failures
  distill-jax teacher cache export --cache=shared.sqlite --out=replies.jsonl
  distill-jax teacher cache import replies.jsonl --cache=other.sqlite
  distill-jax teacher cache prune --cache=shared.sqlite --model=NAME --older_than=90
  distill-jax teacher cache prune --cache=shared.sqlite --model=NAME --older_than=90 --yes

The cache is a plain SQLite file (tables: distill_jax/teacher/store/tables.py). An import is atomic
and does not change existing replies; with --run=NAME, imported replies belong to a run of that
name, so their cost does not count toward your run's caps. Without --yes, prune only counts the
replies it would delete. The cost of pruned replies stays in the ledger and counts toward the
caps.""",
  "doctor": """Shows versions, devices and free disk space, and tests whether the file system of
--workdir supports what a run needs: appends, renames, locks, SQLite. With --config, also checks the
config and whether the teacher's API key is set (the key is never shown).

  distill-jax doctor
  distill-jax doctor --config=tailored --workdir=runs""",
}

PROCESSES: dict[str, tuple[Any, str]] = {
  "processes": ("", "number of processes that run this command; auto = detect the launcher"),
  "process": ("", "index of this process, from 0"),
  "coordinator": ("", "HOST:PORT of process 0"),
  "patience": (300, "seconds to wait for all processes to connect"),
}
WORKDIR = ("", "the run directory")
ANY_AGE = -math.inf  # of replies: the default of --older_than
ROUND = (-1, "the student of this round; -1 = the best by validation")
OPTIONS: dict[str, dict[str, tuple[Any, str]]] = {  # command -> {name: (default, help)}
  "run": {
    "workdir": WORKDIR,
    "dry_run": (False, "show the next requests to the teacher and their cost; send nothing"),
    "retry_failed": (False, "request again what failed in unfinished phases"),
  },
  "show": {
    "workdir": WORKDIR,
    "round": (-1, "the round; -1 = the last one that has the phase"),
    "phase": ("", "exam, evaluate, feedback, ..., test or out_of_domain; empty = exam"),
    "filter": ("all", "wrong, right, cut, unread or all"),
    "n": (5, "maximum number of records; 0 = all"),
    "id": ("", "show only the records of this question"),
  },
  "report": {
    "workdir": ("", "the run directory, or the directory of a sweep"),
    "with": ([], "another run directory to compare with; may be repeated"),
    "out": ("", "the file to write; empty = report.html in --workdir"),
    "markdown": (False, "write Markdown tables instead of HTML"),
  },
  "evaluate": {
    "workdir": WORKDIR,
    "student": ("", "instead of --workdir: a Hugging Face directory or hub name, without training"),
    "round": ROUND,
    "split": ("test", "validation, test, out_of_domain, cross or also (see evaluate.also)"),
  },
  "sample": {
    "workdir": WORKDIR,
    "round": ROUND,
    "question": ("", "one question"),
    "questions": ("", "file with one question per line"),
    "samples": (1, "answers per question"),
    "temperature": (0.0, "sampling temperature; 0 = greedy"),
  },
  "export": {
    "workdir": WORKDIR,
    "round": ROUND,
    "out": ("", "the directory to write"),
    "dtype": ("float32", "dtype of the weights: float32 or bfloat16"),
    "verify": (False, "compare with transformers and torch, if torch is installed"),
    "adapter": (False, "write only the LoRA adapters, in the format of peft"),
  },
  "serve": {
    "workdir": WORKDIR,
    "model": ("", "instead of --workdir: a directory in Hugging Face format"),
    "round": ROUND,
    "port": (8800, "TCP port; 0 = any free port"),
    "batch": (16, "completions decoded at a time"),
    "key_env": ("", "environment variable with the API key; empty = no key"),
  },
  "data": {},
  "data show": {"n": (3, "questions to show")},
  "data export": {
    "workdir": WORKDIR,
    "format": ("messages", "messages, prompt_completion, preference, sharegpt or alpaca"),
    "out": ("", "the directory to write"),
    "push": ("", "upload to this data set (OWNER/NAME) on the Hugging Face Hub"),
  },
  "data harness": {
    "workdir": ("", "a run directory, or give --config"),
    "out": ("", "the directory to write in; it may hold other tasks"),
    "split": ("test", "validation, test or out_of_domain"),
    "limit": (0, "maximum number of questions, from the first; 0 = all"),
  },
  "ablate": {
    "config": ("", "the sweep: sweeps/NAME, FILE.py or FILE.py:WHICH"),
    "workdir": ("", "the sweep's directory"),
    "jobs": (1, "number of runs at a time"),
    "print": (False, "print the commands of the remaining runs instead of running them"),
    "status": (False, "show the progress of every run, on whichever host it runs"),
  },
  "teacher": {},
  "teacher serve": {
    "port": (8899, "TCP port; 0 = any free port"),
    "log": ("", "log file, one line per reply"),
    "workdir": ("", "instead of --config: use the config of this run directory"),
  },
  "teacher check": {"workdir": ("", "instead of --config: use the config of this run directory")},
  "teacher cache": {
    "workdir": ("", "use the cache of this run directory"),
    "cache": ("", "use this cache file"),
    "failures": (False, "show: a table of failures by kind"),
    "out": ("", "export: the file to write; empty = standard output"),
    "model": ("", "prune: only replies of this model (names as in teacher cache show)"),
    "older_than": (ANY_AGE, "prune: only replies older than this many days"),
    "run": ("", "prune: only replies this run paid for; import: new name of the imported runs"),
    "yes": (False, "prune: delete the replies instead of counting them"),
  },
  "doctor": {"workdir": ("runs", "where runs will be written")},
}

_RECIPE = "  --config=RECIPE      a recipe by name or file: NAME, NAME:SIZE, FILE.py, FILE.py:SIZE"
_OVERRIDE = "  --config.a.b=VALUE   any setting (docs/configuration.md)"
CONFIG_OPTIONS = dict.fromkeys(
  ("run", "data show", "data harness", "teacher serve", "teacher check", "doctor"),
  f"{_RECIPE}\n{_OVERRIDE}",
)
CONFIG_OPTIONS |= dict.fromkeys(("evaluate", "sample", "export", "serve"), _OVERRIDE)
