"""Asks in batches and is killed: a line of JSON in, the end of a child out, until the input ends.

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


def arm(room: str, method: str, when: str, number: int) -> None:
  """Lets the process die at the `number`-th call of a method, before it or after."""
  whole, calls = getattr(CLASSES[room], method), []

  def called(*args, **kwargs):
    calls.append(method)
    mine = len(calls) == number
    if mine and when == "before":
      die()
    found = whole(*args, **kwargs)
    if inspect.isawaitable(found):

      async def awaited():
        heard = await found
        if mine:
          die()
        return heard

      return awaited()
    if mine:
      die()
    return found

  setattr(CLASSES[room], method, called)


def play(url: str, path: str, moment) -> None:
  results.CALLS_PER_WRITE = 3
  if isinstance(moment, list):
    arm(*moment)
  teacher = batched(url, path, batch_size=7, max_wait=30.0)
  scripted.ask(teacher, REQUESTS)
  teacher.close()


def main() -> None:
  for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
      try:
        play(**asked)
      finally:
        os._exit(0)
    if not isinstance(asked["moment"], list):
      time.sleep(asked["moment"])
      os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
  main()
