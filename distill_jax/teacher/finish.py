"""Finish reasons: how a server says that a reply ended.

Only a reply that ended by itself is whole. Reasons that no documentation names are taken for a cut.
"""

WHOLE = (  # at the model's own end or at a stop sequence
  *("stop", "end_turn", "stop_sequence", "eos", "eos_token", "stop_token", "end", "complete"),
  *("completed", "finish", "finished"),
)
LENGTH = ("length", "max_tokens", "max_output_tokens", "max_new_tokens", "token_limit")
FILTERED = (
  *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "sensitive"),
  *("prohibited_content", "spii", "guardrail_intervened", "moderation", "error_toxic"),
)
REFUSED = ("refusal", "refused")
ABORTED = (  # the server failed during the reply
  *("error", "abort", "aborted", "insufficient_system_resource", "network_error", "server_error"),
  *("cancelled", "canceled", "timeout", "timed_out", "failed", "engine_overloaded", "unavailable"),
)

_GROUPS = {
  "whole": WHOLE,
  "length": LENGTH,
  "filtered": FILTERED,
  "refusal": REFUSED,
  "aborted": ABORTED,
}
_KINDS = {name: kind for kind, names in _GROUPS.items() for name in names}


def kind(reason: str) -> str:
  """Classifies a finish reason: "whole", "length", "filtered", "refusal", "aborted" or "cut"."""
  name = reason.partition(":")[0].strip().lower()  # "content_filter: PROHIBITED_CONTENT"
  return _KINDS.get(name.removeprefix("finish_reason_"), "cut")
