"""The one exception a person is meant to see: one line, and an exit code that says whose turn it
is."""

USAGE, CONFIG, DATA, TEACHER, BUDGET, PREEMPTED = 2, 3, 4, 5, 6, 75


class UserError(Exception):
  """Says what is wrong, where, and what to do; shown without a traceback.

  Exit codes: 2 usage, 3 config, 4 data or files, 5 teacher (credentials, quota, server), 6 budget
  reached, 75 interrupted (run the same command again). A message may quote what others wrote: it is
  one line and printable, whatever is in it.
  """

  def __init__(self, message: str, code: int):
    super().__init__("".join(c if c.isprintable() else " " for c in message))
    self.code = code


def usage(message: str) -> UserError:
  return UserError(message, USAGE)


def config(field: str, value, allowed: str, do: str = "") -> UserError:
  """A setting that makes no sense: the field, its value, what is allowed, what to type."""
  tail = f"; try {do}" if do else ""
  return UserError(f"config.{field} is {value!r}, but must be {allowed}{tail}", CONFIG)


def data(message: str) -> UserError:
  return UserError(message, DATA)


def teacher(message: str) -> UserError:
  return UserError(message, TEACHER)


def budget(message: str) -> UserError:
  return UserError(message, BUDGET)
