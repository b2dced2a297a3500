"""Judges texts as the task gsm8k of lm-evaluation-harness does, by its filter flexible-extract.

Run with a Python that has lm_eval. Reads JSON [[text, gold], ...] from standard input; writes
[[extracted, correct], ...].
"""

import json
import pathlib
import sys

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_fn
from lm_eval.filters.extraction import RegexFilter

TASK = pathlib.Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"


def main() -> None:
  task = yaml.safe_load(TASK.read_text("utf-8"))
  flexible = next(f for f in task["filter_list"] if f["name"] == "flexible-extract")
  options = {key: value for key, value in flexible["filter"][0].items() if key != "function"}
  given = json.load(sys.stdin)
  found = RegexFilter(**options).apply([[text] for text, _ in given], [{}] * len(given))
  metric = dict(task["metric_list"][0])
  for name in ("metric", "aggregation", "higher_is_better"):
    metric.pop(name)
  verdicts = []
  for (answer,), (_, gold) in zip(found, given, strict=True):
    result = exact_match_fn(predictions=[answer], references=[f"#### {gold}"], **metric)
    verdicts.append([answer, bool(result["exact_match"])])
  json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
  main()
