"""Losses and their gradients equal those of TRL and torch, on the same log-probabilities.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0 trl==1.16.0)
"""

import pytest

from tests.learning import make_trl, test_preference_losses

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", make_trl.CASES)
def test_every_loss_and_its_gradients_equal_trls(case):
  pytest.importorskip("trl")
  given = make_trl.inputs()
  ours = test_preference_losses.our_losses(case, given)
  test_preference_losses.assert_equal(ours, make_trl.trl_losses(case, given), given)


@pytest.mark.parametrize("constant", [0, 1])
def test_the_triplet_loss_and_its_gradients_equal_torchs(constant):
  """With distance constant - cosine."""
  pytest.importorskip("torch")
  given = make_trl.inputs()
  ours = test_preference_losses.our_triplet_loss(given)
  test_preference_losses.assert_equal(ours, make_trl.torch_triplet_loss(given, constant))
