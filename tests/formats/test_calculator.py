"""Calculator marks are exact and bounded, and evaluate nothing but arithmetic."""

import fractions
import time

import numpy as np
import pytest

from distill_jax.formats import calculator


@pytest.mark.parametrize(
  ("expression", "value"),
  [
    ("3+4", 7),
    ("2 + 3 * 4", 14),
    ("(2+3)*4", 20),
    ("10-4-3", 3),
    ("24/4/2", 3),
    ("-3 - -4", 1),
    ("1,200.50*2", 2401),
    ("$5 x 3", 15),
    ("50%*8", 4),
    (".5+.25", fractions.Fraction(3, 4)),
    ("10/3", fractions.Fraction(10, 3)),
    ("8 ÷ 2 × 3", 12),
  ],
)
def test_arithmetic_is_exact(expression, value):
  assert calculator.evaluate(expression) == value


@pytest.mark.parametrize(
  "expression",
  ["", "3+", "*3", "(3", "3)", "3 4", "2**9", "1/0", "3//4", "a+1", "__import__", "9" * 121]
  + ["(" * 40 + "1" + ")" * 40, "-" * 60 + "1", "3;4", "1e9", "%", "()"],
)
def test_invalid_and_oversized_expressions_have_no_value(expression):
  assert calculator.evaluate(expression) is None


def test_random_sums_equal_a_plain_evaluation():
  rng = np.random.Generator(np.random.PCG64(0))
  for _ in range(300):
    numbers = rng.integers(1, 50, 5)
    operators = rng.choice(list("+-*/"), 4)
    text = "".join(f"{n}{o}" for n, o in zip(numbers, operators, strict=False)) + str(numbers[4])
    terms, sign = [], 1  # left to right: products first, then sums
    product = fractions.Fraction(int(numbers[0]))
    for n, o in zip(numbers[1:].tolist(), operators, strict=True):
      if o in "*/":
        product = product * n if o == "*" else product / n
      else:
        terms.append(sign * product)
        product, sign = fractions.Fraction(n), 1 if o == "+" else -1
    assert calculator.evaluate(text) == sum(terms) + sign * product


@pytest.mark.parametrize(
  ("text", "right"),
  [
    ("3 + 4 = <<3+4=7>>7 apples", "3 + 4 = <<3+4=7>>7 apples"),
    ("3 + 4 = <<3+4=8>>8 apples", "3 + 4 = <<3+4=7>>7 apples"),
    ("3 + 4 = <<3+4=>> apples", "3 + 4 = <<3+4=7>>7 apples"),
    ("3 + 4 = <<3+4", "3 + 4 = <<3+4=7>>7"),
    ("3 + 4 = <<3+4=", "3 + 4 = <<3+4=7>>7"),
    ("<<3+4=8>>$8. Answer: 8", "<<3+4=7>>$7. Answer: 7"),
    ("<<3+4=8>>8, and 8 * 2 = <<8*2=15>>15. Answer: 15", "<<3+4=7>>7, and 8 * 2 = <<8*2=16>>16. "
     "Answer: 16"),
    ("<<3+4=8>>8. Answer: 9", "<<3+4=7>>7. Answer: 9"),
    ("<<10/3=3.3>>3.3", "<<10/3=3.3>>3.3"),
    ("<<10/3=3.4>>3.4", "<<10/3=3.33>>3.33"),
    ("<<10/3=4>>4", "<<10/3=3.33>>3.33"),
    ("<<1000*2=2,000>>2,000", "<<1000*2=2,000>>2,000"),
    ("<<1000*2=2000>>2,000", "<<1000*2=2000>>2,000"),
    ("<<7/2=3.5>>4 bags", "<<7/2=3.5>>4 bags"),
    ("<<x*2=4>>4 and <<1/0=0>>0", "<<x*2=4>>4 and <<1/0=0>>0"),
    ("no marks: 3 + 4 = 8", "no marks: 3 + 4 = 8"),
  ],
)  # fmt: skip
def test_marks_are_completed_and_corrected(text, right):
  assert calculator.correct_marks(text) == right
  assert calculator.correct_marks(right) == right


@pytest.mark.parametrize(
  ("text", "marked"),
  [
    ("Tom has 3 + 4 = 7 apples.", "Tom has 3 + 4 = <<3+4=7>>7 apples."),
    ("In 2020 3 + 4 = 7.", "In 2020 3 + 4 = <<3+4=7>>7."),
    ("It costs $5 x 3 = $15.", "It costs $5 x 3 = $<<5*3=15>>15."),
    ("48/2 = 24, (24+1)*2=50", "48/2 = <<48/2=24>>24, (24+1)*2=<<(24+1)*2=50>>50"),
    ("20% * 50 = 10", "20% * 50 = <<20%*50=10>>10"),
    ("1,000 + 500 = 1,500", "1,000 + 500 = <<1000+500=1500>>1,500"),
    ("3 + 4 = 8, and x = 7, and 7 = 7", "3 + 4 = 8, and x = 7, and 7 = 7"),
    ("3 + 4 = 70%", "3 + 4 = 70%"),
    ("", ""),
  ],
)
def test_right_equations_are_marked_and_others_are_not(text, marked):
  assert calculator.add_marks(text) == marked
  assert calculator.remove_marks(calculator.add_marks(text)) == text
  assert calculator.correct_marks(marked) == marked


@pytest.mark.parametrize("piece", ["<<", "<<1", "1+", "= 1", "(1+", "<<1+1=3>>", "1 + 1 = 2 ", "%"])
def test_long_hostile_text_is_read_in_linear_time(piece):
  text = piece * (1_000_000 // len(piece))
  small = text[: len(text) // 20]
  started = time.process_time()
  calculator.remove_marks(text), calculator.evaluate(text)
  calculator.correct_marks(small), calculator.add_marks(small)
  assert time.process_time() - started < 5.0
