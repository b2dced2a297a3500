"""LaTeX answers: which are equal, which are not, and that no text breaks the reader."""

import time

import hypothesis
import pytest
from hypothesis import strategies

from distill_jax.tasks import expressions

SETTINGS = hypothesis.settings(max_examples=200, deadline=None, derandomize=True)


@pytest.mark.parametrize(
  ("a", "b"),
  [
    (r"\frac{14}{3}", "14/3"),
    (r"\dfrac{17}{50}", "0.34"),
    (r"\frac 59", r"\frac{5}{9}"),
    (r"\frac43", r"\tfrac{4}{3}"),
    (r"\frac9{19}", r"\frac{9}{19}"),
    (r"1\frac{4}{5}", "1.8"),
    (r"137 \frac{1}{2}", "137.5"),
    (r"-\frac{24}{25}", "-0.96"),
    (r"11\sqrt2", r"11 \sqrt{2}"),
    (r"10,\!080", "10080"),
    (r"11,\! 111,\! 111,\! 100", "11,111,111,100"),
    (r"\$32,\!348", "32348"),
    (r"\$18.90", "18.9"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90°"),
    (r"5.4 \text{ cents}", "5.4"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\text{(C)}", "C"),
    ("x=5", "5"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"y = 2x + 3", "2x+3"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    (r"4210_{5}", "4210_5"),
    (r"x^{2}+1", "$x^2 + 1$"),
    (r"2 \cdot 3^{n}", r"2\times 3^n"),
    (r"\begin{pmatrix} -2 \\ 14 \end{pmatrix}", r"\begin{pmatrix}-2\\14\end{pmatrix}"),
    (r"50\%", "50"),
    (r"-12.5\%", "-12.5"),
    (r"\text{50\%}", "50"),
    (r"20\% \text{ and } 50\%", r"20\text{ and }50"),
    ("1 1/2", "1.5"),
    ("-1 1/2", "-1.5"),
    ("1 000", "1000"),
    ("1 000 000", "1000000"),
    ("10 080", "10080"),
  ],
)
def test_two_spellings_of_an_answer_are_equal(a, b):
  assert expressions.normalize(a) == expressions.normalize(b) is not None


@pytest.mark.parametrize(
  ("a", "b"),
  [
    ("p-q", "q-p"),
    (r"\frac 34\%", r"\frac 34"),
    (r"\frac{1}{4\%}", r"\frac{1}{4}"),
    (r"5r^5\%", "5r^5"),
    (r"2x+3\%", "2x+3"),
    ("1,-2", "-2,1"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("(3,4]", "[3,4]"),
    ("52_8", "52"),
    ("14/5", r"1\frac{4}{5}"),
    ("x^2", "x2"),
    ("0.333", "1/3"),
    (r"\pi", "pi/2"),
    ("5x+4=0", "5x-4=0"),
    ("1 1/2", r"\frac{11}{2}"),
    ("2 3", "23"),
    (r"2\,3", "23"),
    ("12 3456", "123456"),
  ],
)
def test_answers_with_different_normal_forms_are_not_equal(a, b):
  assert expressions.normalize(a) != expressions.normalize(b)


@pytest.mark.parametrize("answer", ["", " ", "$", ".", "1" * 301])
def test_a_blank_or_too_long_answer_has_no_normal_form(answer):
  assert expressions.normalize(answer) is None


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    (r"So it is $\boxed{\left( 3, \frac{\pi}{2} \right)}.$", r"(3,\frac{\pi}{2})"),
    ("We add.\nAnswer: 3\\sqrt{13}", r"3\sqrt{13}"),
    ("The answer is $p - q$, as wished.", "p-q"),
    (r"The answer is \(x+1\).", "x+1"),
    (r"\boxed{1} or rather \boxed{\{1\pm\sqrt{5},-2\}}", r"\{1\pm\sqrt{5},-2\}"),
    ("Answer: $\\boxed{7}$", "7"),
    ("The answer is $5$ or $6$.", "5or6"),
    ("The answer is $5$, $6$ because of this.", "5,6"),
    ("The answer is $5$ since $6$ is too large.", "5"),
    ("The answer is $5$, because $6$ is too large.", "5"),
    ("The answer is $2$ million.", "2000000"),
    ("The answer is $x$ + $y$.", "x+y"),
    ("The answer is $5$ and nothing else.", "5"),
    ("The answer is $5$ to $3$ decimal places.", "5"),
    (r"$\boxed{5}$ or $\boxed{6}$", "5or6"),
    (r"\boxed{5}, \boxed{6} and \boxed{7}", "5,6and7"),
    (r"\boxed{\frac{x}{2}} \text{ and } \boxed{6}", r"\frac{x}{2}and6"),
    (r"\boxed{5}. Then we check again and find \boxed{6}", "6"),
    (r"\boxed{\boxed{5}}", "5"),
    ("Answer: east.", "east"),
    ("#### 1/2", "0.5"),
    ("no marker 5", None),
    ("Answer:", None),
  ],
)
def test_the_last_marker_with_something_after_it_decides(text, answer):
  assert expressions.read_expression(text) == answer


PIECES = (
  "\\frac",
  "\\sqrt",
  "{",
  "}",
  "1",
  "12",
  "/",
  ",",
  "\\!",
  " ",
  "x",
  "=",
  "\\text{",
  "^",
  "$",
)


@SETTINGS
@hypothesis.given(strategies.lists(strategies.sampled_from(PIECES), max_size=12).map("".join))
def test_no_text_raises_and_white_space_never_matters(text):
  expressions.read_expression(text)
  expressions.read_expression(f"\\boxed{{{text}")
  assert expressions.normalize(f" {text}\t") == expressions.normalize(text) != ""


@pytest.mark.parametrize(
  "piece", [*PIECES, "\\boxed{", "answer is $", "\\text{ a", "^{ \\circ", "\n"]
)
def test_a_megabyte_of_anything_is_read_quickly(piece):
  text = piece * (1_000_000 // len(piece))
  start = time.process_time()
  expressions.read_expression(text)
  expressions.read_expression("Answer: 1" + text)
  expressions.normalize(text)
  for _ in range(100):
    expressions.normalize(text[:300])
  assert time.process_time() - start < 2.0
