"""Prints, as JSON, the peak memory in bytes for reading and writing a wide model.

python tests/machine/hf_memory.py DIRECTORY DATA FSDP TENSOR
"""

import json
import math
import os
import pathlib
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = str(math.prod(map(int, sys.argv[2:5])))

import hf_material as material
import jax

from distill_jax.machine import hf_read, hf_write
from distill_jax.students import decoder, sharding
from distill_jax.students.families import layout


def peak(call):
  """Returns (the result, by how much the peak of memory exceeds the memory before)."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
  before = _status("VmRSS")
  result = call()
  return result, _status("VmHWM") - before


def _status(name: str) -> int:
  match = re.search(rf"{name}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
  return int(match[1]) * 1024


def main(directory: pathlib.Path, *mesh: int) -> None:
  c = decoder.Config(
    vocab=4096, width=1792, layers=2, heads=14, kv_heads=7, head_width=128, mlp=7168,
    norm_eps=1e-5, tied=True, dtype="float32", rotary=decoder.Rotary(1e4, 128),
  )  # fmt: skip
  family = material.LLAMA
  tensors = family.tensors(c)
  base = material.write_directory(directory / "base", family, c, material.random_tensors(tensors))
  (base / "tokenizer.json").write_text("{}")
  like = material.like(c, sharding.make_mesh(*mesh))
  jax.jit(
    lambda: jax.numpy.zeros(8) + 1
  )().block_until_ready()  # loads the compiler, which is not counted
  params, read = peak(
    lambda: hf_read.load(base, tensors, spare=family.spare(c), prefix=family.PREFIX, like=like)
  )
  _, written = peak(
    lambda: hf_write.export(
      directory / "out", fields=family.write(c), tensors=tensors, to_theirs=layout.to_theirs,
      params=params, tokenizer=base, bos=None, eos=1, pad=0, positions=64, card="",
    )
  )  # fmt: skip
  shards = [s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards]
  sizes = [4 * math.prod(t.shape) for t in tensors]
  peaks = {"read": read, "written": written, "held": sum(shards)}
  print(json.dumps({**peaks, "largest": max(sizes), "model": sum(sizes)}))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5]))
