"""The settings of training: losses, optimizer, preference pairs.

Declarations only; see `declare.py`.
"""

import dataclasses

from distill_jax.declare import Above, Table, Unless, When, group, key

SCHEDULES = Table("optim.SCHEDULES")

ON_INSTRUCT = When("format", ("instruct",))
ON_SMOOTHING = When("prefer.loss", ("dpo", "robust"))
ON_SIMPO = When("prefer.loss", ("simpo",))
ON_REFERENCE = Unless("prefer.loss", ("simpo", "orpo"))
ON_TRIPLET = Above("train.losses.triplet")
ON_SFT = Above("train.losses.sft")


@dataclasses.dataclass(frozen=True)
class Pair:
  """Preference pairs made of attempts."""

  policy: str = key(
    "right_over_wrong",
    "right_over_wrong | cot_over_plain (a chain of thought over a plain answer) | both (a correct"
    " chain of thought over a wrong plain answer).",
    choices=("right_over_wrong", "cot_over_plain", "both"),
  )
  style: str = key(
    "cot",
    "Style of the prompt that both sides of a pair answer.",
    choices=("cot", "plain"),
    when=(ON_INSTRUCT,),
  )
  max_pairs_per_prompt: int = key(4, "Maximum number of pairs per prompt; 0 = all.", ge=0)
  fill: bool = key(
    True,
    "Fill up the shorter side of a prompt: chosen with the teacher's rationales, rejected by"
    " repetition.",
  )
  cache: str = key(
    "",
    "SQLite file with reference log-probabilities; empty = in the run directory.",
    mutable=True,
    when=(ON_REFERENCE,),
  )


@dataclasses.dataclass(frozen=True)
class Prefer:
  """Training on preference pairs; everything else is as in `train`."""

  loss: str = key("dpo", "The preference loss.", choices=Table("losses.PREFERENCE"))
  beta: float = key(0.1, "Scale of the implicit reward.", gt=0)
  label_smoothing: float = key(
    0.0, "Share of pairs assumed to be mislabeled.", ge=0, le=1, when=(ON_SMOOTHING,)
  )
  gamma: float = key(0.5, "Target margin of SimPO, nats.", ge=0, when=(ON_SIMPO,))
  length_normalized: bool = key(
    False,
    "Use the mean log-probability per token instead of the sum; set it for ipo, simpo and orpo.",
  )
  nll_weight: float = key(0.0, "Weight of the chosen side's negative log-likelihood.", ge=0)
  steps: int = key(0, "Optimizer updates per round; 0 = use epochs.", ge=0)
  epochs: int = key(1, "Passes over the pairs per round; 0 = use steps.", ge=0)
  batch: int = key(16, "Pairs per update.", ge=1)
  lr: float = key(
    -1.0,
    "Peak learning rate; -1 = 2e-4 from scratch, 1e-6 for a pretrained student, 1e-5 with LoRA.",
    ge=-1,
  )
  schedule: str = key("constant", "Learning-rate schedule after warm-up.", choices=SCHEDULES)
  warmup: int = key(20, "Warm-up steps.", ge=0)


@dataclasses.dataclass(frozen=True)
class Losses:
  """Weights of the loss terms; 0 = not computed."""

  sft: float = key(1.0, "Cross-entropy on targets.", ge=0)
  triplet: float = key(0.5, "Triplet loss between correct rationales and mistakes.", ge=0)


@dataclasses.dataclass(frozen=True)
class Train:
  """Supervised training, and the optimizer of both kinds of training."""

  losses: Losses = group(Losses, "Weights of the loss terms.")
  steps: int = key(0, "Optimizer updates per round; 0 = use epochs.", ge=0)
  epochs: int = key(10, "Passes over the examples per round; 0 = use steps.", ge=0)
  batch: int = key(16, "Rows per update, all from different questions; 0 = use batch_tokens.", ge=0)
  batch_tokens: int = key(
    0,
    "Tokens per update, including padding: batches of longer rows have fewer of them, but at least"
    " one per device and micro-batch; 0 = use batch.",
    ge=0,
  )
  grad_accum_steps: int = key(
    1, "Micro-batches per update; more save memory and do not change the result.", ge=1
  )
  remat: str = key(
    "auto",
    "What the backward pass recomputes to save memory: none | dots (all but matrix products) |"
    " full | auto (none from scratch; pretrained: dots if they take up to 0.75 GiB, else"
    " full).",
    choices=("none", "dots", "full", "auto"),
  )
  buckets: tuple[int, ...] = key(
    (),
    "Row lengths in tokens; longer rows are left out and counted. Empty (or auto) = from the data"
    " for a pretrained student; 64 to 1024 from scratch.",
  )
  packing: bool = key(
    False, "Fill each row up to the longest bucket with several examples of different questions."
  )
  lr: float = key(
    -1.0,
    "Peak learning rate; -1 = 2e-3 from scratch, 5e-5 for a pretrained student, 2e-4 with LoRA.",
    ge=-1,
  )
  schedule: str = key("constant", "Learning-rate schedule after warm-up.", choices=SCHEDULES)
  warmup: int = key(100, "Warm-up steps, limited to half of a round's steps.", ge=0)
  beta1: float = key(0.9, "AdamW's decay rate of the first moment.", ge=0, lt=1)
  beta2: float = key(0.999, "AdamW's decay rate of the second moment.", ge=0, lt=1)
  eps: float = key(1e-8, "AdamW's epsilon.", gt=0)
  weight_decay: float = key(0.01, "AdamW's weight decay; applies to matrices only.", ge=0)
  grad_clip_norm: float = key(1.0, "Maximum global gradient norm; 0 = no clipping.", ge=0)
  checkpoint_every: int = key(
    200,
    "Steps between checkpoints; 0 = by time only (train.checkpoint_minutes).",
    ge=0,
    mutable=True,
  )
  checkpoint_minutes: float = key(
    10.0,
    "Minutes between checkpoints, besides those of train.checkpoint_every, each saved at the next"
    " row of metrics.jsonl; 0 = never.",
    ge=0,
    mutable=True,
  )
  log_every: int = key(10, "Steps between rows of metrics.jsonl.", ge=1, mutable=True)
  logits_chunk: int = key(
    256,
    "Maximum number of positions of a row that the output head processes at a time; fewer if the"
    " logits of all rows would exceed 128 MiB.",
    ge=1,
  )


@dataclasses.dataclass(frozen=True)
class Sft:
  """Cross-entropy."""

  prompt_weight: float = key(
    0.0, "Loss weight of prompt tokens (0.1 in Wang et al. 2023).", ge=0, le=1
  )
  denominator: str = key(
    "weights",
    "What the weighted sum is divided by: weights (the sum of the weights) | all_tokens (the number"
    " of tokens, prompt included).",
    choices=("weights", "all_tokens"),
  )


@dataclasses.dataclass(frozen=True)
class Triplet:
  """The triplet loss of self-reflection (Wang et al. 2023)."""

  margin: float = key(1.0, "Margin of the hinge on cosine distances.", ge=0)
  pool: str = key(
    "last",
    "Hidden state that represents a response: last (at its last token) | mean (over its tokens).",
    choices=("last", "mean"),
  )
  detach_prompt: bool = key(
    False, "Stop gradients at the prompt's keys and values (as in the paper's code)."
  )
  max_response: int = key(
    0,
    "Tokens after which a response is cut for pooling; 0 = from the data for a pretrained"
    " student, 192 from scratch.",
    ge=0,
  )
