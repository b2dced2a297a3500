"""Writes trl.npz beside this file: losses of TRL and torch on made-up log-probabilities.

  python -m tests.learning.make_trl      (needs torch and trl; written with torch 2.13 and trl 1.16)

  chosen rejected            float32 [N, T], log p of each token, 0 where there is none, nats
  chosen_there rejected_there    bool [N, T]
  ref_chosen ref_rejected    float32 [N], summed over tokens
  <case>                     the mean loss of a batch
  <case>.chosen .rejected    its gradient, [N, T]
  anchor positive negative   float32 [N, D]
  triplet, triplet.anchor .positive .negative    sum of the loss; its gradients

TRL's own functions are called, with stand-ins for the trainer and for the model, which returns the
made-up log-probabilities.
"""

import collections
import importlib
import pathlib
import types

import numpy as np

PAIRS, TOKENS, WIDTH = 6, 9, 5
BETA, SMOOTHING, GAMMA, ALPHA = 0.3, 0.1, 0.7, 0.4
MARGIN = 0.8
POINT = 0.75  # the KL that TRL's KTO gets; ours gets it as both reference points

# name -> (loss, its options, length-normalized, weight of the NLL)
CASES = {
  "dpo": ("dpo", {}, False, 0.0),
  "dpo_normalised": ("dpo", {}, True, 0.0),
  "conservative": ("dpo", {"label_smoothing": SMOOTHING}, False, 0.0),
  "robust": ("robust", {"label_smoothing": SMOOTHING}, False, 0.0),
  "ipo": ("ipo", {}, True, 0.0),
  "hinge": ("hinge", {}, False, 0.0),
  "rpo": ("dpo", {}, False, ALPHA),
  "simpo": ("simpo", {"gamma": GAMMA}, True, 0.0),
  "orpo": ("orpo", {}, True, 0.0),
  "kto": ("kto", {"points": (POINT, POINT)}, False, 0.0),
}


def inputs() -> dict[str, np.ndarray]:
  """Returns multiples of 1/64, so sums and differences are exact."""
  rng, out = np.random.Generator(np.random.PCG64(0)), {}
  for side in ("chosen", "rejected"):
    there = np.arange(TOKENS) < rng.integers(2, TOKENS + 1, (PAIRS, 1))
    logp = -rng.integers(4, 200, (PAIRS, TOKENS)) / 64
    off = rng.integers(-200, 200, PAIRS) / 64
    out[side], out[f"{side}_there"] = np.float32(logp * there), there
    out[f"ref_{side}"] = np.float32((logp * there).sum(axis=1) + off)
  for name in ("anchor", "positive", "negative"):
    out[name] = np.float32(rng.normal(size=(PAIRS, WIDTH)))
  return out


def trl_losses(case: str, given) -> dict[str, np.ndarray]:
  """Returns TRL's {"": mean loss, "chosen", "rejected": its gradients}."""
  import torch

  sides = [torch.tensor(given[side], requires_grad=True) for side in ("chosen", "rejected")]
  there = [torch.tensor(given[f"{side}_there"]) for side in ("chosen", "rejected")]
  refs = [torch.tensor(given[f"ref_{side}"]) for side in ("chosen", "rejected")]
  loss = {"conservative": _cpo, "simpo": _cpo, "orpo": _orpo, "kto": _kto}.get(case, _dpo)
  value = loss(case, sides, there, refs)
  value.backward()
  numbers = [value.detach(), *(side.grad for side in sides)]
  return dict(zip(("", "chosen", "rejected"), (x.numpy() for x in numbers), strict=True))


def torch_triplet_loss(given, constant: int = 1) -> dict[str, np.ndarray]:
  """Returns torch's loss and gradients, with distance constant - cosine."""
  import torch

  distance = lambda x, y: constant - torch.nn.functional.cosine_similarity(x, y)
  branches = {name: torch.tensor(given[name]) for name in ("anchor", "positive", "negative")}
  for x in branches.values():
    x.requires_grad_()
  loss = torch.nn.TripletMarginWithDistanceLoss(
    distance_function=distance, margin=MARGIN, reduction="sum"
  )
  value = loss(*branches.values())
  value.backward()
  return {"": value.detach().numpy()} | {name: x.grad.numpy() for name, x in branches.items()}


class _Model:
  """A model that returns the log-probabilities it was given."""

  def __init__(self, logp):
    self.logp = logp

  def __call__(self, **_):
    nothing = self.logp.detach() * 0
    return types.SimpleNamespace(
      log_probs=self.logp, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )


def _trainer(**fields):
  import torch

  same = lambda x: x
  return types.SimpleNamespace(
    model=types.SimpleNamespace(training=True),
    accelerator=types.SimpleNamespace(
      device=torch.device("cpu"), gather=same, gather_for_metrics=same
    ),
    beta=BETA,
    label_smoothing=SMOOTHING,
    precompute_ref_logps=True,
    aux_loss_enabled=False,
    use_weighting=False,
    ld_alpha=None,
    f_divergence_type="reverse_kl",
    _metrics={"train": collections.defaultdict(list)},
    _total_train_tokens=0,
    _tp_size=1,
    **fields,
  )


def _rows(sides, there):
  """Returns (log p [2N, T], the inputs of such rows behind a prompt of one token)."""
  import torch

  mask = torch.nn.functional.pad(torch.cat(there), (1, 0)).long()
  inputs = {"input_ids": mask, "attention_mask": mask, "completion_mask": mask}
  return torch.cat(sides), inputs


def _dpo(case, sides, there, refs):
  from trl.trainer import dpo_trainer

  kinds = {"dpo": ["sigmoid"], "dpo_normalised": ["sigmoid_norm"], "rpo": ["sigmoid", "sft"]}
  loss_types = kinds.get(case, [case])
  trainer = _trainer(loss_types=loss_types, loss_weights=[1.0, ALPHA][: len(loss_types)])
  logp, inputs = _rows(sides, there)
  inputs |= {"ref_chosen_logps": refs[0], "ref_rejected_logps": refs[1]}
  return dpo_trainer.DPOTrainer._compute_loss(trainer, _Model(logp), inputs, False)


def _kto(case, sides, there, refs):
  import torch
  from trl.trainer import kto_trainer

  trainer = _trainer(loss_type="kto", calculate_KL=True, desirable_weight=1, undesirable_weight=1)
  point = torch.full([2 * PAIRS], POINT)
  trainer._compute_kl_logps = lambda model, batch: point
  logp, inputs = _rows(sides, there)
  inputs |= {"label": torch.arange(2 * PAIRS) < PAIRS, "ref_logps": torch.cat(refs)}
  inputs["ref_KL_logps"] = torch.zeros(2 * PAIRS)
  return kto_trainer.KTOTrainer._compute_loss(trainer, _Model(logp), inputs, False)


def _cpo(case, sides, there, refs):
  """CPO is DPO without a reference, so DPO is CPO on log-ratios.

  TRL's DPO has no label smoothing.
  """
  cpo = importlib.import_module("trl.experimental.cpo.cpo_trainer")
  kind, smoothing = ("simpo", 0.0) if case == "simpo" else ("sigmoid", SMOOTHING)
  trainer = _trainer(alpha=0.0, loss_type=kind, simpo_gamma=GAMMA)
  trainer.label_smoothing = smoothing
  sums = [side.sum(dim=1) for side in sides]
  if case == "simpo":
    scores = [x / mask.sum(dim=1) for x, mask in zip(sums, there, strict=True)]
  else:
    scores = [x - ref for x, ref in zip(sums, refs, strict=True)]
  return cpo.CPOTrainer.cpo_loss(trainer, *scores)[0].mean()


def _orpo(case, sides, there, refs):
  orpo = importlib.import_module("trl.experimental.orpo.orpo_trainer")
  means = [side.sum(dim=1) / mask.sum(dim=1) for side, mask in zip(sides, there, strict=True)]
  return -orpo.ORPOTrainer.odds_ratio_loss(_trainer(), *means)[0].mean()


def main() -> None:
  given = inputs()
  made = {name: trl_losses(name, given) for name in CASES} | {"triplet": torch_triplet_loss(given)}
  flat = {
    f"{case}.{part}" if part else case: value
    for case, parts in made.items()
    for part, value in parts.items()
  }
  path = pathlib.Path(__file__).with_name("trl.npz")
  np.savez_compressed(path, **given, **flat)
  print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
  main()
