"""What a server takes: learned from its refusals and kept in the teacher cache, or set by hand.

A feature that is refused is left out or replaced from then on, with one warning:

n                 every sample is a request of its own, or as many as the server allows
seed, temperature, top_p, stream_options   left out
system            the system text is put into the user's turn
response_format   replies are requested as plain text (`request_body.RequestShaper`)
max_tokens_field  the limit is sent under the server's name for it
stream            replies are streamed
concurrency       no more requests are in flight
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill_jax import errors

UNSUPPORTED = ("n", "seed", "temperature", "top_p", "system", "response_format")
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
ANY_NUMBER = 10**9
MAX_REFUSALS = 8  # of features, for one request or one `ask` in batches
_EFFECTS = {
  "n": "a request asks for {value} at most from now on",
  "seed": "sampling is not seeded",
  "temperature": "the server's own temperature is used",
  "top_p": "it is left out",
  "system": "the system text is put into the user's turn",
  "max_tokens_field": "the limit is sent as {value}",
  "stream": "replies are streamed",
  "concurrency": "at most {value} requests are in flight",
}
_NAMES = {
  "n": "several samples in one request",
  "system": "a system message",
  "max_tokens_field": "the field for the limit of tokens",
  "stream": "requests that are not streamed",
  "concurrency": "as many requests at once",
}


class Features:
  """The features of one server and model."""

  def __init__(
    self,
    *,
    unsupported: Iterable[str] = (),
    token_field: str = TOKEN_FIELDS[0],
    stream: bool = False,
    learned: Mapping[str, str] | None = None,
    save: Callable[[str, str], None] | None = None,
    warn: Callable[[str], object] | None = None,
  ):
    """Creates the table.

    Args:
      unsupported: Names of features that are known to be refused, of UNSUPPORTED.
      token_field: Name of the field for the limit of tokens.
      stream: Whether to ask for streams from the start.
      learned: {feature: value} that earlier processes have learned.
      save: Keeps a feature and its value for later processes.
      warn: Called once for each feature that is learned.

    Raises:
      errors.UserError: `unsupported` names no feature.
    """
    unknown = [name for name in unsupported if name not in UNSUPPORTED]
    if unknown:
      allowed = f"names of {', '.join(UNSUPPORTED)}"
      raise errors.config("teacher.unsupported", tuple(unsupported), allowed)
    self._known: dict[str, str] = {"max_tokens_field": token_field, **(learned or {})}
    for name in unsupported:
      self._known[name] = "1" if name == "n" else "no"
    if stream:
      self._known["stream"] = "yes"
    self._save, self._warn = save, warn
    self._refused_fields: set[str] = set()

  @property
  def token_field(self) -> str:
    """Name of the field for the limit of tokens."""
    found = self._known["max_tokens_field"]
    return found if found in TOKEN_FIELDS else TOKEN_FIELDS[0]

  @property
  def stream(self) -> bool:
    """Whether replies are streamed."""
    return not self.takes("stream")

  @property
  def max_samples(self) -> int:
    """The most samples that one request may ask for."""
    return self._number("n")

  @property
  def max_concurrency(self) -> int:
    """The most requests that may be in flight, as far as the server has said."""
    return self._number("concurrency")

  def takes(self, name: str) -> bool:
    """Whether requests may use a feature, as far as it is known."""
    return name not in self._known

  def learn(self, name: str, value: str, reason: str) -> bool:
    """Learns from a refusal.

    Args:
      name: The feature.
      value: What to use instead; "no" for nothing.
      reason: What the server says.

    Returns:
      Whether a request without the feature is worth sending.
    """
    if name == "max_tokens_field":
      if value in self._refused_fields:
        return False
      self._refused_fields.update(field for field in TOKEN_FIELDS if field != value)
    if self._known.get(name) == value:  # a request that left before has met the same refusal
      return True
    self._known[name] = value
    if self._save is not None:
      self._save(name, value)
    effect = _EFFECTS.get(name, "").format(value=value)
    if self._warn is not None and effect:
      self._warn(
        f"the teacher's server does not take {_NAMES.get(name, name)} ({reason}); {effect}"
      )
    return True

  def messages(self, messages: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """The messages to send: with the system text in the user's turn, if that has to be."""
    if self.takes("system"):
      return messages
    system = [text for role, text in messages if role == "system"]
    folded = [(role, text) for role, text in messages if role != "system"]
    if system and folded and folded[0][0] == "user":
      folded[0] = ("user", "\n\n".join([*system, folded[0][1]]))
    elif system:
      folded.insert(0, ("user", "\n\n".join(system)))
    return folded

  def _number(self, name: str) -> int:
    value = self._known.get(name, "")
    return max(1, int(value)) if value.isascii() and value.isdecimal() else ANY_NUMBER


def limit_in(body: Mapping[str, Any]) -> Any:
  """The limit of tokens in the body of a request, under whichever name it was sent.

  Raises:
    KeyError: There is none.
  """
  return body[next((name for name in TOKEN_FIELDS if name in body), TOKEN_FIELDS[0])]
