"""The settings of a teacher: `config.teacher`, and each entry of `config.teachers`.

Declarations only; see `declare.py`.
"""

import dataclasses

from distill_jax import plan
from distill_jax.declare import AllOf, AnyOf, Planned, Unless, When, group, key

# A phase sends requests: demonstrate only where its rationales do not come with the data set.
ASKED = AnyOf(
  (
    AllOf(
      (
        Planned("demonstrate"),
        When("demonstrate.source", ("teacher",)),
        Unless("format", ("answer_only",)),
        Unless("staged.stages", (("summarize",),)),
      )
    ),
    *(Planned(phase) for phase in plan.ASKERS if phase != "demonstrate"),
  ),
  words="where a phase of the plan asks a teacher",
)
ON_BUILTIN = When("teacher.kind", ("builtin",))
ON_OPENAI = When("teacher.kind", ("openai",))
ON_REPLAY = When("teacher.kind", ("replay",))
ON_MODEL = AnyOf(
  (When("teacher.kind", ("openai", "student")),),
  words="with teacher.kind=openai or student, or as VENDOR/MODEL such as openai/gpt-4o-mini",
)
ON_CLIENT = When("teacher.kind", ("openai", "builtin"))
ON_WRITER = Unless("teacher.kind", ("replay",))
IN_BATCH_API = When("teacher.batch", ("api",))
IN_BATCHES = When("teacher.batch", ("api", "files"))
IN_FILES = When("teacher.batch", ("files",))
WITH_THINKING = When("format", ("cot", "instruct"))
CLIENT = (ASKED, ON_CLIENT)
OPENAI = (ASKED, ON_OPENAI)


@dataclasses.dataclass(frozen=True)
class Prices:
  """Dollars per million tokens."""

  input: float = key(-1.0, "Prompt tokens, dollars per million; -1 = the known price of the model.")
  output: float = key(
    -1.0, "Completion tokens, dollars per million; -1 = the known price of the model."
  )
  cached: float = key(
    -1.0,
    "Cached prompt tokens, dollars per million; -1 = the known price, or as `input` if that is"
    " set.",
  )


@dataclasses.dataclass(frozen=True)
class Builtin:
  """The built-in teacher."""

  error_rate: float = key(0.05, "Share of replies with a wrong answer.", ge=0, le=1)
  latency: float = key(0.0, "Seconds before each reply.", ge=0, mutable=True)


@dataclasses.dataclass(frozen=True)
class Replay:
  """Recorded rationales."""

  path: tuple[str, ...] = key(
    (),
    "Recorded files: JSON, JSONL, CSV, TSV or Parquet. They may move, but not change.",
    mutable=True,
  )
  questions: str = key(
    "",
    "File with the questions: its row n belongs to row n of the recorded files, numbered across all"
    " files; empty = the recorded files contain the questions.",
    mutable=True,
  )
  question: str = key("question", "Column with the question.")
  rationale: str = key("rationale", "Column with the rationale.")
  answer: str = key("", "Column with the answer; empty = the rationale states it.")


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The teacher: its kind, how to reach it, and what it may cost."""

  kind: str = key(
    "builtin",
    "builtin (answers from the world) | openai (any compatible server) | replay (recorded files)"
    " | student (an exported model on this machine's devices).",
    choices=("builtin", "openai", "replay", "student"),
    when=(ASKED,),
  )
  model: str = key(
    "builtin",
    "Model name sent to the server, or VENDOR/MODEL or VENDOR:URL#MODEL (vendors in"
    " teacher/presets.py), which sets kind, base_url, key_env, max_tokens_field and prices unless"
    " they are set; with kind=student, a directory written by export.",
    when=(ASKED, ON_MODEL),
  )
  base_url: str = key(
    "",
    "URL of the API, such as https://api.openai.com/v1 or http://localhost:8000/v1; empty = that"
    " of the model's vendor. If it is set, the model's name is sent as it is.",
    mutable=True,
    when=OPENAI,
  )
  identity: str = key(
    "",
    "Name of the server in the keys of stored replies; empty = the base_url that the run was"
    " started with. Set it to another address to use the replies stored under that address.",
    mutable=True,
    when=OPENAI,
  )
  key_env: str = key(
    "OPENAI_API_KEY",
    "Environment variable that holds the API key; a vendor's model uses the vendor's variable"
    " unless you set another. Never put the key itself in a config.",
    mutable=True,
    when=OPENAI,
  )
  key_file: str = key(
    "",
    "File that holds only the API key and that only its owner can read; empty = use key_env.",
    mutable=True,
    when=OPENAI,
  )
  insecure_http: bool = key(
    False,
    "Allow plain http to another machine. The key and all messages are then sent unencrypted.",
    mutable=True,
    when=OPENAI,
  )
  temperature: float = key(0.7, "Sampling temperature of replies.", ge=0, when=(ASKED,))
  max_tokens: int = key(
    512, "Maximum completion tokens of one reply.", ge=1, when=(ASKED, ON_WRITER)
  )
  max_tokens_field: str = key(
    "auto",
    "Name of the request field for max_tokens; auto = the vendor's, or max_tokens.",
    choices=("auto", "max_tokens", "max_completion_tokens"),
    mutable=True,
    when=CLIENT,
  )
  unsupported: tuple[str, ...] = key(
    (),
    "Request features to omit from the start: n, seed, temperature, top_p, system (its text is put"
    " into the user's message), response_format. Others are omitted once the server rejects them.",
    mutable=True,
    when=CLIENT,
  )
  stream: bool = key(
    False,
    "Ask for streamed replies, for servers that support no others.",
    mutable=True,
    when=CLIENT,
  )
  max_tokens_retry_limit: int = key(
    0,
    "Replies cut off at max_tokens are requested again with twice the limit, up to this; 0 = they"
    " are recorded as failures.",
    ge=0,
    mutable=True,
    when=CLIENT,
  )
  max_concurrency: int = key(
    16,
    "Maximum number of requests in flight. The actual number adapts to what the server accepts.",
    ge=1,
    mutable=True,
    when=CLIENT,
  )
  requests_per_minute: int = key(
    0, "The server's rate limit, if known; 0 = adapt to 429s.", ge=0, mutable=True, when=CLIENT
  )
  tokens_per_minute: int = key(
    0,
    "The server's token rate limit (prompt plus completion), if known; 0 = adapt to 429s.",
    ge=0,
    mutable=True,
    when=CLIENT,
  )
  timeout: float = key(
    0.0,
    "Seconds to the first byte of a response; 0 = 60, or 300 for a server on this machine. Each"
    " timeout doubles it, up to max_wait.",
    ge=0,
    mutable=True,
    when=CLIENT,
  )
  connect_timeout: float = key(
    10.0, "Seconds to connect to the server.", gt=0, mutable=True, when=CLIENT
  )
  total_timeout: float = key(
    600.0,
    "Seconds for a complete response: a stream, or a connection kept open by whitespace.",
    gt=0,
    mutable=True,
    when=CLIENT,
  )
  max_attempts: int = key(6, "Attempts per request.", ge=1, mutable=True, when=CLIENT)
  max_wait: float = key(
    300.0,
    "Total seconds that one request may wait for rate limits and between attempts.",
    ge=0,
    mutable=True,
    when=CLIENT,
  )
  deadline: float = key(
    0.0,
    "Total seconds that one process may spend on requests, in all phases; 0 = no limit.",
    ge=0,
    mutable=True,
    when=CLIENT,
  )
  prices: Prices = group(Prices, "Dollars per million tokens.", when=OPENAI, mutable=True)
  max_dollars: float = key(
    10.0,
    "Hard cap for the run directory, checked before each request.",
    ge=0,
    mutable=True,
    when=(ASKED,),
  )
  max_requests: int = key(
    1_000_000,
    "Hard cap for the run directory, checked before each request.",
    ge=1,
    mutable=True,
    when=(ASKED,),
  )
  cache: str = key(
    "",
    "SQLite file with every reply ever paid for; empty = teacher.sqlite in the run directory. When"
    " a run resumes, the file may have another path or name, but must be the same.",
    mutable=True,
  )
  batch: str = key(
    "",
    "Empty (one request at a time) | api (Batch API: cheaper, within a day) | files (JSONL for"
    " `vllm run-batch`, for a model on another machine).",
    choices=("", "api", "files"),
    mutable=True,
    when=OPENAI,
  )
  batch_poll: float = key(
    30.0, "Seconds between polls of a batch.", gt=0, mutable=True, when=(*OPENAI, IN_BATCH_API)
  )
  batch_discount: float = key(
    0.5,
    "Discount of batches on the prices, as a share.",
    ge=0,
    lt=1,
    mutable=True,
    when=(*OPENAI, IN_BATCH_API),
  )
  batch_size: int = key(
    50_000, "Maximum number of requests per file.", ge=1, mutable=True, when=(*OPENAI, IN_BATCHES)
  )
  batch_dir: str = key(
    "",
    "Directory of request and result files; empty = `batches` in the run directory.",
    mutable=True,
    when=(*OPENAI, IN_FILES),
  )
  min_reply_rate: float = key(
    0.5,
    "Minimum share of a phase's samples that must get a reply; below it, the run stops and the"
    " replies stay in the cache.",
    ge=0,
    le=1,
    mutable=True,
    when=(ASKED,),
  )
  structured: bool = key(
    False, "Request replies as JSON that follows a schema, if the server supports it.", when=CLIENT
  )
  thinking: str = key(
    "drop",
    "Whether the student learns the thinking in a reply: drop (no) | keep (before the rationale, in"
    " the thinking tags of the student's chat template, or else in `<think>` tags). Thinking is"
    " never read as an answer.",
    choices=("drop", "keep"),
    when=(ASKED, WITH_THINKING),
  )
  extra_body: str = key(
    "", "Additional request body fields, as a JSON object: '{\"top_k\": 20}'.", when=CLIENT
  )
  extra_headers: str = key(
    "",
    'Additional request headers, as a JSON object: \'{"OpenAI-Organization": "org-1"}\'. A value'
    " $NAME is read from the environment; give secrets this way.",
    mutable=True,
    when=OPENAI,
  )
  pool: tuple[str, ...] = key(
    (),
    "Weights by which main (this teacher) and config.teachers share requests: main=3,cheap=1.",
    when=(ASKED,),
  )
  by_phase: tuple[str, ...] = key(
    (),
    "Teachers of individual phases, such as feedback=strong; the pool serves the others.",
    when=(ASKED,),
  )
  builtin: Builtin = group(Builtin, "The built-in teacher.", when=(ASKED, ON_BUILTIN))
  replay: Replay = group(Replay, "Recorded rationales.", when=(ASKED, ON_REPLAY))
