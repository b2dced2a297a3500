"""Who grades the attempts of an exam."""

import json

from tests import recipes
from tests.recipes import PAIRED, attempts, run

quick = recipes.quick


def test_an_exam_of_another_task_is_graded_by_that_task(tmp_path, monkeypatch):
  """Not by the grader of the task that the student was tuned on, which knows numbers only."""
  asked = [
    {"question": f"What is {n} + 0?", "answer": str(n), "rationale": f"{n} + 0 = {n}"}
    for n in range(30)
  ]
  (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, asked)))
  (tmp_path / "numbers_only.py").write_text("def grade(text, gold):\n  return 0 * int(gold) > 0\n")
  monkeypatch.chdir(tmp_path)
  _, run_dir = run(
    tmp_path / "run", "self_refine", task__name="file", task__path=str(tmp_path / "own.jsonl"),
    task__grader="numbers_only:grade", demonstrate__source="gold", cross__name="taxonomy", **PAIRED,
  )  # fmt: skip
  assert attempts(run_dir)
