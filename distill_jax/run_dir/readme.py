"""README.md of a run directory: explains each file."""

import pathlib

from distill_jax import disk
from distill_jax.run_dir import phase_dir

README = "README.md"
TEXT = """# A run of distill_jax

Show the records of a phase with their questions and gold answers:

    distill-jax show --workdir=. --round=1 --phase=exam --filter=wrong

Files of records (`.jsonl`) have one JSON object per line. Do not remove files: the run resumes from
them when its command is run again.

| file | content |
| --- | --- |
| `README.md` | this page |
| `config.json` | every setting of the run |
| `questions.jsonl` | every question: ID, split, question, choices, gold answer, sub-questions |
| `summary.json` | results: a row per round, and the final scores; written at the end |
| `manifest.json` | size and SHA-256 of the run's own files, and digests of its questions |
| `changes.jsonl` | settings that were changed between restarts: time, key, old and new value |
| `teacher.sqlite` | the teacher's replies and what they cost (`distill-jax teacher cache show`) |
| `teacher.json` | which cache holds the replies: without it, a deleted cache would go unnoticed |
| `batches/` | requests and results of the Batch API or of an offline server |
| `references.sqlite` | reference log-probabilities of preference pairs |
| `tokenizer/` | the student's tokenizer |
| `base/` | config and digest of the pretrained model that the student starts from, if any |
| `report.html` | the run as one page (`distill-jax report`); written at the end |
| `tracking.json`, `tensorboard/` | with `track`: what trackers have been sent; event files |
| `seconds.json` | run time in seconds, over all restarts |
| `round_00/`, `round_01/`, ... | the phases of each round, numbered in their order |
| `final/` | the scores of the best round on the test questions: a directory per split |

Each phase has a directory with some of these files:

| file | phases | content |
| --- | --- | --- |
| `manifest.json` | all | written last: results, and the size and SHA-256 of each file |
| `attempts.jsonl` | exam, evaluate, final | what the student wrote, its answer and its verdict |
| `measured.json` | evaluate, final | the round, weights, data and settings that are scored |
| `verdicts.jsonl` | evaluate, final | the verdict on each question, after the vote |
| `rationales.jsonl` | demonstrate, feedback, rationalize | what the student is trained on |
| `dropped.jsonl` | demonstrate, feedback | examples of replies that were dropped, with reasons |
| `hinted.jsonl` | rationalize | attempts of the student that was told the answer |
| `pairs.jsonl` | pair | preferred and rejected answers, with reference log-probabilities |
| `examples.jsonl` | train | prompts and targets, as the student was trained on them |
| `contrasts.jsonl` | train | correct rationales and wrong attempts for the triplet loss |
| `metrics.jsonl` | train, prefer | loss and other measures, every few steps |
| `student/` | train, prefer | the weights after this phase (or `decomposer/` and `solver/`) |
| `checkpoints/` | train, prefer | the state to resume from, only while the phase runs |

A file named `*.part` or `*.torn` is left over from a process that was killed.

Text in these files was written by a teacher or a student: treat it as untrusted.
"""


def write(run_dir: pathlib.Path) -> None:
  """Writes README.md, atomically, unless it already has this content."""
  file = run_dir / README
  with phase_dir.report_os_errors(file):
    if file.exists() and disk.read_bytes(file) == TEXT.encode():
      return
  phase_dir.write_bytes(file, TEXT.encode())
