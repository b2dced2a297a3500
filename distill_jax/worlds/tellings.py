"""What decides on a question told in several ways: chains of thought, stages, sub-questions.

A style is a table from links (queries) to words. The same table read backwards finds what a text
claims (grading), so that whatever is told here can be marked.
"""

import dataclasses

from distill_jax.worlds import lore, queries


@dataclasses.dataclass(frozen=True)
class Style:
  """Phrases by link, what joins them, the verdicts."""

  phrases: dict[str, str]
  join: str
  yes: str
  no: str

  def line(self, links) -> str:
    """Links as one sentence."""
    return self.join.join(self.phrase(link) for link in links) + "."

  def phrase(self, link: tuple) -> str:
    name, *words = link
    if name == "fit":
      return f"{words[0]} {self.yes if words[1] else self.no}"
    return self.phrases[name].format(*words)


# What is said of an option begins with it as the question has it.
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
  """A chain of thought: what the options share, a line on each, and the answer."""
  lines = [style.line(queries.opening(known, query))]
  lines += [f"({label}) {text}" for label, text in judged(known, query, style)]
  return "\n".join([*lines, f"Answer: {queries.answer(known, query)}"])


def judged(known: lore.Lore, query: queries.Query, style: Style) -> tuple[tuple[str, str], ...]:
  """(label, why it fits or does not, ending in the verdict) of each option."""
  return tuple(
    (label, style.line(queries.chain(known, query, option)))
    for label, option in zip(queries.LABELS, query.options, strict=False)
  )


def recalled(known: lore.Lore, query: queries.Query, style: Style) -> str:
  """Key information: what there is to know about what the question is about; the options do not
  matter."""
  if query.form.name == "member":
    members = [kind for kind in known.kinds if known.group[kind] == query.subject]
    links = [("members", query.subject, listed(members, "or")), *queries.opening(known, query)]
    return style.line(links)
  return style.line(queries.opening(known, query))


def decomposed(known: lore.Lore, query: queries.Query, style: Style) -> tuple[tuple[str, str], ...]:
  """(sub-question, solution): what the options share, each option, and what follows."""
  shared = [link for link in queries.opening(known, query) if link[0] != "fit"]
  odd = [link for link in shared if link[0] == "but"]  # belongs to what the group is like
  pairs = [
    (_asked(link), style.line([link, *(odd if link[0] == "like" else ())]))
    for link in shared
    if link not in odd
  ]
  for option, (_, text) in zip(query.options, judged(known, query, style), strict=True):
    pairs.append((_whether(known, query, option), text))
  label = queries.answer(known, query)
  text = dict(query.choices)[label]
  return (*pairs, (query.text, f"Only {text} fits, so the answer is ({label})."))


def _asked(link: tuple) -> str:
  if link[0] == "can":
    return f"What can {link[2]}?"
  if link[0] == "is":
    return f"What group is {link[1]} in?"
  if link[0] == "like":
    return f"What is a {link[1]} like?"
  if link[0] == "who":
    return f"Which groups are {link[1]}?"
  return queries.FORMS["food"].ask.format(link[1])


def _whether(known: lore.Lore, query: queries.Query, option: str) -> str:
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
  """ "a, b or c" """
  return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def facts(known: lore.Lore, query: queries.Query) -> tuple[str, ...]:
  """What one has to know, a sentence each."""
  links = [link for link in queries.opening(known, query) if link[0] != "fit"]
  for option in query.options:
    links += [link for link in queries.chain(known, query, option) if link[0] != "fit"]
  said = (STYLES[0].phrase(link).removeprefix("but ") for link in dict.fromkeys(links))
  return tuple(f"{text}." for text in said)
