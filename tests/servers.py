"""A server in a thread of the tests."""

import asyncio
import contextlib
import threading
import time

from distill_jax.serving import api, engine, http


@contextlib.contextmanager
def running(served, name="tiny", **limits):
  """Serves in a thread; yields (server, engine)."""
  started = engine.Engine(served)
  server = http.Server(api.Api(started, name), port=0, **limits)
  loop, ready = asyncio.new_event_loop(), threading.Event()
  stop = asyncio.Event()

  async def main():
    async with server.running():
      ready.set()
      await stop.wait()

  thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
  thread.start()
  assert ready.wait(10)
  try:
    yield server, started
  finally:
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()
    started.close()


def wait_for(condition) -> None:
  for _ in range(600):
    if condition():
      return
    time.sleep(0.1)
  raise AssertionError("nothing happened for a minute")
