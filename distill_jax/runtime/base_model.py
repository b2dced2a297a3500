"""What a student begins as: a family and its sizes from scratch, or a model as Hugging Face has it.

The config of a model that is loaded is copied into the run folder, with a digest of its weights: so
a trained student can be used when the model it began as is gone, and a model that has been replaced
is noticed before anything is built on it.
"""

import dataclasses
import json
import os
import shutil
import types

from distill_jax import errors, students
from distill_jax.machine import hf, hf_read
from distill_jax.students import families

SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class Base:
  family: object  # a module of students/families
  config: object  # its Config
  fields: dict  # config.json of the model it is; {} from scratch
  ends: tuple[int, ...] = ()  # tokens that end a text, as the model has them
  folder: object = None  # the copy of its config in the run folder; None from scratch


def of(settings, folder, vocab: int) -> Base:
  """The base of a run; `vocab`: tokens of a student from scratch. Raises UserError if there is none,
  or if it cannot do what the settings want of it."""
  s = settings.student
  if s.arch not in ("", *families.BY_TYPE):
    raise errors.config("student.arch", s.arch, f"one of {', '.join(families.BY_TYPE)}")
  if s.init == SCRATCH:
    family = families.of(s.arch or "llama")
    sizes = dataclasses.asdict(s.scratch) | {"vocab": vocab, "positions": _table(settings, folder)}
    found = Base(family, family.scratch(types.SimpleNamespace(**sizes)), {})
  else:
    found = _copied(settings, folder)
  found = dataclasses.replace(found, config=dataclasses.replace(found.config, dtype=s.dtype))
  _refuse(settings, found)
  return found


def _table(settings, folder) -> int:
  """Entries of a learned table of positions: as many as the config the run was begun with wants."""
  file = folder.path / "config.json"
  if not file.exists():
    return longest(settings)
  return longest(
    json.loads(file.read_bytes(), object_hook=lambda group: types.SimpleNamespace(**group))
  )


def longest(settings) -> int:
  """Tokens of the longest row that training or decoding can come to."""
  new = max(settings.exam.max_new_tokens, settings.evaluate.max_new_tokens)
  return max(*settings.train.buckets, max(settings.rollout.buckets) + new)


def _copied(settings, run_folder) -> Base:
  init, copy = settings.student.init, run_folder.path / "base"
  if not (copy.exists() and run_folder.started):  # until then the model, too, may be another one
    _copy(hf.fetch(init), copy)
  fields, generation = _kept(copy / "config.json"), _kept(copy / "generation.json")
  family, arch = families.of(fields["model_type"]), settings.student.arch
  if arch not in ("", fields["model_type"]):
    raise errors.config(
      "student.arch", arch, f"empty, or what is in {init}: {fields['model_type']}"
    )
  config = family.read(fields)
  return Base(family, config, fields, _ends(fields, generation, config.vocab), copy)


def _copy(source, copy) -> None:
  """Keeps what the model in `source` says of itself as the folder `copy`. Raises UserError, and
  leaves nothing, if no student can be it."""
  fields, generation, _ = hf.describe(source)
  family = families.of(fields.get("model_type"))
  config = family.read(fields)
  _ends(fields, generation, config.vocab)
  hf_read.match(source, family.tensors(config), spare=family.spare(config), prefix=family.PREFIX)
  part = copy.with_name("base.part")
  for folder in (part, copy):
    shutil.rmtree(folder, ignore_errors=True)
  part.mkdir()
  contents = {"config": fields, "generation": generation, "sha256": hf.digest(source)}
  for name, content in contents.items():
    with open(part / f"{name}.json", "w", encoding="utf-8") as file:
      json.dump(content, file, indent=1, sort_keys=True)
      file.flush()
      os.fsync(file.fileno())
  part.rename(copy)


def _kept(file):
  try:
    return json.loads(file.read_bytes())
  except (OSError, ValueError):
    raise errors.data(
      f"{file} is gone or damaged: put it back, or begin again with another --workdir"
    ) from None


def _ends(fields: dict, generation: dict, vocab: int) -> tuple[int, ...]:
  """The tokens that end a text; one that the model cannot say ends none."""
  name = "eos_token_id"
  value = generation[name] if name in generation else fields.get(name)
  ends = value if isinstance(value, list) else [] if value is None else [value]
  if not all(type(end) is int for end in ends):
    raise errors.data(f"{name} is {value!r}, but must be the number of a token, or a list of them")
  return tuple(end for end in ends if 0 <= end < vocab)


def source(settings, base: Base):
  """The folder with the weights. Raises UserError if it is gone, or holds others than at first."""
  found = hf.fetch(settings.student.init)
  if hf.digest(found) != digest(base):
    raise errors.data(
      f"{found}: the model there is not the one this run began with; put that one back, or begin "
      "again with another --workdir"
    )
  return found


def digest(base: Base) -> str:
  """Of the config and the weights that a run began with."""
  return _kept(base.folder / "sha256.json")


def _refuse(settings, base: Base) -> None:
  """What only shows once the family is known."""
  s, config = settings, base.config
  reads = students.of(config) is not students.decoder
  if reads and s.sft.prompt_weight:
    raise errors.config("sft.prompt_weight", s.sft.prompt_weight, "0: an encoder reads the prompt")
  room = 0 if reads else config.learned - config.learned_offset if config.learned else 0
  if room and longest(s) > room:
    trained = max(s.train.buckets) > room
    field, buckets = ("train", s.train.buckets) if trained else ("rollout", s.rollout.buckets)
    more = "" if trained else ", the max_new_tokens of exam and evaluate included"
    raise errors.config(
      f"{field}.buckets", buckets, f"at most {room} tokens a row{more}: its positions end there"
    )
  if s.student.lora.rank and not config.gated and "gate" in s.student.lora.targets:
    raise errors.config(
      "student.lora.targets", s.student.lora.targets, "without gate: this family has none"
    )
