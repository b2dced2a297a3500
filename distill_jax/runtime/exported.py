"""Opens a student from a directory in Hugging Face format, without a run."""

import dataclasses
import pathlib

from distill_jax import errors
from distill_jax.console import Console
from distill_jax.data import tokenizer
from distill_jax.machine import hf
from distill_jax.runtime import base_model
from distill_jax.runtime.student import Student
from distill_jax.settings import Settings


def open_student(
  settings: Settings, source: pathlib.Path, scratch: pathlib.Path, console: Console
) -> Student:
  """Returns the student in `source`; its weights are those of `init_params`.

  Args:
    settings: Decoding settings; settings about the student's origin are ignored.
    source: A directory with config, weights and tokenizer, such as `export` writes.
    scratch: An empty directory for copies of its config and tokenizer.
    console: Shows what is compiled.

  Raises:
    UserError: The directory holds no model that can be a student.
  """
  if not source.is_dir():
    raise errors.usage(f"--model={source} is not a directory")
  own = settings_of(settings, source, settings.evaluate.max_new_tokens)
  base = base_model.open_base(own, scratch, started=False, vocab=0)
  files = base_model.weights_dir(own, base)
  path = scratch / "tokenizer"
  tokenizer.copy(files, hf.TOKENIZER, path, base.fields, max_vocab=base.config.vocab)
  return Student(own, tokenizer.Tokenizer(path), base, announce=console.compiling)


def settings_of(settings: Settings, source: pathlib.Path, max_new_tokens: int) -> Settings:
  """Returns the settings of a student that is loaded from a directory and only decodes."""
  return dataclasses.replace(
    settings,
    student=dataclasses.replace(
      settings.student,
      init=str(source),
      arch="",
      prompt="auto",
      system="",
      lora=dataclasses.replace(settings.student.lora, rank=0),
    ),
    exam=dataclasses.replace(settings.exam, max_new_tokens=max_new_tokens),
    evaluate=dataclasses.replace(settings.evaluate, max_new_tokens=max_new_tokens),
    train=dataclasses.replace(settings.train, buckets=settings.rollout.buckets),  # not trained
    sft=dataclasses.replace(settings.sft, prompt_weight=0.0),
  )
