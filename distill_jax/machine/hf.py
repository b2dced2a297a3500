"""A Hugging Face model directory: where it comes from, what it says of itself, its weight files.

  config.json   generation_config.json   tokenizer files
  model.safetensors, or model-0000i-of-0000N.safetensors and model.safetensors.index.json

hf_read.py puts its weights on a mesh, hf_write.py makes one, hf_verify.py runs one in torch.
Nothing in it is ever executed: no pickle is opened, no code of a repository is loaded.
"""

import hashlib
import json
import pathlib

import huggingface_hub

from distill_jax import errors

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = (
  *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
  *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)
CONVERT = (
  "convert it where torch is installed: python -c \"import transformers; transformers."
  "AutoModelForCausalLM.from_pretrained('FROM').save_pretrained('TO')\" "
  "(AutoModelForSeq2SeqLM for T5), and give TO"
)  # fmt: skip


def fetch(name: str) -> pathlib.Path:
  """The directory `name`; or, if there is none, where the model of that name on the Hugging Face
  hub was downloaded to. Raises UserError if there is neither.

  Only configuration, safetensors and tokenizer files are asked for.
  """
  try:
    if (folder := pathlib.Path(name).expanduser()).is_dir():
      return folder
  except (OSError, RuntimeError) as error:  # may not be looked at, too long; no such ~user
    raise errors.data(f"{name[:200]} cannot be looked for ({error.args[-1]})") from None
  if name.startswith((".", "/", "~")) or name.count("/") > 1:
    raise errors.data(f"{name} is no directory: give one that holds {CONFIG} and {WEIGHTS}")
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name, allow_patterns=[CONFIG, GENERATION, "model*.safetensors", INDEX, *TOKENIZER]
      )
    )
  except Exception as error:  # of the hub, of several network libraries, of the disk
    why = str(error).strip().splitlines()[:1] or [type(error).__name__]
    raise errors.data(
      f"{name} is no directory here, and the hub did not give it ({why[0]}): download it where "
      "there is a network, and give the directory"
    ) from None


def describe(folder) -> tuple[dict, dict, list[pathlib.Path]]:
  """What a directory says of itself: the fields of config.json, those of generation_config.json
  ({} without one), and its weight files. Raises UserError for what is missing or not to be read."""
  folder = pathlib.Path(folder)
  fields = _json(folder / CONFIG)
  generation = _json(folder / GENERATION) if (folder / GENERATION).exists() else {}
  return fields, generation, _weights(folder)


def digest(folder) -> str:
  """sha256 over config.json and the weights, as hexadecimal: another one is another model."""
  folder, total = pathlib.Path(folder), hashlib.sha256()
  *_, files = describe(folder)
  for file in (folder / CONFIG, *files):
    try:
      with open(file, "rb") as opened:
        content = hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
      raise errors.data(f"{file} cannot be read ({error.strerror}): fetch it again") from None
    total.update(file.name.encode() + b"\0" + content)
  return total.hexdigest()


def _weights(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files that hold the tensors; all are there."""
  if (folder / WEIGHTS).exists():
    return [folder / WEIGHTS]
  if not (folder / INDEX).exists():
    pickled = sorted(f.name for f in folder.glob("pytorch_model*.bin"))
    what = f"only {pickled[0]}, a pickle, which can run code: " if pickled else ""
    raise errors.data(f"{folder} holds no {WEIGHTS}: {what}{CONVERT}")
  names = _json(folder / INDEX).get("weight_map")
  if not isinstance(names, dict) or not names or not all(map(_is_name, names.values())):
    raise errors.data(
      f"{folder / INDEX} has no weight_map from tensors to files beside it: fetch it again"
    )
  files = [folder / name for name in sorted(set(names.values()))]
  missing = [file.name for file in files if not file.is_file()]
  if missing:
    raise errors.data(f"{folder} lacks {some(missing)}, which {INDEX} names: fetch it again")
  return files


def _is_name(value) -> bool:
  """Whether it names a file in the directory, and nothing outside of it."""
  return (
    isinstance(value, str) and value not in ("", "..") and pathlib.PurePath(value).name == value
  )


def _json(file: pathlib.Path) -> dict:
  try:
    value = json.loads(file.read_text(encoding="utf-8"))
  except OSError as error:
    raise errors.data(
      f"{file} cannot be read ({error.strerror}): give a directory that holds a Hugging Face model"
    ) from None
  except (ValueError, RecursionError):
    raise errors.data(f"{file} is not JSON: fetch it again") from None
  if not isinstance(value, dict):
    raise errors.data(f"{file} holds no fields: fetch it again")
  return value


def some(names, most: int = 3) -> str:
  """The first few of them, and how many more there are."""
  names = list(names)
  rest = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + rest
