"""A Hugging Face model directory: where it is found, its configuration and its weight files.

  config.json   generation_config.json   tokenizer files
  model.safetensors, or model-0000i-of-0000N.safetensors and model.safetensors.index.json

hf_read.py loads the weights onto a mesh, hf_write.py writes a directory, and hf_verify.py runs one
in torch. Nothing in a directory is executed: no pickle is opened, no repository code is loaded.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import huggingface_hub

from distill_jax import disk, errors
from distill_jax.machine import hf_file

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
TOKENIZER = (
  *("tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
  *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", TEMPLATE),
)
CONVERT = (
  'convert it where torch is installed: python -c "import transformers as t; '
  "[x.from_pretrained('FROM').save_pretrained('TO') for x in "
  '(t.AutoModelForCausalLM, t.AutoTokenizer)]" (AutoModelForSeq2SeqLM for T5), and use TO'
)
# Fields of config.json in all families: numbers of layers, and dimensions of tensors.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers")
_SIZES = (
  *("vocab_size", "hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "head_dim", "d_kv"),
  *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "num_attention_heads", "num_heads"),
  *("n_head", "num_key_value_heads", "relative_attention_num_buckets"),
)

Path = str | os.PathLike[str]


class Tensor(Protocol):
  """How a tensor of a directory maps to our parameters; see students/families/layout.py."""

  @property
  def name(self) -> str:
    """Its name in the directory."""
    ...

  @property
  def path(self) -> tuple[str, ...]:
    """The path of our array."""
    ...

  @property
  def layer(self) -> int | None:
    """The index into the leading axis of our array; None if it is not stacked."""
    ...

  @property
  def split(self) -> tuple[tuple[int, ...], ...]:
    """The factors of each dimension."""
    ...

  @property
  def order(self) -> tuple[int, ...]:
    """The factors, numbered across dimensions, in our order."""
    ...

  @property
  def part(self) -> tuple[int, int] | None:
    """For fused tensors: (the factor that our array lacks, the index into it)."""
    ...

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape in the directory."""
    ...

  @property
  def ours(self) -> tuple[int, ...]:
    """The shape of our array, of one layer if it is stacked."""
    ...


def fetch(name: str) -> pathlib.Path:
  """Returns the directory of a model: `name` itself, or a download from the Hugging Face hub.

  Only configuration, safetensors and tokenizer files are downloaded.

  Raises:
    UserError: `name` is neither a directory nor a model on the hub, or the download failed.
  """
  try:
    if (path := pathlib.Path(name).expanduser()).is_dir():
      return path
  except (OSError, RuntimeError) as error:  # not permitted, name too long, or no such ~user
    raise errors.data(f"{name[:200]} is not a valid path ({error.args[-1]})") from None
  if name.startswith((".", "/", "~")) or name.count("/") > 1:
    raise errors.data(f"{name} is not a directory; give one with {CONFIG} and {WEIGHTS}")
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name, allow_patterns=[CONFIG, GENERATION, "model*.safetensors", INDEX, *TOKENIZER]
      )
    )
  except Exception as error:  # from the hub, one of several network libraries, or the disk
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    raise errors.data(
      f"{name} is not a directory, and its download from the hub failed ({reason[0]}); download it "
      "where there is a network, and give the directory"
    ) from None


def describe(directory: Path) -> tuple[dict[str, Any], dict[str, Any], list[pathlib.Path]]:
  """Reads the configuration of a directory.

  Returns:
    The fields of config.json, those of generation_config.json ({} without the file), and the weight
    files.

  Raises:
    UserError: A file is missing or invalid.
  """
  path = pathlib.Path(directory)
  fields = _read_json(path / CONFIG)
  generation = _read_json(path / GENERATION) if os.path.lexists(path / GENERATION) else {}
  return fields, generation, _weight_files(path)


def digest(directory: Path, finite: Mapping[str, hf_file.Entry] | None = None) -> str:
  """Returns the SHA-256 of config.json and the weights, which identifies the model.

  Args:
    directory: The directory.
    finite: Tensors to check while they are read, by name: their numbers must be finite.

  Raises:
    UserError: A file cannot be read, or a number is not finite.
  """
  path, total = pathlib.Path(directory), hashlib.sha256()
  *_, files = describe(path)
  for file in (path / CONFIG, *files):
    tensors = {name: entry for name, entry in (finite or {}).items() if entry.file == file}
    total.update(file.name.encode() + b"\0" + hf_file.digest(file, tensors))
  return total.hexdigest()


def check_sizes(directory: Path) -> None:
  """Checks that no size in config.json is larger than the weight files, before it is built on.

  A model with a million layers would take forever to describe.

  Raises:
    UserError: It has more layers than there are tensors, or a dimension with more elements than all
      tensors together.
  """
  fields, _, files = describe(directory)
  entries = [entry for file in files for entry in hf_file.entries(file).values()]
  elements = sum(math.prod(entry.shape) for entry in entries)
  for names, most, unit in ((_LAYERS, len(entries), "tensors"), (_SIZES, elements, "numbers")):
    for name in names:
      value = fields[name] if name in fields else None
      if isinstance(value, int) and value > most:
        raise errors.data(
          f"{pathlib.Path(directory) / CONFIG}: {name} is {_short(value)}, but the weight files "
          f"hold only {most} {unit}; weights and config.json must belong to the same model"
        )


def _short(value: int) -> str:
  return str(value) if abs(value) < 10**15 else f"a number of {value.bit_length()} bits"


def _weight_files(path: pathlib.Path) -> list[pathlib.Path]:
  """The files with the tensors. All of them exist."""
  if _exists(path / WEIGHTS):
    return [path / WEIGHTS]
  if not os.path.lexists(path / INDEX):
    raise errors.data(f"{path} has no {WEIGHTS}: {_other_weights(path)}")
  names = _read_json(path / INDEX).get("weight_map")
  if not isinstance(names, dict) or not names or not all(map(_is_file_name, names.values())):
    raise errors.data(
      f"{path / INDEX} has no weight_map from tensors to existing files; download it again"
    )
  files = [path / name for name in sorted(set(names.values()))]
  missing = [file.name for file in files if not _exists(file)]
  if missing:
    raise errors.data(f"{path} lacks {shorten(missing)}, listed in {INDEX}; download it again")
  return files


def _exists(file: pathlib.Path) -> bool:
  """Whether a file exists. Raises UserError for a link to a missing file and the like."""
  if not os.path.lexists(file):
    return False
  try:
    disk.check_regular(file)
  except OSError as error:
    raise errors.data(f"{file} cannot be read ({error.strerror}); download it again") from None
  return True


def _other_weights(path: pathlib.Path) -> str:
  """What a directory holds instead of safetensors of a whole model, and what to do."""
  if found := sorted(f.name for f in path.glob("*.bin") if f.stem != "training_args"):
    return f"only {found[0]}, a pickle, which can run code; {CONVERT}"
  if (path / "adapter_config.json").exists():
    return (
      "only an adapter (PEFT); merge it where peft and torch are installed: "
      'python -c "import peft; peft.AutoPeftModelForCausalLM.from_pretrained('
      "'FROM').merge_and_unload().save_pretrained('TO')\", copy the tokenizer to TO, and use TO"
    )
  if found := sorted(f.name for f in path.glob("*.gguf")):
    return f"only {found[0]}; {CONVERT} (with gguf_file='{found[0]}' in both calls)"
  return CONVERT


def _is_file_name(value: object) -> bool:
  """Whether a value names a file in the directory, and nothing outside of it."""
  return (
    isinstance(value, str) and value not in ("", "..") and pathlib.PurePath(value).name == value
  )


def _read_json(file: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(disk.read_text(file))
  except OSError as error:
    raise errors.data(
      f"{file} cannot be read ({error.strerror}); give the directory of a Hugging Face model"
    ) from None
  except (ValueError, RecursionError):
    raise errors.data(f"{file} is not JSON; download it again") from None
  if not isinstance(value, dict):
    raise errors.data(f"{file} is not a JSON object; download it again")
  return value


def shorten(names: Iterable[str], limit: int = 3) -> str:
  """Returns the first `limit` names, and how many more there are."""
  names = list(names)
  rest = f" and {len(names) - limit} more" if len(names) > limit else ""
  return ", ".join(names[:limit]) + rest
