"""Assembles the page: one file without network access, under a strict Content-Security-Policy."""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Sequence

from distill_jax import summary
from distill_jax.report import layout, lineage, sections
from distill_jax.report.load import Run
from distill_jax.report.nodes import Child, Html, tag

SPLITS = ("train", "validation", *summary.FINALS)
FILTERS = {
  "gained": "wrong → right",
  "lost": "right → wrong",
  "never": "always wrong",
  "wrong": "wrong",
  "right": "right",
  "cut": "cut",
  "unread": "unreadable answer",
  "all": "all",
}


def of_run(run: Run, others: Sequence[Run] = (), *, max_bytes: int = lineage.MAX_BYTES) -> str:
  """Returns the report of a run as HTML.

  Args:
    run: The run.
    others: Runs to compare it with.
    max_bytes: Limit of the texts in the page; beyond it, it has fewer questions and says so.
  """
  lead = (
    f"recipe {run.setting('recipe')}; task {run.setting('task.name')}; teacher {run.teacher}; "
    f"seed {run.setting('seed')}; {sections.state(run)}"
  )
  packed = lineage.pack(run, max_bytes=max_bytes)
  content = [*sections.first_page(run, others), browser(packed)]
  return assemble(f"Run {run.name}", lead, content, with_script=packed.kept > 0)


def assemble(title: str, lead: str, content: Sequence[Child], *, with_script: bool) -> str:
  """Returns a page. Style and script are inline and allowed by their hashes only."""
  style = _asset("page.css")
  script = _asset("browser.js") if with_script else ""
  allowed = [
    "default-src 'none'",
    f"style-src '{digest(style)}'",
    f"script-src '{digest(script)}'" if script else "script-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
  ]
  head = tag(
    "head",
    tag("meta", charset="utf-8"),
    tag("meta", http_equiv="Content-Security-Policy", content="; ".join(allowed)),
    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
    tag("meta", name="referrer", content="no-referrer"),
    tag("title", title),
    tag("style", Html(style)),
  )
  header = tag("header", tag("h1", title), tag("p", lead, class_="lead"))
  main = tag("main", header, *content)
  body = tag("body", main, tag("script", Html(script)) if script else None)
  return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def digest(source: str) -> str:
  """Returns the source of an inline style or script as a Content-Security-Policy names it."""
  return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def _asset(name: str) -> str:
  return importlib.resources.files("distill_jax.report").joinpath(name).read_text("utf-8")


def browser(packed: lineage.Packed) -> Html:
  """Returns the browser of questions; nothing if there are none."""
  if not packed.kept:
    return Html("")
  names = [
    name.replace("_", " ") if index < 0 else f"round {index} {name}"
    for name, index in packed.places
  ]
  left_out = None
  if packed.kept < packed.total:
    text = (
      f"{packed.total - packed.kept:,} of {packed.total:,} questions are left out to keep this "
      "page small; it has those that were right in one round and wrong in another. The run "
      "directory has all."
    )
    left_out = tag("p", text, class_="note")
  controls = tag(
    "div",
    _select("filter", "outcome", FILTERS),
    _select("place", "in", {"-1": "any round", **{str(n): name for n, name in enumerate(names)}}),
    _select("split", "split", {"": "all", **{name: name.replace("_", " ") for name in SPLITS}}),
    tag("label", "search texts", tag("input", id="search", type="search", autocomplete="off")),
    id="controls",
    class_="controls",
    hidden=True,
  )
  pages = tag(
    "div",
    tag("button", "previous", id="before", type="button", disabled=True),
    tag("button", "next", id="after", type="button", disabled=True),
    tag("span", "reading …", id="status", role="status"),
    class_="pages",
  )
  data = [_blob("index", packed.index)]
  data += [_blob(f"part-{n}", part) for n, part in enumerate(packed.parts)]
  listed = json.dumps(names).replace("<", "\\u003c")
  data.append(
    tag("script", Html(listed), type="application/json", id="places", data_part=lineage.PART)
  )
  note = (
    "A question counts as right in an exam if at least half of its attempts are right. A change is "
    "between a round and the next one in which the question was asked."
  )
  return layout.section(
    "Questions over the rounds", tag("p", note, class_="note"), left_out, controls,
    tag("div", id="list"), pages,
    tag("noscript", tag("p", "The texts need JavaScript; everything above does not.")),
    *data, name="mistakes",
  )  # fmt: skip


def _select(name: str, label: str, options: dict[str, str]) -> Html:
  chosen = [tag("option", text, value=value) for value, text in options.items()]
  return tag("label", label, tag("select", *chosen, id=name))


def _blob(name: str, content: str) -> Html:
  """Returns data of the page; base64 cannot end the element."""
  return tag("script", Html(content), type="application/octet-stream", id=name)
