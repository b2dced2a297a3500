"""Text to token ids and back; the tokenizer is a Hugging Face directory."""

import json
import os
import pathlib
import shutil

from distill_jax import errors

os.environ.setdefault(
  "TRANSFORMERS_VERBOSITY", "error"
)  # or it says at import that torch is missing

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, END = "<pad>", "<end>"


def train(texts, *, vocab: int, path: pathlib.Path) -> None:
  """Trains a byte-level BPE on `texts` (digits stand alone) and saves it at `path`.

  Deterministic in the texts. Every string can be encoded: all 256 bytes are in the vocabulary.
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
  fast.save_pretrained(part)
  _name(part, path)


def copy(source: pathlib.Path, names, path: pathlib.Path, model: dict, *, max_vocab: int) -> None:
  """Makes what `names` are of the files of a tokenizer in `source` the one at `path`.

  `model` is the config.json beside them: a tokenizer that does not say its class, or its special
  tokens, has those of the model's. Raises UserError, and leaves nothing at `path`, if there is none,
  if it cannot be used, or if it has ids from `room` on, which the model does not know.
  """
  files = [source / name for name in names if (source / name).is_file()]
  if not files:
    raise errors.data(f"{source} holds no tokenizer: put tokenizer.json and its settings there")
  part = path.with_name(path.name + ".part")
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir()
  for file in files:
    shutil.copyfile(file, part / file.name)
  of_class = {k: model[k] for k in ("model_type", "tokenizer_class") if k in model}
  (part / "config.json").write_text(json.dumps(of_class), encoding="utf-8")
  found = Tokenizer(part, shown_as=source)
  if found.vocab > max_vocab:
    raise errors.data(
      f"{source}: its tokenizer has ids up to {found.vocab - 1}, and the model knows {max_vocab} "
      "tokens: they do not belong together"
    )
  _name(part, path)


def _name(part: pathlib.Path, path: pathlib.Path) -> None:
  for file in (*part.iterdir(), part):  # on the disk before it has its name
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
  part.rename(path)


class Tokenizer:
  """A tokenizer directory, with text kept plain: special tokens that occur in text are spelled
  out."""

  def __init__(self, path, *, shown_as=None):
    """Of the directory `path`, which a refusal speaks of as `called`."""
    shown_as = shown_as or path
    try:
      self._fast = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # of two libraries, at whatever the files hold
      why = str(error).strip().splitlines()[:1] or [type(error).__name__]
      raise errors.data(f"{shown_as}: no tokenizer could be loaded there ({why[0]})") from None
    if self._fast.eos_token_id is None:
      raise errors.data(
        f"{shown_as}: this tokenizer has no end token; name it in tokenizer_config.json (eos_token)"
      )
    self.end = self._fast.eos_token_id
    self.pad = self._fast.pad_token_id if self._fast.pad_token_id is not None else self.end
    self.vocab = max(self._fast.get_vocab().values()) + 1  # ids may have gaps
    # What it puts around a text of its own accord: a start token (Llama), an end token (T5).
    alone, around = self._plain("a"), self._fast.encode("a")
    starts = [n for n in range(len(around)) if around[n : n + len(alone)] == alone]
    at = starts[0] if starts else 0
    self.prefix_ids, self.suffix_ids = tuple(around[:at]), tuple(around[at + len(alone) :])
    # Some vocabularies (T5's) hold special tokens as ordinary pieces too: those are pulled apart in
    # text.
    special = set(self._fast.all_special_ids)
    self._stubborn = [t for t in self._fast.all_special_tokens if special & set(self._plain(t))]
    reserved = special - {self._fast.unk_token_id}
    if mixed := [t for t in self._stubborn if reserved & set(self.encode(t))]:
      raise errors.data(
        f"{shown_as}: its special token {mixed[0]!r} is a letter of ordinary text, too, and cannot "
        "be told from it; give that token another name in its files"
      )

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without any token added. Lone surrogates become question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    for token in self._stubborn:
      text = text.replace(token, f"{token[0]} {token[1:]}")
    return self._plain(text)

  def _plain(self, text: str) -> list[int]:
    return self._fast.encode(text, add_special_tokens=False, split_special_tokens=True)

  def decode(self, ids) -> str:
    """Text of ids; special tokens are left out."""
    return self._fast.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
