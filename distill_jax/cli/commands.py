"""What the commands do: open a run folder, and play, score or question what is in it."""

import dataclasses
import itertools
import json
import math
import pathlib
import sys
import tempfile

from distill_jax import console, errors, plan, records, rounds, summary, teacher
from distill_jax.cli import model_card
from distill_jax.config import rules, rules_teacher
from distill_jax.machine import hf_verify
from distill_jax.phases import evaluate as evaluation
from distill_jax.run_dir import phase_dir, run_dir
from distill_jax.runtime import base_model, context, conversations, devices
from distill_jax.runtime import export as student_export
from distill_jax.teacher import pool
from distill_jax.teacher.builtin import teacher as builtin
from distill_jax.teacher.client import credentials


def run(settings, config: dict, workdir: str, *, retry_failed: bool = False) -> dict:
  """Plays all rounds, shows them, and returns the summary. `retry_failed`: what the teacher failed
  at in phases that are not finished is asked for again."""
  screen, folder = console.Console(), run_dir.RunDir(workdir)
  folder.claim(config)
  for name in pool.teachers_used(settings, rules_teacher.askers(settings)):
    t = pool.get(settings, name)
    free = not t.prices.input + t.prices.output and t.batch != "files"
    if t.kind == "openai" and not credentials.is_local(t.base_url) and free:
      at = "teacher" if name == pool.MAIN else f"teachers.{name}"
      screen.warn(f"{at}.prices are 0, so that teacher.max_dollars stops nothing: set both prices")
  try:
    with context.RunContext(settings, folder, screen) as what:
      refuse_early(what)
      finished = rounds.finished_phases(what)
      if finished and not (folder.path / "summary.json").exists():
        number, name = max(finished, key=lambda s: (s[0], int(s[1].partition("_")[0])))
        screen.line(f"going on after {name.partition('_')[2]} of round {number}")
      if retry_failed:
        again = teacher.retry_failed(settings.teacher, folder.path, finished)
        screen.line(f"{again} samples without a reply are asked for again")
      played = rounds.run(what)
      screen.rounds_table(played["rounds"], best=played["best_round"])
      screen.examples(summary.before_and_after(what, played["best_round"]))
  finally:
    folder.release()
  for split in summary.FINALS:
    if found := played[split]:
      screen.line(
        f"{split.replace('_', ' ')}: {found['accuracy']:.1%} "
        f"({found['low']:.1%} to {found['high']:.1%}, "
        f"n={found['n']}), by the student of round {played['best_round']}"
      )
  screen.line(f"everything lies in {folder.path}; the summary is {folder.path / 'summary.json'}")
  return played


def refuse_early(what) -> None:
  """Raises UserError, before anything is paid for, if there is no such student, if the devices cannot
  train it, or if it is to be asked sub-questions that there are not."""
  s = what.settings
  if s.format == "socratic" and s.socratic.questions == "gold":
    asked = [*what.task.problems("validation"), *itertools.chain(*what.final_problems().values())]
    if lacking := [p.id for p in asked if not p.decomposition]:
      allowed = f"model: {lacking[0]} and {len(lacking) - 1} more come without sub-questions"
      raise errors.config("socratic.questions", "gold", allowed)
  for name in pool.teachers_used(s, rules_teacher.askers(s)):
    if (teacher_ := pool.get(s, name)).kind == "student":
      what.student_teacher(teacher_, name)
  if s.student.init == base_model.SCRATCH:  # its tokenizer is made when the teacher has written
    base = base_model.open_base(
      s, what.run_dir.path, started=what.run_dir.started, vocab=s.student.scratch.vocab
    )
    devices.check(s, base)
    return
  devices.check(s, what.base)
  _ = what.tokenizer


def opened(settings, workdir: str) -> context.RunContext:
  """A run folder to read from; what is told of it leaves the standard output to the results.
  Raises UserError if it is none."""
  path = pathlib.Path(workdir)
  if not (path / "config.json").exists():
    raise errors.usage(f"{workdir or '--workdir'} is no run folder: it has no config.json")
  refuse_another_student(settings, phase_dir.read_json(path / "config.json"))
  return context.RunContext(settings, run_dir.RunDir(path), console.Console(file=sys.stderr))


def refuse_another_student(settings, begun: dict) -> None:
  """Raises UserError if the settings describe another student than the config `begun` of its run
  does. How it computes, and where the model it began as lies now, may differ."""
  ours = json.loads(json.dumps(dataclasses.asdict(settings)))  # tuples become lists, as on disk
  free = {f"config.student.{name}" for name in ("dtype", "attention")}
  inits = {begun["student"]["init"], settings.student.init}
  if base_model.SCRATCH not in inits:
    free.add("config.student.init")
  other = {key for key in run_dir.changed_keys(begun, ours) if key.startswith("config.student.")}
  scratch_lora = inits == {base_model.SCRATCH} and settings.student.lora.rank
  if scratch_lora and begun["seed"] != settings.seed:
    other.add("config.seed")  # of the weights beneath the updates
  if other - free:
    raise errors.UserError(
      f"{', '.join(sorted(other - free))} cannot be other than in the training of this student: "
      "leave that out, or train another one in another --workdir",
      errors.CONFIG,
    )


def trained_round(what, number: int) -> int:
  """The round that is meant: the best so far by validation, if -1. Raises UserError if it is not
  there."""
  done = {
    n: f["evaluate"].facts
    for n in range(what.settings.rounds + 1)
    if "evaluate" in (f := what.run_dir.finished(n)) and set(plan.TRAINERS) & set(f)
  }
  if not done:
    raise errors.data(f"{what.run_dir.path} has no finished round yet")
  if number != -1 and number not in done:
    raise errors.usage(f"--round={number} is not finished there; there are {sorted(done)}")
  return number if number != -1 else max(done, key=lambda n: (done[n]["accuracy"], -n))


def evaluate(settings, *, workdir: str, round: int, split: str) -> dict:
  """Prints, as one line of JSON, the accuracy of a round's student on a split. Leaves the run
  folder as it is."""
  with opened(settings, workdir) as what, tempfile.TemporaryDirectory() as scratch:
    problems = what.task.problems(split)
    if not problems:
      raise errors.usage(f"--split={split}: task {what.task.name} has no such questions")
    number = trained_round(what, round)
    here = run_dir.RunDir(scratch).final(split)
    evaluation.score(what, here, problems, split, round_index=number)
    print(json.dumps({"round": number, "task": what.task.name, **here.facts}))
    return here.facts


def sample(
  settings,
  *,
  workdir: str,
  round: int,
  question: str,
  questions: str,
  samples: int,
  temperature: float,
) -> None:
  """Prints attempts at questions, one JSON object a line."""
  if samples < 1 or not 0 <= temperature < math.inf:
    raise errors.usage("--samples must be at least 1, --temperature 0 or more")
  if samples > 1 and temperature == 0:
    raise errors.usage(
      "--samples above 1 wants a --temperature above 0: greedy samples are all the same"
    )
  asked = [question] if question else read_questions(questions)
  with opened(settings, workdir) as what:
    number = trained_round(what, round)
    shots = what.task.shots[: settings.cot.shots]
    rows = [(q, k) for q in asked for k in range(samples)]
    spoken = conversations.run_conversations(
      [what.format.conversation(what.task.parse_question(q), q, shots) for q, _ in rows],
      [f"sample/{n}" for n in range(len(rows))],
      students=what.students(number),
      samples=samples,
      temperature=temperature,
      max_new_tokens=settings.evaluate.max_new_tokens,
      stop=what.format.stop,
    )
  for (q, k), s in zip(rows, spoken, strict=True):
    print(
      json.dumps(
        {
          "question": q,
          "sample": k,
          "text": s.text,
          "answer": what.task.read_answer(s.text, what.task.parse_question(q)),
          "finish": s.finish,
          "tokens": s.tokens,
          "logprob": s.logprob,
        }
      )
    )


def export(settings, *, workdir: str, round: int, out: str, dtype: str, verify: bool) -> None:
  """Writes a round's student as a Hugging Face directory with a model card, and, if it is wished,
  compares it with transformers."""
  if verify:
    hf_verify.require_torch()
  with opened(settings, workdir) as what:
    number = trained_round(what, round)
    rows = [summary.row(what, n) for n in range(number + 1)]
    finals = {s: f.facts for s in summary.FINALS if (f := what.run_dir.final(s)).finished}
    names = what.format.students
    for name, to in zip(names, folders(out, names), strict=True):
      text = model_card.write(
        settings,
        rows,
        number=number,
        finals=finals if is_best(what, number) else {},
        prompt=first_prompt(what, name),
        name=pathlib.Path(to).name,
      )
      student_export.write(what, number, name, out=to, dtype=dtype, card=text)
      print(f"the {name} of round {number} is in {to}")
      if verify:
        difference = student_export.verify(what, to)
        print(f"transformers computes the same: no logit differs by {difference:.1g}")


def first_prompt(what, name: str) -> str:
  """What a student is asked first about a QUESTION; behind another student's SUB-QUESTION, if it
  does not begin."""
  problem = records.Problem("", "", "QUESTION", "", decomposition=(("SUB-QUESTION", ""),))
  if name == what.format.students[0]:
    return what.prompt(problem)
  conversation = what.conversation(problem)
  turns = next(conversation)
  while turns[0].student != name:
    turns = conversation.send(["SUB-QUESTION"])
  return turns[0].prompt


def folders(out: str, names) -> list[str]:
  """Where each of the students goes: `out` itself, or, of several, a folder in it."""
  if len(names) == 1:
    return [out]
  pathlib.Path(out).mkdir(parents=True, exist_ok=True)
  return [str(pathlib.Path(out) / name) for name in names]


def is_best(what, number: int) -> bool:
  """Whether the final test was this round's student's."""
  return number == trained_round(what, -1)


def read_questions(path: str) -> list[str]:
  """Questions from a file or the standard input: one a line, or JSONL with a field `question`."""
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8-sig") if path else sys.stdin.read()
  except (OSError, UnicodeDecodeError) as error:
    raise errors.usage(f"--questions={path} cannot be read: {error}") from None
  found = []
  for number, line in enumerate(map(str.strip, text.split("\n")), 1):
    if line.startswith("{"):
      try:
        line = json.loads(line)["question"].strip()
      except (ValueError, KeyError, AttributeError, RecursionError):
        raise errors.data(
          f"{path or 'standard input'}:{number}: not JSON with a text in its field question"
        ) from None
    if line:
      found.append(line)
  if not found:
    raise errors.usage(
      "no question: give --question, --questions=FILE, or lines on the standard input"
    )
  return found


def serve(settings, *, port: int, log: str) -> None:
  """The built-in teacher until interrupted."""
  if settings.task.name not in rules.WORLDS:
    allowed = f"one of {', '.join(rules.WORLDS)}: the built-in teacher answers from its world"
    raise errors.config("task.name", settings.task.name, allowed)
  if log:
    with phase_dir.report_os_errors(log):
      open(log, "a").close()
  task = context.open_task(settings)
  b = settings.teacher.builtin
  builtin.serve(
    task.world,
    port=port,
    latency=b.latency,
    error_rate=b.error_rate,
    faults=b.faults,
    seed=teacher.world_of(settings).seed,
    log=log,
  )
