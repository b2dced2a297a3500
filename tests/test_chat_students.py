"""A student with a chat template has one prompt in training, evaluation and export."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import transformers

from distill_jax import errors, records
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.console import Console
from distill_jax.data import tokenizer
from distill_jax.decoding import rollout, sampling
from distill_jax.machine import hf, hf_read, hf_write
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, export
from distill_jax.students import decoder
from distill_jax.students.families import layout, llama
from tests import compilations, test_rounds
from tests.machine import hf_material

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

# <pad> ends a text and <end> a turn, so the two cannot be confused.
TEMPLATE = (
  "{% for m in messages %}{{ '[' + m['role'] + ']\\n' + m['content'] + '<end>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}"
)
CHANGES = {
  "rounds": 0, "opening": ("demonstrate", "train"), "train__losses__triplet": 0.0,
  "rollout__buckets": (192,), "train__buckets": (256,), "student__system": "Be brief.",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """Returns the directory of a random model with a chat template."""
  root = tmp_path_factory.mktemp("model")
  words, out = root / "words", root / "model"
  tokenizer.train(
    ["Question: 12 + 3\nReasoning:\nAnswer: 15 user assistant"], vocab=300, path=words
  )
  file = words / hf.TOKENIZER_CONFIG
  settings = json.loads(file.read_text()) | {"eos_token": "<pad>", "chat_template": TEMPLATE}
  file.write_text(json.dumps(settings))
  config = hf_material.config(vocab=tokenizer.Tokenizer(words).vocab)
  hf_write.export(
    out, fields=llama.LLAMA.write(config), tensors=llama.LLAMA.tensors(config),
    to_theirs=layout.to_theirs, params=decoder.init(config, jax.random.key(3)),
    tokenizer=words, bos=None, eos=0, pad=0, positions=256, card="",
  )  # fmt: skip
  return out


def opened(model, path, **changes) -> context.RunContext:
  c = test_rounds.config(student__init=str(model), **changes)
  path.mkdir(exist_ok=True)
  return context.RunContext(read_settings(c), RunDir(path), Console(quiet=True))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
  """Returns a finished run, and the directory its student is exported to."""
  root = tmp_path_factory.mktemp("trained")
  changes = CHANGES | {"student__init": str(model)}
  test_rounds.run(root / "run", **changes)
  commands.export(
    read_settings(test_rounds.config(**changes)), workdir=str(root / "run"), round=0,
    out=str(root / "out"), dtype="float32", verify=False,
  )  # fmt: skip
  return root / "run", root / "out"


def ask(fast, messages) -> list[int]:
  """Returns the ids that transformers makes of a conversation."""
  dicts = [{"role": role, "content": text} for role, text in messages]
  return fast.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)


def test_examples_and_evaluation_have_the_prompt_of_the_template(model, trained):
  ctx = opened(model, trained[0], **CHANGES)
  fast = transformers.AutoTokenizer.from_pretrained(model)
  examples = ctx.run_dir.find(0, "train").rows("examples.jsonl", records.Example)
  for example in examples:
    question = ctx.task.render(ctx.problem(example.problem))
    assert example.prompt == (("user", question),) == ctx.prompt(ctx.problem(example.problem))
    ids = ask(fast, (("system", "Be brief."), ("user", question)))
    assert ctx.student.encode_prompt(example.prompt) == ids
  target = ctx.student.encode_target(examples[0].target)
  assert target[-1] == 1 == ctx.student.end  # <end>, though the tokenizer's end is <pad>
  assert ctx.student.decode(target) == examples[0].target
  assert set(ctx.student.end_tokens) == {0, 1}


def test_the_export_answers_in_the_chat_of_transformers_as_evaluated(model, trained):
  run_dir, out = trained
  ctx = opened(model, run_dir, **CHANGES)
  fast = transformers.AutoTokenizer.from_pretrained(out)
  problems = {p.id: p for p in ctx.task.problems("test")}
  attempts = ctx.run_dir.final("test").rows("attempts.jsonl", records.Attempt)
  prompts = [ask(fast, (("user", ctx.task.render(problems[a.problem])),)) for a in attempts]
  fields, generation, _ = hf.describe(out)
  config, s = llama.LLAMA.read(fields), ctx.settings
  shapes = jax.eval_shape(functools.partial(decoder.init, config), jax.random.key(0))
  like = jax.tree.map(
    lambda x, y: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=y.sharding),
    shapes, ctx.student.abstract_params,
  )  # fmt: skip
  params = hf_read.load(
    out, llama.LLAMA.tensors(config), spare=llama.LLAMA.spare(config), prefix="model.", like=like
  )
  parts = ctx.student.mesh.shape["data"] * ctx.student.mesh.shape["fsdp"]
  with jax.set_mesh(ctx.student.mesh):
    rows = rollout.Rollout(
      config, params, sampling.sampling(0.0),
      sizes=rollout.sizes(s.rollout.batch, s.rollout.refill, 1, parts),
      bucket=192, max_new_tokens=12, eos=tuple(generation["eos_token_id"]), pad=0,
    )  # fmt: skip
    sampled = rollout.sample(rows, prompts, [np.zeros((1, 2), np.uint32)] * len(prompts))
  for n, attempt in enumerate(attempts):
    tokens = sampled.tokens[n, : sampled.lengths[n]]
    text = fast.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text.split("\n\n")[0].strip() == attempt.text
  assert any(attempt.text for attempt in attempts)


@pytest.mark.parametrize(
  "changes", [{}, {"cot__shots": 1}, {"format": "instruct", "exam__styles": ("cot",)}]
)
def test_a_plain_student_is_exported_with_a_template_of_its_prompt(model, changes, tmp_path):
  ctx = opened(model, tmp_path, student__prompt="plain", **changes)
  fast = transformers.AutoTokenizer.from_pretrained(model)
  fast.chat_template = export.prompt_template(ctx, "student")
  for problem in ctx.task.problems("test"):
    ids = ask(fast, (("system", "Hello."), ("user", ctx.task.render(problem))))
    assert ids == ctx.student.encode_prompt(ctx.prompt(problem))
  fast.save_pretrained(tmp_path / "words")
  assert tokenizer.Tokenizer(tmp_path / "words").chat_template == ""  # plain again


def test_a_solver_is_asked_with_question_and_sub_question(model, tmp_path):
  for kind in ("plain", "chat"):
    changes = {"format": "socratic", "each_round": ("train",), "train__losses__triplet": 0.0}
    ctx = opened(model, tmp_path / kind, student__prompt=kind, **changes)
    fast = transformers.AutoTokenizer.from_pretrained(model)
    fast.chat_template = export.prompt_template(ctx, "solver")
    ids = ask(fast, (("user", "How many?\nSub-question: How many apples?"),))
    prompt = export.first_prompt(ctx, "solver", "How many?", "How many apples?")
    assert ids == ctx.student.encode_prompt(prompt)


@pytest.mark.parametrize(
  "changes, field",
  [({"student__prompt": "chat"}, "student.prompt"), ({"student__system": "Hi"}, "student.system")],
)
def test_a_chat_needs_a_template(model, changes, field, tmp_path):
  plain = shutil.copytree(model, tmp_path / "model")
  edited = json.loads((plain / hf.TOKENIZER_CONFIG).read_text())
  del edited["chat_template"]
  (plain / hf.TOKENIZER_CONFIG).write_text(json.dumps(edited))
  with pytest.raises(errors.UserError, match=f"{field}.*no chat template"):
    test_rounds.run(tmp_path / "run", student__init=str(plain), **changes)
  assert not list((tmp_path / "run").glob("round_*"))
