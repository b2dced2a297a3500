"""The built-in teacher's server with injected faults, files and batches."""

from typing import Any

from distill_jax.teacher.builtin import http, server
from tests import teacher_batches, teacher_faults


class Server(server.Server[teacher_faults.Fault]):
  """A server whose requests may meet faults, and that implements the Batch API.

  Attributes:
    batches: The files and batches.
  """

  def __init__(self, answer, *, script: teacher_faults.FaultSource, latency: float, **options: Any):
    """Creates a server.

    Args:
      answer: See `server.Server`.
      script: Which requests meet which faults.
      latency: Seconds before each answer, and in each state of a batch.
      **options: Those of `server.Server`.
    """
    super().__init__(answer, latency=latency, **options)
    self._script = script
    self.batches = teacher_batches.BatchService(self.line, latency)

  def plan(self, number):
    """The fault of a request."""
    fault = self._script.pick(number)
    if fault is not None:
      self.stats.faults += 1
    return fault

  async def intercept(self, writer, plan, reply):
    """Responds as a fault demands that is more than a changed reply."""
    if plan is None or plan.kind in teacher_faults.REPLY_FAULTS:
      return None
    return await teacher_faults.respond(writer, plan, reply)

  def alter(self, reply, plan):
    """Changes a reply as a fault demands."""
    if plan is not None:
      teacher_faults.REPLY_FAULTS[plan.kind](reply)

  def headers(self, plan):
    """The headers that a fault's options ask for."""
    return None if plan is None else teacher_faults.headers(plan)

  def max_body(self, path):
    """Files may be larger than other bodies."""
    return teacher_batches.MAX_UPLOAD if path == "/v1/files" else super().max_body(path)

  async def other(self, writer, method, target, headers, body):
    """Files and batches."""
    if not target.startswith(("/v1/files", "/v1/batches")):
      return None
    self.authorizations.add(headers.get("authorization", ""))
    return await self.batches.exchange(writer, method, target, headers, body)

  def close(self):
    """Ends the batches."""
    self.batches.close()

  def line(self, raw: bytes) -> teacher_batches.LineAnswer | None:
    """(status, body) of one request of a batch. See `teacher_batches.BatchService`."""
    number = self.stats.requests
    self.stats.requests += 1
    fault = self.plan(number)
    try:
      request = http.parse_completion(raw)
    except server.INVALID:
      return 400, http.error("not a chat completion request")
    if fault is not None and fault.kind.isdecimal():
      options = dict(fault.options)
      return int(fault.kind), http.error(options.get("say", "injected"), options.get("code"))
    if fault is not None and fault.kind not in teacher_faults.REPLY_FAULTS:
      return {"empty_object": (200, {}), "close": (0, {})}.get(fault.kind)
    reply = self._reply(request, number)
    self.alter(reply, fault)
    self._count(raw, request, len(reply["choices"]))
    return 200, reply
