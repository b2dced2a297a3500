"""The families of students: how each is described in Hugging Face's files."""

from typing import Any, Protocol

from distill_jax import errors
from distill_jax.students.families import gemma, gpt2, gpt_neo, gptj, layout, llama, opt, t5
from distill_jax.students.families.hf_config import Fields, Sizes


class Family(Protocol):
  """A family: a module, or one of several objects of a module."""

  @property
  def PREFIX(self) -> str:
    """The prefix of most tensor names; some files leave it out."""
    ...

  def read(self, fields: Fields, /) -> Any:
    """Returns the config of a config.json that transformers 4 or 5 wrote; dtype is float32.

    Raises:
      UserError: A field is something a student does not compute; the message names it.
    """
    ...

  def write(self, config: Any, /) -> Fields:
    """Returns the fields of a config.json that transformers 4 and 5 read.

    Special tokens, dtype and (for rotary families) the longest row are left to the caller.
    """
    ...

  def tensors(self, config: Any, /) -> list[layout.Tensor]:
    """Returns the tensors of all parameters; the head only if it is not tied."""
    ...

  def spare(self, config: Any, /) -> str:
    """Returns a pattern of whole names that a file may hold besides, and that are ignored."""
    ...

  def ties(self, config: Any, /) -> tuple[str, ...]:
    """Returns names of one tensor, the one that `tensors` has first; a file may hold several.

    They must be equal there. () if no tensor has several names.
    """
    ...

  def scratch(self, sizes: Sizes, /) -> Any:
    """Returns a config of the given sizes.

    Raises:
      UserError: The family cannot have such sizes.
    """
    ...


BY_TYPE: dict[str, Family] = {
  "gpt2": gpt2,
  "gptj": gptj,
  "gpt_neo": gpt_neo,
  "opt": opt,
  "llama": llama.LLAMA,
  "mistral": llama.MISTRAL,
  "qwen2": llama.QWEN2,
  "qwen3": llama.QWEN3,
  "gemma2": gemma.GEMMA2,
  "gemma3_text": gemma.GEMMA3_TEXT,
  "t5": t5,
}


def of(model_type: Any) -> Family:
  """Returns the family of a config.json's model_type.

  Raises:
    UserError: There is none; the message lists those there are.
  """
  if model_type == "gemma3":
    raise errors.data(
      "config.json: model_type gemma3 also reads images; use its text model, gemma3_text"
    )
  if not isinstance(model_type, str) or model_type not in BY_TYPE:
    raise errors.data(
      f"config.json: model_type is {model_type!r}, but must be one of {', '.join(BY_TYPE)}"
    )
  return BY_TYPE[model_type]
