"""The door: a ConfigDict becomes frozen settings without defaults, and what makes no sense is
refused here.

A key that is unknown or missing, a value of the wrong type, and a combination that cannot work each
give one line that names the field. What the keys mean stands in configs/base.py.
"""

import dataclasses

Group = dataclasses.dataclass(frozen=True)


@Group
class Stop:
  patience: int
  min_gain: float


@Group
class Task:
  name: str
  path: str
  hub: str
  train: int
  validation: int
  test: int


@Group
class World:
  seed: int
  train: int
  test: int
  out_of_domain: int
  steps_min: int
  steps_max: int
  operand_max: int
  families: int
  distractors: float
  ood_extra_steps: int


@Group
class Taxonomy:
  seed: int
  train: int
  test: int
  out_of_domain: int
  kinds: int
  options: int
  exceptions: float


@Group
class Cross:
  name: str
  path: str
  hub: str
  train: int
  test: int


@Group
class Prices:
  input: float
  output: float
  cached: float


@Group
class Builtin:
  error_rate: float
  latency: float
  faults: str


@Group
class Replay:
  path: tuple[str, ...]
  questions: str
  question: str
  rationale: str


@Group
class Teacher:
  kind: str
  model: str
  base_url: str
  key_env: str
  key_file: str
  insecure_http: bool
  temperature: float
  max_tokens: int
  max_tokens_field: str
  max_tokens_retry_limit: int
  max_concurrency: int
  requests_per_minute: int
  tokens_per_minute: int
  timeout: float
  max_attempts: int
  max_wait: float
  deadline: float
  prices: Prices
  max_dollars: float
  max_requests: int
  cache: str
  batch: str
  batch_poll: float
  batch_discount: float
  batch_size: int
  batch_dir: str
  min_reply_rate: float
  structured: bool
  extra_body: str
  pool: tuple[str, ...]
  by_phase: tuple[str, ...]
  builtin: Builtin
  replay: Replay


@Group
class Lora:
  rank: int
  alpha: float
  targets: tuple[str, ...]


@Group
class Scratch:
  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp: int
  rope_theta: float
  norm_eps: float
  tied: bool


@Group
class Student:
  init: str
  arch: str
  dtype: str
  attention: str
  lora: Lora
  scratch: Scratch


@Group
class Mesh:
  data: int
  fsdp: int
  tensor: int


@Group
class Cot:
  shots: int


@Group
class Instruct:
  instruction: str
  elicitation: str


@Group
class Staged:
  stages: tuple[str, ...]
  interval: int
  repeat: bool
  reflect: tuple[str, ...]
  starts: int


@Group
class Socratic:
  mode: str
  questions: str
  max_steps: int
  solutions: bool
  calculator: bool


@Group
class Demonstrate:
  source: str
  rationales: int
  questions: int
  show_gold: bool
  passes: int
  relabel: str
  distance: int


@Group
class Exam:
  questions: int
  samples: int
  styles: tuple[str, ...]
  temperature: float
  top_p: float
  top_k: int
  max_new_tokens: int


@Group
class Feedback:
  kind: str
  show_gold: bool
  mistakes: int
  rationales: int


@Group
class Contrast:
  positives: int
  negatives: int


@Group
class Pair:
  policy: str
  style: str
  max_pairs_per_prompt: int
  fill: bool
  cache: str


@Group
class Prefer:
  loss: str
  beta: float
  label_smoothing: float
  gamma: float
  length_normalized: bool
  nll_weight: float
  steps: int
  epochs: int
  batch: int
  lr: float
  schedule: str
  warmup: int


@Group
class Losses:
  sft: float
  triplet: float


@Group
class Train:
  losses: Losses
  steps: int
  epochs: int
  batch: int
  grad_accum_steps: int
  remat: str
  buckets: tuple[int, ...]
  packing: bool
  lr: float
  schedule: str
  warmup: int
  beta1: float
  beta2: float
  eps: float
  weight_decay: float
  grad_clip_norm: float
  checkpoint_every: int
  log_every: int
  logits_chunk: int


@Group
class Sft:
  prompt_weight: float
  denominator: str


@Group
class Triplet:
  margin: float
  pool: str
  detach_prompt: bool
  max_response: int


@Group
class Evaluate:
  max_new_tokens: int
  num_votes: int
  temperature: float


@Group
class Rollout:
  batch: int
  refill: float
  buckets: tuple[int, ...]


@Group
class TinyThinkerCompat:
  options_split_on_commas: bool
  teachers_order: bool
  nll_on_pads: bool


@Group
class Compat:
  tinythinker: TinyThinkerCompat


@Group
class Settings:
  recipe: str
  seed: int
  format: str
  opening: tuple[str, ...]
  each_round: tuple[str, ...]
  rounds: int
  accumulate_rationales: bool
  start_from: str
  stop: Stop
  task: Task
  world: World
  taxonomy: Taxonomy
  cross: Cross
  teacher: Teacher
  teachers: dict[str, Teacher]
  student: Student
  mesh: Mesh
  cot: Cot
  instruct: Instruct
  staged: Staged
  socratic: Socratic
  demonstrate: Demonstrate
  exam: Exam
  feedback: Feedback
  contrast: Contrast
  pair: Pair
  prefer: Prefer
  train: Train
  sft: Sft
  triplet: Triplet
  evaluate: Evaluate
  rollout: Rollout
  compat: Compat
