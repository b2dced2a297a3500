"""Chat templates with the layouts of published models, written for tests, and tiny tokenizers."""

import pathlib
from typing import NamedTuple

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers


class Layout(NamedTuple):
  """A family's template, its special tokens and the kind of its tokenizer."""

  template: str
  special: tuple[str, ...]
  eos: str
  end: str  # the token that ends a reply
  bos: str = ""
  kind: str = "bytes"  # bytes | pieces (a space before the first word) | prepend (before each)
  strips: tuple[str, ...] = ()  # special tokens that take the white space behind them
  folds: bool = False  # a system message becomes a part of the user's


_TURNS = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NO_SYSTEM = (
  "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
  "{% endif %}"
)

LAYOUTS = {
  "smollm2": Layout(
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a small helper"
    "<|im_end|>\\n' }}{% endif %}" + _TURNS,
    _IM,
    "<|im_end|>",
    "<|im_end|>",
  ),
  "qwen2.5": Layout(
    "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + "
    "messages[0]['content'] + '<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou "
    "are a helper.<|im_end|>\\n' }}\n{%- endif %}\n{%- for m in messages %}\n    {%- if m.role == "
    "'user' or m.role == 'assistant' %}\n        {{- '<|im_start|>' + m.role + '\\n' + m.content + "
    "'<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    _IM,
    "<|im_end|>",
    "<|im_end|>",
  ),
  "qwen3": Layout(
    "{%- for m in messages %}\n    {%- if m.role != 'assistant' %}\n        {{- '<|im_start|>' + "
    "m.role + '\\n' + m.content + '<|im_end|>\\n' }}\n    {%- else %}\n        {%- set said = "
    "m.content.split('</think>')[-1].lstrip('\\n') %}\n        {%- set thought = "
    "m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in m.content "
    "else '' %}\n        {{- '<|im_start|>assistant\\n' }}\n"
    "        {%- if loop.last %}\n            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}\n"
    "        {%- endif %}\n        {{- said + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if "
    "enable_thinking is defined and enable_thinking is false %}\n        {{- "
    "'<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}\n",
    _IM,
    "<|im_end|>",
    "<|im_end|>",
  ),
  "llama3": Layout(
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}",
    (
      *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
      "<|eot_id|>",
    ),
    "<|end_of_text|>",
    "<|eot_id|>",
    bos="<|begin_of_text|>",
  ),
  "gemma3": Layout(
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = "
    "messages[0]['content'] + '\\n\\n' -%}{%- set turns = messages[1:] -%}{%- else -%}{%- set "
    "first = '' -%}{%- set turns = messages -%}{%- endif -%}{%- for m in turns -%}{%- if "
    "(m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('Roles must alternate')"
    " }}{%- endif -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}"
    "{{ m['content'] | trim }}"
    "{{ '<end_of_turn>\\n' }}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{ '<start_of_turn>model\\n' }}{%- endif -%}",
    ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "<eos>",
    "<end_of_turn>",
    bos="<bos>",
  ),
  "mistral": Layout(
    _NO_SYSTEM + "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}"
    "{% endif %}{% endfor %}",
    ("<s>", "</s>"),
    "</s>",
    "</s>",
    bos="<s>",
    kind="pieces",
    folds=True,
  ),
  "phi": Layout(
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}"
    "{% endif %}",
    ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    "<|endoftext|>",
    "<|end|>",
    kind="prepend",
    strips=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
  ),
  "no_system": Layout(
    _NO_SYSTEM + _TURNS, _IM, "<|endoftext|>", "<|im_end|>", folds=True
  ),
  "opens_a_thought": Layout(
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + "
    "m['content'] }}{% elif m['role'] == 'system' %}{{ m['content'] }}{% else %}{{ '<|Assistant|>' "
    "+ m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}",
    ("<|begin|>", "<|eos|>", "<|User|>", "<|Assistant|>"),
    "<|eos|>",
    "<|eos|>",
    bos="<|begin|>",
  ),
}  # fmt: skip


def make(layout: Layout, path: pathlib.Path) -> pathlib.Path:
  """Writes a tokenizer of single bytes or characters, with this template, to `path`."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  if layout.kind == "bytes":
    made = tokenizers.Tokenizer(models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
  else:
    letters = [f"<0x{n:02X}>" for n in range(256)] + [chr(n) for n in range(33, 127)] + ["▁"]
    merges = [("▁", "T"), ("▁", "h"), ("o", "m"), ("▁T", "om")]
    vocab = [*letters, *("".join(pair) for pair in merges)]
    made = tokenizers.Tokenizer(
      models.BPE({c: n for n, c in enumerate(vocab)}, merges, byte_fallback=True)
    )
    if layout.kind == "pieces":
      made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
      made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
      )
    made.decoder = decoders.Sequence(
      [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
      ]
    )
  made.add_special_tokens(
    [
      tokenizers.AddedToken(t, normalized=False, special=True, rstrip=t in layout.strips)
      for t in layout.special
    ]
  )
  names = {"eos_token": layout.eos} | ({"bos_token": layout.bos} if layout.bos else {})
  fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
  fast.chat_template = layout.template
  fast.save_pretrained(path)
  return path
