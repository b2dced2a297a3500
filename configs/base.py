"""Every key a recipe has: meaning, unit, allowed values. Recipes start from here and change what
they mean.

Override any of them on the command line: --config.train.lr=1e-3  --config.rounds=1
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.recipe = "base"  # name in reports
  c.seed = 0  # decides initial weights, order of rows, samples
  # how a rationale is laid out and how the student is led through it:
  # cot | answer_only | instruct | staged | socratic
  c.format = "cot"
  # phases of round 0: demonstrate exam feedback rationalize pair train prefer
  c.opening = ("demonstrate", "exam", "train")
  # phases of rounds 1..rounds, each from the last one's student
  c.each_round = ("exam", "feedback", "train")
  c.rounds = 3  # rounds after the opening
  # True: a round trains on all rationales so far; False: on those of this round only
  c.accumulate_rationales = True
  c.start_from = "previous"  # weights a round starts from: previous (last round's student) | base
  c.stop = ConfigDict(
    dict(
      patience=2,  # stop after so many rounds in a row without a gain on validation; 0 = never
      min_gain=0.0,  # share of validation questions a round must gain to count as a gain
    )
  )

  c.task = ConfigDict(
    dict(
      # arithmetic | taxonomy (built-in worlds) | gsm8k svamp multiarith asdiv addsub singleeq aqua
      # math500 | csqa openbookqa strategyqa piqa social_iqa arc
      name="arithmetic",
      path="",  # folder (or file) with the published data files
      hub="",  # or the data set's name on the Hugging Face hub
      train=0,  # training questions used; 0 = all
      # validation questions, carved from train where the data set has no such split
      validation=200,
      test=0,  # test questions used; 0 = all
    )
  )
  c.world = ConfigDict(
    dict(  # only for task.name=arithmetic
      seed=0,  # which world: the same seed gives the same problems
      train=2000,  # training questions
      test=500,  # test questions
      out_of_domain=200,  # questions with more steps, from families that training never shows
      steps_min=1,  # reasoning steps, 1 to 5
      steps_max=2,
      operand_max=12,  # largest number in a question
      families=0,  # story families that training sees; 0 = all but those kept for out_of_domain
      distractors=0.0,  # share of questions with a quantity that does not matter, 0 to 1
      ood_extra_steps=1,  # how many steps beyond steps_max out_of_domain goes
    )
  )
  c.taxonomy = ConfigDict(
    dict(  # only for task.name=taxonomy: multiple choice over an invented body of knowledge
      seed=0,  # which body of knowledge
      train=2000,  # training questions
      test=500,  # test questions
      out_of_domain=200,  # questions that need two facts, one after the other
      kinds=40,  # kinds of things there are
      options=4,  # options of a question, 3 to 5
      exceptions=0.1,  # share of kinds that lack what their group has, 0 to 1
    )
  )
  c.cross = ConfigDict(
    dict(  # another task, on which the rounds after the opening work; its test is one more score
      name="",  # as task.name; "" = the same task throughout
      path="",
      hub="",
      train=0,
      test=0,
    )
  )

  c.teacher = ConfigDict(
    dict(
      # builtin (answers from the world) | openai (any compatible server) | replay (recorded files)
      # | student (a model on this machine's devices)
      kind="builtin",
      model="builtin",  # model name sent to the server; student: a folder as export writes it
      base_url="",  # openai: e.g. https://api.openai.com/v1 or http://localhost:8000/v1
      # environment variable that holds the key; the key itself never stands in a config
      key_env="OPENAI_API_KEY",
      # file that holds the key and nothing else, for its owner's eyes only; "" = key_env has it
      key_file="",
      # may base_url be plain http to another machine? Key and texts then travel in the clear
      insecure_http=False,
      temperature=0.7,
      max_tokens=512,  # completion tokens of one reply
      max_tokens_field="max_tokens",  # max_tokens | max_completion_tokens: what the server calls it
      # a reply that is cut there is asked for again with twice as many tokens, up to this; 0 = it
      # is recorded as a failure
      max_tokens_retry_limit=0,
      max_concurrency=16,  # requests in flight, at most: how many follows what the server bears
      requests_per_minute=0,  # that the server is known to allow; 0 = it is found out
      tokens_per_minute=0,  # likewise, prompt and completion together
      timeout=60.0,  # seconds for one attempt
      max_attempts=6,  # attempts for one request
      # seconds one request may wait on rate limits and retries, all attempts together
      max_wait=300.0,
      deadline=0.0,  # seconds that one process may spend asking, all phases together; 0 = no end
      # dollars per million tokens; cached: of input the server had seen before, -1 = as input
      prices=ConfigDict(dict(input=0.0, output=0.0, cached=-1.0)),
      max_dollars=10.0,  # hard cap for the run folder, checked before each request
      max_requests=1_000_000,  # likewise
      cache="",  # SQLite file with every reply ever paid for; "" = teacher.sqlite in the run folder
      # "" (asked one by one) | api (the Batch API: cheaper, within a day) | files (JSONL for
      # `vllm run-batch`, where the model is not where the trainer is)
      batch="",
      batch_poll=30.0,  # api: seconds between two looks at a batch
      batch_discount=0.5,  # api: share of the prices that a batch is cheaper
      batch_size=50_000,  # requests in one file, at most
      batch_dir="",  # files: folder of the requests and results; "" = batches in the run folder
      # share of a stage's samples that must get a reply, or else the run stops there; what was
      # paid for stays in the cache
      min_reply_rate=0.5,
      structured=False,  # are replies asked for as JSON of a schema, where the server takes one?
      extra_body="",  # further fields of a request's body, as a JSON object: '{"top_k": 20}'
      # who is asked, of this teacher (main) and config.teachers: weights, as "main=3", "cheap=1"
      pool=(),
      by_phase=(),  # a phase's own teacher, as "feedback=strong"; the pool has the others
      builtin=ConfigDict(
        dict(
          error_rate=0.05,  # share of replies with a wrong answer
          latency=0.0,  # seconds
          faults="",  # injected faults for tests: kind@probability,... (builtin/faults.py)
        )
      ),
      replay=ConfigDict(
        dict(
          path=(),  # recorded files, JSON or JSONL
          # file whose row n has the question of row n of all recorded files; "" = they have it
          questions="",
          question="question",  # column with the question
          rationale="rationale",  # column with the rationale
        )
      ),
    )
  )

  # Further teachers by name, each with the fields in which it differs from config.teacher:
  # c.teachers.cheap = ConfigDict(dict(model="MODEL", prices=dict(input=0.1, output=0.4))) or
  # --config.teachers="{'cheap': {'model': 'MODEL'}}"
  c.teachers = ConfigDict()

  c.student = ConfigDict(
    dict(
      # scratch | a folder in Hugging Face's layout | a name on its hub (weights, sizes, tokenizer)
      init="scratch",
      # family: gpt2 gptj gpt_neo opt llama mistral qwen2 qwen3 gemma2 gemma3_text t5;
      # "" = llama from scratch, otherwise the one that is found there (and any other is refused)
      arch="",
      dtype="float32",  # of matrix products: float32 | bfloat16; what is trained stays float32
      attention="auto",  # of whole rows in training: auto | plain | cudnn | splash
      lora=ConfigDict(
        dict(  # train low-rank updates and leave the weights as they are
          rank=0,  # 0 = train all weights
          alpha=16.0,  # updates count alpha / rank times
          targets=("q", "k", "v", "o"),  # which weights: q k v o gate up down
        )
      ),
      scratch=ConfigDict(
        dict(  # sizes, only for init=scratch
          vocab=512,  # tokenizer entries; the tokenizer is trained on the task's text
          width=96,
          layers=2,  # of the encoder and of the decoder, where there are two
          heads=4,
          kv_heads=2,
          head_width=24,
          mlp=256,
          rope_theta=0.0,  # 0 = the family's usual; only for families that have it
          norm_eps=0.0,  # 0 = the family's usual
          tied=True,  # input and output embedding are one
        )
      ),
    )
  )
  c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))  # devices along each axis; -1 = what is left

  c.cot = ConfigDict(
    dict(
      shots=0  # worked examples in front of every question, in training and evaluation alike
    )
  )
  c.instruct = ConfigDict(
    dict(  # only for format=instruct
      instruction="Solve the problem.",
      elicitation="Let's think step by step.",  # what asks for a chain of thought
    )
  )
  c.staged = ConfigDict(
    dict(  # only for format=staged
      stages=("recall", "analyze", "summarize"),  # any of the first two may be left out
      # batches of one stage before the next begins (of analyze, as many times more as it has more
      # examples); 0 = a batch may hold all stages
      interval=100,
      repeat=False,  # is an option's text said again where it is analyzed?
      reflect=("recall", "analyze"),  # stages that the exam samples, and pairs are made of
      starts=0,  # right recalls of a question whose analyses are sampled; 0 = all
    )
  )
  c.socratic = ConfigDict(
    dict(  # only for format=socratic
      # iterative (a decomposer and a solver, two students) | unified (one writes both)
      mode="iterative",
      # whose sub-questions are answered: model | gold (the problem's own, an upper bound)
      questions="model",
      max_steps=8,  # iterative: sub-questions of one problem
      solutions=True,  # iterative: does the decomposer see the solutions so far?
      calculator=False,  # equations are marked in training, and their results computed in decoding
    )
  )
  c.demonstrate = ConfigDict(
    dict(
      # teacher | gold (the data set's own rationales or decompositions); answers alone
      # (format=answer_only, or staged with nothing but summarize) are gold's anyway
      source="teacher",
      rationales=1,  # asked of the teacher for each training question, afresh in each round
      questions=0,  # training questions that are annotated; 0 = all
      show_gold=False,  # is the teacher told the right answer?
      passes=1,  # times the teacher is asked, each for the replies that could not be used
      # replies that disagree with gold: keep (gold; they are dropped) | majority (the replies'
      # majority becomes the answer) | drop (questions whose majority disagrees)
      relabel="keep",
      distance=0,  # edits by which a question's rationales have to differ; 0 = not the same text
    )
  )
  c.exam = ConfigDict(
    dict(
      questions=0,  # training questions in the exam; 0 = all
      samples=4,  # attempts at each
      # ways of asking; only format=instruct has several: cot, plain
      styles=("",),
      temperature=1.0,
      top_p=1.0,  # 1 = off
      top_k=0,  # 0 = off
      max_new_tokens=128,  # longest attempt, tokens
    )
  )
  c.feedback = ConfigDict(
    dict(
      # correct (the teacher sees the mistake) | blind (it annotates the question afresh)
      kind="correct",
      show_gold=True,  # is the teacher told the right answer?
      mistakes=1,  # different mistakes of one question that are sent
      rationales=1,  # asked for each mistake sent
    )
  )
  c.contrast = ConfigDict(
    dict(
      positives=10,  # right rationales of a question kept for the triplet loss
      negatives=4,  # wrong attempts of a question kept
    )
  )

  c.pair = ConfigDict(
    dict(
      # right_over_wrong | cot_over_plain (a chain of thought over a plain answer to the same
      # question) | both (a right chain of thought over a wrong plain answer)
      policy="right_over_wrong",
      style="cot",  # format=instruct: the prompt that the two answers hang on, cot | plain
      max_pairs_per_prompt=4,  # pairs of one prompt; 0 = all
      # is the shorter side filled up: chosen with what the teacher said there, rejected by drawing
      # from it again?
      fill=True,
      cache="",  # SQLite file with reference log-probabilities; "" = in the run folder
    )
  )
  c.prefer = ConfigDict(
    dict(  # training on preference pairs; what is not here is as in train
      loss="dpo",  # dpo | robust | ipo | hinge | simpo | orpo | kto
      beta=0.1,  # of the implicit reward
      label_smoothing=0.0,  # dpo, robust: share of pairs taken to be the wrong way round
      gamma=0.5,  # simpo: the margin that is aimed at, nats
      # mean log-probability of a token instead of the sum; ipo, simpo and orpo are defined with it
      length_normalized=False,
      nll_weight=0.0,  # weight of the chosen side's negative log-likelihood
      steps=0,  # updates a round, or, if 0,
      epochs=1,  # passes over the pairs a round; one of the two is 0
      batch=16,  # pairs of one update
      lr=2e-4,
      schedule="constant",
      warmup=20,
    )
  )

  c.train = ConfigDict(
    dict(
      losses=ConfigDict(dict(sft=1.0, triplet=0.5)),  # weight of each term; 0 = not computed
      steps=0,  # updates a round, or, if 0,
      epochs=10,  # passes over the examples a round; one of the two is 0
      batch=16,  # rows of one update, from different questions
      grad_accum_steps=1,  # parts a batch is taken in to save memory; changes nothing else
      # what the backward pass computes again, to save memory: none | dots (all but products) | full
      remat="none",
      # row lengths, tokens; rows that do not fit the longest are left out and counted
      buckets=(64, 96, 128, 192, 256, 384, 512, 768, 1024),
      # True: every row is filled up to the longest bucket with several examples; a batch then holds
      # more of them, still of different questions
      packing=False,
      lr=2e-3,  # peak learning rate, for a small student from scratch; pretrained ones want 1e-5
      schedule="constant",  # after warm-up: constant | cosine | linear
      warmup=100,  # steps; at most half of a round's
      beta1=0.9,
      beta2=0.999,
      eps=1e-8,
      weight_decay=0.01,
      grad_clip_norm=1.0,  # global gradient norm; 0 = off
      checkpoint_every=200,  # steps between restart points
      log_every=10,  # steps between rows of metrics.jsonl
      logits_chunk=256,  # positions the output head works on at a time
    )
  )
  c.sft = ConfigDict(
    dict(
      # weight of prompt tokens in the loss; the paper of recipe tailored has 0.1
      prompt_weight=0.0,
      # the sum is divided by: weights (their sum) | all_tokens (prompt included)
      denominator="weights",
    )
  )
  c.triplet = ConfigDict(
    dict(
      margin=1.0,
      pool="last",  # what a response is represented by: last (state at its last token) | mean
      # True: no gradient reaches the prompt's keys and values (as the paper's code has it)
      detach_prompt=False,
      max_response=192,  # tokens of a response that are read
    )
  )
  c.evaluate = ConfigDict(
    dict(
      max_new_tokens=256,  # longest answer (of each turn), tokens
      num_votes=1,  # answers of a question, of which the most frequent counts; 1 = greedy
      temperature=0.7,  # where there are several
    )
  )
  c.rollout = ConfigDict(
    dict(
      batch=256,  # rows decoded at a time
      refill=0.25,  # share of the rows that must be free before the next prompts begin in them
      buckets=(32, 64, 128, 256, 512, 1024),  # prompt lengths, tokens
    )
  )
  c.compat = ConfigDict(
    dict(  # what the papers' released code does otherwise than it should, for comparison
      tinythinker=ConfigDict(
        dict(  # its other quirks: demonstrate.relabel=majority, demonstrate.distance=0
          # options are joined and split again at ", ": those with a comma are garbled
          options_split_on_commas=False,
          teachers_order=False,  # summaries are learned from analyses in the teacher's order
          # the anchor is a mean over the chosen side and the padding behind it, to the longest pair
          nll_on_pads=False,
        )
      )
    )
  )
  return c
