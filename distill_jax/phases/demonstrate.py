"""The teacher writes rationales for training questions, without knowing the student (blind
annotation)."""

from distill_jax.phases import rationales
from distill_jax.teacher import asking, prompts


def run(run, number, here):
  """Writes rationales.jsonl: `demonstrate.rationales` asked for each of `demonstrate.questions`
  questions."""
  settings = run.settings.demonstrate
  problems = run.task.problems("train")
  problems = problems[: settings.questions or len(problems)]
  wanted = []
  for problem in problems:
    question = run.task.render(problem)
    messages = prompts.annotate(question, run.task.shots[:1])
    wanted.append(
      rationales.Wanted(
        problem,
        asking.Request(
          "annotate", question, messages, settings.rationales, first=number * settings.rationales
        ),
      )
    )
  rationales.collect(run, number, here, wanted, lambda text: ("", text))
