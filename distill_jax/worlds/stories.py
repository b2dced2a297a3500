"""The story families. Each is data: a start, and moves from one known quantity to another.

A state is a quantity that a question can ask for. Its `line` is the sentence of a step that reaches
the state, its `ask` is the question for it. A move takes the current quantity as its left operand
and the number {b} in its clause as its right operand; with `other` the right operand is the latest
quantity in that state instead, and with `swap` the operands change places. "{b:pen}" is a number
with its noun in singular or plural; {thing} and {things} are what the story is about, drawn from
its list.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Move:
  """One step of a story, from state to state; see above."""

  source: str  # state
  operation: str  # + - * /
  clause: str
  target: str  # state
  other: str = ""  # state
  swap: bool = False


@dataclasses.dataclass(frozen=True)
class Story:
  """A story family; see above."""

  name: str
  things: tuple[str, ...]
  start: tuple[str, str]  # state, sentence with {a}
  states: dict[str, tuple[str, str]]  # state -> (line, ask)
  moves: tuple[Move, ...]


NAMES = ("Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Max", "Zoe", "Leo", "Amy", "Dan", "Kim")

# Distractors: sentences about no story's things, with a number that no step needs.
DISTRACTORS = (
  "{third} is {c} years old.",
  "{third} wears {c} rings.",
  "The kitchen has {c} chairs.",
  "{third} lives {c} miles away.",
)

FOOD = ("apple", "pear", "plum", "egg")
TOYS = ("ball", "card", "shell", "stamp")

SEEN = (
  Story(
    "basket",
    FOOD,
    ("own", "{name} has {a:thing} in a basket."),
    {
      "own": ("{name} has {eq:thing}.", "How many {things} does {name} have now?"),
      "bag": ("Each bag has {eq:thing}.", "How many {things} does each bag have?"),
      "all": ("{other} has {eq:thing}.", "How many {things} does {other} have?"),
    },
    (
      Move("own", "+", "{name} buys {b} more {things}.", "own"),
      Move("own", "+", "{other} gives {name} {b:thing}.", "own"),
      Move("own", "-", "{name} eats {b:thing}.", "own"),
      Move("own", "-", "{name} gives {b:thing} away.", "own"),
      Move("own", "/", "{name} puts the {things} into {b} equal bags.", "bag"),
      Move("bag", "+", "{name} adds {b:thing} to each bag.", "bag"),
      Move("bag", "*", "{other} has {b} bags like these.", "all"),
    ),
  ),
  Story(
    "boxes",
    TOYS,
    ("box", "{name} has {a:box}."),
    {
      "box": ("{name} has {eq:box}.", "How many boxes does {name} have now?"),
      "own": ("{name} has {eq:thing}.", "How many {things} does {name} have now?"),
      "friend": ("Each friend gets {eq:thing}.", "How many {things} does each friend get?"),
    },
    (
      Move("box", "+", "{name} finds {b} more boxes.", "box"),
      Move("box", "-", "{name} loses {b:box}.", "box"),
      Move("box", "*", "Each box has {b:thing}.", "own"),
      Move("own", "-", "{name} sells {b:thing}.", "own"),
      Move("own", "+", "{name} buys {b} more {things}.", "own"),
      Move("own", "/", "{b} friends share the {things} equally.", "friend"),
    ),
  ),
  Story(
    "shop",
    ("ball", "pen", "book", "cake", "lamp", "kite"),
    ("price", "A {thing} costs {a:coin}."),
    {
      "price": ("A {thing} costs {eq:coin}.", "How many coins does a {thing} cost now?"),
      "pay": ("{name} pays {eq:coin}.", "How many coins does {name} pay?"),
      "left": ("{name} has {eq:coin} left.", "How many coins does {name} have left?"),
    },
    (
      Move("price", "+", "The price goes up by {b:coin}.", "price"),
      Move("price", "-", "The price goes down by {b:coin}.", "price"),
      Move("price", "*", "{name} buys {b:thing}.", "pay"),
      Move("price", "-", "{name} buys one and had {b:coin} before.", "left", swap=True),
      Move("pay", "-", "{other} pays {b:coin} of it.", "pay"),
      Move("pay", "+", "{name} also buys a bag for {b:coin}.", "pay"),
    ),
  ),
  Story(
    "coins",
    ("coin",),
    ("own", "{name} has {a:coin}."),
    {
      "own": ("{name} has {eq:coin}.", "How many coins does {name} have now?"),
      "all": ("{other} has {eq:coin}.", "How many coins does {other} have now?"),
      "both": ("Together they have {eq:coin}.", "How many coins do they have together?"),
      "toy": ("They buy {eq:toy}.", "How many toys do they buy?"),
    },
    (
      Move("own", "+", "{name} earns {b:coin}.", "own"),
      Move("own", "-", "{name} spends {b:coin}.", "own"),
      Move("own", "*", "{other} has {b} times as many coins as {name}.", "all"),
      Move("all", "-", "{other} spends {b:coin}.", "all"),
      Move("all", "+", "They put their coins together.", "both", other="own"),
      Move("both", "/", "They buy toys for {b:coin} each.", "toy"),
    ),
  ),
  Story(
    "bus",
    ("coin",),
    ("rider", "A bus has {a:rider}."),
    {
      "rider": ("The bus has {eq:rider}.", "How many riders does the bus have now?"),
      "coin": ("The driver has {eq:coin}.", "How many coins does the driver have?"),
    },
    (
      Move("rider", "+", "At a stop {b:rider} get on.", "rider"),
      Move("rider", "-", "At a stop {b:rider} get off.", "rider"),
      Move("rider", "+", "At the school {b:rider} get on.", "rider"),
      Move("rider", "*", "Each rider pays {b:coin}.", "coin"),
      Move("coin", "-", "The driver spends {b:coin}.", "coin"),
      Move("coin", "+", "The driver finds {b:coin}.", "coin"),
    ),
  ),
  Story(
    "hens",
    ("egg",),
    ("hen", "{name} has {a:hen}."),
    {
      "hen": ("{name} has {eq:hen}.", "How many hens does {name} have now?"),
      "egg": ("{name} has {eq:egg}.", "How many eggs does {name} have now?"),
      "box": ("{name} fills {eq:box}.", "How many boxes does {name} fill?"),
    },
    (
      Move("hen", "+", "{name} buys {b} more hens.", "hen"),
      Move("hen", "-", "{name} sells {b:hen}.", "hen"),
      Move("hen", "*", "Each hen lays {b:egg}.", "egg"),
      Move("egg", "-", "{name} eats {b:egg}.", "egg"),
      Move("egg", "+", "{other} brings {b} more eggs.", "egg"),
      Move("egg", "/", "{name} fills boxes with {b:egg} each.", "box"),
    ),
  ),
  Story(
    "pages",
    ("page",),
    ("pace", "{name} reads {a:page} a day."),
    {
      "pace": ("{name} reads {eq:page} a day.", "How many pages a day does {name} read now?"),
      "all": ("{name} reads {eq:page} in all.", "How many pages does {name} read in all?"),
      "other": ("{other} reads {eq:page}.", "How many pages does {other} read?"),
      "daily": ("{other} reads {eq:page} a day.", "How many pages a day does {other} read?"),
    },
    (
      Move("pace", "+", "{name} adds {b:page} a day.", "pace"),
      Move("pace", "-", "{name} drops {b:page} a day.", "pace"),
      Move("pace", "*", "{name} reads for {b:day}.", "all"),
      Move("all", "+", "{name} reads {b} more pages at school.", "all"),
      Move("all", "-", "{other} reads {b} fewer pages than {name}.", "other"),
      Move("other", "/", "{other} reads them in {b:day}.", "daily"),
    ),
  ),
  Story(
    "garden",
    ("rose", "tulip", "bean", "carrot"),
    ("row", "A garden has {a:row}."),
    {
      "row": ("The garden has {eq:row}.", "How many rows does the garden have now?"),
      "own": ("The garden has {eq:thing}.", "How many {things} does the garden have now?"),
      "bunch": ("{name} makes {eq:bunch}.", "How many bunches does {name} make?"),
    },
    (
      Move("row", "+", "{name} adds {b:row}.", "row"),
      Move("row", "-", "{name} digs up {b:row}.", "row"),
      Move("row", "*", "Each row has {b:thing}.", "own"),
      Move("own", "+", "{other} plants {b} more {things}.", "own"),
      Move("own", "-", "Rabbits eat {b:thing}.", "own"),
      Move("own", "/", "{name} makes bunches of {b:thing} each.", "bunch"),
    ),
  ),
  Story(
    "bakery",
    ("cookie", "muffin", "roll", "bun"),
    ("own", "{name} bakes {a:thing}."),
    {
      "own": ("{name} has {eq:thing}.", "How many {things} does {name} have now?"),
      "plate": ("Each plate has {eq:thing}.", "How many {things} does each plate have?"),
    },
    (
      Move("own", "+", "{other} bakes {b} more {things} for {name}.", "own"),
      Move("own", "-", "The dog eats {b:thing}.", "own"),
      Move("own", "-", "{name} sells {b:thing}.", "own"),
      Move("own", "/", "{name} puts the {things} on {b} equal plates.", "plate"),
      Move("plate", "+", "{name} adds {b:thing} to each plate.", "plate"),
      Move("plate", "-", "{other} takes {b:thing} off each plate.", "plate"),
    ),
  ),
  Story(
    "friends",
    TOYS,
    ("own", "{name} has {a:thing}."),
    {
      "own": ("{name} has {eq:thing}.", "How many {things} does {name} have now?"),
      "all": ("{other} has {eq:thing}.", "How many {things} does {other} have?"),
      "both": ("Together they have {eq:thing}.", "How many {things} do they have together?"),
      "pile": ("Each pile has {eq:thing}.", "How many {things} does each pile have?"),
    },
    (
      Move("own", "+", "{name} finds {b} more {things}.", "own"),
      Move("own", "+", "{other} has {b} more {things} than {name}.", "all"),
      Move("own", "-", "{other} has {b} fewer {things} than {name}.", "all"),
      Move("own", "*", "{other} has {b} times as many {things} as {name}.", "all"),
      Move("all", "+", "They put their {things} together.", "both", other="own"),
      Move("both", "-", "They lose {b:thing}.", "both"),
      Move("both", "/", "They make {b} equal piles.", "pile"),
    ),
  ),
  Story(
    "wages",
    ("coin",),
    ("rate", "{name} earns {a:coin} an hour."),
    {
      "rate": ("{name} earns {eq:coin} an hour.", "How many coins an hour does {name} earn now?"),
      "pay": ("{name} gets {eq:coin}.", "How many coins does {name} get?"),
      "left": ("{name} has {eq:coin} left.", "How many coins does {name} have left?"),
      "toy": ("{name} buys {eq:toy}.", "How many toys does {name} buy?"),
    },
    (
      Move("rate", "+", "The boss adds {b:coin} an hour.", "rate"),
      Move("rate", "-", "The boss takes off {b:coin} an hour.", "rate"),
      Move("rate", "*", "{name} works for {b:hour}.", "pay"),
      Move("pay", "+", "{other} gives {name} {b} more coins.", "pay"),
      Move("pay", "-", "{name} spends {b:coin} on lunch.", "left"),
      Move("left", "/", "{name} buys toys for {b:coin} each.", "toy"),
    ),
  ),
  Story(
    "rope",
    ("meter",),
    ("own", "{name} has a rope of {a:meter}."),
    {
      "own": ("The rope has {eq:meter}.", "How many meters does the rope have now?"),
      "part": ("Each part has {eq:meter}.", "How many meters does each part have?"),
      "all": ("The new rope has {eq:meter}.", "How many meters does the new rope have?"),
    },
    (
      Move("own", "+", "{name} ties on {b} more meters.", "own"),
      Move("own", "-", "{name} cuts off {b:meter}.", "own"),
      Move("own", "/", "{name} cuts the rope into {b} equal parts.", "part"),
      Move("part", "-", "{name} cuts {b:meter} off each part.", "part"),
      Move("part", "*", "{other} makes a new rope of {b} parts like these.", "all"),
      Move("all", "+", "{other} ties on {b} more meters.", "all"),
    ),
  ),
  Story(
    "shelf",
    ("book",),
    ("shelf", "A shelf has {a:book}."),
    {
      "shelf": ("The shelf has {eq:book}.", "How many books does the shelf have now?"),
      "room": ("The room has {eq:book}.", "How many books does the room have now?"),
      "cart": ("Each cart has {eq:book}.", "How many books does each cart have?"),
    },
    (
      Move("shelf", "+", "{name} adds {b:book} to the shelf.", "shelf"),
      Move("shelf", "-", "{name} takes {b:book} off the shelf.", "shelf"),
      Move("shelf", "*", "The room has {b} shelves like this.", "room"),
      Move("room", "-", "{other} takes {b:book} home.", "room"),
      Move("room", "+", "{other} brings {b} new books.", "room"),
      Move("room", "/", "{name} puts the books on {b} equal carts.", "cart"),
    ),
  ),
  Story(
    "water",
    ("cup",),
    ("tank", "A tank has {a:cup} of water."),
    {
      "tank": ("The tank has {eq:cup}.", "How many cups does the tank have now?"),
      "all": ("{name} has {eq:cup}.", "How many cups does {name} have now?"),
      "jug": ("{name} fills {eq:jug}.", "How many jugs does {name} fill?"),
    },
    (
      Move("tank", "+", "{name} pours in {b:cup}.", "tank"),
      Move("tank", "-", "{name} takes out {b:cup}.", "tank"),
      Move("tank", "*", "{name} has {b} tanks like this.", "all"),
      Move("all", "-", "{name} spills {b:cup}.", "all"),
      Move("all", "+", "{other} brings {b} more cups.", "all"),
      Move("all", "/", "{name} fills jugs with {b:cup} each.", "jug"),
    ),
  ),
)

HELD_OUT = (
  Story(
    "school",
    ("player",),
    ("team", "A school has {a:team}."),
    {
      "team": ("The school has {eq:team}.", "How many teams does the school have now?"),
      "player": ("The school has {eq:player}.", "How many players does the school have now?"),
      "group": ("The coach makes {eq:group}.", "How many groups does the coach make?"),
    },
    (
      Move("team", "+", "The coach adds {b:team}.", "team"),
      Move("team", "-", "The coach drops {b:team}.", "team"),
      Move("team", "*", "Each team has {b:player}.", "player"),
      Move("player", "-", "At noon {b:player} go home.", "player"),
      Move("player", "+", "At night {b} new players join.", "player"),
      Move("player", "/", "The coach makes groups of {b:player} each.", "group"),
    ),
  ),
  Story(
    "ship",
    ("crate",),
    ("crate", "A ship has {a:crate}."),
    {
      "crate": ("The ship has {eq:crate}.", "How many crates does the ship have now?"),
      "pound": ("The load has {eq:pound}.", "How many pounds does the load have?"),
      "truck": ("Each truck gets {eq:pound}.", "How many pounds does each truck get?"),
    },
    (
      Move("crate", "+", "{name} loads {b} more crates.", "crate"),
      Move("crate", "-", "{name} unloads {b:crate}.", "crate"),
      Move("crate", "*", "Each crate weighs {b:pound}.", "pound"),
      Move("pound", "+", "A barrel adds {b:pound}.", "pound"),
      Move("pound", "-", "{other} takes {b:pound} out.", "pound"),
      Move("pound", "/", "{b} trucks share the load equally.", "truck"),
    ),
  ),
  Story(
    "zoo",
    ("monkey",),
    ("monkey", "A zoo has {a:monkey}."),
    {
      "monkey": ("The zoo has {eq:monkey}.", "How many monkeys does the zoo have now?"),
      "nut": ("The zoo needs {eq:nut}.", "How many nuts does the zoo need?"),
      "sack": ("The zoo buys {eq:sack}.", "How many sacks does the zoo buy?"),
    },
    (
      Move("monkey", "+", "The zoo gets {b} more monkeys.", "monkey"),
      Move("monkey", "-", "The zoo gives {b:monkey} away.", "monkey"),
      Move("monkey", "*", "Each monkey eats {b:nut}.", "nut"),
      Move("nut", "+", "A bear eats {b:nut} too.", "nut"),
      Move("nut", "-", "{name} brings {b:nut} for the zoo.", "nut"),
      Move("nut", "/", "The zoo buys the nuts in sacks of {b}.", "sack"),
    ),
  ),
  Story(
    "game",
    ("point",),
    ("own", "{name} scores {a:point} in a game."),
    {
      "own": ("{name} has {eq:point}.", "How many points does {name} have now?"),
      "all": ("{other} has {eq:point}.", "How many points does {other} have?"),
      "both": ("Together they have {eq:point}.", "How many points do they have together?"),
      "prize": ("They win {eq:prize}.", "How many prizes do they win?"),
    },
    (
      Move("own", "+", "{name} scores {b} more points.", "own"),
      Move("own", "-", "{name} loses {b:point}.", "own"),
      Move("own", "+", "{other} beats {name} by {b:point}.", "all"),
      Move("own", "*", "{other} scores {b} times as many points as {name}.", "all"),
      Move("all", "+", "They put their points together.", "both", other="own"),
      Move("both", "/", "They win a prize for every {b:point}.", "prize"),
    ),
  ),
)
