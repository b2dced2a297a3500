"""Every key of the configuration with its default. Recipes start from here.

Generated from distill_jax/settings*.py by `python -m distill_jax.config.generate`; do not edit.
Override any key on the command line: --config.train.lr=1e-3 --config.rounds=1
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.recipe = "base"  # Name in reports.
  c.track = ()  # Experiment trackers that also receive the metrics: tensorboard | wandb | trackio.
  c.seed = 0  # Seed of the initial weights, the row order and sampling.
  # How a rationale is laid out and how the student is prompted. Choices: cot answer_only instruct
  # staged socratic.
  c.format = "cot"
  # Phases of round 0. Choices: demonstrate exam feedback rationalize pair train prefer.
  c.opening = ("demonstrate", "exam", "train")
  # Phases of rounds 1 to `rounds`; each round starts from the previous round's student. Choices:
  # demonstrate exam feedback rationalize pair train prefer.
  c.each_round = ("exam", "feedback", "train")
  c.rounds = 3  # Rounds after the opening; a larger number extends a finished run.
  # Train on the rationales of all rounds so far, not only on those of the current round.
  c.accumulate_rationales = True
  # Weights that a round's training starts from: previous (the previous round's student) | base (the
  # base model).
  c.start_from = "previous"

  # When to end before the last round.
  c.stop = ConfigDict()
  # Stop after this many rounds in a row without a gain in validation accuracy; 0 = never.
  c.stop.patience = 2
  c.stop.min_gain = 0.0  # Increase in validation accuracy above which a round counts as a gain.

  # The questions.
  c.task = ConfigDict()
  # Built-in world, published data set, or file (your own). Choices: arithmetic taxonomy file gsm8k
  # svamp multiarith asdiv addsub singleeq aqua math500 csqa openbookqa arc piqa social_iqa
  # strategyqa.
  c.task.name = "arithmetic"
  c.task.path = ""  # Directory or file with the data. It may move, but its content may not change.
  c.task.hub = ""  # The data set's name on the Hugging Face hub, instead of task.path.
  c.task.train = 0  # Training questions used; 0 = all.
  # Validation questions; taken from train if the data set has no validation split.
  c.task.validation = 200
  c.task.test = 0  # Test questions used; 0 = all.
  # Kind of the answers: auto (guessed from the data) | number | choice | boolean | expression
  # (LaTeX) | text (the same words as the gold answer, or as one of several).
  c.task.kind = "auto"

  # Columns of your own file; empty = found by name, none = there is no such column.
  c.task.columns = ConfigDict()
  c.task.columns.question = ""  # The question.
  c.task.columns.answer = ""  # The answer.
  c.task.columns.choices = ""  # The list of options.
  c.task.columns.rationale = ""  # A rationale for the answer.
  c.task.columns.id = ""  # The ID of the question.
  c.task.columns.split = ""  # The split of the question: train, validation or test.
  # MODULE:FUNCTION that takes (answer, gold) and returns a bool; empty = compare by task.kind.
  c.task.grader = ""

  # The arithmetic world.
  c.world = ConfigDict()
  c.world.seed = 0  # Seed of the problems; the same seed gives the same problems.
  c.world.train = 2000  # Training questions.
  c.world.test = 500  # Test questions.
  # Questions with more steps, from story families that training never shows.
  c.world.out_of_domain = 200
  c.world.steps_min = 1  # Minimum number of reasoning steps, 1 to 5.
  c.world.steps_max = 2  # Maximum number of reasoning steps, steps_min to 5.
  c.world.operand_max = 12  # Largest number in a question, 6 to 10,000.
  c.world.families = 0  # Story families in training; 0 = all except those kept for out_of_domain.
  c.world.distractors = 0.0  # Share of questions with an irrelevant quantity.
  # Maximum number of reasoning steps in out_of_domain, beyond steps_max.
  c.world.ood_extra_steps = 1

  # The taxonomy world.
  c.taxonomy = ConfigDict()
  c.taxonomy.seed = 0  # Seed of the taxonomy; the same seed gives the same questions.
  c.taxonomy.train = 2000  # Training questions.
  c.taxonomy.test = 500  # Test questions.
  c.taxonomy.out_of_domain = 200  # Questions that need two facts in sequence.
  c.taxonomy.kinds = 40  # Number of kinds of things in the taxonomy.
  c.taxonomy.options = 4  # Options per question, 3 to 5.
  c.taxonomy.exceptions = 0.1  # Share of kinds that lack a property of their group.

  # A second task for the rounds after the opening.
  c.cross = ConfigDict()
  # Task of the rounds after the opening; empty = config.task in all rounds. Choices: empty
  # arithmetic taxonomy file gsm8k svamp multiarith asdiv addsub singleeq aqua math500 csqa
  # openbookqa arc piqa social_iqa strategyqa.
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
  # Model name sent to the server, or VENDOR/MODEL or VENDOR:URL#MODEL (vendors in
  # teacher/presets.py), which sets kind, base_url, key_env, max_tokens_field and prices unless they
  # are set; with kind=student, a directory written by export.
  c.teacher.model = "builtin"
  # URL of the API, such as https://api.openai.com/v1 or http://localhost:8000/v1; empty = that of
  # the model's vendor. If it is set, the model's name is sent as it is.
  c.teacher.base_url = ""
  # Name of the server in the keys of stored replies; empty = the base_url that the run was started
  # with. Set it to another address to use the replies stored under that address.
  c.teacher.identity = ""
  # Environment variable that holds the API key; a vendor's model uses the vendor's variable unless
  # you set another. Never put the key itself in a config.
  c.teacher.key_env = "OPENAI_API_KEY"
  # File that holds only the API key and that only its owner can read; empty = use key_env.
  c.teacher.key_file = ""
  # Allow plain http to another machine. The key and all messages are then sent unencrypted.
  c.teacher.insecure_http = False
  c.teacher.temperature = 0.7  # Sampling temperature of replies.
  c.teacher.max_tokens = 512  # Maximum completion tokens of one reply.
  # Name of the request field for max_tokens; auto = the vendor's, or max_tokens. Choices: auto
  # max_tokens max_completion_tokens.
  c.teacher.max_tokens_field = "auto"
  # Request features to omit from the start: n, seed, temperature, top_p, system (its text is put
  # into the user's message), response_format. Others are omitted once the server rejects them.
  c.teacher.unsupported = ()
  c.teacher.stream = False  # Ask for streamed replies, for servers that support no others.
  # Replies cut off at max_tokens are requested again with twice the limit, up to this; 0 = they are
  # recorded as failures.
  c.teacher.max_tokens_retry_limit = 0
  # Maximum number of requests in flight. The actual number adapts to what the server accepts.
  c.teacher.max_concurrency = 16
  c.teacher.requests_per_minute = 0  # The server's rate limit, if known; 0 = adapt to 429s.
  # The server's token rate limit (prompt plus completion), if known; 0 = adapt to 429s.
  c.teacher.tokens_per_minute = 0
  # Seconds to the first byte of a response; 0 = 60, or 300 for a server on this machine. Each
  # timeout doubles it, up to max_wait.
  c.teacher.timeout = 0.0
  c.teacher.connect_timeout = 10.0  # Seconds to connect to the server.
  # Seconds for a complete response: a stream, or a connection kept open by whitespace.
  c.teacher.total_timeout = 600.0
  c.teacher.max_attempts = 6  # Attempts per request.
  # Total seconds that one request may wait for rate limits and between attempts.
  c.teacher.max_wait = 300.0
  # Total seconds that one process may spend on requests, in all phases; 0 = no limit.
  c.teacher.deadline = 0.0

  # Dollars per million tokens.
  c.teacher.prices = ConfigDict()
  # Prompt tokens, dollars per million; -1 = the known price of the model.
  c.teacher.prices.input = -1.0
  # Completion tokens, dollars per million; -1 = the known price of the model.
  c.teacher.prices.output = -1.0
  # Cached prompt tokens, dollars per million; -1 = the known price, or as `input` if that is set.
  c.teacher.prices.cached = -1.0
  c.teacher.max_dollars = 10.0  # Hard cap for the run directory, checked before each request.
  c.teacher.max_requests = 1_000_000  # Hard cap for the run directory, checked before each request.
  # SQLite file with every reply ever paid for; empty = teacher.sqlite in the run directory. When a
  # run resumes, the file may have another path or name, but must be the same.
  c.teacher.cache = ""
  # Empty (one request at a time) | api (Batch API: cheaper, within a day) | files (JSONL for `vllm
  # run-batch`, for a model on another machine).
  c.teacher.batch = ""
  c.teacher.batch_poll = 30.0  # Seconds between polls of a batch.
  c.teacher.batch_discount = 0.5  # Discount of batches on the prices, as a share.
  c.teacher.batch_size = 50_000  # Maximum number of requests per file.
  # Directory of request and result files; empty = `batches` in the run directory.
  c.teacher.batch_dir = ""
  # Minimum share of a phase's samples that must get a reply; below it, the run stops and the
  # replies stay in the cache.
  c.teacher.min_reply_rate = 0.5
  # Request replies as JSON that follows a schema, if the server supports it.
  c.teacher.structured = False
  # Whether the student learns the thinking in a reply: drop (no) | keep (before the rationale, in
  # the thinking tags of the student's chat template, or else in `<think>` tags). Thinking is never
  # read as an answer.
  c.teacher.thinking = "drop"
  c.teacher.extra_body = ""  # Additional request body fields, as a JSON object: '{"top_k": 20}'.
  # Additional request headers, as a JSON object: '{"OpenAI-Organization": "org-1"}'. A value $NAME
  # is read from the environment; give secrets this way.
  c.teacher.extra_headers = ""
  # Weights by which main (this teacher) and config.teachers share requests: main=3,cheap=1.
  c.teacher.pool = ()
  # Teachers of individual phases, such as feedback=strong; the pool serves the others.
  c.teacher.by_phase = ()

  # The built-in teacher.
  c.teacher.builtin = ConfigDict()
  c.teacher.builtin.error_rate = 0.05  # Share of replies with a wrong answer.
  c.teacher.builtin.latency = 0.0  # Seconds before each reply.

  # Recorded rationales.
  c.teacher.replay = ConfigDict()
  # Recorded files: JSON, JSONL, CSV, TSV or Parquet. They may move, but not change.
  c.teacher.replay.path = ()
  # File with the questions: its row n belongs to row n of the recorded files, numbered across all
  # files; empty = the recorded files contain the questions.
  c.teacher.replay.questions = ""
  c.teacher.replay.question = "question"  # Column with the question.
  c.teacher.replay.rationale = "rationale"  # Column with the rationale.
  c.teacher.replay.answer = ""  # Column with the answer; empty = the rationale states it.
  # Additional teachers by name, each with the fields that differ from `teacher`:
  # --config.teachers="{'cheap': {'model': 'MODEL'}}".
  c.teachers = ConfigDict()

  # The student.
  c.student = ConfigDict()
  # scratch | a Hugging Face directory | a name on the hub. The model may move, but not change.
  c.student.init = "scratch"
  # Model family; empty = llama from scratch, otherwise the family of the loaded model. Choices:
  # empty gpt2 gptj gpt_neo opt llama mistral qwen2 qwen3 gemma2 gemma3_text t5.
  c.student.arch = ""
  # Prompts of a pretrained student: plain (the text of the format) | chat (messages, laid out by
  # its chat template) | auto (chat if its tokenizer has a template).
  c.student.prompt = "auto"
  c.student.system = ""  # System message of a chat; empty = the default of the chat template.
  # What ends an attempt besides its end token: none | blank_line | a text | auto (from scratch, a
  # blank line; pretrained, the next question in a plain prompt and nothing in a chat).
  c.student.stop = "auto"
  # Dtype of matrix products; trained weights stay float32. auto = bfloat16 on an accelerator.
  c.student.dtype = "float32"
  # Attention implementation in training; cudnn needs an NVIDIA GPU, splash a TPU. Choices: auto
  # plain cudnn splash.
  c.student.attention = "auto"

  # Low-rank adapters.
  c.student.lora = ConfigDict()
  c.student.lora.rank = 0  # Rank of the adapters; 0 = train all weights.
  c.student.lora.alpha = 16.0  # Adapters are scaled by alpha / rank.
  # Which weights are adapted. Choices: q k v o gate up down.
  c.student.lora.targets = ("q", "k", "v", "o")
  # Weights below the adapters: nf4 (4 bits, with a scale for each 64 inputs, as in QLoRA; needs the
  # package qwix) | empty (in student.dtype). Embeddings and norms keep their dtype.
  c.student.lora.base = ""

  # Sizes of a student from scratch.
  c.student.scratch = ConfigDict()
  # Vocabulary size, 260 or more; the tokenizer is trained on the task's text.
  c.student.scratch.vocab = 512
  c.student.scratch.width = 96  # Width of the residual stream.
  c.student.scratch.layers = 2  # Layers; an encoder-decoder has this many in each half.
  c.student.scratch.heads = 4  # Attention heads.
  c.student.scratch.kv_heads = 2  # Key and value heads, a divisor of heads.
  c.student.scratch.head_width = 24  # Width of a head, even.
  c.student.scratch.mlp = 256  # Width of the MLP.
  c.student.scratch.rope_theta = 0.0  # RoPE base; 0 = the family's default.
  c.student.scratch.norm_eps = 0.0  # Epsilon of the norms; 0 = the family's default.
  c.student.scratch.tied = True  # Input and output embedding share their weights.

  # Devices along each mesh axis.
  c.mesh = ConfigDict()
  c.mesh.data = -1  # Devices for data parallelism; -1 (of one axis) = all remaining devices.
  c.mesh.fsdp = 1  # Devices for fully sharded data parallelism.
  c.mesh.tensor = 1  # Devices for tensor parallelism.

  # Chains of thought.
  c.cot = ConfigDict()
  c.cot.shots = 0  # Worked examples before each question, in training and evaluation.

  # Instruction format.
  c.instruct = ConfigDict()
  c.instruct.instruction = "Solve the problem."  # The instruction.
  c.instruct.elicitation = "Let's think step by step."  # Text that elicits a chain of thought.

  # Recall, analyze, summarize.
  c.staged = ConfigDict()
  # Stages of a rationale; recall and analyze are optional.
  c.staged.stages = ("recall", "analyze", "summarize")
  # Consecutive batches of one stage before those of the next (for analyze, in proportion to its
  # number of examples); 0 = stages are mixed within a batch.
  c.staged.interval = 100
  c.staged.repeat = False  # Repeat the text of an option at the start of its analysis.
  # Stages that the exam samples and that preference pairs compare.
  c.staged.reflect = ("recall", "analyze")
  # Maximum number of correct recalls per question whose analyses are sampled; 0 = all.
  c.staged.starts = 0

  # Sub-questions.
  c.socratic = ConfigDict()
  # iterative (a decomposer and a solver: two students) | unified (one student writes both).
  c.socratic.mode = "iterative"
  # Source of the sub-questions: model (the decomposer) | gold (the data set: an upper bound).
  c.socratic.questions = "model"
  c.socratic.max_steps = 8  # Maximum number of sub-questions per problem.
  c.socratic.solutions = True  # Whether the decomposer sees the solutions so far.
  # Train with <<...>> marks around equations and compute their results in decoding.
  c.socratic.calculator = False

  # Demonstrations.
  c.demonstrate = ConfigDict()
  # teacher | gold (the data set's own rationales or decompositions).
  c.demonstrate.source = "teacher"
  # Rationales requested for each question; each round requests new ones.
  c.demonstrate.rationales = 1
  c.demonstrate.questions = 0  # Training questions to annotate; 0 = all.
  c.demonstrate.show_gold = False  # Show the teacher the correct answer.
  # Passes over the questions; each pass after the first replaces unusable replies.
  c.demonstrate.passes = 1
  # If the teacher disagrees with gold: keep (keep gold, drop the replies that disagree) | majority
  # (the most frequent answer replaces gold) | drop (drop the question if its most frequent answer
  # is not gold).
  c.demonstrate.relabel = "keep"
  # Rationales for a question must differ by more than this many edits; 0 = not identical.
  c.demonstrate.distance = 0

  # Attempts at training questions.
  c.exam = ConfigDict()
  c.exam.questions = 0  # Training questions in the exam; 0 = all.
  c.exam.samples = 4  # Attempts per question.
  # Prompt styles of the exam; format=instruct has cot and plain, others only '' (one style).
  c.exam.styles = ("",)
  c.exam.temperature = 1.0  # Sampling temperature; 0 = greedy.
  c.exam.top_p = 1.0  # Nucleus sampling; 1 = off.
  c.exam.top_k = 0  # Top-k sampling; 0 = off.
  # Maximum number of tokens of an attempt; 0 = from the data for a pretrained student, 128 from
  # scratch.
  c.exam.max_new_tokens = 0

  # Answers to mistakes.
  c.feedback = ConfigDict()
  # correct (the teacher sees and corrects the mistake) | blind (it sees only the question).
  c.feedback.kind = "correct"
  c.feedback.show_gold = True  # Show the teacher the correct answer.
  # Also send attempts that were cut off at exam.max_new_tokens; their answer is unknown.
  c.feedback.cut = False
  c.feedback.mistakes = 1  # Maximum number of distinct mistakes per question to send.
  c.feedback.rationales = 1  # Rationales requested for each mistake.

  # Positives and negatives.
  c.contrast = ConfigDict()
  c.contrast.positives = 10  # Maximum number of correct rationales per question.
  c.contrast.negatives = 4  # Maximum number of wrong attempts per question.

  # Preference pairs.
  c.pair = ConfigDict()
  # right_over_wrong | cot_over_plain (a chain of thought over a plain answer) | both (a correct
  # chain of thought over a wrong plain answer).
  c.pair.policy = "right_over_wrong"
  c.pair.style = "cot"  # Style of the prompt that both sides of a pair answer. Choices: cot plain.
  c.pair.max_pairs_per_prompt = 4  # Maximum number of pairs per prompt; 0 = all.
  # Fill up the shorter side of a prompt: chosen with the teacher's rationales, rejected by
  # repetition.
  c.pair.fill = True
  c.pair.cache = ""  # SQLite file with reference log-probabilities; empty = in the run directory.

  # Preference training.
  c.prefer = ConfigDict()
  c.prefer.loss = "dpo"  # The preference loss. Choices: dpo robust ipo hinge simpo orpo kto.
  c.prefer.beta = 0.1  # Scale of the implicit reward.
  c.prefer.label_smoothing = 0.0  # Share of pairs assumed to be mislabeled.
  c.prefer.gamma = 0.5  # Target margin of SimPO, nats.
  # Use the mean log-probability per token instead of the sum; set it for ipo, simpo and orpo.
  c.prefer.length_normalized = False
  c.prefer.nll_weight = 0.0  # Weight of the chosen side's negative log-likelihood.
  c.prefer.steps = 0  # Optimizer updates per round; 0 = use epochs.
  c.prefer.epochs = 1  # Passes over the pairs per round; 0 = use steps.
  c.prefer.batch = 16  # Pairs per update.
  # Peak learning rate; -1 = 2e-4 from scratch, 1e-6 for a pretrained student, 1e-5 with LoRA.
  c.prefer.lr = -1.0
  # Learning-rate schedule after warm-up. Choices: constant cosine linear.
  c.prefer.schedule = "constant"
  c.prefer.warmup = 20  # Warm-up steps.

  # Training.
  c.train = ConfigDict()

  # Weights of the loss terms.
  c.train.losses = ConfigDict()
  c.train.losses.sft = 1.0  # Cross-entropy on targets.
  c.train.losses.triplet = 0.5  # Triplet loss between correct rationales and mistakes.
  c.train.steps = 0  # Optimizer updates per round; 0 = use epochs.
  c.train.epochs = 10  # Passes over the examples per round; 0 = use steps.
  c.train.batch = 16  # Rows per update, all from different questions; 0 = use batch_tokens.
  # Tokens per update, including padding: batches of longer rows have fewer of them, but at least
  # one per device and micro-batch; 0 = use batch.
  c.train.batch_tokens = 0
  # Micro-batches per update; more save memory and do not change the result.
  c.train.grad_accum_steps = 1
  # What the backward pass recomputes to save memory: none | dots (all but matrix products) | full |
  # auto (none from scratch; pretrained: dots if they take up to 0.75 GiB, else full).
  c.train.remat = "auto"
  # Row lengths in tokens; longer rows are left out and counted. Empty (or auto) = from the data for
  # a pretrained student; 64 to 1024 from scratch.
  c.train.buckets = ()
  # Fill each row up to the longest bucket with several examples of different questions.
  c.train.packing = False
  # Peak learning rate; -1 = 2e-3 from scratch, 5e-5 for a pretrained student, 2e-4 with LoRA.
  c.train.lr = -1.0
  # Learning-rate schedule after warm-up. Choices: constant cosine linear.
  c.train.schedule = "constant"
  c.train.warmup = 100  # Warm-up steps, limited to half of a round's steps.
  c.train.beta1 = 0.9  # AdamW's decay rate of the first moment.
  c.train.beta2 = 0.999  # AdamW's decay rate of the second moment.
  c.train.eps = 1e-08  # AdamW's epsilon.
  c.train.weight_decay = 0.01  # AdamW's weight decay; applies to matrices only.
  c.train.grad_clip_norm = 1.0  # Maximum global gradient norm; 0 = no clipping.
  # Steps between checkpoints; 0 = by time only (train.checkpoint_minutes).
  c.train.checkpoint_every = 200
  # Minutes between checkpoints, besides those of train.checkpoint_every, each saved at the next row
  # of metrics.jsonl; 0 = never.
  c.train.checkpoint_minutes = 10.0
  c.train.log_every = 10  # Steps between rows of metrics.jsonl.
  # Maximum number of positions of a row that the output head processes at a time; fewer if the
  # logits of all rows would exceed 128 MiB.
  c.train.logits_chunk = 256

  # Cross-entropy.
  c.sft = ConfigDict()
  c.sft.prompt_weight = 0.0  # Loss weight of prompt tokens (0.1 in Wang et al. 2023).
  # What the weighted sum is divided by: weights (the sum of the weights) | all_tokens (the number
  # of tokens, prompt included).
  c.sft.denominator = "weights"

  # The triplet loss.
  c.triplet = ConfigDict()
  c.triplet.margin = 1.0  # Margin of the hinge on cosine distances.
  # Hidden state that represents a response: last (at its last token) | mean (over its tokens).
  c.triplet.pool = "last"
  # Stop gradients at the prompt's keys and values (as in the paper's code).
  c.triplet.detach_prompt = False
  # Tokens after which a response is cut for pooling; 0 = from the data for a pretrained student,
  # 192 from scratch.
  c.triplet.max_response = 0

  # Scoring on held-out questions.
  c.evaluate = ConfigDict()
  # Maximum number of tokens of an answer (of each turn); 0 = from the data for a pretrained
  # student, 256 from scratch.
  c.evaluate.max_new_tokens = 0
  # Answers per question; the most frequent one is scored. 1 = one greedy answer.
  c.evaluate.num_votes = 1
  c.evaluate.temperature = 0.7  # Sampling temperature if num_votes is above 1.
  # Also score a pretrained student on validation before training (row `base` of the table).
  c.evaluate.base = True
  # Also score a pretrained student before training with this many worked examples in its prompt; 0
  # = do not.
  c.evaluate.base_shots = 0

  # Another task for the final test, such as one out of domain.
  c.evaluate.also = ConfigDict()
  # The task; empty = none. Choices: empty arithmetic taxonomy file gsm8k svamp multiarith asdiv
  # addsub singleeq aqua math500 csqa openbookqa arc piqa social_iqa strategyqa.
  c.evaluate.also.name = ""
  c.evaluate.also.path = ""  # As task.path.
  c.evaluate.also.hub = ""  # As task.hub.
  c.evaluate.also.test = 0  # As task.test.

  # Bulk sampling.
  c.rollout = ConfigDict()
  # Rows decoded at a time; 0 = 256, or 32 on a CPU, where an unused row costs as much as a used
  # one. A different number changes the rounding of matrix products.
  c.rollout.batch = 0
  c.rollout.refill = 0.25  # Share of the rows that must be free before new prompts start in them.
  # Weights that decoding reads: int8 (layers and head, with a scale for each output, quantized once
  # per rollout; needs the package qwix) | empty (in student.dtype).
  c.rollout.weights = ""
  # Padded prompt lengths in tokens; longer prompts are cut. Empty (or auto) = from the data for a
  # pretrained student; 32 to 1024 from scratch.
  c.rollout.buckets = ()

  # Deviations of the papers' released code.
  c.compat = ConfigDict()

  # TinyThinker's released code.
  c.compat.tinythinker = ConfigDict()
  # Join the options and split them again at ", ", which breaks options with a comma.
  c.compat.tinythinker.options_split_on_commas = False
  # Train summaries on analyses in the teacher's order of the options.
  c.compat.tinythinker.teachers_order = False
  # Average the NLL term over the chosen side and its padding to the longest pair.
  c.compat.tinythinker.nll_on_pads = False
  return c
