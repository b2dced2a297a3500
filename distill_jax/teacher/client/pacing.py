"""What a response means for the requests that follow it."""

import time

from distill_jax.teacher.client import rate_limit, request_jobs, transport, verdicts


def on_response(
  limiter: rate_limit.AdaptiveLimiter,
  config: request_jobs.ClientConfig,
  response: transport.Response,
  sent_at: float,
) -> None:
  """Tells the limiter about a response, apart from a 429 (see `Dispatcher`).

  Args:
    limiter: Paces the requests.
    config: How requests are sent.
    response: The response.
    sent_at: When its request was sent.
  """
  now, verdict = time.monotonic(), response.verdict
  if isinstance(verdict, verdicts.Completed):
    limiter.on_accepted(sent_at, now)
    if 0 < response.reset <= config.max_wait:
      limiter.pause(response.reset, now)
  elif isinstance(verdict, verdicts.Retry):
    if verdict.mixed:
      config.features.learn("n", "1", verdict.reason)
    if response.timed_out:
      limiter.on_timeout(sent_at, now)
    if not verdict.rate_limited:
      limiter.on_server_error()
      limiter.pause(verdict.wait or 0.0, now)
    if verdict.concurrency is not None:
      config.features.learn("concurrency", str(verdict.concurrency), f"HTTP {response.status}")
      limiter.cap(verdict.concurrency)
