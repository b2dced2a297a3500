"""The laws of the house, by reading it: a breach is one line that names the file and its line."""

import ast
import pathlib

FLOORS = {
  5: ("__main__", "cli", "ablations"),
  4: ("rounds", "summary", "config"),
  3: ("phases",),
  2: ("runtime",),
  1: (
    *(HOST := ("tasks", "worlds", "formats", "teacher", "data")),
    *(DEVICE := ("students", "learning", "decoding")),
    "machine",
    "run_dir",
  ),
  0: (
    *("settings", "settings_student", "settings_teacher", "settings_training", "declare"),
    *("plan", "records", "errors", "console"),
  ),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
WING_OF = {**dict.fromkeys(HOST, "host"), **dict.fromkeys(DEVICE, "device")}
WING_OF |= {"machine": "machine", "run_dir": "run directory"}

JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
WITHOUT_JAX = {*HOST, *FLOORS[0], "run_dir", "config"}
# What a room inside a room may import of the package; a folder always sees itself.
INNER = {
  "teacher/store": {"errors", "records", "settings", "teacher.types"},
  "teacher/prompts": {"records"},
  "teacher/client": {
    *("errors", "records", "settings"),
    *("teacher.types", "teacher.prompts", "teacher.store"),
  },
  "teacher/batch": {
    *("errors", "records", "settings"),
    *("teacher.types", "teacher.client", "teacher.store"),
  },
  "teacher/builtin": {"errors", "worlds", "teacher.prompts", "teacher.client"},
}
EFFECTS = {
  *("os", "time", "logging", "random", "pathlib", "io", "sys", "shutil", "subprocess", "threading"),
  *("asyncio", "sqlite3", "tempfile", "absl", "rich"),
}
NETWORK = {
  *("openai", "httpx", "httpx2", "requests", "aiohttp", "urllib3", "urllib.request", "socket"),
  *("http", "socketserver", "ssl", "ftplib", "smtplib", "xmlrpc", "websockets"),
}
TORCH = {"torch", "torchvision", "torchaudio"}
HUGGING_FACE = {"transformers", "tokenizers", "datasets", "safetensors", "huggingface_hub"}
SETTINGS = {"c", "s", "cfg", "conf", "config", "settings"}
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
FILE_LINES, FUNCTION_LINES = 400, 80


def breaches(root: pathlib.Path) -> list[str]:
  """Every breach in the package `root`, sorted."""
  found = []
  for file in sorted(root.rglob("*.py")):
    place = file.relative_to(root)
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source, str(place))
    found += [f"{place}:{line}: {text}" for line, text in _of_file(place, source)]
    found += [f"{place}:{line}: {text}" for line, text in _of_imports(place, tree)]
    found += [f"{place}:{line}: {text}" for line, text in _of_code(place, tree)]
  return found


def room_of(place: pathlib.Path) -> str:
  """The first name below the package: a folder, or a module that is a room by itself."""
  return place.parts[0].removesuffix(".py")


def imports(place: pathlib.Path, tree: ast.AST):
  """(line, dotted name) of every import, wherever it stands; what is imported from counts too."""
  package = ("distill_jax", *place.parts[:-1])
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else ()
      start = ".".join([*base, *filter(None, [node.module])])
      yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
      if not _of_its_own(place, node):
        yield node.lineno, "import by string"


def _of_its_own(place: pathlib.Path, call: ast.Call) -> bool:
  """Does the door of a room load a module of that room? phases/__init__.py has to be read without
  jax, which its modules import."""
  name = call.args[0] if call.args else None
  start = name.values[0] if isinstance(name, ast.JoinedStr) and name.values else None
  named = isinstance(start, ast.FormattedValue) and ast.unparse(start.value) == "__name__"
  return place.name == "__init__.py" and named


def _of_file(place, source):
  lines = len(source.splitlines())
  if lines > FILE_LINES:
    yield 1, f"{lines} lines, and {FILE_LINES} are the most"
  for name in {part.removesuffix(".py") for part in place.parts} & EMPTY_NAMES:
    yield 1, f"{name} says nothing of what is in it"


def _of_imports(place, tree):
  room = room_of(place)
  if room == "__init__":
    return
  if room not in FLOOR_OF:
    yield 1, f"{room} stands on no floor; give it one in tests/floors.py"
    return
  for line, name in imports(place, tree):
    found = (_inside(room, name), _within(place, name), _outside(room, place, name))
    for text in filter(None, found):
      yield line, text


def _inside(room: str, name: str) -> str | None:
  """What is wrong with an import from the package itself."""
  parts = name.split(".")
  if parts[0] != "distill_jax" or len(parts) == 1:
    return None
  other = parts[1]
  if other not in FLOOR_OF:
    return f"imports {name}, which stands on no floor"
  if FLOOR_OF[other] > FLOOR_OF[room]:
    return f"imports {other}, which stands above"
  if room in WING_OF and other in WING_OF and WING_OF[room] != WING_OF[other]:
    return f"imports {other}: the {WING_OF[room]} wing must not see the {WING_OF[other]} wing"
  if room in DEVICE and other == "console":
    return "imports console: the device wing has no effects"
  return None


def _within(place: pathlib.Path, name: str) -> str | None:
  """What is wrong with an import of a folder that has inner laws."""
  folder = place.parent.as_posix()
  if folder not in INNER or not name.startswith("distill_jax."):
    return None
  other = name.removeprefix("distill_jax.")
  seen = {*INNER[folder], folder.replace("/", ".")}
  if any(f"{other}.".startswith(f"{room}.") for room in seen):
    return None
  return f"imports {other}: {folder} sees only {', '.join(sorted(INNER[folder]))}"


def _outside(room: str, place: pathlib.Path, name: str) -> str | None:
  """What is wrong with an import from elsewhere."""
  if name == "import by string":
    return "imports by string, which nobody can follow"
  if _among(name, JAX) and room in WITHOUT_JAX:
    return f"imports {name}: this room does not know jax"
  if _among(name, EFFECTS) and room in DEVICE:
    return f"imports {name}: the device wing has no effects"
  if _among(name, NETWORK) and room != "teacher":
    return f"imports {name}: only teacher/ speaks to a network"
  if _among(name, HUGGING_FACE) and room != "data" and not place.match("machine/hf*.py"):
    return f"imports {name}: only data/ and machine/hf*.py know Hugging Face"
  if _among(name, TORCH) and place.as_posix() != "machine/hf_verify.py":
    return f"imports {name}: only machine/hf_verify.py knows torch"
  return None


def _among(name: str, packages: set[str]) -> bool:
  parts = name.split(".")
  return any(".".join(parts[:n]) in packages for n in range(1, len(parts) + 1))


def _of_code(place, tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      lines = node.end_lineno - node.lineno + 1
      if lines > FUNCTION_LINES:
        yield node.lineno, f"{node.name} has {lines} lines, and {FUNCTION_LINES} are the most"
    elif isinstance(node, ast.Call):
      if text := _hidden_default(node):
        yield node.lineno, text
      if room_of(place) in DEVICE and isinstance(node.func, ast.Name):
        if node.func.id in ("open", "print", "input"):
          yield node.lineno, f"{node.func.id}(): the device wing has no effects"


def _hidden_default(call: ast.Call) -> str | None:
  """A setting that is read with a default of the reader's own."""
  function = call.func
  if isinstance(function, ast.Attribute) and function.attr == "get":
    if _names(function.value) & SETTINGS:
      return "a setting is read by .get(: its default belongs into configs/base.py"
  if isinstance(function, ast.Name) and function.id == "getattr" and len(call.args) == 3:
    if _names(call.args[0]) & SETTINGS:
      return "a setting is read by getattr with a default: it belongs into configs/base.py"
  return None


def _names(node: ast.AST) -> set[str]:
  """The names of a dotted chain: {run, settings, train} of run.settings.train."""
  names = set()
  while isinstance(node, ast.Attribute | ast.Subscript):
    if isinstance(node, ast.Attribute):
      names.add(node.attr)
    node = node.value
  return names | ({node.id} if isinstance(node, ast.Name) else set())


def _last_name(node: ast.AST) -> str:
  return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
