"""Programs compiled for TPUs that are only described: they fit, and send what theory says.

Needs libtpu and takes minutes:

  .venv/bin/python -m pip install "jax[tpu]"
  .venv/bin/python -m pytest -m aot -rs tests/aot

Facts come from the compiled text (benchmarks/compile_for.py). The student has 6 layers, which are
scanned, and no dimension of a batch is as large as its vocabulary.
"""

import functools
import importlib.util
import math

import jax
import pytest

from benchmarks import compile_for
from benchmarks.compiled import students as sizes
from distill_jax.decoding import decode_loop
from distill_jax.students import decoder, sharding, split_head, token_rows

pytestmark = [
  pytest.mark.aot,
  pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed"),
]
CONFIG = sizes.read("tiny", "bfloat16")
LAYERS = 2 * sum(math.prod(x.shape) for x in jax.tree.leaves(decoder.shapes(CONFIG)["blocks"]))
TABLE = CONFIG.vocab * CONFIG.width
MIB = 2**20
FORWARD, BACKWARD = {"fwd"}, {"dq", "dkv"}


@functools.cache
def facts(program: str, mesh: str, length: int = 512, *more: str):
  words = [f"--mesh={mesh}", f"--programs={program}", "--rows=16", f"--length={length}", "--new=64"]
  (found,) = compile_for.main(["--topology=v5e:2x2", "--student=tiny", *words, *more])
  return found


def sent(found, place: str, *kinds: str) -> float:
  """Returns MiB that collectives send in loops or outside."""
  return sum(
    n for name, n in found["sent_mib"].items()
    if name.endswith(place) and (not kinds or name.startswith(kinds))
  )  # fmt: skip


def phases(found) -> set[str]:
  """Returns the phases of splash attention that the program has kernels for."""
  return {name.split("_")[2] for name in found["kernels"] if name.startswith("splash")}


@pytest.mark.parametrize(
  "program, wanted",
  [
    ("sft", FORWARD | BACKWARD),
    ("tailored", FORWARD | BACKWARD),
    ("prefer", FORWARD | BACKWARD),
    ("score", FORWARD),
  ],
)
def test_it_fits_and_has_the_kernels_of_mosaic(program, wanted):
  found = facts(program, "1,4,1")
  assert found["fits"] and 0 < found["gib"] < 1
  assert phases(found) == wanted


def test_less_memory_can_be_given():
  assert not facts("score", "1,4,1", 256, "--memory=0.001")["fits"]


@pytest.mark.parametrize("mesh, fsdp, tensor", [("1,4,1", 4, 1), ("2,2,1", 2, 1), ("1,2,2", 2, 2)])
def test_no_table_travels_and_none_is_whole_in_float32(mesh, fsdp, tensor):
  found = facts("sft", mesh)
  assert found["whole"] == {} and found["float32_tables"] == {}
  # The head by parts, once in 16 bits and once in 32; with `data`, the gradients of both uses.
  copies = 8 * TABLE if mesh.startswith("2") else 0
  assert found["vocabulary_mib"] <= 1.01 * (6 * TABLE + copies) / (fsdp * tensor) / MIB


def test_with_copies_of_the_weights_only_gradients_travel_and_once():
  found = facts("sft", "4,1,1")
  assert sent(found, "in loops", "all-gather", "all-to-all", "collective-permute") == 0
  # The layers' gradients in 16 bits at least, and the table's two in 32.
  received = sum(found["sent_mib"].values())
  assert LAYERS / MIB < received <= 1.1 * (2 * LAYERS + 8 * TABLE) / MIB


@pytest.mark.parametrize("mesh, tensor", [("1,4,1", 1), ("1,2,2", 2)])
def test_split_layers_are_gathered_twice_and_their_gradients_reduced_once(mesh, tensor):
  found = facts("sft", mesh)
  # Twice the weights (remat) and once the gradients; states are exchanged over `tensor`.
  states = 16 * 512 * CONFIG.width * 2 / 2 * CONFIG.layers * 8 if tensor > 1 else 0
  assert sent(found, "in loops") <= (1.1 * 3 * LAYERS / tensor + states) / MIB


def test_a_token_is_decoded_without_collectives_and_without_a_loop_over_rows():
  found = facts("decode", "1,4,1", 128)
  assert sent(found, "in loops") < 0.001, found["sent_mib"]
  # The loop over tokens, and the bisections of the two filters.
  assert sum(found["loops"].values()) <= 3, found["loops"]


def test_a_token_reads_little_more_than_the_weights_and_the_cache():
  found = facts("decode", "1,4,1", 128)
  assert 1.0 <= found["token_mib"] / found["token_needed_mib"] <= 1.5


@pytest.mark.skipif(not importlib.util.find_spec("qwix"), reason="qwix is not installed")
def test_a_token_reads_8_bits_of_a_weight():
  whole, found = (facts("decode", "1,4,1", 128, *more) for more in ((), ("--weights=int8",)))
  assert sent(found, "in loops") < 0.001, found["sent_mib"]
  saved = (LAYERS + 2 * TABLE) / 2 / MIB
  assert whole["token_mib"] - found["token_mib"] >= 0.9 * saved
  assert found["token_mib"] / found["token_needed_mib"] <= 1.5


@pytest.mark.skipif(not importlib.util.find_spec("qwix"), reason="qwix is not installed")
def test_weights_of_4_bits_below_adapters_are_expanded_one_after_another():
  whole, found = (facts("sft", "1,4,1", 512, "--lora=8", f"--base={b}") for b in ("", "nf4"))
  # Layers split over 4 devices, with 4.5 instead of 16 bits; little of it is expanded at a time.
  saved = LAYERS / 4 * (1 - 4.5 / 16) / 2**30
  assert whole["gib"] - found["gib"] >= 0.8 * saved
  assert found["kernels"] == whole["kernels"]


def test_the_traffic_of_the_vocabulary_does_not_depend_on_the_number_of_chunks(monkeypatch):
  want = facts("sft", "1,4,1")
  monkeypatch.setattr(split_head, "CHUNK_BYTES", 2**22)
  found = facts.__wrapped__("sft", "1,4,1")
  assert len(found["loops"]) == len(want["loops"]) + 1  # over chunks, forwards and backwards
  assert found["vocabulary_mib"] == want["vocabulary_mib"]


def test_trees_hold_and_compute_what_other_rows_do():
  plain, trees = facts("sft", "1,4,1"), (facts("tailored", "1,4,1"), facts("prefer", "1,4,1"))
  for found in trees:
    assert found["gib"] <= 1.25 * plain["gib"] and found["tflop"] <= 1.01 * plain["tflop"]
    assert found["kernels"] == plain["kernels"]


def test_prompts_are_placed_without_a_loop_over_rows():
  assert facts("place", "1,4,1", 128)["loops"] == {}


def test_the_facts_see_a_loop_over_rows_and_gathers_for_every_token(monkeypatch):
  write = token_rows.write_column
  by_rows = lambda caches, news, at: tuple(
    write(*pair, at) for pair in zip(caches, news, strict=True)
  )
  monkeypatch.setattr(token_rows, "write_columns", by_rows)
  monkeypatch.setattr(sharding, "decodes_whole", lambda shapes, config: False)
  decode_loop.decode.clear_cache()
  found = facts.__wrapped__("decode", "1,4,1", 128)
  decode_loop.decode.clear_cache()
  assert sum(found["loops"].values()) > 3
  assert sent(found, "in loops") > 0.5 * LAYERS / MIB
