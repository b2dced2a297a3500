"""Accelerators that are only described: programs are compiled for them, and nothing runs.

TPUs need libtpu (pip install libtpu, of the version that this jax asks for: "jax[tpu]"), NVIDIA
GPUs the plugin of "jax[cuda13]". Neither needs a device.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

GIB = 2**30

# Read by libtpu when it is loaded. Without them it asks a metadata server which TPU this is.
TPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process would stop at a lock file
}

# What XLA must know of a GPU to compile for it; numbers of the data sheets and of CUDA.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 minor: 0 patch: 0 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

RTX_4090 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 102400 threads_per_core_limit: 1536 core_count: 128 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 1008000000000 l2_cache_size: 75497472 clock_rate_ghz: 2.52
  device_memory_size: 25757220864 shared_memory_per_block_optin: 101376
  cuda_compute_capability { major: 8 minor: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 minor: 0 patch: 0 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA GeForce RTX 4090"
"""

GPU_SHARE = 0.75  # of a GPU's memory that jax takes; XLA_PYTHON_CLIENT_MEM_FRACTION changes it


class Kind(NamedTuple):
  """A kind of device."""

  platform: str
  gib: float  # memory that a program can use
  target: str = ""  # of a GPU, what XLA must know of it
  capability: str = ""  # of a GPU, its CUDA compute capability


KINDS = {
  "v4": Kind("tpu", 30.75),
  "v5e": Kind("tpu", 15.75),
  "v5p": Kind("tpu", 95.74),
  "v6e": Kind("tpu", 31.25),
  "h100": Kind("cuda", GPU_SHARE * 79.1, H100, "9.0"),
  "rtx4090": Kind("cuda", GPU_SHARE * 23.99, RTX_4090, "8.9"),
}


class Missing(Exception):
  """The compiler for a kind of device is not installed."""


def kind_of(topology: str) -> Kind:
  """Returns the kind of a topology, kind:AxB[xC].

  Raises:
    ValueError: There is no such kind.
  """
  name = topology.partition(":")[0]
  if name not in KINDS:
    raise ValueError(f"topology is {topology}, but must start with one of {', '.join(KINDS)}")
  return KINDS[name]


def describe(topology: str) -> Sequence[Any]:
  """Returns the devices of a topology: v5e:4x4, v5p:2x2x2, h100:1x1x8 (slices, hosts, devices).

  Raises:
    ValueError: There is no such kind, or no such topology of it.
    Missing: Its compiler is not installed; the message says what to install.
  """
  _, _, sizes = topology.partition(":")
  if kind_of(topology).platform == "tpu":
    if not importlib.util.find_spec("libtpu"):
      raise Missing(f"libtpu is not installed: pip install 'jax[tpu]=={jax.__version__}'")
    for key, value in TPU_ENVIRONMENT.items():
      os.environ.setdefault(key, value)
    one = {"chips_per_host_bounds": (1, 1, 1)} if set(sizes.split("x")) == {"1"} else {}
    return _devices(topology, platform="tpu", topology_name=topology, **one)
  if not importlib.util.find_spec("jax_cuda13_plugin"):
    raise Missing(f"the CUDA plugin is not installed: pip install 'jax[cuda13]=={jax.__version__}'")
  kind = kind_of(topology)
  _answer_for_the_gpu(kind.capability)
  return _devices(topology, platform="cuda", topology=sizes, target_config=kind.target)


def _devices(name: str, **options: Any) -> Sequence[Any]:
  try:
    return topologies.get_topology_desc(**options).devices
  except Exception as error:  # each compiler has its own
    raise ValueError(f"topology {name}: {str(error).splitlines()[0]}") from error


def _answer_for_the_gpu(own: str) -> None:
  """Answers what jax's cuDNN calls ask the GPU at hand: here there is none."""
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  cudnn.check_cudnn_version = lambda: 91200
  cudnn.check_compute_capability = lambda capability: True
  cudnn.is_cuda_compute_capability_equal = lambda capability: capability == own
