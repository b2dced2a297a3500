"""TinyThinker (Piao & Park 2025, arXiv:2412.08024): recall, analyze, summarize; reflect with DPO.

  distill-jax run --config=tinythinker --workdir=runs/tinythinker
  distill-jax run --config=tinythinker:quick --workdir=runs/tinythinker_quick
  distill-jax run --config=tinythinker:pretrained --workdir=runs/tinythinker_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=tinythinker:pretrained_lora --workdir=runs/tinythinker_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

Round 0: the teacher, which is told the correct answer, writes key information and a verdict on each
option. One T5 learns the three stages; each batch contains examples of one stage.
Rounds 1 to 5: the student samples recalls (the other stages are greedy), then analyses for recalls
that led to correct answers. Texts that led to correct answers are preferred over texts that led to
wrong ones. The loss is DPO plus 0.5 times the NLL of the chosen side; the reference policy is the
previous round's student. Each round builds new pairs, of recalls and analyses only.

From the authors' code: 8 replies per question at temperature 0.8 with 256 tokens (4 for OpenBookQA
and StrategyQA), requested up to 3 times; key information more than 10 edits apart; SFT with
interval 100, batch size 64, 10 epochs, AdamW without weight decay, cosine schedule; DPO with 10
samples at temperature 0.7, beta 0.5, NLL weight (alpha) 0.5, learning rate 5e-6, batch size 32.

What differs from their code:
  warm-up is a tenth of all steps          train.warmup and prefer.warmup steps here
  an epoch of DPO is evaluation windows    prefer.epochs passes over the pairs
  all recall pairs, then all analyses      mixed
  analyses of recalls that have a pair,    analyses of the student's correct recalls, all questions
    a teacher's among them
  a round's student is the checkpoint      its last checkpoint
    with the best validation accuracy
  a majority of the replies replaces gold  gold stays; theirs is demonstrate.relabel=majority
  also supports StrategyQA                 a task must have options
config.compat.tinythinker reproduces defects of their code that affect the results.

Evaluation is greedy. With --config.evaluate.num_votes=10, ten sampled attempts vote; ties go to the
answer given first, and an attempt without an answer does not vote.

Ablations: --config.staged.reflect="('recall',)"   --config.rounds=0
           --config.staged.interval=0              --config.prefer.nll_weight=0
           --config.staged.stages="('analyze','summarize')" --config.staged.reflect="('analyze',)"
           --config.staged.stages="('summarize',)" --config.rounds=0
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {
  "full": {},
  "quick": {
    "student": {"arch": "llama"},
    "rounds": 2,
    "taxonomy": {"train": 1200, "test": 300, "out_of_domain": 300, "kinds": 20, "options": 3},
    "demonstrate": {"rationales": 1, "passes": 1},
    "exam": {"samples": 4, "temperature": 1.0, "max_new_tokens": 40},
    "staged": {"starts": 1, "interval": 0, "repeat": True},
    "evaluate": {"max_new_tokens": 40},
    "train": {
      "epochs": 0, "steps": 800, "batch": 32, "lr": 4e-3, "warmup": 30, "beta2": 0.95,
      "buckets": (64, 96, 128, 192),
    },
    "prefer": {"epochs": 0, "steps": 150, "batch": 32, "lr": 2e-4, "warmup": 6, "nll_weight": 1.0},
    "rollout": {"batch": 256, "buckets": (64, 96, 128, 192)},
  },
  **pretrained.sizes(
    student={"arch": ""}, train={"lr": -1.0}, exam={"max_new_tokens": 0},
    evaluate={"max_new_tokens": 0},
    prefer={"epochs": 1, "steps": 0, "batch": 8, "warmup": 10, "lr": -1.0},
  ),
}  # fmt: skip


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("base")
  c.recipe = "tinythinker"
  c.format = "staged"
  c.task.name = "taxonomy"
  c.opening = ("demonstrate", "train")
  c.each_round = ("exam", "pair", "prefer")
  c.rounds = 5
  c.student.arch, c.student.scratch.kv_heads = "t5", c.student.scratch.heads
  c.teacher.temperature, c.teacher.max_tokens = 0.8, 256
  c.demonstrate.rationales, c.demonstrate.show_gold = 8, True
  c.demonstrate.passes, c.demonstrate.distance = 3, 10
  c.train.losses.sft, c.train.losses.triplet = 1.0, 0.0
  c.train.batch, c.train.epochs, c.train.schedule = 64, 10, "cosine"
  c.train.weight_decay, c.train.lr = 0.0, 5e-4
  c.staged.interval, c.staged.reflect = 100, ("recall", "analyze")
  c.exam.samples, c.exam.temperature, c.exam.max_new_tokens = 10, 0.7, 200
  c.pair.policy, c.pair.max_pairs_per_prompt, c.pair.fill = "right_over_wrong", 0, True
  c.prefer.loss, c.prefer.beta, c.prefer.nll_weight = "dpo", 0.5, 0.5
  c.prefer.epochs, c.prefer.batch, c.prefer.lr, c.prefer.schedule = 10, 32, 5e-6, "cosine"
  c.evaluate.max_new_tokens, c.evaluate.temperature = 200, 0.7
  c.update(SIZES[size])
  return c
