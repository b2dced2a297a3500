"""What decides on a question told in several ways: chains of thought, stages, sub-questions.

A style is a table from links (queries) to words. The same table read backwards finds what a text
claims (grading), so that whatever is told here can be marked.
"""

import dataclasses

from distill_jax.worlds import lore, queries


@dataclasses.dataclass(frozen=True)
class Style:
  """Phrases by link ("same+" where it holds, "same-" where not), what joins them, verdicts."""

  phrases: dict[str, str]
  join: str
  yes: str
  no: str

  def line(self, links, verdict: bool | None = None) -> str:
    """Links as one sentence, with a verdict if there is one."""
    text = self.join.join(self.phrase(link) for link in links)
    text = text[:1].upper() + text[1:]
    return text + ("." if verdict is None else self.yes if verdict else self.no)

  def phrase(self, link: tuple) -> str:
    name, *words = link
    if isinstance(words[-1], bool):
      name += "+" if words.pop() else "-"
    return self.phrases[name].format(*words)


STYLES = (
  Style(
    {
      "can": "{0} ones can {1}", "is": "a {0} is a {1}", "like": "{0}s are {1} and {2}",
      "but": "but a {0} is {1} and {2}", "eats": "the food of a {0} is a {1}",
      "same+": "the {0} is the {1}", "same-": "the {0} is not the {1}", "word": "{0}",
      "who": "{0} are {1}", "members": "the {0}s are {1}",
    },
    ", ", ": yes.", ": no.",
  ),
  Style(
    {
      "can": "what is {0} can {1}", "is": "the group of a {0} is {1}",
      "like": "every {0} is {1} and {2}", "but": "yet a {0} is {1} and {2}",
      "eats": "a {0} has a {1} as food", "same+": "{0} and {1} are the same",
      "same-": "{0} and {1} are not the same", "word": "being {0}",
      "who": "the groups that are {1} are {0}", "members": "in the group {0} are {1}",
    },
    "; ", ". Right.", ". Wrong.",
  ),
  Style(
    {
      "can": "to {1} one has to be {0}", "is": "the {0} is one of the {1}s",
      "like": "the {0}s are all {1} and {2}", "but": "only the {0} is {1} and {2}",
      "eats": "the {0} has as food the {1}", "same+": "the {0} is one with the {1}",
      "same-": "the {0} is not one with the {1}", "word": "to be {0}",
      "who": "{0} are all {1}", "members": "the {0}s are the {1}",
    },
    ", ", ", so it fits.", ", so it does not fit.",
  ),
  Style(
    {
      "can": "{1}: {0}", "is": "{0}: a {1}", "like": "a {0}: {1}, {2}",
      "but": "but the {0}: {1}, {2}", "eats": "food of {0}: {1}", "same+": "{0}: the {1}",
      "same-": "{0}: not the {1}", "word": "{0}", "who": "{1}: {0}", "members": "the {0}s: {1}",
    },
    ", ", ". Yes.", ". No.",
  ),
)  # fmt: skip


def told(known: lore.Lore, query: queries.Query, style: Style) -> str:
  """A chain of thought: what the options share, a line on each, and the answer."""
  first = queries.opening(known, query)
  lines = [style.line(first)] if first else []
  lines += [f"({label}) {text}" for label, text in judged(known, query, style)]
  return "\n".join([*lines, f"Answer: {queries.answer(known, query)}"])


def judged(known: lore.Lore, query: queries.Query, style: Style) -> tuple[tuple[str, str], ...]:
  """(label, why it fits or does not, ending in the verdict) of each option."""
  return tuple(
    (label, style.line(queries.chain(known, query, option), _fits(known, query, option)))
    for label, option in zip(queries.LABELS, query.options, strict=False)
  )


def recalled(known: lore.Lore, query: queries.Query, style: Style) -> str:
  """Key information: what there is to know about what the question is about; the options do not
  matter."""
  form, subject = query.form, query.subject
  first = queries.opening(known, query)
  lines = [style.line(first)] if first else []
  if form.subject in ("ability", "property"):
    groups = [f"{group}s" for group in lore.GROUPS if subject in known.rules[group]]
    lines.append(style.line([("who", listed(groups), subject)]))
  elif form.name == "member":
    members = [kind for kind in known.kinds if known.group[kind] == subject]
    lines.append(style.line([("members", subject, listed(members))]))
  return " ".join(lines)


def decomposed(known: lore.Lore, query: queries.Query, style: Style) -> tuple[tuple[str, str], ...]:
  """(sub-question, solution): what the options share, each option, and what follows."""
  shared = queries.opening(known, query)
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
    return f"What group is a {link[1]} in?"
  if link[0] == "like":
    return f"What are {link[1]}s like?"
  return queries.FORMS["food"].ask.format(link[1])


def _whether(known: lore.Lore, query: queries.Query, option: str) -> str:
  form, subject = query.form, query.subject
  if form.name == "food":
    return f"Is the {known.food[subject]} the {option}?"
  if form.name == "member":
    return f"Is a {option} a {subject}?"
  kind, word = (subject, option) if form.subject == "kind" else (option, subject)
  kind = f"the food of a {kind}" if form.eaten else f"a {kind}"
  able = form.subject == "kind" and form.options == "ability"
  return f"Can {kind} {lore.ABILITIES[word]}?" if able else f"Is {kind} {word}?"


def _fits(known: lore.Lore, query: queries.Query, option: str) -> bool:
  return queries.fits(known, query.form, query.subject, option)


def listed(words: list[str]) -> str:
  """ "a, b and c" """
  return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def facts(known: lore.Lore, query: queries.Query) -> tuple[str, ...]:
  """What one has to know, a sentence each."""
  links = list(queries.opening(known, query))
  for option in query.options:
    links += [
      link for link in queries.chain(known, query, option) if link[0] not in ("same", "word")
    ]
  said = (STYLES[0].phrase(link).removeprefix("but ") for link in dict.fromkeys(links))
  return tuple(f"{text[:1].upper()}{text[1:]}." for text in said)
