"""Text survives encoding, digits are single tokens, and special tokens in text stay plain."""

import datetime
import json
import os
import shutil

import hypothesis
import pytest
import transformers
from hypothesis import strategies
from transformers.utils import chat_template_utils

from distill_jax import errors
from distill_jax.data import tokenizer

TEXTS = [
  "Question: Tom has 31 apples and buys 140 more. How many apples does he have?",
  "Reasoning:\nTom has 31 + 140 = 171 apples.\nAnswer: 171",
  "the " * 40 + "<pad> <end> " * 20,
] * 3
often = hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
any_text = strategies.text(strategies.characters(exclude_categories=()), max_size=30)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp("made") / "tokenizer"
  tokenizer.train(TEXTS, vocab=320, path=path)
  return path


@pytest.fixture(scope="module")
def tok(directory):
  return tokenizer.Tokenizer(directory)


def test_any_text_is_decoded_unchanged_except_lone_surrogates(tok):
  @often
  @hypothesis.given(any_text)
  @hypothesis.example("a\ud800b")
  @hypothesis.example("  two  spaces , and ' marks . \r\n\t\u2028\x00 ")
  @hypothesis.example("\U0001f600 e\u0301 \ufeff <end><pad>")
  def law(text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text.encode("utf-8", "replace").decode("utf-8")
    assert all(0 <= i < tok.vocab for i in ids)

  law()


def test_special_tokens_in_text_stay_plain(tok):
  @often
  @hypothesis.given(strategies.lists(strategies.sampled_from(["<end>", "<pad>", "<", "a", " "])))
  def law(parts):
    ids = tok.encode("".join(parts))
    assert tok.end not in ids and tok.pad not in ids
    assert tok.decode(ids) == "".join(parts)

  law()


def test_every_digit_is_its_own_token(tok):
  for text in ("31", "140", "1000000", "x31y", "3.14", "-7"):
    pieces = [tok.decode([i]) for i in tok.encode(text)]
    assert "".join(pieces) == text
    assert all(len(piece) == 1 for piece in pieces if any(c.isdigit() for c in piece)), pieces


def test_common_words_are_one_token_and_the_vocabulary_has_the_requested_size(tok):
  assert len(tok.encode(" apples")) == 1
  assert 258 < tok.vocab <= 320


def test_no_token_is_added_to_a_text(tok):
  assert tok.encode("") == [] and tok.decode([]) == ""
  assert len(tok.encode("a")) == 1


def test_special_ids_leave_no_trace_in_text(tok):
  assert tok.end != tok.pad
  assert tok.decode([*tok.encode("so 7"), tok.end, tok.pad, tok.pad]) == "so 7"


def test_training_on_the_same_texts_gives_the_same_bytes(directory, tmp_path):
  tokenizer.train(iter(TEXTS), vocab=320, path=tmp_path / "again")
  names = sorted(p.name for p in directory.iterdir())
  assert names == sorted(p.name for p in (tmp_path / "again").iterdir())
  for name in names:
    assert (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
  assert [p.name for p in tmp_path.iterdir()] == ["again"], "no partial directory is left"


def test_the_directory_is_a_hugging_face_tokenizer(directory, tok):
  theirs = transformers.AutoTokenizer.from_pretrained(str(directory))
  assert (theirs.pad_token, theirs.eos_token) == (tokenizer.PAD, tokenizer.END)
  assert (theirs.pad_token_id, theirs.eos_token_id, len(theirs)) == (tok.pad, tok.end, tok.vocab)
  text = TEXTS[1]
  assert theirs.encode(text, add_special_tokens=False) == tok.encode(text)


def test_a_missing_empty_or_broken_directory_is_a_one_line_error(tmp_path, directory):
  (tmp_path / "empty").mkdir()
  broken = tmp_path / "broken"
  broken.mkdir()
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (broken / name).write_bytes((directory / name).read_bytes()[:40])
  for name in ("missing", "empty", "broken"):
    with pytest.raises(errors.UserError, match=name) as error:
      tokenizer.Tokenizer(tmp_path / name)
    assert error.value.code == errors.DATA and "\n" not in str(error.value)


def test_a_tokenizer_without_an_end_token_is_rejected(directory, tmp_path):
  for file in directory.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
  del settings["eos_token"]
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  with pytest.raises(errors.UserError, match="no end token"):
    tokenizer.Tokenizer(tmp_path)


GPT2 = {"model_type": "gpt2"}


@pytest.fixture
def model_directory(directory, tmp_path):
  """Like GPT-2 on the hub: the special tokens come from its class, and no file names them."""
  source = tmp_path / "model"
  source.mkdir()
  content = (directory / "tokenizer.json").read_text().replace("<end>", "<|endoftext|>")
  (source / "tokenizer.json").write_text(content)
  (source / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
  return source


def test_special_tokens_may_come_from_the_models_class(model_directory, tmp_path):
  names = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
  tokenizer.copy(model_directory, names, tmp_path / "copy", GPT2, max_vocab=320)
  copied = tokenizer.Tokenizer(tmp_path / "copy")
  assert copied.decode([copied.end]) == "" and copied.end == 1
  assert copied.encode("<|endoftext|>") != [1]


def test_an_unusable_tokenizer_is_not_copied_and_the_error_names_its_directory(
  model_directory, tmp_path
):
  for model, room in (({}, 320), (GPT2, 300)):
    with pytest.raises(errors.UserError, match=str(model_directory)):
      tokenizer.copy(model_directory, ("tokenizer.json",), tmp_path / "copy", model, max_vocab=room)
    assert not (tmp_path / "copy").exists()


def test_ids_with_a_gap_need_a_model_that_has_the_largest(model_directory, tmp_path):
  content = json.loads((model_directory / "tokenizer.json").read_text())
  content["model"]["vocab"]["\u0120zz"] = 1000
  (model_directory / "tokenizer.json").write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match="ids up to 1000"):
    tokenizer.copy(model_directory, ("tokenizer.json",), tmp_path / "copy", GPT2, max_vocab=1000)
  tokenizer.copy(model_directory, ("tokenizer.json",), tmp_path / "copy", GPT2, max_vocab=1001)
  assert tokenizer.Tokenizer(tmp_path / "copy").vocab == 1001


def test_a_special_token_that_is_a_letter_is_rejected(model_directory, tmp_path):
  config = model_directory / "tokenizer_config.json"
  config.write_text(json.dumps({"eos_token": "a", "tokenizer_class": "PreTrainedTokenizerFast"}))
  with pytest.raises(errors.UserError, match="special token 'a' is a letter"):
    tokenizer.Tokenizer(model_directory)


def add_tokens(directory, path, *tokens, **settings):
  """Copies a tokenizer and adds tokens and settings to it."""
  shutil.copytree(directory, path)
  made = json.loads((path / "tokenizer.json").read_text())
  plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
  made["added_tokens"] += [{"id": n, "content": t, "special": s} | plain for n, t, s in tokens]
  (path / "tokenizer.json").write_text(json.dumps(made))
  config = json.loads((path / "tokenizer_config.json").read_text()) | settings
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  return path


def copy(source, path, vocab):
  names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model")
  tokenizer.copy(source, names, path, {}, max_vocab=vocab)
  return tokenizer.Tokenizer(path, max_vocab=vocab)


def test_special_ids_that_the_model_lacks_are_harmless_where_no_text_gives_them(
  directory, tok, tmp_path
):
  image = (tok.vocab, "<image>", True)
  opened = copy(add_tokens(directory, tmp_path / "image", image), tmp_path / "0", tok.vocab)
  assert max(opened.encode("an <image> here")) < tok.vocab
  padded = add_tokens(directory, tmp_path / "pad", image, pad_token="<image>")
  assert copy(padded, tmp_path / "1", tok.vocab).pad == tok.end
  for name, token, settings in (
    ("plain", (tok.vocab, "<tool>", False), {}),
    ("end", image, {"eos_token": "<image>"}),
  ):
    source = add_tokens(directory, tmp_path / name, token, **settings)
    with pytest.raises(errors.UserError, match=rf"ids up to {tok.vocab} .*not belong together"):
      copy(source, tmp_path / "2", tok.vocab)


ASKED = "{% for m in messages %}{{ m.content }}{% endfor %}"
DATED = {
  "spelled": "{{ strftime_now('%d %b %Y') }}",
  "variable": "{% set day = '%d %b %Y' %}\n{{ strftime_now(day) }}",
  "sum": "\n {{ strftime_now('%-d ' + '%B') }}\n",
  "keyword": "{% if strftime_now is defined %}{{ strftime_now(format='%A, %F') }}{% endif %}",
  "indented": "  {% if true %}{{ strftime_now('%y' ~ '') }}{% endif %}",
  "renamed": "{% set now = strftime_now %}{{ now('%y/%m') }}",
  "in a macro": "{% macro day(f) %}{{ strftime_now(f) }}{% endmacro %}{{ day('%j') }}",
}


class Later(datetime.datetime):
  """The clock of transformers, years later and at another time of the day."""

  @classmethod
  def now(cls, tz=None):
    return cls(2041, 12, 30, 23, 59, 58)


@pytest.mark.parametrize("how", ["jinja", "config", "named"])
@pytest.mark.parametrize("case", DATED)
def test_a_copied_template_renders_the_same_on_every_day(
  case, how, directory, tmp_path, monkeypatch
):
  template = DATED[case] + ASKED
  named = [{"name": "rag", "template": "'"}, {"name": "default", "template": template}]
  settings = {"config": {"chat_template": template}, "named": {"chat_template": named}}
  source = add_tokens(directory, tmp_path / "source", **settings.get(how, {}))
  (source / "chat_template.jinja").unlink(missing_ok=True)
  if how == "jinja":
    (source / "chat_template.jinja").write_text(template)
  copied, again = copy(source, tmp_path / "copy", 400), copy(tmp_path / "copy", tmp_path / "2", 400)
  today = render(tokenizer.Tokenizer(source))
  monkeypatch.setattr(chat_template_utils, "datetime", Later)
  assert render(copied) == render(again) == today != render(tokenizer.Tokenizer(source))
  assert copied.chat_template == again.chat_template


def render(words):
  return words.render_chat((("user", "hi"),), generation=True, thinking=False)


def test_a_template_without_a_date_is_copied_as_it_is(directory, tmp_path):
  template = "\n{% if today is defined %}{% endif %}" + ASKED
  source = add_tokens(directory, tmp_path / "source", chat_template=template)
  copied = copy(source, tmp_path / "copy", 400)
  assert copied.chat_template == template
  name = "tokenizer_config.json"
  assert (source / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_template_that_is_not_text_is_an_error(name, directory, tmp_path):
  source = shutil.copytree(directory, tmp_path / "source")
  (source / name).write_bytes(b"\xff{{ strftime_now(f) }}")
  with pytest.raises(errors.UserError, match="no tokenizer could be loaded"):
    copy(source, tmp_path / "copy", 400)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_file_that_cannot_be_read_is_named_and_not_left_out(directory, name, tmp_path):
  kinds = {"loop": "symbolic links", "fifo": "FIFO", "pointer": "git lfs pull"}
  kinds |= {"dangling": "is a link to '../blob', which is missing"}
  for kind, said in kinds.items():
    source = shutil.copytree(directory, tmp_path / kind)
    (source / name).unlink(missing_ok=True)
    if kind == "loop":
      (source / name).symlink_to(name)
    elif kind == "dangling":
      (source / name).symlink_to("../blob")
    elif kind == "fifo":
      os.mkfifo(source / name)
    else:
      (source / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(errors.UserError, match=rf"^[^\n]*{name}[^\n]*{said}[^\n]*$"):
      copy(source, tmp_path / "copy", 400)


def test_a_sentencepiece_file_alone_is_named(tmp_path):
  source = tmp_path / "pieces"
  source.mkdir()
  (source / "tokenizer.model").write_bytes(b"\x0a\x0b")
  with pytest.raises(errors.UserError, match=r"tokenizer\.model.*no tokenizer\.json; convert"):
    copy(source, tmp_path / "copy", 400)
