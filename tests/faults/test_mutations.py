"""Mutation tests: code is broken on purpose, and the tests must fail.

bash launch/test.sh -m heavy tests/faults/test_mutations.py
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Name: file, text to replace, replacement, and the tests that must fail.
MUTATIONS = {
  "completions of an unfinished exam are not stored": (
    "runtime/journal.py", "if now - self._saved_at >= STORE_SECONDS:", "if False:",
    "tests/runtime/test_journal.py",
  ),
  "a stored completion is computed again": (
    "runtime/student.py", "watcher.known(name) for n", "None for n",
    "tests/runtime/test_student.py",
  ),
  "few questions cost a whole batch on a CPU": (
    "runtime/student.py", "(CPU_ROWS if on_cpu else ROWS)", "ROWS",
    "tests/runtime/test_student.py",
  ),
  "the length of answers ignores the gold rationales": (
    "runtime/lengths.py", "max([LEAST_NEW, *found.gold])", "LEAST_NEW",
    "tests/runtime/test_lengths.py",
  ),
  "a step that cannot fit is run": (
    "runtime/memory.py", "if room and needed > room:", "if False:", "tests/runtime/test_memory.py",
  ),
  "a draw ignores the blocks before its own": (
    "decoding/sampling.py", "above_RB = before_R1 + jnp.cumsum", "above_RB = jnp.cumsum",
    "tests/decoding/test_sampling.py",
  ),
  "special tokens in a message are parsed": (
    "data/chat.py", "self._tokenizer.mask_special(content)", "content", "tests/data/test_chat.py",
  ),
  "a reply ends in the end of a text instead of the end of its turn": (
    "data/chat.py", "self._tokenizer.first_special(tail) or", "None or", "tests/data/test_chat.py",
  ),
  "an export forgets the system message": (
    "data/prompt_template.py", "  if system:\n", "  if False:\n", "tests/data/test_chat.py",
  ),
  "a second copy of a tied tensor is not compared": (
    "machine/hf_read.py", "if not np.array_equal(block", "if False and not np.array_equal(block",
    "tests/runtime/test_base_model.py",
  ),
  "a token that the model lacks is given by a text": (
    "data/tokenizer.py", "if reached := copied.beyond(max_vocab):",
    "if reached := {}:", "tests/data/test_tokenizer.py",
  ),
  "an attempt that was cut off is read by its last number": (
    "phases/exam.py", 'whole = transcript.finish == "stop"', "whole = True",
    "tests/phases/test_cut.py",
  ),
  "cut attempts are sent as mistakes": (
    "phases/feedback.py", 'and (cut or attempt.finish == "stop")', "", "tests/phases/test_cut.py",
  ),
  "a pretrained student is cut at a blank line": (
    "formats/__init__.py", 'if init == "scratch" else None', "", "tests/formats/test_cot.py",
  ),
  "a lone closing mark ends no thinking": (
    "thinking.py", "thoughts += [*answer, part]", "answer.append(part)",
    "tests/teacher/test_reply.py",
  ),
  "thinking in a field is dropped": (
    "teacher/reply.py", "thought = thinking.join([*fields, *thoughts])",
    "thought = thinking.join(thoughts)", "tests/teacher/test_reply.py",
  ),
  "a reply that is all thinking counts as a reply": (
    "teacher/client/verdicts.py", "elif not reply.separate(raw.text).text.strip():",
    "elif not raw.text.strip():", "tests/teacher/test_reply.py",
  ),
  "thinking is trained on although it is dropped": (
    "formats/__init__.py", 'if settings.teacher.thinking == "keep" and', "if",
    "tests/formats/test_thinking.py",
  ),
  "the first object of a structured reply counts": (
    "teacher/prompts/schema.py", "return found[-1] if found", "return found[0] if found",
    "tests/teacher/prompts/test_structured.py",
  ),
  "a run of unknown price starts": (
    "config/rules_teacher.py", "if presets.unpriced(teacher):", "if False:",
    "tests/teacher/test_presets.py",
  ),
  "a preset replaces what is set": (
    "teacher/presets.py", "if teacher.max_tokens_field == AUTO:", "if True:",
    "tests/teacher/test_presets.py",
  ),
  "the teachers of a pool are asked one after another": (
    "teacher/pool.py", "      thread.start()\n", "      thread.start()\n      thread.join()\n",
    "tests/teacher/test_pool.py",
  ),
  "a secret header is not redacted": (
    "teacher/client/headers.py", "secrets.append(value)", "pass",
    "tests/teacher/client/test_headers.py",
  ),
  "a check of an unreadable reply ends with 0": (
    "cli/teacher_check.py", "return 0 if all(readable) else errors.TEACHER", "return 0",
    "tests/cli/test_teacher_check.py",
  ),
  "a denied answer is read": (
    "tasks/statements.py", 'or _NEGATED.match(tail)', "", "tests/tasks/test_reading.py",
  ),
  "a training question of the test split is kept": (
    "tasks/held_out.py", "train = [p for p in train if _key(p) not in held]", "pass",
    "tests/tasks/test_own.py",
  ),
  "a text becomes markup of a report": (
    "report/nodes.py", "html.escape(visible(str(value)))", "str(value)",
    "tests/report/test_report.py",
  ),
  "a report shows characters that change the direction of text": (
    "report/nodes.py", "and unicodedata.category(c) in HIDDEN", "and False",
    "tests/report/test_report.py",
  ),
  "attempts at the limit of cut ones raise no alarm": (
    "report/alarms.py", "h.cut >= results.CUT_ALARM", "h.cut > results.CUT_ALARM",
    "tests/report/test_report.py",
  ),
  "a fall of the accuracy raises no alarm": (
    "report/alarms.py", "change.high >= 0", "change.low >= -1", "tests/report/test_report.py",
  ),
  "an export offers to resume": (
    "cli/main.py", 'if words[0] in ("run", "ablate") else ""', 'if words else ""',
    "tests/cli/test_args.py",
  ),
  "a report keeps other questions than the flips": (
    "report/lineage.py", "if is_flip(history.outcome(q))", "", "tests/report/test_report.py",
  ),
  "an exported data set mixes thinking into the answer": (
    "data/chat_rows.py", '"content": clean(source.text)}\n  return message',
    '"content": clean(source.thinking + source.text)}\n  return message',
    "tests/cli/test_data_export.py",
  ),
  "the server takes every key": (
    "serving/http.py", "if self._key and not", "if False and not",
    "tests/test_serving_http.py",
  ),
  "a client that does not read holds its connection": (
    "serving/http.py", "async with asyncio.timeout(SEND)", "async with asyncio.timeout(None)",
    "tests/test_serving_http.py",
  ),
  "a request waits until the batch has ended": (
    "serving/batching.py", "running.waiting + running.running < 2 * student.rows",
    "not (rows and running.running)", "tests/test_serving.py",
  ),
  "younger requests keep a group waiting": (
    "serving/batching.py", "          break\n", "          continue\n", "tests/test_serving.py",
  ),
  "the server answers web pages": (
    "serving/http.py", '{HOST, "localhost", "[::1]", ""}', "{host, origin}",
    "tests/test_serving_http.py",
  ),
  "a tracker is sent a row twice": (
    "runtime/tracking.py", "or step <= self._sent.get(prefix, -1)", "",
    "tests/runtime/test_tracking.py",
  ),
  "show calls wrong attempts right": (
    "cli/show.py", "return row.correct\n", "return not row.correct\n", "tests/cli/test_show.py",
  ),
  "show takes whole attempts for cut ones": (
    "cli/show.py", 'return row.finish != "stop"', 'return row.finish == "stop"',
    "tests/cli/test_show.py",
  ),
  "a torn last line is read": (
    "run_dir/questions.py", 'content.split(b"\\n")[:-1]', 'content.split(b"\\n")',
    "tests/cli/test_show.py",
  ),
  "a task is tested twice": (
    "config/rules.py", "if also.name and also.name in", "if not also.name and also.name in",
    "tests/config/test_settings.py",
  ),
  "prompts of a further task are cut": (
    "runtime/lengths.py", "if max(found.also, default=0) > rollout[-1]:", "if False:",
    "tests/runtime/test_lengths.py",
  ),
  "control characters reach the terminal": (
    "console.py", "not _unprintable(c)", "True", "tests/test_console.py",
  ),
  "a round's line is wider than 80 columns": (
    "round_text.py", "WIDTH = 80", "WIDTH = 120", "tests/test_console.py",
  ),
  "compiled decode programs are announced again": (
    "runtime/student.py", "_CALLED.add(compiled_for)", "pass", "tests/runtime/test_compiling.py",
  ),
  "a compiled train step is announced again": (
    "runtime/fit.py", "if shapes not in train_step.compiled:", "if True:",
    "tests/runtime/test_compiling.py",
  ),
  "the triplet's sign is flipped": (
    "learning/losses.py", "margin - gap_B", "margin + gap_B", "tests/learning/test_losses.py",
  ),
  "each micro-batch is divided by its own count": (
    "learning/step.py", "means = {term: total / counts[term]",
    "own = objective.counts(part)\n      means = {term: total / jnp.maximum(own[term], 1.0)",
    "tests/learning/test_step.py",
  ),
  "micro-batches are split along the devices": (
    "learning/step.py", "x.reshape(-1, grad_accum_steps, *x.shape[1:]).swapaxes(0, 1)",
    "x.reshape(grad_accum_steps, -1, *x.shape[1:])", "tests/learning/test_step.py",
  ),
  "targets start one token too early": (
    "data/encode.py", "last = len(root.tokens) - 1\n", "last = len(root.tokens) - 2\n",
    "tests/data/test_encode.py",
  ),
  "branches of a row see each other": (
    "students/token_rows.py", "seen |= rows.roots[:, :, None] == segments[:, None, :]",
    "seen |= rows.roots[:, :, None] == rows.roots[:, None, :]", "tests/students/test_decoder.py",
  ),
  "a sharding rule is removed": (
    "students/sharding.py", '  "mlp": "tensor",\n', "", "tests/students/test_sharding.py",
  ),
  "XLA may rearrange a weight for every token": (
    "students/few_rows.py", "jax.lax.optimization_barrier(weight.matrix @ x_RI.T)",
    "weight.matrix @ x_RI.T", "tests/students/test_few_rows.py",
  ),
  "XLA may transpose the keys for every token": (
    "students/attention.py", "jax.lax.optimization_barrier(scores)", "scores",
    "tests/students/test_few_rows.py",
  ),
  "the weights are taken apart in every call": (
    "decoding/decode_loop.py", 'if sharding.platform() == "cpu" else None)',
    'if sharding.platform() == "tpu" else None)', "tests/decoding/test_rollout.py",
  ),
  "weights get few bits without the package for them": (
    "runtime/base_model.py", "if value and importlib", "if False and importlib",
    "tests/runtime/test_few_bits.py",
  ),
  "all rows sample with the same random numbers": (
    "decoding/decode_loop.py", "(state.keys, samples.lengths)",
    "(state.keys[:1].repeat(len(state.keys), 0), samples.lengths)",
    "tests/decoding/test_rollout.py",
  ),
  "every step samples with the same random numbers": (
    "decoding/decode_loop.py", "jax.random.wrap_key_data(key_2), index)",
    "jax.random.wrap_key_data(key_2), 0 * index)", "tests/decoding/test_rollout.py",
  ),
  "a row's random numbers depend on the iteration of its batch": (
    "decoding/decode_loop.py", "(state.keys, samples.lengths)",
    "(state.keys, 0 * samples.lengths + state.iteration)", "tests/decoding/test_rollout.py",
  ),
  "a prompt is placed one column too far": (
    "decoding/decode_loop.py", "filled=take(state.filled, filled_P)",
    "filled=take(state.filled, filled_P + 1)", "tests/decoding/test_rollout.py",
  ),
  "a row that has ended is sampled further": (
    "decoding/decode_loop.py", "running_R & ~samples.ended &", "running_R &",
    "tests/decoding/test_rollout.py",
  ),
  "a batch loses rows as it shrinks": (
    "data/batch_size.py", "if not count <= half < rows:", "if half >= rows:",
    "tests/data/test_batch_size.py",
  ),
  "long rows are as many as short ones in a batch of tokens": (
    "data/row_order.py", "questions, size.complete(b))", "questions, size.complete(min(buckets)))",
    "tests/data/test_row_order.py",
  ),
  "a question may occur twice in a batch": (
    "data/row_order.py", "if questions[row] in seen:", "if False:", "tests/data/test_row_order.py",
  ),
  "the examples of a packed row share segments": (
    "data/pack.py", "above + max(row.segments)", "above", "tests/learning/test_packing.py",
  ),
  "the reference log-probabilities of a pair are ignored": (
    "learning/objectives.py", "gain = side.logp - side.reference if has_reference else side.logp",
    "gain = side.logp", "tests/learning/test_objectives.py",
  ),
  "a phase is finished before its work is on disk": (
    "run_dir/phase_dir.py", "    os.replace(part, path)\n", "    pass\n",
    "tests/run_dir/test_run_dir.py",
  ),
  "a changed byte in a finished phase is not noticed": (
    "run_dir/phase_dir.py", "return self._check(hashes=True)", "return self._check(hashes=False)",
    "tests/faults/test_flips.py",
  ),
  "a changed file is not hashed again": (
    "run_dir/digests.py", "stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns", "0, 0, 0",
    "tests/faults/test_flips.py",
  ),
  "a manifest is believed without its digest": (
    "run_dir/digests.py", "return manifest if intact else None", "return manifest",
    "tests/faults/test_flips.py",
  ),
  "a changed row of the teacher cache is used": (
    "teacher/store/cache_file.py", "if row := seals.damage(self._db):", 'if row := "":',
    "tests/teacher/store/test_seals.py",
  ),
  "a changed reference score is used": (
    "machine/scores.py", "if digest != _digest(key, chosen, rejected):", "if False:",
    "tests/machine/test_scores.py",
  ),
  "a reply is not stored": (
    "teacher/store/cache.py", '    self._sealed["replies"].insert(replies)\n', "",
    "tests/teacher/client/test_client.py",
  ),
  "a rationale with a wrong answer is kept": (
    "runtime/rationales.py", "if not ctx.task.is_correct(answer, dataclasses.replace(",
    "if False and (answer, dataclasses.replace(", "tests/test_rounds.py",
  ),
  "a truncated answer may be chosen": (
    "data/pairing.py", 'if a.correct and a.finish == "stop"]', "if a.correct]",
    "tests/data/test_pairing.py",
  ),
  "the reference point of KTO has a gradient": (
    "learning/losses.py", "return jax.lax.stop_gradient((jnp.maximum(mean(rejected), 0.0),"
    " jnp.maximum(mean(chosen), 0.0)))", "return jnp.maximum(mean(rejected), 0.0),"
    " jnp.maximum(mean(chosen), 0.0)", "tests/learning/test_preference_losses.py",
  ),
  "the analysis of an option sees the other analyses": (
    "formats/staged.py", """[("recall", known["recall"])] if "recall" in known else []
      shown""", "list(known.items())\n      shown", "tests/formats/test_staged.py",
  ),
  "an unreadable answer has a vote": (
    "phases/evaluate.py", "for a in answers if a is not None)", "for a in answers)",
    "tests/runtime/test_rationales.py",
  ),
  "each rejection of a burst reduces the limit": (
    "teacher/client/rate_limit.py",
    "same_episode = sent_at < self._cut_at or self._consecutive > 0", "same_episode = False",
    "tests/teacher/client/test_rate_limit.py",
  ),
  "only the rejected request waits for Retry-After": (
    "teacher/client/rate_limit.py", "    self.pause(pause, now)\n", "",
    "tests/teacher/client/test_rate_limit.py",
  ),
  "the dollar limit is checked only once it is exceeded": (
    "teacher/store/ledger.py", "if self.spent + need > self._max_dollars:",
    "if self.spent > self._max_dollars:", "tests/teacher/store/test_ledger.py",
  ),
  "a request that timed out costs nothing": (
    "teacher/client/request_jobs.py", "return Cost(0.0, reserved, verdict.reason)",
    'return Cost(0.0, 0.0, "")', "tests/teacher/client/test_spend.py",
  ),
  "a request in flight at a kill costs nothing": (
    "teacher/client/dispatcher.py", "      await self._writer.reserve(request, retry)\n", "",
    "tests/teacher/client/test_spend.py",
  ),
  "any finish reason is an end": (
    "teacher/finish.py", 'removeprefix("finish_reason_"), "cut")', 'strip(), "whole")',
    "tests/teacher/client/test_stops.py",
  ),
  "a timeout does not lengthen the next": (
    "teacher/client/patience.py", "min(2 * self.seconds, self._longest)", "self.seconds",
    "tests/teacher/client/test_slow_servers.py",
  ),
  "a refused feature is sent again": (
    "teacher/client/features.py", "    self._known[name] = value\n", "",
    "tests/teacher/client/test_features.py",
  ),
  "a request has another idempotency key after a kill": (
    "teacher/client/request_jobs.py", "parts = (*keys,",
    "parts = (__import__('time').time(), *keys,",
    "tests/teacher/client/test_kill_client.py",
  ),
  "a rejected request is retried with its old idempotency key": (
    "teacher/client/client.py", "        job.failures += failed[key]\n", "",
    "tests/teacher/client/test_kill_client.py",
  ),
  "a reply is returned before it is on disk": (
    "teacher/store/writer.py", "    await written\n", "", "tests/teacher/client/test_client.py",
  ),
  "an error message repeats the API key": (
    "teacher/client/credentials.py", '      text = text.replace(spelling, "[key]")', "        pass",
    "tests/teacher/client/test_secrets.py",
  ),
  "a batch with a lost id is not searched for": (
    "teacher/batch/ask.py", "      if batch.tried:\n", "      if False:\n",
    "tests/teacher/batch/test_batch_kills.py",
  ),
  "requests answered by another run's batch are submitted again": (
    "teacher/batch/ask.py",
    "    self._take_stored([key for key in self._missing if key not in claimed])\n", "",
    "tests/teacher/batch/test_batch_api.py",
  ),
  "a file system whose locks have no effect is accepted": (
    "run_dir/trial.py",
    'return "locks have no effect: two processes could write to one run directory"', 'return ""',
    "tests/run_dir/test_trial.py",
  ),
  "a run of a sweep is started as one process of many": (
    "ablations/children.py", " if name not in MANY_HOSTS}", "}", "tests/test_ablations.py",
  ),
  "jax sees that process 0 is gone": (
    "machine/processes.py", "    address = relay.start(", "    _ = relay.start(",
    "tests/multiprocess/test_ends.py",
  ),
  "an interrupted process does not tell those that wait with it": (
    "machine/meeting.py", "    _stop(here, 0)\n", "", "tests/multiprocess/test_meeting.py",
  ),
  "restarts that get nowhere never end": (
    "cli/restarts.py", "if lost < tries and interrupted < INTERRUPTED * tries:", "if True:",
    "tests/cli/test_restarts.py",
  ),
  "a run that goes on after an error is shown as stopped": (
    "ablations/status.py", "if log.stat().st_mtime >= written else", "if True else",
    "tests/test_ablations.py",
  ),
  "an interruption in the last steps of a training is forgotten": (
    "runtime/fit.py", "  if stopped:\n    raise KeyboardInterrupt\n", "",
    "tests/phases/test_train.py",
  ),
  "the first task grades the questions of another": (
    "phases/exam.py", "grade(task, item", "grade(ctx.task, item",
    "tests/phases/test_grading.py",
  ),
  "Ctrl-C reaches the runs of a sweep twice": (
    "ablations/children.py", "start_new_session=True", "start_new_session=False",
    "tests/test_ablations.py",
  ),
  "corrections repeat the demonstrations": (
    "teacher/replay.py", "offset += self._demonstrations + run_phase.round - 1",
    "offset += run_phase.round", "tests/teacher/test_replay.py",
  ),
  "a 429 raises a rate below one request per second": (
    "teacher/client/rate_limit.py", "max(MIN_RATE, min(", "max(1.0, min(",
    "tests/teacher/client/test_rate_limit.py",
  ),
  "batches do not count against the caps of a pool": (
    "teacher/batch/ask.py", "self._budget.hold(sum(row.dollars for row in rows), len(rows))",
    "pass", "tests/teacher/test_pool.py",
  ),
  "an unreachable host lengthens the wait for responses": (
    "teacher/client/patience.py", "if deadline.expired() and ", "if ",
    "tests/teacher/client/test_slow_servers.py",
  ),
  "the minimum reply rate is ignored": (
    "teacher/reply_rate.py", "if share >= min_rate:", "if True:",
    "tests/teacher/store/test_ledger.py",
  ),
  "a request whose reply was not stored is settled": (
    "teacher/store/writer.py", "answers = {}  # their requests", "pass  # their requests",
    "tests/teacher/store/test_writer.py",
  ),
  "failed lines of a batch stand for missing results": (
    "teacher/batch/ask.py", "if len(reader.completed) <", "if len(reader.lines_read) <",
    "tests/teacher/batch/test_batch_complete.py",
  ),
  "batches lack the extra headers": (
    "teacher/client/sessions.py", "made._custom_headers = dict(headers)",
    "made._custom_headers = {}", "tests/teacher/batch/test_batch_complete.py",
  ),
  "an aborted choice discards the others": (
    "teacher/client/verdicts.py", "  if not valid:\n", "  if len(valid) < len(parsed):\n",
    "tests/teacher/client/test_vendors.py",
  ),
  "an empty thought is learned before each thought": (
    "data/chat.py", "lead = lead.partition(THINK)[0]", "pass", "tests/data/test_chat.py",
  ),
  "a thought that the prompt opens is read as an answer": (
    "data/chat.py", 'else f"{THINK}\\n{text}"', "else text", "tests/data/test_chat.py",
  ),
  "an evaluation is graded by the task of the round": (
    "phases/evaluate.py", "task=ctx.task,", "task=ctx.round_task(round_index),",
    "tests/phases/test_exam.py",
  ),
  "a finished stage removes the journal of the next": (
    "runtime/journal.py", "    if error is not None:\n", "    _unlink(self._out)\n    if error:\n",
    "tests/phases/test_exam.py",
  ),
  "trackers of process 0 write to the other processes": (
    "runtime/tracking.py", "phase_dir.write_json(self._run_dir.path / STATE, ",
    "self._run_dir.write_json(STATE, ", "tests/multiprocess/test_together.py",
  ),
  "positions of options are read as their labels": (
    "tasks/own.py", 'by_position = any(answer == "0" for answer, _ in numbered)',
    "by_position = False", "tests/tasks/test_own.py",
  ),
  "another cache takes the place of that of the run": (
    "teacher/store/marker.py", 'stored["salt"] != marker["salt"]', "False",
    "tests/teacher/store/test_marker.py",
  ),
}  # fmt: skip


def outcome(tmp_path, tests: str, change=None) -> subprocess.CompletedProcess:
  """Runs tests on a copy of the repository with the change (file, old, new)."""
  for part in ("distill_jax", "configs", "tests", "benchmarks", "launch"):
    shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
  for extra in ("pyproject.toml", "requirements.txt", "README.md"):
    shutil.copy(ROOT / extra, tmp_path)
  if change:
    file, old, new = change
    target = tmp_path / "distill_jax" / file
    target.write_text(target.read_text().replace(old, new))
  command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", tests]
  env = {**os.environ, "PYTHONPATH": str(tmp_path)}
  return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_text_to_replace_exists(name):
  file, old, *_, tests = MUTATIONS[name]
  assert old in (ROOT / "distill_jax" / file).read_text() and (ROOT / tests).exists()


@pytest.mark.heavy
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_mutation_is_detected(name, tmp_path):
  *change, tests = MUTATIONS[name]
  done = outcome(tmp_path, tests, change)
  assert done.returncode == 1, done.stdout[-2000:]


@pytest.mark.heavy
@pytest.mark.parametrize("tests", sorted({m[-1] for m in MUTATIONS.values()}))
def test_an_unchanged_copy_passes(tests, tmp_path):
  done = outcome(tmp_path, tests)
  assert done.returncode == 0, done.stdout[-2000:]
