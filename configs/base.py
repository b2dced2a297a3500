"""Every key of the configuration with its default. Recipes start from here.

Generated from distill_jax/settings*.py by `python -m distill_jax.config.generate`; do not edit.
Override any key on the command line: --config.train.lr=1e-3 --config.rounds=1
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.recipe = "base"  # Name in reports.
  c.seed = 0  # Decides initial weights, order of rows and samples.
  # How a rationale is laid out and how the student is prompted. Choices: cot answer_only instruct
  # staged socratic.
  c.format = "cot"
  # Phases of round 0. Choices: demonstrate exam feedback rationalize pair train prefer.
  c.opening = ("demonstrate", "exam", "train")
  # Phases of rounds 1 to `rounds`, each from the previous round's student. Choices: demonstrate
  # exam feedback rationalize pair train prefer.
  c.each_round = ("exam", "feedback", "train")
  c.rounds = 3  # Rounds after the opening.
  # A round trains on all rationales so far; otherwise on those of this round only.
  c.accumulate_rationales = True
  # Weights that a round's training starts from: the previous round's student, or the base.
  c.start_from = "previous"

  # When to end before the last round.
  c.stop = ConfigDict()
  # Rounds in a row without a gain on validation after which the run stops; 0 = never.
  c.stop.patience = 2
  c.stop.min_gain = 0.0  # Share of validation questions a round must gain to count as a gain.

  # The questions.
  c.task = ConfigDict()
  # Built-in world or published data set. Choices: arithmetic taxonomy gsm8k svamp multiarith asdiv
  # addsub singleeq aqua math500 csqa openbookqa arc piqa social_iqa strategyqa.
  c.task.name = "arithmetic"
  c.task.path = ""  # Directory (or file) with the published data files.
  c.task.hub = ""  # Or the data set's name on the Hugging Face hub.
  c.task.train = 0  # Training questions used; 0 = all.
  # Validation questions, taken from train where the data set has no such split.
  c.task.validation = 200
  c.task.test = 0  # Test questions used; 0 = all.

  # The arithmetic world.
  c.world = ConfigDict()
  c.world.seed = 0  # Which world: equal seeds give equal problems.
  c.world.train = 2000  # Training questions.
  c.world.test = 500  # Test questions.
  # Questions with more steps, from story families that training never shows.
  c.world.out_of_domain = 200
  c.world.steps_min = 1  # Fewest reasoning steps, 1 to 5.
  c.world.steps_max = 2  # Most reasoning steps, steps_min to 5.
  c.world.operand_max = 12  # Largest number in a question, 6 to 10,000.
  c.world.families = 0  # Story families in training; 0 = all except those kept for out_of_domain.
  c.world.distractors = 0.0  # Share of questions with an irrelevant quantity.
  c.world.ood_extra_steps = 1  # Steps that out_of_domain has beyond steps_max.

  # The taxonomy world.
  c.taxonomy = ConfigDict()
  c.taxonomy.seed = 0  # Which taxonomy: equal seeds give equal questions.
  c.taxonomy.train = 2000  # Training questions.
  c.taxonomy.test = 500  # Test questions.
  c.taxonomy.out_of_domain = 200  # Questions that need two facts in sequence.
  c.taxonomy.kinds = 40  # Kinds of things.
  c.taxonomy.options = 4  # Options of a question, 3 to 5.
  c.taxonomy.exceptions = 0.1  # Share of kinds that lack a property of their group.

  # A second task for the rounds after the opening.
  c.cross = ConfigDict()
  # As task.name; empty = the same task throughout. Choices: empty arithmetic taxonomy gsm8k svamp
  # multiarith asdiv addsub singleeq aqua math500 csqa openbookqa arc piqa social_iqa strategyqa.
  c.cross.name = ""
  c.cross.path = ""  # As task.path.
  c.cross.hub = ""  # As task.hub.
  c.cross.train = 0  # As task.train.
  c.cross.test = 0  # As task.test.

  # The teacher.
  c.teacher = ConfigDict()
  # builtin (answers from the world) | openai (any compatible server) | replay (recorded files) |
  # student (an exported model on this machine's devices).
  c.teacher.kind = "builtin"
  # Model name sent to the server; with kind=student, a directory written by export.
  c.teacher.model = "builtin"
  c.teacher.base_url = ""  # For example https://api.openai.com/v1 or http://localhost:8000/v1.
  # Environment variable that holds the API key. The key itself never stands in a config.
  c.teacher.key_env = "OPENAI_API_KEY"
  # File that holds only the API key and that only its owner can read; empty = use key_env.
  c.teacher.key_file = ""
  # Allow plain http to another machine. The key and all texts then travel unencrypted.
  c.teacher.insecure_http = False
  c.teacher.temperature = 0.7  # Sampling temperature of replies.
  c.teacher.max_tokens = 512  # Completion tokens of one reply, at most.
  # What the server calls that limit. Choices: max_tokens max_completion_tokens.
  c.teacher.max_tokens_field = "max_tokens"
  # A reply cut at max_tokens is requested again with twice the limit, up to this; 0 = it is
  # recorded as a failure.
  c.teacher.max_tokens_retry_limit = 0
  # Requests in flight, at most. The number in use adapts to what the server accepts.
  c.teacher.max_concurrency = 16
  c.teacher.requests_per_minute = 0  # Known rate limit of the server; 0 = found by trying.
  # Known token rate limit, prompt and completion together; 0 = found by trying.
  c.teacher.tokens_per_minute = 0
  c.teacher.timeout = 60.0  # Seconds for one attempt.
  c.teacher.max_attempts = 6  # Attempts per request.
  # Seconds that one request may wait for rate limits and retries, all attempts together.
  c.teacher.max_wait = 300.0
  # Seconds that one process may spend on requests, all phases together; 0 = no limit.
  c.teacher.deadline = 0.0

  # Dollars per million tokens.
  c.teacher.prices = ConfigDict()
  c.teacher.prices.input = 0.0  # Prompt tokens, dollars per million.
  c.teacher.prices.output = 0.0  # Completion tokens, dollars per million.
  c.teacher.prices.cached = -1.0  # Cached prompt tokens, dollars per million; -1 = as `input`.
  c.teacher.max_dollars = 10.0  # Hard cap for the run directory, checked before each request.
  c.teacher.max_requests = 1_000_000  # Hard cap for the run directory, checked before each request.
  # SQLite file with every reply ever paid for; empty = teacher.sqlite in the run directory.
  c.teacher.cache = ""
  # Empty (one request at a time) | api (Batch API: cheaper, within a day) | files (JSONL for `vllm
  # run-batch`, where the model is not on the training machine).
  c.teacher.batch = ""
  c.teacher.batch_poll = 30.0  # Seconds between two queries of a batch's state.
  c.teacher.batch_discount = 0.5  # Share of the prices that a batch saves.
  c.teacher.batch_size = 50_000  # Requests in one file, at most.
  # Directory of request and result files; empty = `batches` in the run directory.
  c.teacher.batch_dir = ""
  # Share of a phase's samples that must get a reply; below it the run stops. Replies stay in the
  # cache.
  c.teacher.min_reply_rate = 0.5
  c.teacher.structured = False  # Request replies as JSON of a schema, where the server supports it.
  c.teacher.extra_body = ""  # Additional request body fields, as a JSON object: '{"top_k": 20}'.
  # Weights of this teacher (main) and those of config.teachers, as main=3,cheap=1.
  c.teacher.pool = ()
  c.teacher.by_phase = ()  # A phase's own teacher, as feedback=strong; the pool has the others.

  # The built-in teacher.
  c.teacher.builtin = ConfigDict()
  c.teacher.builtin.error_rate = 0.05  # Share of replies with a wrong answer.
  c.teacher.builtin.latency = 0.0  # Seconds before each reply.
  # Injected faults for tests: kind@probability,... (builtin/faults.py).
  c.teacher.builtin.faults = ""

  # Recorded rationales.
  c.teacher.replay = ConfigDict()
  c.teacher.replay.path = ()  # Recorded files, JSON or JSONL.
  # File whose row n has the question of row n of all recorded files; empty = they have it.
  c.teacher.replay.questions = ""
  c.teacher.replay.question = "question"  # Column with the question.
  c.teacher.replay.rationale = "rationale"  # Column with the rationale.
  # Further teachers by name, each with the fields that differ from `teacher`:
  # --config.teachers="{'cheap': {'model': 'MODEL'}}".
  c.teachers = ConfigDict()

  # The student.
  c.student = ConfigDict()
  c.student.init = "scratch"  # scratch | a Hugging Face directory | a name on the hub.
  # Model family; empty = llama from scratch, otherwise the family of the loaded model. Choices:
  # empty gpt2 gptj gpt_neo opt llama mistral qwen2 qwen3 gemma2 gemma3_text t5.
  c.student.arch = ""
  # Of matrix products; trained weights stay float32. Choices: float32 bfloat16.
  c.student.dtype = "float32"
  # Attention path in training; cudnn needs an NVIDIA GPU, splash a TPU. Choices: auto plain cudnn
  # splash.
  c.student.attention = "auto"

  # Low-rank adapters.
  c.student.lora = ConfigDict()
  c.student.lora.rank = 0  # Rank of the adapters; 0 = train all weights.
  c.student.lora.alpha = 16.0  # Adapters are scaled by alpha / rank.
  # Which weights are adapted. Choices: q k v o gate up down.
  c.student.lora.targets = ("q", "k", "v", "o")

  # Sizes of a student from scratch.
  c.student.scratch = ConfigDict()
  # Tokenizer entries, 260 or more; the tokenizer is trained on the task's text.
  c.student.scratch.vocab = 512
  c.student.scratch.width = 96  # Width of the residual stream.
  c.student.scratch.layers = 2  # Layers; of the encoder and of the decoder, where there are both.
  c.student.scratch.heads = 4  # Attention heads.
  c.student.scratch.kv_heads = 2  # Key and value heads, a divisor of heads.
  c.student.scratch.head_width = 24  # Width of a head, even.
  c.student.scratch.mlp = 256  # Width of the MLP.
  c.student.scratch.rope_theta = 0.0  # RoPE base; 0 = the family's default.
  c.student.scratch.norm_eps = 0.0  # Epsilon of the norms; 0 = the family's default.
  c.student.scratch.tied = True  # Input and output embedding share their weights.

  # Devices along each mesh axis.
  c.mesh = ConfigDict()
  c.mesh.data = -1  # Data parallelism.
  c.mesh.fsdp = 1  # Fully sharded data parallelism.
  c.mesh.tensor = 1  # Tensor parallelism.

  # Chains of thought.
  c.cot = ConfigDict()
  c.cot.shots = 0  # Worked examples before each question, in training and evaluation.

  # Instruction format.
  c.instruct = ConfigDict()
  c.instruct.instruction = "Solve the problem."  # The instruction.
  c.instruct.elicitation = "Let's think step by step."  # Text that elicits a chain of thought.

  # Recall, analyze, summarize.
  c.staged = ConfigDict()
  # The stages; recall and analyze may be left out.
  c.staged.stages = ("recall", "analyze", "summarize")
  # Batches of one stage before the next (analyze in proportion to its examples); 0 = mixed.
  c.staged.interval = 100
  c.staged.repeat = False  # Repeat an option's text where it is analyzed.
  # Stages that the exam samples and that pairs are made of.
  c.staged.reflect = ("recall", "analyze")
  c.staged.starts = 0  # Right recalls of a question whose analyses are sampled; 0 = all.

  # Sub-questions.
  c.socratic = ConfigDict()
  # iterative (a decomposer and a solver: two students) | unified (one student writes both).
  c.socratic.mode = "iterative"
  # Whose sub-questions are answered: the model's, or the problem's own (an upper bound). Choices:
  # model gold.
  c.socratic.questions = "model"
  c.socratic.max_steps = 8  # Sub-questions of one problem, at most.
  c.socratic.solutions = True  # The decomposer sees the solutions so far.
  c.socratic.calculator = False  # Mark equations in training and compute their results in decoding.

  # Demonstrations.
  c.demonstrate = ConfigDict()
  # teacher | gold (the data set's own rationales or decompositions).
  c.demonstrate.source = "teacher"
  c.demonstrate.rationales = 1  # Rationales requested for each question, afresh in each round.
  c.demonstrate.questions = 0  # Training questions to annotate; 0 = all.
  c.demonstrate.show_gold = False  # Show the teacher the right answer.
  c.demonstrate.passes = 1  # Passes of requests; each asks again for unusable replies.
  # If replies disagree with gold: keep (drop the replies) | majority (the majority becomes the
  # answer) | drop (questions whose majority disagrees).
  c.demonstrate.relabel = "keep"
  # Edits by which rationales of a question must differ; 0 = not identical.
  c.demonstrate.distance = 0

  # Attempts at training questions.
  c.exam = ConfigDict()
  c.exam.questions = 0  # Training questions in the exam; 0 = all.
  c.exam.samples = 4  # Attempts per question.
  # Prompt styles; format=instruct has cot and plain, others have one (the empty name).
  c.exam.styles = ("",)
  c.exam.temperature = 1.0  # Sampling temperature; 0 = greedy.
  c.exam.top_p = 1.0  # Nucleus sampling; 1 = off.
  c.exam.top_k = 0  # Top-k sampling; 0 = off.
  c.exam.max_new_tokens = 128  # Tokens of the longest attempt.

  # Answers to mistakes.
  c.feedback = ConfigDict()
  # correct (the teacher sees the mistake) | blind (it annotates the question afresh).
  c.feedback.kind = "correct"
  c.feedback.show_gold = True  # Show the teacher the right answer.
  c.feedback.mistakes = 1  # Different mistakes of one question that are sent.
  c.feedback.rationales = 1  # Rationales requested for each mistake.

  # Texts of the triplet loss.
  c.contrast = ConfigDict()
  c.contrast.positives = 10  # Right rationales kept per question.
  c.contrast.negatives = 4  # Wrong attempts kept per question.

  # Preference pairs.
  c.pair = ConfigDict()
  # right_over_wrong | cot_over_plain (a chain of thought over a plain answer) | both (a right chain
  # of thought over a wrong plain answer).
  c.pair.policy = "right_over_wrong"
  c.pair.style = "cot"  # Prompt style that both answers of a pair follow. Choices: cot plain.
  c.pair.max_pairs_per_prompt = 4  # Pairs of one prompt, at most; 0 = all.
  # Fill up the shorter side: chosen with the teacher's texts, rejected by drawing again.
  c.pair.fill = True
  c.pair.cache = ""  # SQLite file with reference log-probabilities; empty = in the run directory.

  # Preference training.
  c.prefer = ConfigDict()
  c.prefer.loss = "dpo"  # The preference loss. Choices: dpo robust ipo hinge simpo orpo kto.
  c.prefer.beta = 0.1  # Scale of the implicit reward.
  c.prefer.label_smoothing = 0.0  # Share of pairs assumed to be mislabeled.
  c.prefer.gamma = 0.5  # Target margin of SimPO, nats.
  # Mean log-probability per token instead of the sum; ipo, simpo, orpo are defined so.
  c.prefer.length_normalized = False
  c.prefer.nll_weight = 0.0  # Weight of the chosen side's negative log-likelihood.
  c.prefer.steps = 0  # Updates per round, or, if 0, `epochs`.
  c.prefer.epochs = 1  # Passes over the pairs per round; one of the two is 0.
  c.prefer.batch = 16  # Pairs of one update.
  c.prefer.lr = 0.0002  # Peak learning rate.
  c.prefer.schedule = "constant"  # After warm-up. Choices: constant cosine linear.
  c.prefer.warmup = 20  # Warm-up steps.

  # Training.
  c.train = ConfigDict()

  # Weights of the loss terms.
  c.train.losses = ConfigDict()
  c.train.losses.sft = 1.0  # Cross-entropy on targets.
  c.train.losses.triplet = 0.5  # Triplet loss between right rationales and mistakes.
  c.train.steps = 0  # Updates per round, or, if 0, `epochs`.
  c.train.epochs = 10  # Passes over the examples per round; one of the two is 0.
  c.train.batch = 16  # Rows of one update, from different questions.
  # Micro-batches of one update, to save memory; the result is the same.
  c.train.grad_accum_steps = 1
  # What the backward pass recomputes to save memory: none | dots (all but products) | full.
  c.train.remat = "none"
  # Row lengths, tokens. Rows longer than the last are left out and counted.
  c.train.buckets = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
  # Fill each row up to the longest bucket with several examples of different questions.
  c.train.packing = False
  # Peak learning rate, for a small student from scratch; use 1e-5 for pretrained ones.
  c.train.lr = 0.002
  c.train.schedule = "constant"  # After warm-up. Choices: constant cosine linear.
  c.train.warmup = 100  # Warm-up steps, at most half of a round's.
  c.train.beta1 = 0.9  # AdamW.
  c.train.beta2 = 0.999  # AdamW.
  c.train.eps = 1e-08  # AdamW.
  c.train.weight_decay = 0.01  # AdamW; applies to matrices only.
  c.train.grad_clip_norm = 1.0  # Global gradient norm; 0 = no clipping.
  c.train.checkpoint_every = 200  # Steps between restart points.
  c.train.log_every = 10  # Steps between rows of metrics.jsonl.
  c.train.logits_chunk = 256  # Positions that the output head processes at a time.

  # Cross-entropy.
  c.sft = ConfigDict()
  c.sft.prompt_weight = 0.0  # Weight of prompt tokens (0.1 in Wang et al. 2023).
  # The sum is divided by: weights (their sum) | all_tokens (prompt included).
  c.sft.denominator = "weights"

  # The triplet loss.
  c.triplet = ConfigDict()
  c.triplet.margin = 1.0  # Margin of the hinge on cosine distances.
  c.triplet.pool = "last"  # What represents a response: last (state at its last token) | mean.
  # No gradient reaches the prompt's keys and values (as in the paper's code).
  c.triplet.detach_prompt = False
  c.triplet.max_response = 192  # Tokens of a response that are read, at most.

  # Scoring on held-out questions.
  c.evaluate = ConfigDict()
  c.evaluate.max_new_tokens = 256  # Tokens of the longest answer (of each turn).
  # Answers per question, of which the most frequent counts; 1 = one greedy answer.
  c.evaluate.num_votes = 1
  c.evaluate.temperature = 0.7  # Sampling temperature where there are several.

  # Bulk sampling.
  c.rollout = ConfigDict()
  c.rollout.batch = 256  # Rows decoded at a time.
  c.rollout.refill = 0.25  # Share of the rows that must be free before new prompts start in them.
  c.rollout.buckets = (32, 64, 128, 256, 512, 1024)  # Prompt lengths, tokens.

  # Deviations of the papers' released code.
  c.compat = ConfigDict()

  # TinyThinker's released code.
  c.compat.tinythinker = ConfigDict()
  # Options are joined and split again at ", ", which breaks those with a comma.
  c.compat.tinythinker.options_split_on_commas = False
  # Summaries are learned from analyses in the teacher's order.
  c.compat.tinythinker.teachers_order = False
  # The NLL term is a mean over the chosen side and its padding up to the longest pair.
  c.compat.tinythinker.nll_on_pads = False
  return c
