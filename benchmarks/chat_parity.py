"""Answers of a pretrained student beside those of transformers, question by question.

  python -m benchmarks.chat_parity --model=DIR --task=svamp --path=FILE_OR_DIR --questions=50

Both decode greedily in float32 from the student's own prompt: transformers renders it with
`apply_chat_template` (without a template: from the plain text of the format) and tokenizes it
itself. Prints both accuracies and every question on which prompt ids, text or verdict differ; exits
with 1 if there is one. Needs torch.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from typing import Any

from ml_collections import config_dict

from distill_jax import console, records
from distill_jax.config.read import read_settings
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, conversations

BATCH = 10  # prompts that transformers decodes at a time, padded on the left


def open_run(args: argparse.Namespace, workdir: str) -> context.RunContext:
  """Opens a run of the untrained student."""
  from configs import base

  c: config_dict.ConfigDict = base.get_config()
  c.task.name, c.task.path = args.task, args.path
  c.student.init, c.student.prompt, c.student.system = args.model, args.prompt, args.system
  c.evaluate.max_new_tokens, c.rollout.batch = args.tokens, 16
  c.rounds, c.opening, c.each_round, c.train.losses.triplet = 0, (), (), 0.0
  return context.RunContext(
    read_settings(c.to_dict()), RunDir(workdir), console.Console(file=sys.stderr)
  )


def ours(ctx: context.RunContext, problems: list[records.Problem], tokens: int) -> list[str]:
  """Returns the texts of the student."""
  transcripts = conversations.run_conversations(
    [ctx.conversation(problem) for problem in problems],
    [problem.id for problem in problems],
    students=ctx.students(-1),
    temperature=0.0,
    max_new_tokens=tokens,
    stop=ctx.format.stop,
  )
  return [transcript.text for transcript in transcripts]


class Reference:
  """The same student in transformers."""

  def __init__(self, model: str):
    import torch  # pyright: ignore[reportMissingImports] (an optional dependency)
    import transformers

    self._torch: Any = torch
    self.words = transformers.AutoTokenizer.from_pretrained(model)
    auto: Any = transformers.AutoModelForCausalLM
    self._model = auto.from_pretrained(model, dtype=torch.float32).eval()

  def prompt(self, prompt: records.Prompt, system: str) -> list[int]:
    """Returns the ids of a prompt."""
    if isinstance(prompt, str):
      return self.words.encode(prompt)
    messages = [{"role": role, "content": text} for role, text in prompt]
    if system:
      messages.insert(0, {"role": "system", "content": system})
    return self.words.apply_chat_template(
      messages, add_generation_prompt=True, return_dict=False, enable_thinking=False
    )

  def answer(self, prompts: list[list[int]], tokens: int, ends: tuple[int, ...]) -> list[str]:
    """Returns greedy continuations."""
    texts = []
    for start in range(0, len(prompts), BATCH):
      part = prompts[start : start + BATCH]
      longest = max(map(len, part))
      ids = self._torch.tensor([[ends[0]] * (longest - len(p)) + p for p in part])
      mask = self._torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
      with self._torch.no_grad():
        out = self._model.generate(
          ids,
          attention_mask=mask,
          max_new_tokens=tokens,
          do_sample=False,
          eos_token_id=list(ends),
          pad_token_id=ends[0],
          repetition_penalty=1.0,
        )
      texts += self.words.batch_decode(out[:, longest:], skip_special_tokens=True)
    return texts


def main() -> None:
  """Runs the comparison."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", required=True)
  parser.add_argument("--task", default="svamp")
  parser.add_argument("--path", required=True)
  parser.add_argument("--prompt", default="auto")
  parser.add_argument("--system", default="")
  parser.add_argument("--questions", type=int, default=50)
  parser.add_argument("--tokens", type=int, default=256)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as workdir, open_run(args, workdir) as ctx:
    problems = ctx.task.problems("test")[: args.questions]
    prompts = [ctx.prompt(problem) for problem in problems]
    start = time.perf_counter()
    texts = ours(ctx, problems, args.tokens)
    own_seconds = time.perf_counter() - start
    reference = Reference(args.model)
    ids = [reference.prompt(prompt, args.system) for prompt in prompts]
    other_prompts = [n for n, x in enumerate(ids) if ctx.student.encode_prompt(prompts[n]) != x]
    start = time.perf_counter()
    theirs = reference.answer(ids, args.tokens, ctx.student.end_tokens)
    their_seconds = time.perf_counter() - start
    finished = [finish(ctx, problem, text) for problem, text in zip(problems, theirs, strict=True)]
    verdicts = [
      [is_right(ctx, problem, text) for problem, text in zip(problems, side, strict=True)]
      for side in (texts, finished)
    ]
  different = [n for n in range(len(problems)) if texts[n] != finished[n]]
  wrong = [n for n in range(len(problems)) if verdicts[0][n] != verdicts[1][n]]
  print(f"{pathlib.Path(args.model).name}: {len(problems)} questions of {args.task}")
  print(f"right: {sum(verdicts[0])} ours, {sum(verdicts[1])} transformers")
  print(f"other prompt ids: {other_prompts}, other texts: {different}, other verdicts: {wrong}")
  print(f"{own_seconds:.0f} s ours (with compilation), {their_seconds:.0f} s transformers")
  for n in different:
    print(f"--- {problems[n].id}\n{texts[n]!r}\n{finished[n]!r}")
  sys.exit(bool(other_prompts or different or wrong))


def finish(ctx: context.RunContext, problem: records.Problem, text: str) -> str:
  """Returns the text of an attempt whose only turn has this text."""
  conversation = ctx.conversation(problem)
  next(conversation)
  try:
    conversation.send([text])
  except StopIteration as end:
    return end.value
  raise ValueError("this format has several turns")


def is_right(ctx: context.RunContext, problem: records.Problem, text: str) -> bool:
  """Whether a text has the gold answer."""
  answer = ctx.task.read_answer(text, problem)
  return answer is not None and ctx.task.is_correct(answer, problem)


if __name__ == "__main__":
  main()
