"""Calculator marks in solutions, as in GSM8K: "3 + 4 = <<3+4=7>>7 apples" (Cobbe et al. 2021).

The official calculator overrides tokens while a model samples. Here, answers are sampled in bulk,
so marks are completed or corrected after sampling. The number after a mark and the final answer are
corrected, too; the words between them cannot be. Values are exact fractions from a
parser with bounded length and depth: + - * / parentheses, decimals, percent. Nothing is evaluated
as code.
"""

import fractions
import re

from distill_jax.tasks import answers

LONGEST, DEEPEST = 120, 20  # characters and nesting levels of an expression

# A number such as 1,000.50 or .5.
_N = r"[0-9]{1,30}(?:,[0-9]{3}){0,9}(?:\.[0-9]{1,30})?|\.[0-9]{1,30}"
# The next token of an expression: a number or an operator.
_TOKEN = re.compile(rf"\s*(?:({_N})|([-+*/()%]))")
# Other spellings of the operators; a dollar sign is dropped.
_OPERATORS = str.maketrans({"×": "*", "÷": "/", "−": "-", "x": "*", "$": " "})
# A mark: "<<", the expression, "=" with the value if stated, ">>" or the end of the text, and the
# number shown after the mark.
_MARK = re.compile(
  rf"<<(?P<expr>[^<>=\n]{{1,{LONGEST}}})(?P<stated>=[^<>\n]{{0,60}})?(?:>>|\Z)"
  rf"(?:(?P<between>\$?)(?P<shown>-?(?:{_N})))?"
)
# The right side of an equation: "= 7", "= $7", but not "= 7%".
_STATED = re.compile(rf"=\s{{0,3}}\$?\s?(?P<value>-?(?:{_N}))(?![0-9%])")
# The final answer, at the end of the text.
_ANSWER = re.compile(rf"(Answer: \$?)(-?(?:{_N}))(?=\.?\s*\Z)")


def evaluate(expression: str) -> fractions.Fraction | None:
  """The value of an expression, or None if it is invalid, too long or deep, or divides by zero."""
  if len(expression) > LONGEST:
    return None
  tokens, position, text = [], 0, expression.translate(_OPERATORS).rstrip()
  while position < len(text):
    if not (match := _TOKEN.match(text, position)):
      return None
    tokens.append(match[1] or match[2])
    position = match.end()
  try:
    result, end = _sum(tokens, 0, 0)
  except (_InvalidExpression, ZeroDivisionError):
    return None
  return result if end == len(tokens) else None


def correct_marks(text: str) -> str:
  """The text with the value of every mark corrected. Marks that cannot be evaluated are unchanged.

  If the last mark is corrected and the final answer states its old value, that is corrected, too.
  """
  last_change: tuple[str, str] | None = None

  def correct(match: re.Match) -> str:
    nonlocal last_change
    result = evaluate(match["expr"])
    stated, shown = (match["stated"] or "=")[1:].strip(" $"), match["shown"]
    if result is None or (new := _format_value(result, stated)) is None:
      return match[0]
    last_change = (stated or shown or new, new)
    is_shown_right = shown and (stated == new or answers.same_number(shown, new))
    after = shown if is_shown_right else new  # keeps the spelling: "1,000", or a rounded number
    return f"<<{match['expr']}={new}>>{match['between'] or ''}{after}"

  text = _MARK.sub(correct, text)
  if last_change and last_change[0] != last_change[1]:
    old, new = last_change

    def correct_answer(match: re.Match) -> str:
      return match[1] + new if answers.same_number(match[2], old) else match[0]

    text = _ANSWER.sub(correct_answer, text)
  return text


def add_marks(text: str) -> str:
  """The text with a mark in every correct equation: "3 + 4 = 7" becomes "3 + 4 = <<3+4=7>>7"."""
  parts, done = [], 0
  for match in _STATED.finditer(text):
    expression = _expression_before(text, done, match.start())
    result = evaluate(expression) if expression else None
    stated = match["value"]
    if result is None or _format_value(result, stated) != stated:
      continue
    position = match.start("value")
    plain = "".join(expression.translate(_OPERATORS).replace(",", "").split())
    parts += [text[done:position], f"<<{plain}={stated.replace(',', '')}>>"]
    done = position
  return "".join([*parts, text[done:]])


def remove_marks(text: str) -> str:
  """The text without its marks."""
  return re.sub(r"<<[^<>\n]{0,400}(?:>>|\Z)", "", text)


def _expression_before(text: str, begin: int, end: int) -> str:
  """The longest expression with an operator that ends at `end`, or "" if there is none."""
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


def _format_value(result: fractions.Fraction, stated: str) -> str | None:
  """The value as text: `stated` if that is right, else a decimal; None if it is too long to write.

  A non-terminating decimal may be stated rounded, but not to an integer.
  """
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


class _InvalidExpression(Exception):
  """The tokens are not an expression."""


# The parser. Each function returns (value, index of the first token after it).


def _sum(tokens: list[str], at: int, depth: int) -> tuple[fractions.Fraction, int]:
  """Terms with + and - between them."""
  left, at = _product(tokens, at, depth)
  while at < len(tokens) and tokens[at] in "+-":
    sign = 1 if tokens[at] == "+" else -1
    right, at = _product(tokens, at + 1, depth)
    left += sign * right
  return left, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[fractions.Fraction, int]:
  """Factors with * and / between them."""
  left, at = _factor(tokens, at, depth)
  while at < len(tokens) and tokens[at] in "*/":
    times = tokens[at] == "*"
    right, at = _factor(tokens, at + 1, depth)
    left = left * right if times else left / right
  return left, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[fractions.Fraction, int]:
  """A number or an expression in parentheses, with a minus before or percent signs after it."""
  if at >= len(tokens) or depth > DEEPEST:
    raise _InvalidExpression
  token = tokens[at]
  if token == "-":
    inner, at = _factor(tokens, at + 1, depth + 1)
    return -inner, at
  if token == "(":
    inner, at = _sum(tokens, at + 1, depth + 1)
    if at >= len(tokens) or tokens[at] != ")":
      raise _InvalidExpression
  elif token[0] in "0123456789.":
    inner = fractions.Fraction(token.replace(",", ""))
  else:
    raise _InvalidExpression
  at += 1
  while at < len(tokens) and tokens[at] == "%":
    inner, at = inner / 100, at + 1
  return inner, at
