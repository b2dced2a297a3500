"""Shows one training example as the student sees it, before a run starts.

It shows most mistakes with prompts: a missing template, a doubled start token, a target without its
end token.
"""

from distill_jax import records, together
from distill_jax.data import tokenizer
from distill_jax.runtime import base_model
from distill_jax.runtime.context import RunContext

LONGEST = 1200  # characters that are shown of a prompt or a target; its middle is left out
MISSING = "..."  # stands for what a teacher will write


@together.on_first
def lines(ctx: RunContext) -> list[str]:
  """Returns a headline and the example of the first training question, for the console.

  The part that the student learns to write stands between [[ and ]].
  """
  example = _example(ctx)
  scratch = ctx.settings.student.init == base_model.SCRATCH
  if scratch and not (ctx.run_dir.path / "tokenizer").exists():
    prompt, target = str(example.prompt), example.target + tokenizer.END
    counts, end = ("", ""), tokenizer.END
  else:
    student = ctx.student
    ids = student.encode_prompt(example.prompt), student.encode_target(example.target)
    prompt, target = map(student.tokenizer.decode_all, ids)
    counts = tuple(f"{len(x)} tokens, " for x in ids)
    end = student.tokenizer.decode_all([student.end])
  kind = "plain text" if isinstance(example.prompt, str) else "chat template"
  weight = ctx.settings.sft.prompt_weight
  learned = f"learned with weight {weight:g}" if weight else "not learned"
  headline = (
    f"Example: prompt ({counts[0]}{kind}, {learned}), then [[target]] ({counts[1]}ends in {end!r})"
  )
  shown = f"{_shorten(prompt)}[[{_shorten(target)}]]"
  return [headline, *(f"  {line}" for line in shown.split("\n"))]


def _example(ctx: RunContext) -> records.Example:
  """The longest example of the first training question, with its own rationale if it has one."""
  problem = ctx.round_task(0).problems("train")[0]
  decomposition = problem.decomposition or ((MISSING, MISSING),)
  labels = [(label, MISSING) for label, _ in problem.choices]
  socratic = ctx.settings.format == "socratic"
  rationale = records.Rationale(
    problem=problem.id,
    text=ctx.format.target(problem.rationale or MISSING, problem.gold),
    answer=problem.gold,
    writer="gold",
    round=0,
    prompt="",
    sample=0,
    temperature=0.0,
    parts=decomposition if socratic else (("recall", MISSING), *labels),
  )
  return max(
    ctx.examples([rationale]), key=lambda x: len(records.prompt_text(x.prompt)) + len(x.target)
  )


def _shorten(text: str) -> str:
  if len(text) <= LONGEST:
    return text
  return f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
