"""Losses and their gradients beside TRL's and torch's own, on the same log-probabilities.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0 trl==1.16.0)
"""

import pytest

from tests.learning import make_trl
from tests.learning import test_preference_losses as here

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", make_trl.CASES)
def test_every_loss_and_its_gradients_equal_trls(case):
  pytest.importorskip("trl")
  given = make_trl.inputs()
  here.assert_equal(here.said_here(case, given), make_trl.said(case, given), given)


@pytest.mark.parametrize("constant", [0, 1])
def test_the_triplet_loss_and_its_gradients_equal_torchs(constant):
  """With distance constant - cosine."""
  pytest.importorskip("torch")
  given = make_trl.inputs()
  here.assert_equal(here.triplets_here(given), make_trl.said_of_triplets(given, constant))
