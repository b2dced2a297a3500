"""Tellings: the facts that decide a question, worded as chains of thought, stages or sub-questions.

A style is a table from links (see queries.py) to words. grading.py reads the same table backwards
to find what a text claims, so every text made here can be graded.
"""

import dataclasses
from collections.abc import Iterable

from distill_jax.worlds import lore, queries


@dataclasses.dataclass(frozen=True)
class Style:
  """One way to word links.

  Attributes:
    phrases: Phrase of each kind of link, with {0}, {1}, ... for its words.
    join: Text between the phrases of a line.
    yes: Verdict on what fits.
    no: Verdict on what does not fit.
  """

  phrases: dict[str, str]
  join: str
  yes: str
  no: str

  def line(self, links: Iterable[queries.Link]) -> str:
    """The links as one sentence."""
    return self.join.join(self.phrase(link) for link in links) + "."

  def phrase(self, link: queries.Link) -> str:
    """One link as a phrase."""
    name, *words = link
    if name == "fit":
      return f"{words[0]} {self.yes if words[1] else self.no}"
    return self.phrases[name].format(*words)


# The chain of an option begins with the option, worded as in the question.
STYLES = (
  Style(
    {
      "can": "{1} if {0}", "is": "{0} is a {1}", "like": "a {0} is {1} and {2}",
      "who": "a {1} and a {2} are {0}", "but": "but {0} is {1} and {2}",
      "eats": "{0} has food {1}", "members": "a {0} is {1}",
    },
    ", ", "fits", "fails",
  ),
  Style(
    {
      "can": "{1} takes being {0}", "is": "{0} is of group {1}", "like": "group {0} is {1} and {2}",
      "who": "group {1} and group {2} are {0}", "but": "yet {0} is {1} and {2}",
      "eats": "{0} eats {1}", "members": "group {0} is {1}",
    },
    "; ", "right", "wrong",
  ),
  Style(
    {
      "can": "{1} when {0}", "is": "{0} counts as a {1}", "like": "each {0} is both {1} and {2}",
      "who": "each {1} and each {2} is {0}", "but": "only {0} is both {1} and {2}",
      "eats": "{0} has as food {1}", "members": "each {0} is {1}",
    },
    ", ", "applies", "differs",
  ),
  Style(
    {
      "can": "{1}: {0}", "is": "{0}: a {1}", "like": "{0}: {1}, {2}", "who": "{0}: {1}, {2}",
      "but": "but {0}: {1}, {2}", "eats": "{0}: food {1}", "members": "{0}: {1}",
    },
    ", ", "yes", "no",
  ),
)  # fmt: skip


def told(known: lore.Lore, query: queries.Query, style: Style) -> str:
  """A chain of thought: what the options share, a line per option, and the answer."""
  lines = [style.line(queries.opening(known, query))]
  lines += [f"({label}) {text}" for label, text in judged(known, query, style)]
  return "\n".join([*lines, f"Answer: {queries.answer(known, query)}"])


def judged(known: lore.Lore, query: queries.Query, style: Style) -> tuple[tuple[str, str], ...]:
  """(label, why it fits or not, ending in the verdict) of each option."""
  return tuple(
    (label, style.line(queries.chain(known, query, option)))
    for label, option in zip(queries.LABELS, query.options, strict=False)
  )


def recalled(known: lore.Lore, query: queries.Query, style: Style) -> str:
  """Key information: the facts about the subject of the question, whatever the options are."""
  if query.form.name == "member":
    members = [kind for kind in known.kinds if known.group[kind] == query.subject]
    links = [("members", query.subject, listed(members, "or")), *queries.opening(known, query)]
    return style.line(links)
  return style.line(queries.opening(known, query))


def decomposed(known: lore.Lore, query: queries.Query, style: Style) -> tuple[tuple[str, str], ...]:
  """(sub-question, solution) pairs: what the options share, each option, and the conclusion."""
  shared = [link for link in queries.opening(known, query) if link[0] != "fit"]
  odd = [link for link in shared if link[0] == "but"]  # belongs to what the group is like
  pairs = [
    (_question_for(link), style.line([link, *(odd if link[0] == "like" else ())]))
    for link in shared
    if link not in odd
  ]
  for option, (_, text) in zip(query.options, judged(known, query, style), strict=True):
    pairs.append((_option_question(known, query, option), text))
  label = queries.answer(known, query)
  text = dict(query.choices)[label]
  return (*pairs, (query.text, f"Only {text} fits, so the answer is ({label})."))


def _question_for(link: queries.Link) -> str:
  """The sub-question that a link answers."""
  if link[0] == "can":
    return f"What can {link[2]}?"
  if link[0] == "is":
    return f"What group is {link[1]} in?"
  if link[0] == "like":
    return f"What is a {link[1]} like?"
  if link[0] == "who":
    return f"Which groups are {link[1]}?"
  return queries.FORMS["food"].ask.format(link[1])


def _option_question(known: lore.Lore, query: queries.Query, option: str) -> str:
  """The sub-question whether an option fits."""
  form, subject = query.form, query.subject
  if form.name == "food":
    return f"Is it {option}?"
  if form.name == "member":
    return f"Is {option} a {subject}?"
  kind, word = (subject, option) if form.subject == "kind" else (option, subject)
  kind = f"the food of {kind}" if form.eaten else kind
  able = form.subject == "kind" and form.options == "ability"
  return f"Can {kind} {lore.ABILITIES[word]}?" if able else f"Is {kind} {word}?"


def listed(words: list[str], last: str) -> str:
  """The words as a list with `last` before the last word: "a, b or c"."""
  return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def facts(known: lore.Lore, query: queries.Query) -> tuple[str, ...]:
  """The facts needed to answer, one sentence each."""
  links = [link for link in queries.opening(known, query) if link[0] != "fit"]
  for option in query.options:
    links += [link for link in queries.chain(known, query, option) if link[0] != "fit"]
  phrases = (STYLES[0].phrase(link).removeprefix("but ") for link in dict.fromkeys(links))
  return tuple(f"{phrase}." for phrase in phrases)
