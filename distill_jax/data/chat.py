r"""Chat prompts: messages to token ids, laid out by the chat template of the student's tokenizer.

The template renders the conversation up to where the reply begins. The reply is encoded on its own:

  <|im_start|>user\nTom has ...<|im_end|>\n<|im_start|>assistant\n | Tom has 3 + 4 = 7.<|im_end|>
  prompt                                                              | target, ends the turn

Prompt ids equal those of `apply_chat_template(messages, add_generation_prompt=True)`, unless a
message contains the text of a special token: that stays plain text.
"""

from typing import NamedTuple

from distill_jax import errors, records
from distill_jax.data.tokenizer import Tokenizer

THINK, END_THINK = "<think>", "</think>"  # around thinking, in Qwen3 and most others
# Probes, in which a template changes nothing.
_QUESTION, _REPLY = "How many?", "Tom has 3 apples, so 7."
_ASKED: records.Messages = (("user", _QUESTION),)
_SYSTEM = 'it needs a system message, for example --config.student.system="Be brief."; '
PLAIN = "to use the student without its template: --config.student.prompt=plain"


class _Probe(NamedTuple):
  """What a template puts around a reply."""

  lead: str  # between prompt and reply
  tail: str  # after the reply, up to the next turn


class Chat:
  """The chat template of a tokenizer, with the system message of a run.

  Attributes:
    thinking: Whether replies begin with their thinking.
    end: Id of the token that ends a reply; learned and stopped at.
    head: Number of ids before the text of the first user message.
    folds: Whether the system message is the beginning of the first user message, because the
      template has no place for one.
  """

  def __init__(self, tokenizer: Tokenizer, *, system: str = "", thinking: bool = False):
    """Reads from the template how a reply begins and ends.

    Args:
      tokenizer: A tokenizer with a chat template.
      system: The system message; "" is what the template itself has.
      thinking: Whether replies begin with their thinking.

    Raises:
      errors.UserError: The template cannot lay out a question and its reply.
    """
    self._tokenizer, self._system, self.thinking = tokenizer, system, thinking
    self.folds = False
    self.folds = bool(system) and not self._shows_system()
    probe = self._probe()
    self._tail, self.end = self._end_of_turn(probe.tail)
    prompt = self.render(_ASKED)
    # Whether the prompt ends in the mark that opens a thought; then a reply without one closes it.
    self._opened = prompt.rstrip().endswith(THINK)
    self._lead = f"\n{END_THINK}\n\n" if self._opened else probe.lead
    self._anchor = ""
    self._choose_lead()
    one, other = (self.encode((("user", text),)) for text in (_QUESTION, "7 apples"))
    room, largest = tokenizer.max_vocab, max(*one, self.end)
    if room is not None and largest >= room:
      raise errors.data(
        f"the chat template has a token with id {largest}, but the model has only {room} tokens;"
        f" {PLAIN}"
      )
    pairs = enumerate(zip(one, other, strict=False))
    self.head = next((n for n, (a, b) in pairs if a != b), 0)

  def encode(self, messages: records.Messages) -> list[int]:
    """Returns the ids of a conversation up to where the reply begins."""
    text = self.render(messages)
    masked = tuple((role, self._tokenizer.mask_special(content)) for role, content in messages)
    hidden = text if masked == tuple(messages) else self.render(masked)
    if len(hidden) != len(text):
      raise errors.data(
        f"the chat template changes special tokens in the text of a message; {PLAIN}"
      )
    return self._tokenizer.encode_special(text, hidden)

  def encode_reply(self, text: str) -> list[int]:
    """Returns the ids of a reply, which end in the end of the turn.

    A reply that begins with a thought gets no empty one from the template.
    """
    lead = self._lead
    if text.startswith(THINK):
      if self._opened:
        lead, text = "", text[len(THINK) :].lstrip("\n")
      elif self.thinking:
        lead = lead.partition(THINK)[0]
    return [*self._encode_reply_text(lead + text + self._tail), self.end]

  def reply(self, text: str) -> str:
    """Returns a decoded reply without what the template puts before it.

    A thought whose opening mark is the end of the prompt gets that mark.
    """
    if text.startswith(self._lead):
      return text[len(self._lead) :]
    if self._opened:
      return "" if self._lead.startswith(text) else f"{THINK}\n{text}"
    lead = self._lead.lstrip()  # some tokenizers decode a text without its first space
    return "" if lead and lead.startswith(text.lstrip()) else text.removeprefix(lead)

  def full(self, messages: records.Messages) -> records.Messages:
    """Returns the messages with the system message of the run."""
    if not self._system or not messages:
      return tuple(messages)
    if not self.folds:
      return (("system", self._system), *messages)
    (role, text), *rest = messages
    return ((role, f"{self._system}\n\n{text}"), *rest)

  def render(self, messages: records.Messages) -> str:
    """Returns the text of a conversation up to where the reply begins."""
    return self._render(self.full(messages), generation=True)

  def _render(self, messages: records.Messages, *, generation: bool) -> str:
    try:
      return self._tokenizer.render_chat(messages, generation=generation, thinking=self.thinking)
    except Exception as error:  # jinja2's, and whatever a template calls
      reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
      system = _SYSTEM if self._needs_system(messages, generation) else ""
      raise errors.data(
        f"the chat template of the student's tokenizer fails ({reason[0]}); {system}{PLAIN}"
      ) from None

  def _needs_system(self, messages: records.Messages, generation: bool) -> bool:
    """Whether the template fails for messages only because they have no system message."""
    if self._system:
      return False
    with_system = (("system", _SYSTEM), *messages)
    try:
      self._tokenizer.render_chat(with_system, generation=generation, thinking=self.thinking)
    except Exception:  # as in _render
      return False
    return True

  def _shows_system(self) -> bool:
    """Whether the template accepts a system message and shows it."""
    try:
      text = self.render(_ASKED)
    except errors.UserError:
      return False
    return self._system.strip() in text

  def _probe(self) -> _Probe:
    prompt = self.render(_ASKED)
    if _QUESTION not in prompt:
      raise errors.data(f"the chat template does not show the user's message; {PLAIN}")
    try:
      whole = self._render(self.full((*_ASKED, ("assistant", _REPLY))), generation=False)
    except errors.UserError:
      return _Probe("", "")
    before, found, tail = whole.rpartition(_REPLY)
    if not found:
      return _Probe("", "")
    return _Probe(before.removeprefix(prompt) if before.startswith(prompt) else "", tail)

  def _end_of_turn(self, tail: str) -> tuple[str, int]:
    """Returns the text between a reply and the token that ends it, and that token."""
    return self._tokenizer.first_special(tail) or ("", self._tokenizer.end)

  def _choose_lead(self) -> None:
    """Chooses how a reply is encoded, so that prompt and reply join as the template has them."""
    prompt, lead = self.encode(_ASKED), self._lead
    text = self.render(_ASKED) + lead + _REPLY + self._tail
    joined = [*self._tokenizer.encode_special(text, text), self.end]
    # What follows the last special token of the prompt; a tokenizer may see it with the reply.
    anchor = self._tokenizer.after_special(self.render(_ASKED))
    for self._lead, self._anchor in ((lead, ""), (lead.lstrip(" "), ""), (lead, anchor)):
      if prompt + self.encode_reply(_REPLY) == joined:
        return
    self._lead, self._anchor = lead, ""

  def _encode_reply_text(self, text: str) -> list[int]:
    if self._anchor:
      start, both = (self._tokenizer.encode(t) for t in (self._anchor, self._anchor + text))
      if both[: len(start)] == start:
        return both[len(start) :]
    return self._tokenizer.encode(text)
