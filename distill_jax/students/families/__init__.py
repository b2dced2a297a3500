"""What Hugging Face calls things, one description for each family of students.

A family (a module, or one of several objects of a module) offers

  read(fields) -> Config     of a config.json as transformers 4 or 5 writes it; dtype is float32.
                             Raises UserError for what a student does not compute, by its name
  write(config) -> fields    of a config.json that transformers 4 and 5 read; special tokens, dtype
                             and the longest row of rotary families are left to the caller
  tensors(config) -> list    layout.Tensor of every parameter; the head only if it is not tied
  spare(config) -> pattern   of whole names that a file may hold beside them and that say nothing
  scratch(sizes) -> Config   of vocab width layers heads kv_heads head_width mlp rope_theta norm_eps
                             tied positions; rope_theta and norm_eps 0 are the family's usual.
                             Raises UserError for sizes that the family cannot have
  PREFIX                     of most names, which some files leave out
"""

from distill_jax import errors
from distill_jax.students.families import gemma, gpt2, gpt_neo, gptj, llama, opt, t5

BY_TYPE = {
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


def of(model_type):
  """The family of a config.json's model_type. Raises UserError with those there are."""
  if model_type == "gemma3":
    raise errors.data(
      "model_type gemma3 also sees pictures; a student can be its text: gemma3_text"
    )
  if not isinstance(model_type, str) or model_type not in BY_TYPE:
    raise errors.data(f"model_type {model_type!r} is none of {', '.join(BY_TYPE)}")
  return BY_TYPE[model_type]
