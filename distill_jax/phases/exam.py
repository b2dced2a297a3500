"""The student answers training questions; every attempt is kept with its verdict.

Source: the exam of Wang et al. 2023.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from distill_jax import records, tasks
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import conversations, journal, results
from distill_jax.runtime.context import RunContext


class ExamItem(NamedTuple):
  """A question, and how the student is prompted with it."""

  problem: records.Problem
  style: str = ""
  stage: str = ""  # the only stage that is sampled; "": all stages
  given: tuple[tuple[str, str], ...] = ()  # (stage, text) of the stages that are not sampled


def run(ctx: RunContext, round_index: int, out: phase_dir.PhaseDir) -> None:
  """Writes attempts.jsonl. Facts: accuracy, n, mistakes and cut (over all attempts), questions.

  The format `staged` (TinyThinker) samples the stages of config.staged.reflect one after the other.
  It first samples recalls and completes each of them greedily. For every recall whose attempts are
  all correct, it then samples analyses.
  """
  settings = ctx.settings.exam
  task = ctx.round_task(round_index)
  problems = task.problems("train")
  problems = problems[: settings.questions or len(problems)]
  stages = ctx.settings.staged.reflect if ctx.settings.format == "staged" else ("",)
  attempts: list[records.Attempt] = []
  for stage in stages:
    recalls = [a for a in attempts if a.stage == "recall"]
    if stage == "analyze" and recalls:
      items = items_from_correct_recalls(problems, recalls, ctx.settings.staged.starts)
    else:
      items = [ExamItem(p, style, stage) for style in settings.styles for p in problems]
    label = f"round {round_index} exam"
    attempts += sample_attempts(
      ctx,
      out,
      items,
      task=task,
      round_index=round_index,
      label=f"{label} {stage}" if stage else label,
      samples=settings.samples,
      temperature=settings.temperature,
      top_p=settings.top_p,
      top_k=settings.top_k,
      max_new_tokens=settings.max_new_tokens,
      first=len(attempts),
      sampled_stages=frozenset([stage]) if stage else None,
    )
  journal.remove(out)
  correct = sum(a.correct for a in attempts)
  out.finish(
    {
      "accuracy": correct / max(len(attempts), 1),
      "n": len(attempts),
      "mistakes": len(attempts) - correct,
      "cut": sum(a.finish != "stop" for a in attempts),
      "questions": len(problems),
    }
  )


def items_from_correct_recalls(
  problems: Iterable[records.Problem], attempts: Iterable[records.Attempt], limit: int
) -> list[ExamItem]:
  """Returns an item for each distinct recall whose attempts are all correct.

  A recall needs at least one correct attempt that was not cut off. There are at most `limit` items
  per question; 0: no limit.
  """
  correct: dict[str, dict[str, None]] = {}
  wrong = set()
  for attempt in attempts:
    recall = attempt.turns[0][2]
    if not attempt.correct:
      wrong.add((attempt.problem, recall))
    elif attempt.finish == "stop":
      correct.setdefault(attempt.problem, {})[recall] = None
  items = []
  for problem in problems:
    texts = [t for t in correct.get(problem.id, ()) if (problem.id, t) not in wrong]
    items += [
      ExamItem(problem, "", "analyze", (("recall", text),)) for text in texts[: limit or len(texts)]
    ]
  return items


def sample_attempts(
  ctx: RunContext,
  out: phase_dir.PhaseDir,
  items: Sequence[ExamItem],
  *,
  task: tasks.Task,
  round_index: int,
  label: str,
  samples: int,
  temperature: float,
  top_p: float = 1.0,
  top_k: int = 0,
  max_new_tokens: int,
  first: int = 0,
  sampled_stages: frozenset[str] | None = None,
) -> list[records.Attempt]:
  """Samples attempts with the newest students and appends them to attempts.jsonl.

  Each item gets `samples` attempts. For the decoding options, see Student.generate. Stages in
  `sampled_stages` are sampled, the others decoded greedily (None: all are sampled). Attempts are
  graded and written in batches, starting at row `first` of the file. A killed run resumes after the
  last complete item and reuses the completions in its journal. `task` reads and compares the
  answers. `label` names the exam in progress bars and warnings.

  Returns:
    All attempts, shortest prompt first.
  """
  students = ctx.students(round_index)
  student, _ = next(iter(students.values()))
  longest = max(ctx.settings.rollout.buckets)
  prompts = [ctx.prompt(item.problem, item.style) for item in items]
  lengths = [len(student.encode_prompt(prompt)) for prompt in prompts]
  if count := sum(length > longest for length in lengths):
    ctx.console.warn(
      f"{label}: {count} prompts are longer than rollout.buckets and lose their beginnings"
    )
  order = sorted(range(len(items)), key=lambda n: lengths[n])
  work = [(items[n], sample) for n in order for sample in range(samples)]
  attempts = resume_attempts(out, first, len(work), samples)
  rows = 4 * student.rows if ctx.settings.rollout.batch else 1024
  size = max(rows // samples, 1) * samples
  later_prompts: set[records.Prompt] = set()  # prompts that contain the text of earlier turns
  with (
    ctx.console.progress(label, len(work), "attempts") as bar,
    journal.Journal(out, bar) as following,
  ):
    bar.update(len(attempts))
    for start in range(len(attempts), len(work), size):
      part = work[start : start + size]
      transcripts = conversations.run_conversations(
        [ctx.conversation(item.problem, item.style, item.given) for item, _ in part],
        [attempt_name(round_index, out, item, sample) for item, sample in part],
        students=students,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        stop=ctx.format.stop,
        sampled_stages=sampled_stages,
        watcher=following,
      )
      new = [
        grade(task, item, sample, round_index, transcript)
        for (item, sample), transcript in zip(part, transcripts, strict=True)
      ]
      later_prompts.update(
        prompt for t in transcripts if len(t.turns) > 1 for _, prompt, _ in t.turns
      )
      out.append(phase_dir.ATTEMPTS, new)
      attempts += new
      following.finished(len(attempts), right=sum(a.correct for a in attempts))
  _warn_of_cut(ctx, label, attempts, max_new_tokens)
  later_prompts -= set(prompts)
  if count := sum(len(student.encode_prompt(prompt)) > longest for prompt in later_prompts):
    ctx.console.warn(
      f"{label}: {count} prompts of later turns are longer than rollout.buckets and lost their "
      "beginnings"
    )
  return attempts


def _warn_of_cut(
  ctx: RunContext, label: str, attempts: Sequence[records.Attempt], max_new_tokens: int
) -> None:
  cut = sum(a.finish != "stop" for a in attempts)
  if cut >= results.CUT_ALARM * len(attempts) > 0:
    ctx.console.warn(
      f"{label}: {cut} of {len(attempts)} attempts were cut off at {max_new_tokens} tokens, the"
      " limit max_new_tokens; see distill-jax show --phase=... --filter=cut"
    )


def attempt_name(round_index: int, out: phase_dir.PhaseDir, item: ExamItem, sample: int) -> str:
  """Returns the unique name of an attempt, which seeds its random numbers."""
  optional = [item.style, item.stage, *(text for _, text in item.given)]
  parts = [f"{round_index}/{out.path.name}/{item.problem.id}/{sample}", *filter(None, optional)]
  return "/".join(parts)


def resume_attempts(
  out: phase_dir.PhaseDir, first: int, limit: int, samples: int
) -> list[records.Attempt]:
  """Returns up to `limit` attempts that a killed run has written, starting at row `first`.

  If the last item lacks samples, its attempts are removed from the file.
  """
  rows = out.rows(phase_dir.ATTEMPTS, records.Attempt)
  left = rows[first : first + limit]
  complete = left[: len(left) - len(left) % samples]
  if len(complete) < len(left):
    out.write(phase_dir.ATTEMPTS, rows[:first] + complete)
  return complete


def grade(
  task: tasks.Task,
  item: ExamItem,
  sample: int,
  round_index: int,
  transcript: conversations.Transcript,
) -> records.Attempt:
  """Returns the attempt with its verdict."""
  problem = item.problem
  whole = transcript.finish == "stop"
  answer = task.read_answer(transcript.text, problem, whole=whole)
  return records.Attempt(
    problem=problem.id,
    text=transcript.text,
    answer=answer,
    correct=answer is not None and task.is_correct(answer, problem),
    round=round_index,
    sample=sample,
    finish=transcript.finish,
    tokens=transcript.tokens,
    logprob=transcript.logprob,
    style=item.style,
    stage=item.stage,
    turns=transcript.turns if item.stage or len(transcript.turns) > 1 else (),
  )
