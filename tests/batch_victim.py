"""Asks in batches and is killed. Each line of input makes a child; the output is its exit code.

{"url": ..., "path": ..., "moment": [class, method, before | after, which call] or seconds}
"""

import inspect
import json
import os
import signal
import sys
import time

import scripted
from batch_scripted import batched

from distill_jax.teacher.batch import calls as batch_calls
from distill_jax.teacher.batch import results
from distill_jax.teacher.store import batches, cache

CLASSES = {
  "BatchRegistry": batches.BatchRegistry,
  "BatchApi": batch_calls.BatchApi,
  "ReplyCache": cache.ReplyCache,
}
REQUESTS = scripted.wanted(12, samples=2)


def die() -> None:
  os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(60)


def arm(owner: str, method: str, when: str, number: int) -> None:
  """Makes the process die at the `number`-th call of a method, before it or after."""
  original, count = getattr(CLASSES[owner], method), 0

  def wrapper(*args, **kwargs):
    nonlocal count
    count += 1
    is_last = count == number
    if is_last and when == "before":
      die()
    result = original(*args, **kwargs)
    if inspect.isawaitable(result):

      async def awaited():
        value = await result
        if is_last:
          die()
        return value

      return awaited()
    if is_last:
      die()
    return result

  setattr(CLASSES[owner], method, wrapper)


def ask_once(url: str, path: str, moment) -> None:
  results.CALLS_PER_WRITE = 3
  if isinstance(moment, list):
    arm(*moment)
  teacher = batched(url, path, batch_size=7, max_wait=30.0)
  scripted.ask(teacher, REQUESTS)
  teacher.close()


def main() -> None:
  for line in sys.stdin:
    options = json.loads(line)
    child = os.fork()
    if not child:
      try:
        ask_once(**options)
      finally:
        os._exit(0)
    if not isinstance(options["moment"], list):
      time.sleep(options["moment"])
      os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
  main()
