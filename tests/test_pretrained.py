"""Complete runs of students that start from a Hugging Face model, or are of another family."""

import json
import re
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill_jax import console, errors
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.console import Console
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import adapter, context, export
from tests import test_rounds

LORA = {"student__lora__rank": 2, "student__lora__targets": ("q", "o", "down"), "rounds": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """Returns the exported student of a run from scratch, and the run."""
  path = tmp_path_factory.mktemp("model")
  _, run_dir = test_rounds.run(path / "run", rounds=0)
  commands.export(
    read_settings(test_rounds.config(rounds=0)),
    workdir=str(run_dir.path),
    round=0,
    out=str(path / "out"),
    dtype="float32",
    verify=False,
  )
  return path / "out", run_dir


def opened(run_dir, **changes) -> context.RunContext:
  return context.RunContext(read_settings(test_rounds.config(**changes)), run_dir, Console())


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_student_starts_from_exactly_the_model_in_the_config(model, tmp_path):
  out, source = model
  with opened(RunDir(tmp_path), student__init=str(out), rounds=0) as ctx:
    student, trained = ctx.students(-1)["student"]
    same(trained, opened(source, rounds=0).students(0)["student"][1])
    problem = ctx.task.problems("test")[0]
    before = opened(source, rounds=0).student
    assert student.encode_prompt(ctx.prompt(problem)) == before.encode_prompt(ctx.prompt(problem))


def test_lora_adapters_are_trained_saved_alone_and_merged_on_export(model, tmp_path):
  out, _ = model
  changes = LORA | {"student__init": str(out)}
  summary, run_dir = test_rounds.run(tmp_path / "run", **changes)
  assert summary["rounds"][0]["steps"] == 4
  ctx = opened(run_dir, **changes)
  student, trained = ctx.students(0)["student"]
  assert set(trained["blocks"]) == {"q", "o", "down"}
  assert all(np.abs(x["up"]).max() > 0 for x in trained["blocks"].values())
  arguments = dict(workdir=str(run_dir.path), round=0, dtype="float32", verify=False)
  commands.export(
    read_settings(test_rounds.config(**changes)), out=str(tmp_path / "out"), **arguments
  )
  again = {"student__init": str(tmp_path / "out"), "rounds": 0}
  (tmp_path / "again").mkdir()
  exported = opened(RunDir(tmp_path / "again"), **again).students(-1)["student"][1]
  same(exported, export.merged_params(student, trained))
  base = student.frozen["blocks"]
  assert (exported["blocks"]["k"] == base["k"]).all()
  assert (exported["blocks"]["q"] != base["q"]).any()
  commands.export(
    read_settings(test_rounds.config(**changes)), out=str(tmp_path / "adapter"), adapter=True,
    **arguments,
  )  # fmt: skip
  assert_adapter_plus_base_is(tmp_path / "adapter", out, tmp_path / "out")
  with pytest.raises(errors.UserError, match="already exists"):
    adapter.write(ctx, 0, "student", out=str(tmp_path / "adapter"), card="")


def assert_adapter_plus_base_is(path, base, merged):
  """Adds peft's factors to the stored weights of the base; compares with the merged export."""
  fields = json.loads((path / "adapter_config.json").read_text())
  assert fields["lora_alpha"] == fields["r"] and fields["task_type"] == "CAUSAL_LM"
  factors = safetensors.numpy.load_file(path / "adapter_model.safetensors")
  before, after = (safetensors.numpy.load_file(p / "model.safetensors") for p in (base, merged))
  changed = {key for key in after if key in before and (before[key] != after[key]).any()}
  assert {key.removesuffix(".weight") for key in changed} == set(fields["target_modules"])
  for key in changed:
    start = f"base_model.model.{key.removesuffix('.weight')}"
    up, down = (factors[f"{start}.lora_{side}.weight"] for side in "BA")
    assert up.shape[1] == down.shape[0] == fields["r"]
    update = up @ down
    update = update.T if fields["fan_in_fan_out"] else update
    np.testing.assert_allclose(before[key] + update, after[key], atol=2e-6)


def test_an_adapter_needs_lora_on_a_pretrained_model(tmp_path):
  settings = read_settings(test_rounds.config())
  ctx = context.RunContext(settings, RunDir(tmp_path / "run"), console.Console())
  with pytest.raises(errors.UserError, match="--adapter needs a student with LoRA"):
    adapter.write(ctx, 0, "student", out=str(tmp_path / "out"), card="")
  rng = np.random.default_rng(0)
  update = rng.standard_normal((9, 2)) @ rng.standard_normal((2, 7))
  for rank in (2, 6, 12):
    up, down = adapter.factorize(update, rank)
    assert (up.shape, down.shape) == ((9, rank), (rank, 7))
    np.testing.assert_allclose(up @ down, update, atol=1e-5)


def test_a_replaced_model_is_detected_and_a_fully_trained_student_does_not_need_its_base(
  model, tmp_path, capsys
):
  moved = shutil.copytree(model[0], tmp_path / "model")
  changes = {"student__init": str(moved), "rounds": 0, "student__lora__rank": 1}
  _, run_dir = test_rounds.run(tmp_path / "lora", **changes)
  weights = moved / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
  with pytest.raises(errors.UserError, match="is not the model that this run started with"):
    opened(run_dir, **changes).students(0)["student"][0].frozen  # noqa: B018
  shutil.copy(model[0] / "model.safetensors", weights)
  changes["student__lora__rank"] = 0
  _, run_dir = test_rounds.run(tmp_path / "full", **changes)
  shutil.rmtree(moved)
  options = dict(workdir=str(run_dir.path), round=0, split="test")
  assert commands.evaluate(read_settings(test_rounds.config(**changes)), **options)["n"] == 10


def test_an_encoder_decoder_runs_all_rounds_with_contrasts_and_is_exported(tmp_path):
  changes = {
    "student__arch": "t5", "student__scratch__kv_heads": 4, "demonstrate__rationales": 2,
    "sft__denominator": "all_tokens",
  }  # fmt: skip
  summary, run_dir = test_rounds.run(tmp_path / "run", **changes)
  assert [row["steps"] for row in summary["rounds"]] == [4, 4]
  assert all(m.triplet is not None for m in test_rounds.metrics(run_dir))
  options = dict(workdir=str(run_dir.path), round=1, out=str(tmp_path / "out"))
  commands.export(
    read_settings(test_rounds.config(**changes)), **options, dtype="float32", verify=False
  )
  fields = json.loads((tmp_path / "out/config.json").read_text())
  assert fields["model_type"] == "t5" and fields["is_encoder_decoder"]


@pytest.mark.parametrize(
  "changes, field",
  [
    ({"student__arch": "gpt2", "student__scratch__kv_heads": 2}, "student.scratch.kv_heads"),
    ({"student__arch": "gpt5"}, "student.arch"),
    (
      {"student__arch": "t5", "student__scratch__kv_heads": 4, "sft__prompt_weight": 0.1},
      "sft.prompt_weight",
    ),
    ({"student__attention": "cudnn"}, "student.attention"),
    ({"student__lora__rank": 2, "student__lora__targets": ("gate",), "student__arch": "gpt2",
      "student__scratch__kv_heads": 4}, "student.lora.targets"),
    ({"student__init": "no/such/model"}, "no/such/model"),
  ],
)  # fmt: skip
def test_what_a_family_does_not_support_is_rejected_before_anything_is_paid_for(
  changes, field, tmp_path
):
  with pytest.raises(errors.UserError, match=field.replace(".", r"\.")):
    test_rounds.run(tmp_path / "run", **changes)
  assert not list((tmp_path / "run").glob("round_*/*"))


def test_an_arch_that_contradicts_the_model_is_rejected(model, tmp_path):
  with pytest.raises(errors.UserError, match=r"student\.arch.*llama"):
    test_rounds.run(tmp_path / "run", student__init=str(model[0]), student__arch="gpt2")


def test_packing_trains_on_the_same_examples_in_fewer_rows(model, tmp_path):
  changes = {"rounds": 0, "train__steps": 0, "train__epochs": 1, "train__buckets": (256,)}
  _, apart = test_rounds.run(tmp_path / "apart", **changes)
  _, packed = test_rounds.run(tmp_path / "packed", train__packing=True, **changes)
  examples, steps = (
    [f.find(0, "train").facts[name] for f in (apart, packed)] for name in ("examples", "steps")
  )
  assert examples[0] == examples[1] and steps[1] < steps[0]


def edited(file, change):
  """Edits the JSON in a file in place."""
  content = json.loads(file.read_text())
  change(content)
  file.write_text(json.dumps(content))


def without_a_tensor(path):
  tensors = safetensors.numpy.load_file(path / "model.safetensors")
  del tensors["model.norm.weight"]
  safetensors.numpy.save_file(tensors, path / "model.safetensors")


FAULTS = {
  "holds no tokenizer": lambda d: [f.unlink() for f in d.glob("tokenizer*")],
  "no end token": lambda d: edited(d / "tokenizer_config.json", lambda c: c.pop("eos_token")),
  "no tokenizer could be loaded": lambda d: (d / "tokenizer.json").write_text("[]"),
  "do not belong together": lambda d: edited(
    d / "tokenizer.json", lambda c: c["model"]["vocab"].update({"\u0120zz": 320})
  ),
  "lacks model.norm.weight": without_a_tensor,
  "eos_token_id": lambda d: edited(
    d / "generation_config.json", lambda c: c.update(eos_token_id=["1"])
  ),
  "model_type": lambda d: edited(d / "config.json", lambda c: c.update(model_type=["llama"])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_model_is_rejected_before_anything_is_paid_for_and_accepted_once_repaired(
  fault, model, tmp_path
):
  broken = shutil.copytree(model[0], tmp_path / "model")
  FAULTS[fault](broken)
  changes = {"student__init": str(broken), "rounds": 0}
  with pytest.raises(errors.UserError, match=re.escape(fault)):
    test_rounds.run(tmp_path / "run", **changes)
  assert not list((tmp_path / "run").glob("round_*"))
  shutil.copytree(model[0], broken, dirs_exist_ok=True)
  changes["train__steps"] = 1  # no phase has started, so the config may still change
  assert test_rounds.run(tmp_path / "run", **changes)[0]["rounds"][0]["steps"] == 1


def test_until_a_run_has_started_its_base_model_may_change(model, tmp_path):
  first = {"student__init": str(model[0]), "train__batch": 9, "mesh__data": 2, "mesh__tensor": 4}
  with pytest.raises(errors.UserError, match=r"train\.batch"):
    test_rounds.run(tmp_path / "run", **first)
  other = shutil.copytree(model[0], tmp_path / "other")
  edited(other / "config.json", lambda c: c["rope_parameters"].update(rope_theta=5e3))
  test_rounds.run(tmp_path / "run", student__init=str(other), rounds=0)
  ctx = opened(RunDir(tmp_path / "run"), student__init=str(other), rounds=0)
  assert ctx.base.config.rotary.theta == 5e3


def negated(source, path):
  """Copies a model and changes its weights."""
  shutil.copytree(source, path)
  tensors = safetensors.numpy.load_file(path / "model.safetensors")
  safetensors.numpy.save_file({n: -x for n, x in tensors.items()}, path / "model.safetensors")
  return path


def test_a_trained_student_is_not_used_as_another_one(model, tmp_path):
  changes = LORA | {"student__init": str(model[0]), "train__steps": 1}
  _, run_dir = test_rounds.run(tmp_path / "run", **changes)
  use = lambda **others: commands.evaluate(
    read_settings(test_rounds.config(**changes | others)),
    workdir=str(run_dir.path),
    round=0,
    split="test",
  )
  for key, value, reason in (
    ("student__lora__alpha", 1.0, "must have the value"),
    ("student__init", "scratch", "must have the value"),
    ("student__scratch__norm_eps", 0.1, "is set, but nothing reads it"),
  ):
    with pytest.raises(errors.UserError, match=f"config.{key.replace('__', '.')}.* {reason}"):
      use(**{key: value})
  moved = shutil.copytree(model[0], tmp_path / "moved")
  assert use(student__init=str(moved), student__dtype="bfloat16", seed=5)["n"] == 10
  again = lambda **others: test_rounds.run(tmp_path / "run", **changes | others)
  (run_dir.path / "summary.json").unlink()
  again(student__init=str(moved))
  assert '"config.student.init"' in (run_dir.path / "changes.jsonl").read_text()
  with pytest.raises(errors.UserError, match=r"student\.init.*there.*now"):
    again(student__init="scratch")
  other = negated(moved, tmp_path / "other")
  with pytest.raises(errors.UserError, match="other is not the model that this run started with"):
    again(student__init=str(other))
  again(student__init=str(moved))
  for name in ("sha256.json", "generation.json"):
    (run_dir.path / "base" / name).write_text("{")
    with pytest.raises(errors.UserError, match=rf"base/{name} (has|is).*restore it"):
      use()


def test_weights_that_are_not_finite_are_found_before_anything_is_paid_for(model, tmp_path):
  bad = shutil.copytree(model[0], tmp_path / "bad")
  tensors = safetensors.numpy.load_file(bad / "model.safetensors")
  name = max(tensors)
  tensors[name] = tensors[name].copy()
  tensors[name].reshape(-1)[-1] = np.nan
  safetensors.numpy.save_file(tensors, bad / "model.safetensors")
  with pytest.raises(errors.UserError, match=rf"tensor {re.escape(name)} has values") as error:
    test_rounds.run(tmp_path / "run", student__init=str(bad))
  assert error.value.code == errors.DATA
  assert not list((tmp_path / "run").glob("teacher.*")) and not (tmp_path / "run/round_00").exists()


def test_lora_adapters_of_a_scratch_model_belong_to_its_seed(tmp_path):
  changes = LORA | {"train__steps": 1}
  _, run_dir = test_rounds.run(tmp_path / "run", **changes)
  with pytest.raises(errors.UserError, match=r"config\.seed must have the value"):
    commands.open_run(read_settings(test_rounds.config(**changes, seed=5)), str(run_dir.path))


def test_a_position_table_keeps_the_length_it_was_created_with(tmp_path):
  changes = {"student__arch": "gpt2", "student__scratch__kv_heads": 4, "rounds": 0}
  _, run_dir = test_rounds.run(tmp_path / "run", **changes)
  use = lambda **others: commands.evaluate(
    read_settings(test_rounds.config(**changes | others)),
    workdir=str(run_dir.path),
    round=0,
    split="test",
  )
  assert use(evaluate__max_new_tokens=64)["n"] == 10
  with pytest.raises(errors.UserError, match="at most 192 tokens a row"):
    use(evaluate__max_new_tokens=65)
  with pytest.raises(errors.UserError, match=r"rollout\.buckets is \(256,\)"):
    use(rollout__buckets=(256,))


def test_without_torch_an_export_that_must_be_verified_is_not_written(model, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(errors.UserError, match="needs torch"):
    commands.export(
      read_settings(test_rounds.config(rounds=0)), workdir=str(model[1].path), round=0,
      out=str(tmp_path / "out"), dtype="float32", verify=True,
    )  # fmt: skip
  assert not (tmp_path / "out").exists()


def test_verification_computes_in_float32_whatever_the_training_dtype(model, monkeypatch):
  def verify(out, logits, *, positions):
    found.append(logits(*texts))
    return 0.0

  texts, found = (np.full((1, 3), 7), np.array([3]), np.array([[8, 9]])), []
  monkeypatch.setattr(export.hf_verify, "verify", verify)
  for dtype in ("float32", "bfloat16"):
    export.verify(opened(model[1], student__dtype=dtype, rounds=0), str(model[0]))
  np.testing.assert_array_equal(*found)
