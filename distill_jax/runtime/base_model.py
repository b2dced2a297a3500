"""The model a student starts from: fresh weights of a family, or a Hugging Face model.

The config of a loaded model is copied into the run directory together with a digest of its weights.
Therefore, a student whose weights were all trained can be used after its base model is gone, and a
base model that was replaced is detected before it is used.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from distill_jax import disk, errors, students, together
from distill_jax.machine import hf, hf_read
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.settings import Scratch, Settings
from distill_jax.students import families, quantized, trainable

SCRATCH = "scratch"
POSITIONS = "positions"  # fact of a run: the entries of a learned position table


@dataclasses.dataclass(frozen=True)
class BaseModel:
  """A model before training."""

  family: families.Family
  config: Any  # what `family.read` returns
  fields: dict[str, Any]  # config.json of the loaded model; {} from scratch
  end_tokens: tuple[int, ...] = ()  # tokens that end a text, according to the loaded model
  copy_dir: pathlib.Path | None = None  # the copied config in the run directory; None from scratch


@dataclasses.dataclass(frozen=True)
class ScratchSizes(Scratch):
  """The sizes of a student from scratch, with the length of its position table."""

  positions: int = 0


def open_base(settings: Settings, path: pathlib.Path, *, started: bool, vocab: int) -> BaseModel:
  """Opens the base model of a run.

  Args:
    settings: The settings of the run.
    path: The directory with the run's config.json and, for a loaded model, `base/`.
    started: Whether the run has written output; until then another base model may replace this one.
    vocab: The vocabulary size of a student from scratch.

  Raises:
    UserError: There is no such model, or it does not support the settings.
  """
  _check_package(settings)
  s = settings.student
  if s.arch not in ("", *families.BY_TYPE):
    raise errors.config("student.arch", s.arch, f"one of {', '.join(families.BY_TYPE)}")
  if s.init == SCRATCH:
    family = families.of(s.arch or "llama")
    sizes: dict[str, Any] = dataclasses.asdict(s.scratch)
    sizes |= {"vocab": vocab, "positions": _position_table_length(settings, path)}
    base = BaseModel(family, family.scratch(ScratchSizes(**sizes)), {})
  else:
    base = _open_copy(settings, path / "base", started)
  base = dataclasses.replace(base, config=dataclasses.replace(base.config, dtype=_dtype(s.dtype)))
  _check(settings, base)
  return base


def _dtype(name: str) -> str:
  """Returns the dtype of matrix products: on an accelerator, `auto` is bfloat16."""
  if name != "auto":
    return name
  return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _position_table_length(settings: Settings, path: pathlib.Path) -> int:
  """Returns the entries of a learned position table, according to the run's first config."""
  return RunDir(path).facts.get(POSITIONS) or max_row_length(settings)


def max_row_length(settings: Settings) -> int:
  """Returns the length in tokens of the longest row in training or decoding."""
  max_new_tokens = max(settings.exam.max_new_tokens, settings.evaluate.max_new_tokens)
  return _row_length(settings.train.buckets, settings.rollout.buckets, max_new_tokens)


def _row_length(train: Sequence[int], rollout: Sequence[int], max_new_tokens: int) -> int:
  """Returns the length of the longest row; lengths that are not set yet count as 0."""
  return max(0, *train, max(rollout, default=0) + max_new_tokens)


def _open_copy(settings: Settings, copy_dir: pathlib.Path, started: bool) -> BaseModel:
  """Opens the copied config of a loaded model; copies it first unless the run depends on it."""
  init, arch = settings.student.init, settings.student.arch
  _copy_unless_started(init, copy_dir, started)
  fields = _read_copied(copy_dir / "config.json")
  generation = _read_copied(copy_dir / "generation.json")
  family = families.of(fields["model_type"])
  if arch not in ("", fields["model_type"]):
    raise errors.config(
      "student.arch", arch, f"empty, or the type of {init}: {fields['model_type']}"
    )
  config = family.read(fields)
  return BaseModel(family, config, fields, _end_tokens(fields, generation, config.vocab), copy_dir)


@together.on_first
def _copy_unless_started(init: str, copy_dir: pathlib.Path, started: bool) -> None:
  if not (copy_dir.exists() and started):
    _copy_config(hf.fetch(init), copy_dir)


@contextlib.contextmanager
def _named(source: pathlib.Path) -> Iterator[None]:
  """Adds the directory of a model to errors about its config.json."""
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(f"{source}/{error}", error.code) from None


def _copy_config(source: pathlib.Path, copy_dir: pathlib.Path) -> None:
  """Copies the config of the model in `source`, with a digest of its weights.

  Raises:
    UserError: The model cannot be a student, or its weights are not finite. Then nothing is
      written.
  """
  fields, generation, _ = hf.describe(source)
  hf.check_sizes(source)
  with _named(source):
    family = families.of(fields.get("model_type"))
    config = family.read(fields)
  _end_tokens(fields, generation, config.vocab)
  if untied := _untie(source, fields, family, config):
    fields, config = untied, family.read(untied)
  stored = hf_read.match(
    source,
    family.tensors(config),
    spare=family.spare(config),
    prefix=family.PREFIX,
    ties=family.ties(config),
  )
  part = copy_dir.with_name("base.part")
  for path in (part, copy_dir):
    shutil.rmtree(path, ignore_errors=True)
  contents = {"config": fields, "generation": generation, "sha256": hf.digest(source, stored)}
  with phase_dir.report_os_errors(copy_dir):
    part.mkdir()
    for name, content in contents.items():
      with open(part / f"{name}.json", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    part.rename(copy_dir)


def _untie(
  source: pathlib.Path, fields: dict[str, Any], family: families.Family, config: Any
) -> dict[str, Any] | None:
  """Returns the fields with an untied head if the file has a head of its own.

  config.json may say that the head is the embedding, although training changed one of them. As in
  transformers 5, the stored tensors take precedence.

  Raises:
    UserError: The family does not support the stored tensors.
  """
  copies = hf_read.unequal(source, family.ties(config), prefix=family.PREFIX)
  if copies is None:
    return None
  untied = fields | {"tie_word_embeddings": False}
  head = family.ties(config)[-1]
  if students.of(config) is not students.decoder or copies[1] != head:
    raise errors.data(
      f"{source}: {copies[0]} and {copies[1]} differ, but are the same tensor according to"
      f" {hf.CONFIG}; correct {hf.CONFIG}, or save the model again"
    )
  return untied


@together.on_first
def _read_copied(file: pathlib.Path) -> Any:
  try:
    return json.loads(disk.read_bytes(file))
  except (OSError, ValueError, RecursionError):
    raise errors.data(
      f"{file} is missing or damaged: restore it, or start again with another --workdir"
    ) from None


def _end_tokens(fields: dict[str, Any], generation: dict[str, Any], vocab: int) -> tuple[int, ...]:
  """Returns the tokens that end a text, without those outside the vocabulary."""
  name = "eos_token_id"
  value = generation[name] if name in generation else fields.get(name)
  tokens = value if isinstance(value, list) else [] if value is None else [value]
  if not all(type(token) is int for token in tokens):
    raise errors.data(f"{name} is {value!r}, but must be a token id or a list of token ids")
  return tuple(token for token in tokens if 0 <= token < vocab)


def weights_dir(settings: Settings, base: BaseModel) -> pathlib.Path:
  """Returns the directory with the weights of a loaded model.

  Raises:
    UserError: It is gone, or its weights are not those the run started with.
  """
  source = hf.fetch(settings.student.init)
  if hf.digest(source) != digest(base):
    raise errors.data(
      f"{source} is not the model that this run started with: restore that model, or start again "
      "with another --workdir"
    )
  return source


def digest(base: BaseModel) -> str:
  """Returns the sha256 of the loaded model's config and weights, as of the start of the run."""
  if base.copy_dir is None:
    raise ValueError("a model from scratch has no digest")
  return _read_copied(base.copy_dir / "sha256.json")


def _check(settings: Settings, base: BaseModel) -> None:
  """Rejects settings whose rules depend on the family."""
  s, config = settings, base.config
  is_decoder = students.of(config) is students.decoder
  if not is_decoder and s.sft.prompt_weight:
    raise errors.config("sft.prompt_weight", s.sft.prompt_weight, "0: an encoder reads the prompt")
  check_rows(s, config)
  _check_lora(s, config)


def check_rows(settings: Settings, config: Any) -> None:
  """Raises UserError if a row may be longer than the position table of the model."""
  s, room = settings, learned_positions(config)
  if room and max_row_length(s) > room:
    if max(s.train.buckets, default=0) > room:
      field, buckets, more = "train", s.train.buckets, ""
    else:
      field, buckets = "rollout", s.rollout.buckets
      more = ", including max_new_tokens of exam and evaluate"
    allowed = f"at most {room} tokens a row{more}: the model has no more positions"
    raise errors.config(f"{field}.buckets", buckets, allowed)


def learned_positions(config: Any) -> int:
  """Returns the tokens that a row may have in a model with a position table; 0 without one."""
  is_decoder = students.of(config) is students.decoder
  return config.learned - config.learned_offset if is_decoder and config.learned else 0


def _check_package(settings: Settings) -> None:
  """Rejects quantized weights if the package that quantizes them is not installed."""
  s, package = settings, quantized.PACKAGE
  fields = {"student.lora.base": s.student.lora.base, "rollout.weights": s.rollout.weights}
  for field, value in fields.items():
    if value and importlib.util.find_spec(package) is None:
      raise errors.config(field, value, f"empty without {package}: pip install {package}")


def _check_lora(settings: Settings, config: Any) -> None:
  """Rejects adapters that the model does not support."""
  lora = settings.student.lora
  if lora.rank and not config.gated and "gate" in lora.targets:
    allowed = "without gate: this family has none"
    raise errors.config("student.lora.targets", lora.targets, allowed)
  if lora.base:
    try:
      _ = trainable.Trainable(config, lora.rank, base=lora.base).frozen_shapes
    except ValueError as error:
      raise errors.config("student.lora.base", lora.base, f"empty: {error}") from None
