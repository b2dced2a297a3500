"""What cannot fit is rejected with what to change; what fits is described."""

import types

import pytest

from configs import quickstart
from distill_jax import errors
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.runtime import memory
from distill_jax.students import trainable
from tests.students import oracle

FULL, LORA = trainable.Trainable(oracle.TINY), trainable.Trainable(oracle.TINY, 2, 1.0, ("q", "v"))


def compiled(arguments: int, temporary: int, alias: int):
  """Returns a stand-in for a compiled step; its output takes as much as its alias."""
  analysis = types.SimpleNamespace(
    argument_size_in_bytes=arguments,
    temp_size_in_bytes=temporary,
    output_size_in_bytes=alias,
    alias_size_in_bytes=alias,
  )
  return types.SimpleNamespace(memory_analysis=lambda: analysis)


def test_this_machine_has_memory_and_this_process_uses_some():
  assert 0 < memory.process() < memory.capacity()


def test_the_limits_of_its_own_control_group_and_of_those_above_count(tmp_path, monkeypatch):
  file = tmp_path / "cgroup"
  file.write_text("4:cpu,memory:/jobs/job_7\n1:cpu:/\n0::/user.slice/step_0\n")
  found = [str(path) for path in memory.cgroup_limits(str(file), "/fs")]
  first = [f"/fs/memory/{group}memory.limit_in_bytes" for group in ("jobs/job_7/", "jobs/", "")]
  second = [f"/fs/{group}memory.max" for group in ("user.slice/step_0/", "user.slice/", "")]
  assert found == first + second
  limit = tmp_path / "memory.max"
  limit.write_text("4096\n")
  monkeypatch.setattr(memory, "cgroup_limits", lambda: [limit, tmp_path / "missing"])
  assert memory.capacity() == 4096


def test_training_holds_weights_gradients_and_two_moments_or_little_with_adapters():
  weights = memory.size(FULL.shapes)
  assert memory.of_training(FULL) == 4 * weights
  assert weights < memory.of_training(LORA) == weights + 4 * memory.size(LORA.shapes)


def test_more_rows_and_columns_take_more_memory_to_decode():
  few, many = memory.of_decoding(FULL, 4, 32), memory.of_decoding(FULL, 8, 64)
  c = oracle.TINY
  assert many - few == 2 * c.layers * (8 * 64 - 4 * 32) * c.kv_heads * c.head_width * 4


def test_results_of_products_are_kept_where_they_take_little_memory(monkeypatch):
  c = oracle.TINY
  widths = (c.heads + 2 * c.kv_heads) * c.head_width + 2 * c.width + 2 * c.mlp
  assert memory.of_products(FULL, 10) == 10 * c.layers * widths * 4
  assert memory.of_products(LORA, 10) == 2 * memory.of_products(FULL, 10)
  monkeypatch.setattr(memory, "PRODUCTS_BYTES", memory.of_products(FULL, 10))
  chosen = [memory.recomputation("auto", FULL, tokens) for tokens in (1, 10, 11)]
  assert chosen == ["dots", "dots", "full"]
  for remat in ("none", "dots", "full"):
    assert memory.recomputation(remat, FULL, 10**9) == remat, "what is set is kept"


@pytest.mark.parametrize(
  ("rows", "room", "remedy"), [(1, 4000, "lora.rank"), (10**6, 10**8, "rollout.batch")]
)
def test_what_cannot_fit_at_all_is_rejected_at_the_start(monkeypatch, rows, room, remedy):
  monkeypatch.setattr(memory, "capacity", lambda: room)
  with pytest.raises(errors.UserError, match=remedy):
    memory.check_start(FULL, rows, 64, 1)
  monkeypatch.setattr(memory, "capacity", lambda: 10**15)
  assert memory.check_start(FULL, rows, 64, 1).startswith("memory: at least ")


def test_rows_are_shared_by_the_devices_of_the_data_axis(monkeypatch):
  asked = []
  monkeypatch.setattr(memory, "check_start", lambda *given: asked.append(given) or "")
  settings = read_settings(quickstart.get_config().to_dict())
  for shape in ({"data": 4, "fsdp": 1, "tensor": 1}, {"data": 2, "fsdp": 2, "tensor": 3}):
    mesh = types.SimpleNamespace(shape=shape)
    student = types.SimpleNamespace(mesh=mesh, trainable=FULL, rows=10)
    console = types.SimpleNamespace(line=lambda _: None)
    commands._check_memory(
      types.SimpleNamespace(settings=settings, student=student, console=console)
    )
  assert [(given[1], given[3]) for given in asked] == [(3, 1), (5, 6)]


def test_a_step_that_cannot_fit_is_rejected_before_it_runs(monkeypatch):
  monkeypatch.setattr(memory, "capacity", lambda: 7 * 10**9)
  monkeypatch.setattr(memory, "process", lambda: 3 * 10**9)
  # The process holds the arguments and 1 GB of its own.
  line = memory.check_step(compiled(2 * 10**9, 3 * 10**9, 2 * 10**9), 2 * 10**9)
  assert line == "memory of a train step: about 6 of 7 GB"
  with pytest.raises(errors.UserError, match=r"8\.0 GB, but .* 7\.0 GB: .*train\.remat"):
    memory.check_step(compiled(2 * 10**9, 5 * 10**9, 2 * 10**9), 2 * 10**9)
