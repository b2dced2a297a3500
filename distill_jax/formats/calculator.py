"""Calculator marks in solutions, as in GSM8K: "3 + 4 = <<3+4=7>>7 apples" (Cobbe et al. 2021).

The official calculator takes over while a model samples. Here answers are sampled in bulk, so a
mark is completed or corrected once its text is there: the number behind it and the answer stated
after it follow, the words between them cannot. Values are exact fractions from a parser of bounded
length and depth: + - * / parentheses, decimals, percent. Nothing is evaluated as code.
"""

import fractions
import re

from distill_jax.tasks import answers

LONGEST, DEEPEST = 120, 20  # characters and parentheses of an expression

_N = r"[0-9]{1,30}(?:,[0-9]{3}){0,9}(?:\.[0-9]{1,30})?|\.[0-9]{1,30}"
_TOKEN = re.compile(rf"\s*(?:({_N})|([-+*/()%]))")
_SAME = str.maketrans({"×": "*", "÷": "/", "−": "-", "x": "*", "$": " "})
_SPAN = re.compile(
  rf"<<(?P<expr>[^<>=\n]{{1,{LONGEST}}})(?P<stated>=[^<>\n]{{0,60}})?(?:>>|\Z)"
  rf"(?:(?P<between>\$?)(?P<shown>-?(?:{_N})))?"
)
_STATED = re.compile(rf"=\s{{0,3}}\$?\s?(?P<value>-?(?:{_N}))(?![0-9%])")
_ANSWER = re.compile(rf"(Answer: \$?)(-?(?:{_N}))(?=\.?\s*\Z)")


def evaluate(expression: str) -> fractions.Fraction | None:
  """What an expression comes to; None if it is too long or deep, is none, or divides by zero."""
  if len(expression) > LONGEST:
    return None
  tokens, place, text = [], 0, expression.translate(_SAME).rstrip()
  while place < len(text):
    if not (found := _TOKEN.match(text, place)):
      return None
    tokens.append(found[1] or found[2])
    place = found.end()
  try:
    result, rest = _sum(tokens, 0, 0)
  except (_NoneSuch, ZeroDivisionError):
    return None
  return result if rest == len(tokens) else None


def correct_marks(text: str) -> str:
  """The text with every mark's value right; marks that cannot be worked out stay as they are."""
  last = []

  def mend(found):
    result = evaluate(found["expr"])
    stated, shown = (found["stated"] or "=")[1:].strip(" $"), found["shown"]
    if result is None or (new := _written(result, stated)) is None:
      return found[0]
    last[:] = [(stated or shown or new, new)]
    if shown and (stated == new or answers.same_number(shown, new)):
      behind = shown  # as it was written: "1,000", or a rounder number
    else:
      behind = new
    return f"<<{found['expr']}={new}>>{found['between'] or ''}{behind}"

  text = _SPAN.sub(mend, text)
  if last and last[0][0] != last[0][1]:
    old, new = last[0]
    keep = lambda found: found[1] + new if answers.same_number(found[2], old) else found[0]
    text = _ANSWER.sub(keep, text)
  return text


def add_marks(text: str) -> str:
  """The text with a mark in every right equation that bears none: "3 + 4 = 7" becomes "3 + 4 =
  <<3+4=7>>7"."""
  parts, done = [], 0
  for found in _STATED.finditer(text):
    expression = _before(text, done, found.start())
    result = evaluate(expression) if expression else None
    stated = found["value"]
    if result is None or _written(result, stated) != stated:
      continue
    at = found.start("value")
    plain = "".join(expression.translate(_SAME).replace(",", "").split())
    parts += [text[done:at], f"<<{plain}={stated.replace(',', '')}>>"]
    done = at
  return "".join([*parts, text[done:]])


def remove_marks(text: str) -> str:
  """The text without its marks."""
  return re.sub(r"<<[^<>\n]{0,400}(?:>>|\Z)", "", text)


def _before(text: str, begin: int, end: int) -> str:
  """The longest expression with an operator that ends at `end`; "" if there is none."""
  start = end
  while start > max(begin, end - LONGEST) and text[start - 1] in "0123456789.,+-*/×÷−()$% x":
    start -= 1
  while start < end:
    candidate = text[start:end].strip()
    if candidate[:1] not in "+-*/)" and re.search(r"[0-9)%] ?[-+*/×÷−x]", candidate):
      if evaluate(candidate) is not None:
        return candidate
    start += 1
  return ""


def _written(result: fractions.Fraction, stated: str) -> str | None:
  """The value as it is stated, if that is right (a decimal that does not end may be rounded, but
  not to a whole number); else as a decimal. None if it is too long to write."""
  exact = answers.canonical_number(str(result))
  if exact is None:
    return None
  if answers.same_number(stated, exact):
    return stated
  if "/" not in exact:
    return exact
  digits = stated.partition(".")[2]
  if digits.isdigit() and len(digits) <= 20 and re.fullmatch(rf"-?(?:{_N})", stated):
    off = abs(fractions.Fraction(stated.replace(",", "")) - result)
    if off * 2 * 10 ** len(digits) <= 1:
      return stated
  return answers.canonical_number(str(round(result, 2)))


class _NoneSuch(Exception):
  """This is no expression."""


def _sum(tokens, at: int, depth: int):
  """(value, where it ends) of terms with + and - between them."""
  left, at = _product(tokens, at, depth)
  while at < len(tokens) and tokens[at] in "+-":
    sign = 1 if tokens[at] == "+" else -1
    right, at = _product(tokens, at + 1, depth)
    left += sign * right
  return left, at


def _product(tokens, at: int, depth: int):
  left, at = _factor(tokens, at, depth)
  while at < len(tokens) and tokens[at] in "*/":
    times = tokens[at] == "*"
    right, at = _factor(tokens, at + 1, depth)
    left = left * right if times else left / right
  return left, at


def _factor(tokens, at: int, depth: int):
  """A number, a part in parentheses, or either with a minus before or percent signs behind."""
  if at >= len(tokens) or depth > DEEPEST:
    raise _NoneSuch
  token = tokens[at]
  if token == "-":
    inner, at = _factor(tokens, at + 1, depth + 1)
    return -inner, at
  if token == "(":
    inner, at = _sum(tokens, at + 1, depth + 1)
    if at >= len(tokens) or tokens[at] != ")":
      raise _NoneSuch
  elif token[0] in "0123456789.":
    inner = fractions.Fraction(token.replace(",", ""))
  else:
    raise _NoneSuch
  at += 1
  while at < len(tokens) and tokens[at] == "%":
    inner, at = inner / 100, at + 1
  return inner, at
