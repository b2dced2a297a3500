"""Several teachers in one config.

A request always goes to the same teacher; replies and costs are stored in one cache, and the caps
apply to all teachers together.
"""

import collections
import json
import threading
import time

import pytest
from batch_scripted import batched
from scripted import CLIENT_OPTIONS, Run, ask

from configs import quickstart
from distill_jax import errors, records, tasks, teacher
from distill_jax.ablations import sweep
from distill_jax.cli import args
from distill_jax.config.read import read_settings
from distill_jax.run_dir import run_dir
from distill_jax.teacher import pool, presets, types
from distill_jax.teacher.client import client, interrupts
from distill_jax.teacher.prompts import messages
from distill_jax.teacher.store import cache as store_cache

WEIGHTS = {"main": 3.0, "cheap": 1.0}


def requests(count, samples=1, first=0, kind="annotate"):
  return [
    types.Request(kind, f"q{k}", (("system", "s"), ("user", f"q{k}")), samples, first)
    for k in range(count)
  ]


def test_each_teacher_gets_about_its_share():
  chosen = collections.Counter(pool.choose(WEIGHTS, 0, r) for r in requests(4000))
  assert chosen["cheap"] / 4000 == pytest.approx(0.25, abs=0.03)  # four standard deviations


def test_the_teacher_of_a_request_depends_on_seed_and_text_alone():
  choose = lambda seed, rs: [pool.choose(WEIGHTS, seed, r) for r in rs]
  first = choose(0, requests(200))
  assert choose(0, requests(200)[::-1])[::-1] == first
  assert choose(0, requests(200, samples=3, first=5)) == first  # more samples of the same
  assert choose(1, requests(200)) != first
  assert choose(0, requests(200, kind="correct")) != first
  # Pinned: a run resumed by a later version keeps its assignment.
  assert [name[0] for name in choose(0, requests(12))] == list("mcmccmmmmcmm")


def test_a_single_teacher_gets_every_request():
  assert {pool.choose({"one": 1.0}, 0, r) for r in requests(50)} == {"one"}


@pytest.fixture
def pooled(serve, tmp_path):
  """pooled(max_requests=..., ...) -> (a pool of echoing servers, {name: server})."""
  opened = []

  def start(weights_of=lambda phase: {"main": 1.0, "cheap": 1.0}, seed=0, **options):
    cache = {"cache_path": str(tmp_path / "teacher.sqlite"), "run": "this run"}
    servers = {
      name: serve(answer=lambda m, n, t, s, name=name: [f"{name} {m[-1][1]} {s}"] * n)
      for name in ("main", "cheap", "strong")
    }
    options = {**CLIENT_OPTIONS, **cache, **options}

    def open_teacher(name):
      return client.Client(base_url=servers[name].url, **options | {"model": name})

    opened.append(pool.Pool(open_teacher, weights_of, seed=seed, **cache))
    return opened[-1], servers

  yield start
  for each in opened:
    each.close()


def test_replies_come_in_the_order_of_the_requests_each_from_its_teacher(pooled):
  teacher, servers = pooled()
  replies = ask(teacher, requests(40, samples=2))
  for request, row in zip(requests(40, samples=2), replies, strict=True):
    name = pool.choose({"main": 1.0, "cheap": 1.0}, 0, request)
    assert [reply.text.split()[:2] for reply in row] == [[name, request.question]] * 2
  counts = [servers[name].stats.requests for name in ("main", "cheap", "strong")]
  assert min(counts[:2]) > 5 and sum(counts) == 40 and counts[2] == 0


def test_a_resumed_pool_pays_for_nothing_twice_and_has_one_ledger(pooled):
  first, servers = pooled()
  replies = ask(first, requests(30))
  before = first.ledger.of(0)
  assert before.calls == 30 and first.ledger.total().dollars > 0
  again, _ = pooled()
  # The cache tells servers apart by address, so the same ones must be asked.
  again._open = first._open
  assert ask(again, requests(30)) == replies
  assert again.ledger.of(0) == before
  assert sum(server.stats.requests for server in servers.values()) == 30


def test_a_phase_has_its_own_teacher_at_any_position_in_the_plan(pooled):
  def weights_of(phase):
    return {"strong": 1.0} if phase == "feedback" else {"main": 1.0}

  teacher, servers = pooled(weights_of)
  ask(teacher, requests(3), phase="1_feedback")
  ask(teacher, requests(4), phase="0_demonstrate")
  assert [servers[name].stats.requests for name in ("main", "cheap", "strong")] == [4, 0, 3]
  assert teacher.ledger.of(0, "1_feedback").calls == 3


@pytest.mark.parametrize("caps", [{"max_requests": 9}, {"max_dollars": 0.0025}])
def test_the_caps_apply_to_all_teachers_together(pooled, caps):
  teacher, servers = pooled(**caps)
  with pytest.raises(errors.UserError) as error:
    ask(teacher, requests(200))
  assert error.value.code == errors.BUDGET
  sent = [servers[name].stats.requests for name in ("main", "cheap")]
  assert 0 < sum(sent) < 200
  if "max_requests" in caps:
    assert sum(sent) == 9
    with pytest.raises(errors.UserError):  # the other one has no cap of its own either
      ask(teacher, requests(200)[::-1])
    assert sum(servers[name].stats.requests for name in ("main", "cheap")) == 9
  assert teacher.ledger.total().dollars <= CLIENT_OPTIONS["max_dollars"]


def test_progress_is_reported_as_that_of_one_ask(pooled):
  seen = []
  teacher, _ = pooled()
  ask(teacher, requests(20, samples=2), on_progress=seen.append)
  done = [p.done for p in seen]
  assert done == sorted(done) and (done[-1], {p.total for p in seen}) == (40, {40})


def test_no_requests_ask_nothing(pooled):
  teacher, _ = pooled()
  assert ask(teacher, []) == [] and teacher.ledger.total().calls == 0


def changed(**changes) -> dict:
  config = quickstart.get_config().to_dict()
  config["teacher"] |= changes.pop("teacher", {})
  return config | changes


VENDOR = {"kind": "openai", "base_url": "http://localhost:1/v1"}
CHEAP = {"cheap": {**VENDOR, "model": "small", "prices": {"input": 0.5}}}


def test_a_further_teacher_is_config_teacher_except_for_its_own_fields():
  s = read_settings(changed(teachers=CHEAP, teacher={"pool": ("main=3", "cheap=1")}))
  main, cheap = s.teacher, s.teachers["cheap"]
  assert (cheap.model, cheap.prices.input) == ("small", 0.5)
  assert (cheap.prices.output, cheap.max_tokens, cheap.kind) == (0.0, main.max_tokens, "openai")
  assert pool.phase_weights(s, "demonstrate") == {"main": 3.0, "cheap": 1.0}


def test_a_teacher_of_another_vendor_has_its_address_key_and_prices(monkeypatch):
  """Prices are of a model: those of config.teacher do not apply to another one."""
  monkeypatch.setenv("MINE", "key-1")
  main = {**VENDOR, "base_url": "https://my.server/v1", "model": "mine", "key_env": "MINE"}
  main["prices"] = {"input": 0.1, "output": 0.4, "cached": -1.0}
  others = {"strong": {"model": "openai/gpt-4o"}, "same": {}, "next": {"model": "mine-2"}}
  s = read_settings(changed(teachers=others, teacher=main))
  strong, same, following = (s.teachers[name] for name in others)
  assert (strong.base_url, strong.model) == ("https://api.openai.com/v1", "gpt-4o")
  assert strong.key_env == "OPENAI_API_KEY" and strong.prices.input > 0.1
  assert (same.base_url, same.prices.input) == ("https://my.server/v1", 0.1)
  assert (following.base_url, following.key_env) == ("https://my.server/v1", "MINE")
  assert presets.unpriced(following)


def test_by_phase_leaves_the_pool_to_the_other_phases():
  given = {"pool": ("main=3", "cheap=0.5"), "by_phase": ("feedback=cheap",)}
  s = read_settings(changed(teachers=CHEAP, teacher=given))
  assert pool.phase_weights(s, "feedback") == {"cheap": 1.0}
  assert pool.phase_weights(s, "demonstrate") == {"main": 3.0, "cheap": 0.5}
  assert pool.teachers_used(s, ["feedback"]) == ["cheap"]


WORDS = [
  f"--config.teachers={CHEAP!r}",
  "--config.teacher.pool=('main=3', 'cheap=1')",
  "--config.teacher.by_phase=('feedback=cheap',)",
]


def test_the_command_line_adds_teachers():
  found, _, _ = args.parse(["--config=configs/quickstart.py", *WORDS], {}, config="required")
  s = read_settings(found)
  assert (s.teachers["cheap"].model, s.teachers["cheap"].prices.input) == ("small", 0.5)
  assert pool.phase_weights(s, "feedback") == {"cheap": 1.0}


def test_the_command_line_changes_a_field_that_the_config_file_names(tmp_path):
  file = tmp_path / "own.py"
  file.write_text(
    "from configs import quickstart\n"
    "from ml_collections import ConfigDict\n\n\n"
    "def get_config():\n"
    "  c = quickstart.get_config()\n"
    "  c.teachers.strong = ConfigDict(dict(kind='openai', model='large', max_concurrency=4))\n"
    "  c.teachers.strong.base_url = 'http://localhost:1/v1'\n"
    "  c.teacher.by_phase = ('feedback=strong',)\n"
    "  return c\n"
  )
  words = [f"--config={file}", "--config.teachers.strong.model=larger"]
  found, _, _ = args.parse(words, {}, config="required")
  strong = read_settings(found).teachers["strong"]
  assert (strong.model, strong.max_concurrency) == ("larger", 4)


@pytest.mark.parametrize("own", [[], ["--config.teachers={'cheap': {'concurrency': 2}}"]])
def test_changing_an_unset_field_of_a_teacher_says_how_to(own):
  words = ["--config=configs/quickstart.py", *own, "--config.teachers.cheap.model=x"]
  with pytest.raises(
    errors.UserError, match=r"config\.teachers\.cheap\.model.*--config\.teachers="
  ) as error:
    args.parse(words, {}, config="required")
  assert error.value.code == errors.CONFIG and "\n" not in str(error.value)


def test_commands_that_read_a_run_directory_know_its_teachers(tmp_path):
  found, _, _ = args.parse(["--config=configs/quickstart.py", *WORDS], {}, config="required")
  (tmp_path / "config.json").write_text(json.dumps(found))
  words = [f"--workdir={tmp_path}", "--config.teachers.cheap.model=other"]
  stored, _, _ = args.parse(words, {"workdir": ("", "")}, config="run")
  assert read_settings(stored).teachers["cheap"].model == "other"


def test_a_row_of_a_sweep_may_have_teachers_of_its_own(monkeypatch):
  words = [f"--config.teachers={sweep.format_value(CHEAP)}"]
  config = sweep.read_config("configs/quickstart.py", words, "row")
  assert config["teachers"] == CHEAP


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"teachers": {"main": {}}}, "config.teachers"),
    ({"teachers": {"A b": {}}}, "config.teachers"),
    ({"teachers": {1: {}}}, "config.teachers"),
    ({"teachers": {"a": 3}}, "config.teachers.a"),
    ({"teachers": {"a": {"modle": "x"}}}, "config.teachers.a.modle"),
    ({"teachers": {"a": {"max_concurrency": "x"}}}, "config.teachers.a.max_concurrency"),
    ({"teachers": {"a": {"max_concurrency": 0}}}, "config.teachers.a.max_concurrency"),
    ({"teachers": {"a": {"kind": "oracle"}}}, "config.teachers.a.kind"),
    ({"teachers": {"a": {"prices": {"input": -1.0}}}}, "config.teachers.a.prices.input"),
    ({"teachers": {"a": {"prices": {"in": 1.0}}}}, "config.teachers.a.prices.in"),
    ({"teachers": {"a": {"max_dollars": 1.0}}}, "config.teachers.a.max_dollars"),
    ({"teachers": {"a": {"pool": ("main=1",)}}}, "config.teachers.a.pool"),
    ({"teachers": {"a": {"extra_body": "{"}}}, "config.teachers.a.extra_body"),
    ({"teacher": {"extra_body": '{"seed": 1}'}}, "config.teacher.extra_body"),
    ({"teacher": {"extra_body": "[]"}}, "config.teacher.extra_body"),
    ({"teacher": {"extra_body": '{"top_p": NaN}'}}, "config.teacher.extra_body"),
    ({"teacher": {"extra_body": '{"top_p": 1e999}'}}, "config.teacher.extra_body"),
    ({"teacher": {"structured": "yes"}}, "config.teacher.structured"),
    ({"teacher": {"pool": ("main=1", "a=1")}}, "config.teacher.pool"),
    ({"teacher": {"pool": ("main",)}}, "config.teacher.pool"),
    ({"teacher": {"pool": ("main=0",)}}, "config.teacher.pool"),
    ({"teacher": {"pool": ("main=nan",)}}, "config.teacher.pool"),
    ({"teacher": {"pool": ("main=-1",)}}, "config.teacher.pool"),
    ({"teacher": {"pool": ("main=1", "main=2")}}, "config.teacher.pool"),
    ({"teacher": {"by_phase": ("feedback=a",)}}, "config.teacher.by_phase"),
    ({"teacher": {"by_phase": ("exam=main",)}}, "config.teacher.by_phase"),
    ({"teacher": {"by_phase": ("feedback",)}}, "config.teacher.by_phase"),
    (
      {"teachers": {"a": {"kind": "openai"}}, "teacher": {"by_phase": ("feedback=a",)}},
      "config.teachers.a.base_url",
    ),
    (
      {"teachers": {"a": {"kind": "replay"}}, "teacher": {"pool": ("a=1",)}},
      "config.teachers.a.replay.path",
    ),
    (
      {"teachers": {"a": {"kind": "student"}}, "teacher": {"pool": ("a=1",)}},
      "config.teachers.a.model",
    ),
    (
      {"teachers": {"a": {"kind": "student", "model": "."}}, "teacher": {"pool": ("a=1",)}},
      "config.feedback.kind",
    ),
    ({"teacher": {"kind": "replay", "structured": True}}, "config.teacher.structured"),
  ],
)
def test_invalid_settings_are_rejected_with_the_key(changes, named):
  with pytest.raises(errors.UserError) as caught:
    read_settings(changed(**changes))
  assert caught.value.code == errors.CONFIG
  assert named in str(caught.value) and "\n" not in str(caught.value)


def test_an_unused_teacher_need_not_be_available():
  read_settings(changed(teachers={"a": {"kind": "openai"}, "b": {"kind": "student"}}))


def test_further_teachers_are_as_mutable_as_the_teacher(tmp_path):
  config = changed(teachers=CHEAP)
  run = run_dir.RunDir(tmp_path)
  run.claim(config)
  (tmp_path / "round_00").mkdir()
  run.release()
  faster = {"cheap": CHEAP["cheap"] | {"max_concurrency": 3, "key_env": "K"}}
  run.claim(config | {"teachers": faster})
  run.release()
  with pytest.raises(errors.UserError, match=r"config\.teachers\.cheap\.model"):
    run.claim(config | {"teachers": {"cheap": CHEAP["cheap"] | {"model": "other"}}})


def test_teachers_that_ask_through_files_have_a_directory_each(tmp_path):
  offline = {"kind": "openai", "model": "large", "batch": "files"}
  others = {"other": {"max_tokens_field": "max_completion_tokens"}}
  pooled = {**offline, "pool": ("main=1", "other=1")}
  s = read_settings(changed(teachers=others, teacher=pooled))
  opened = teacher.open(Run(s, tmp_path))
  directories = {"main": tmp_path / "batches", "other": tmp_path / "batches" / "other"}
  for name, directory in directories.items():
    opened._weights_of = lambda phase, name=name: {name: 1.0}
    with pytest.raises(errors.UserError) as error:
      ask(opened, requests(2))
    assert error.value.code == errors.PREEMPTED and len(list(directory.glob("*.jsonl"))) == 1
  opened.close()


OPTIONS = {
  "seed": 0, "train": 60, "validation": 2, "test": 2, "out_of_domain": 2, "steps_min": 1,
  "steps_max": 3, "operand_max": 12, "families": 0, "distractors": 0.0, "ood_extra_steps": 1,
}  # fmt: skip


def test_replies_of_a_correct_and_an_erring_teacher_follow_the_assignment(tmp_path):
  given = {"pool": ("main=1", "wrong=1"), "builtin": {"error_rate": 0.0, "latency": 0.0}}
  s = read_settings(changed(teachers={"wrong": {"builtin": {"error_rate": 1.0}}}, teacher=given))
  task = tasks.get("arithmetic", **OPTIONS)
  problems: list[records.Problem] = task.problems("train")
  wanted = [
    types.Request("annotate", p.question, messages.annotate(p.question), 1) for p in problems
  ]
  opened = teacher.open(Run(s, tmp_path, task))
  right = [
    task.is_correct(task.read_answer(row[0].text, p), p)
    for p, row in zip(problems, ask(opened, wanted, phase="0_demonstrate"), strict=True)
  ]
  opened.close()
  chosen = [pool.choose({"main": 1.0, "wrong": 1.0}, s.seed, request) for request in wanted]
  assert right == [name == "main" for name in chosen] and 0 < sum(right) < len(right)
  assert opened.ledger is not None and (tmp_path / teacher.CACHE).exists()


def seconds(work) -> float:
  started = time.monotonic()
  work()
  return time.monotonic() - started


def two_slow(serve, tmp_path, run, servers, **options):
  cache = {"cache_path": str(tmp_path / f"{run}.sqlite"), "run": run}
  options = {**CLIENT_OPTIONS, "max_concurrency": 1, **cache, **options}
  return pool.Pool(
    lambda name: client.Client(base_url=servers[name].url, **options | {"model": name}),
    lambda phase: {"main": 1.0, "cheap": 1.0},
    seed=0,
    **cache,
  )


def test_teachers_are_asked_at_the_same_time(serve, tmp_path):
  """The first reply of each waits for a request to the other."""
  in_flight = []
  count = lambda: in_flight.append(sum(ask.in_flight for _, ask in interrupts._active))
  both_asked = threading.Barrier(2, count, timeout=20)
  first = {"main": True, "cheap": True}

  def answer(name, n):
    if first[name]:
      first[name] = False
      both_asked.wait()
    return ["x"] * n

  servers = {
    name: serve(answer=lambda m, n, t, s, name=name: answer(name, n)) for name in ("main", "cheap")
  }
  both = two_slow(serve, tmp_path, "both", servers)
  assert all(isinstance(reply, types.Reply) for (reply,) in ask(both, requests(12)))
  assert in_flight == [2]  # each teacher counts its own
  both.close()


@pytest.mark.heavy
def test_two_slow_teachers_take_as_long_as_one_takes_for_its_share(serve, tmp_path):
  """Each answers one request at a time, after 50 ms: bash launch/test.sh -m heavy -k two_slow."""
  servers = {name: serve(latency=0.05) for name in ("main", "cheap")}
  both = two_slow(serve, tmp_path, "both", servers)
  wall = seconds(lambda: ask(both, requests(100)))
  larger = max(server.stats.requests for server in servers.values())
  options = {**CLIENT_OPTIONS, "max_concurrency": 1, "cache_path": str(tmp_path / "one.sqlite")}
  one = client.Client(base_url=servers["main"].url, **options)
  share = seconds(lambda: ask(one, requests(larger)))
  one.close()
  both.close()
  assert wall < 1.2 * share


def test_an_error_of_one_teacher_stops_the_others_and_keeps_their_replies(serve, tmp_path):
  servers = {"main": serve(["401"] * 99), "cheap": serve(latency=0.02)}
  both = two_slow(serve, tmp_path, "error", servers)
  with pytest.raises(errors.UserError, match="HTTP 401"):
    ask(both, requests(400))
  sent = servers["cheap"].stats.requests
  assert sent < 100 and both.ledger.total().calls == sent
  both.close()


def test_a_teacher_that_waits_for_files_neither_stops_another_nor_hides_its_error():
  waits, done = types.ElsewhereError("elsewhere"), []

  def ask_one(name):
    if name == "files":
      raise waits
    time.sleep(0.2)
    done.append(name)
    if name == "broken":
      raise errors.teacher("the key is wrong")

  with pytest.raises(types.ElsewhereError):
    pool._at_once(ask_one, ["files", "main"])
  with pytest.raises(errors.UserError, match="the key is wrong"):
    pool._at_once(ask_one, ["files", "broken"])
  assert done == ["main", "broken"]


@pytest.mark.parametrize("order", [("online", "batch"), ("batch", "online")])
@pytest.mark.parametrize("field", ["max_dollars", "max_requests"])
def test_the_caps_apply_to_batches_and_ordinary_requests_together(serve, tmp_path, field, order):
  """One of the two begins only when the other has all its requests in flight."""
  path = tmp_path / "teacher.sqlite"
  server, begun = serve(latency=0.4), threading.Event()
  # At most 0.00105 dollars for an ordinary request, 0.0063 for the batch.
  cap = {"max_dollars": 0.0071, "max_requests": 14}[field]
  options = {**CLIENT_OPTIONS, "max_concurrency": 10, field: cap}
  teachers = {
    "online": client.Client(base_url=server.url, cache_path=str(path), **options),
    "batch": batched(server.url, path, **options | {"model": "b"}),
  }

  def ask_one(name):
    if name == order[1]:
      assert begun.wait(10)
    else:
      threading.Timer(0.2, begun.set).start()
    ask(teachers[name], requests(10 if name == "online" else 12))

  with pytest.raises(errors.UserError, match=field) as error:
    pool._at_once(ask_one, list(teachers))
  assert error.value.code == errors.BUDGET
  ledger = teachers["online"].ledger
  assert ledger.requests_sent() <= options["max_requests"]
  for each in teachers.values():
    each.close()


def test_a_batch_under_way_counts_against_the_cap_of_ordinary_requests(serve, connect, tmp_path):
  server = serve()
  other = batched(server.url, tmp_path / "teacher.sqlite", identity="another server")
  other.registry.make(store_cache.RunPhase("this run", 0, "s"), [], 0.9995)
  with pytest.raises(errors.UserError, match="reserved"):
    ask(connect(server.url, max_dollars=1.0), requests(2))
  assert server.stats.requests == 0
  other.close()
