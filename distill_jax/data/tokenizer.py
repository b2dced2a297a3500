"""Text to token ids and back. A tokenizer is a Hugging Face directory."""

import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from distill_jax import disk, errors
from distill_jax.data import tokenizer_files
from distill_jax.data.template_text import PLAIN_MARK

PAD, END = "<pad>", "<end>"
SENTENCEPIECE = ("tokenizer.model", "spiece.model")
CONVERT = (
  'convert it where sentencepiece is installed: python -c "import transformers as t; '
  "t.AutoTokenizer.from_pretrained('FROM').save_pretrained('TO')\", and copy what is in TO to FROM"
)
# Files that hold the vocabulary of a tokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.json", *SENTENCEPIECE)


def train(texts: Iterable[str], *, vocab: int, path: pathlib.Path) -> None:
  """Trains a byte-level BPE tokenizer and saves it at `path`.

  Every digit is a token of its own. Every string can be encoded, since all 256 bytes are in the
  vocabulary. Deterministic in `texts`.

  Args:
    texts: Training texts.
    vocab: Vocabulary size.
    path: Directory to create.

  Raises:
    errors.UserError: It cannot be written.
  """
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  bpe.decoder = decoders.ByteLevel()
  bpe.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=vocab,
      special_tokens=[PAD, END],
      show_progress=False,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END)
  part = path.with_name(path.name + ".part")
  try:
    fast.save_pretrained(part)
    _publish(part, path)
  except Exception as error:  # one of the two libraries raises no OSError for a full disk
    reason = getattr(error, "strerror", None) or str(error)
    raise errors.data(
      f"{path} could not be written ({reason}); no finished work is lost: free some space and"
      " re-run the same command"
    ) from None


def copy(
  source: pathlib.Path, names: Iterable[str], path: pathlib.Path, model: dict, *, max_vocab: int
) -> None:
  """Copies the tokenizer of a pretrained model to `path`. Leaves nothing at `path` on errors.

  Args:
    source: Directory with the tokenizer's files.
    names: File names to copy; missing ones are skipped.
    path: Directory to create.
    model: The config.json of the model. A tokenizer that does not name its class or its special
      tokens has those of the model's class.
    max_vocab: Vocabulary size of the model.

  Raises:
    errors.UserError: There is no tokenizer, it cannot be used, or a text can have ids of
      `max_vocab` or more, which the model does not have.
  """
  files = [source / name for name in names if os.path.lexists(source / name)]
  found = [file.name for file in files if file.name in VOCABULARIES]
  if not found:
    raise errors.data(f"{source} holds no tokenizer; put tokenizer.json and its settings there")
  part = path.with_name(path.name + ".part")
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir()
  for file in files:
    try:
      if disk.is_lfs_pointer(file):
        raise errors.data(f"{file} is a Git LFS pointer; run `git lfs pull` there")
      shutil.copyfile(file, part / file.name)
    except OSError as error:
      raise errors.data(f"{file} cannot be copied to {part} ({error.strerror or error})") from None
  class_fields = {k: model[k] for k in ("model_type", "tokenizer_class") if k in model}
  (part / "config.json").write_text(json.dumps(class_fields), encoding="utf-8")
  tokenizer_files.state_date(part)
  tokenizer_files.mark_turns(part)
  try:
    copied = Tokenizer(part, max_vocab=max_vocab, shown_as=source)
  except errors.UserError:
    if all(name in SENTENCEPIECE for name in found):
      raise errors.data(
        f"{source} holds a tokenizer of SentencePiece ({found[0]}) but no tokenizer.json; {CONVERT}"
      ) from None
    raise
  if reached := copied.beyond(max_vocab):
    token, number = max(reached.items(), key=lambda item: item[1])
    raise errors.data(
      f"{source}: the tokenizer has ids up to {number} ({token!r}), but the model has only"
      f" {max_vocab} tokens; they do not belong together"
    )
  _publish(part, path)


def _publish(part: pathlib.Path, path: pathlib.Path) -> None:
  """Renames `part` to `path` after its files are on disk."""
  for file in (*part.iterdir(), part):
    disk.fsync(file)
  part.rename(path)


class Tokenizer:
  """A tokenizer directory. Special tokens that occur in text stay plain text.

  Attributes:
    end: Id of the end token.
    pad: Id of the padding token; the end token's if there is none, or none that the model has.
    vocab: Largest id plus 1.
    max_vocab: Vocabulary size of the model; None if it is not known.
    prefix_ids: Ids that the tokenizer itself puts before a text, e.g. a start token (Llama).
    suffix_ids: Ids that it puts after a text, e.g. an end token (T5).
    chat_template: Its default chat template; "" without one, and for a template that renders the
      plain prompt of an exported student.
    other_templates: Names of its chat templates, if it has several and none is the default.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    *,
    max_vocab: int | None = None,
    shown_as: str | pathlib.Path | None = None,
  ):
    """Loads a tokenizer.

    Args:
      path: Its directory.
      max_vocab: Vocabulary size of the model; special tokens beyond it are not used.
      shown_as: What errors name instead of `path`.

    Raises:
      errors.UserError: No tokenizer can be loaded, it has no end token, or one of its special
        tokens cannot be told from text.
    """
    shown_as = shown_as or path
    try:
      for file in pathlib.Path(path).iterdir():
        if not file.is_dir():
          disk.check_regular(file)
      self._fast = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # two libraries, and whatever the files make them raise
      reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
      raise errors.data(f"{shown_as}: no tokenizer could be loaded ({reason[0]})") from None
    if self._fast.eos_token_id is None:
      raise errors.data(
        f"{shown_as}: the tokenizer has no end token; set eos_token in tokenizer_config.json"
      )
    self.end: int = self._fast.eos_token_id
    self.pad: int = self._fast.pad_token_id if self._fast.pad_token_id is not None else self.end
    template = self._fast.chat_template
    self.other_templates: tuple[str, ...] = ()
    if isinstance(template, dict):
      self.other_templates = () if "default" in template else tuple(map(str, template))
      template = template.get("default")
    is_chat = isinstance(template, str) and not template.startswith(PLAIN_MARK)
    self.chat_template: str = str(template) if is_chat else ""
    self.max_vocab = max_vocab
    if max_vocab is not None and self.pad >= max_vocab:
      self.pad = self.end
    self.vocab = max(self._fast.get_vocab().values()) + 1  # ids may have gaps
    bare, framed = self._encode_plain("a"), self._fast.encode("a")
    starts = [n for n in range(len(framed)) if framed[n : n + len(bare)] == bare]
    start = starts[0] if starts else 0
    self.prefix_ids, self.suffix_ids = tuple(framed[:start]), tuple(framed[start + len(bare) :])
    # Some vocabularies (T5's) also hold special tokens as ordinary pieces. `encode` splits those.
    special = set(self._fast.all_special_ids)
    marked = {n: t for n, t in self._fast.added_tokens_decoder.items() if t.special}
    # Ids with a meaning beyond their text, by id, and the texts that `encode_special` parses.
    self._special = {n: str(t) for n, t in marked.items() if n != self._fast.unk_token_id}
    self._parsed = sorted({str(t) for t in marked.values()}, key=len, reverse=True)
    self._splittable = [
      t for t in self._fast.all_special_tokens if special & set(self._encode_plain(t))
    ]
    reserved = special - {self._fast.unk_token_id}
    if ambiguous := [t for t in self._splittable if reserved & set(self.encode(t))]:
      raise errors.data(
        f"{shown_as}: the special token {ambiguous[0]!r} is a letter of ordinary text, too, and"
        " cannot be told from it; rename that token in the tokenizer's files"
      )

  def beyond(self, limit: int) -> dict[str, int]:
    """Tokens with ids of `limit` or more that a text or a frame can give, by their text.

    Special tokens are not among them: they stay plain text wherever a text has them.
    """
    framed = {self.end, self.pad, *self.prefix_ids, *self.suffix_ids}
    vocabulary = self._fast.get_vocab().items()
    return {
      token: n for token, n in vocabulary if n >= limit and (n not in self._special or n in framed)
    }

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without any token added. Lone surrogates become question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    for token in self._splittable:
      text = text.replace(token, f"{token[0]} {token[1:]}")
    return self._encode_plain(text)

  def _encode_plain(self, text: str) -> list[int]:
    return self._fast.encode(text, add_special_tokens=False, split_special_tokens=True)

  def decode(self, ids: Iterable[int]) -> str:
    """Text of ids, without special tokens."""
    return self._fast.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

  def decode_all(self, ids: Iterable[int]) -> str:
    """Text of ids, with special tokens."""
    return self._fast.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

  def render_chat(
    self, messages: Sequence[tuple[str, str]], *, generation: bool, thinking: bool
  ) -> str:
    """Renders (role, content) messages with the chat template.

    Args:
      messages: The messages.
      generation: Whether to add what begins a reply.
      thinking: Passed on as `enable_thinking`, which some templates read.
    """
    return self._fast.apply_chat_template(
      [{"role": role, "content": content} for role, content in messages],
      tokenize=False,
      add_generation_prompt=generation,
      enable_thinking=thinking,
    )

  def mask_special(self, text: str) -> str:
    """The text with "x" for each character of the special tokens in it."""
    for token in self._parsed:
      text = text.replace(token, "x" * len(token))
    return text

  def encode_special(self, text: str, masked: str) -> list[int]:
    """Ids of a text whose special tokens are parsed, without any token added.

    Args:
      text: The text.
      masked: The same text with other characters in the place of special tokens that stay text.
    """
    text, masked = (t.encode("utf-8", "replace").decode("utf-8") for t in (text, masked))
    if text == masked:
      return self._fast.encode(text, add_special_tokens=False)
    whole = self._fast(masked, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = []
    position = 0
    for token, (start, end) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
      if token in self._special:
        ids += [*self._encode_piece(text[position:start], position == 0), token]
        position = end
    return ids + self._encode_piece(text[position:], position == 0)

  def _encode_piece(self, text: str, is_first: bool) -> list[int]:
    """Ids of the text between two special tokens."""
    if not text:
      return []
    backend = self._fast.backend_tokenizer
    if is_first or getattr(backend.pre_tokenizer, "prepend_scheme", "") != "first":
      return self.encode(text)
    backend.pre_tokenizer.prepend_scheme = "never"  # the space before a text's first word
    try:
      return self.encode(text)
    finally:
      backend.pre_tokenizer.prepend_scheme = "first"

  def first_special(self, text: str) -> tuple[str, int] | None:
    """The text before the first special token of a text, and that token; None without one."""
    whole = self._fast(text, add_special_tokens=False, return_offsets_mapping=True)
    for token, (start, _) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
      if token in self._special:
        return text[:start], token
    return None

  def after_special(self, text: str) -> str:
    """The end of a text, after its last special token."""
    whole = self._fast(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(whole["input_ids"], whole["offset_mapping"], strict=True)
    return text[max((end for token, (_, end) in pairs if token in self._special), default=0) :]
