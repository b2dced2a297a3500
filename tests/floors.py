"""Checks the architecture of the package by reading its source.

A room is a module or package directly below distill_jax. Each room is in a layer (a floor), and
imports only from its own layer and the layers below. A breach is reported as one line,
file:line: text.
"""

import ast
import pathlib

FLOORS = {
  5: ("__main__", "cli", "ablations"),
  4: ("rounds", "summary", "config", "report"),
  3: ("phases", "serving"),
  2: ("runtime",),
  1: (
    *(HOST := ("tasks", "worlds", "formats", "teacher", "data")),
    *(DEVICE := ("students", "learning", "decoding")),
    "machine",
    "run_dir",
  ),
  0: (
    *(
      "settings",
      "settings_student",
      "settings_task",
      "settings_teacher",
      "settings_training",
      "declare",
    ),
    *("defaults", "plan", "records", "errors", "together", "console", "disk", "round_text"),
    "thinking",
  ),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# Rooms with different labels do not import each other.
PART_OF = {**dict.fromkeys(HOST, "host"), **dict.fromkeys(DEVICE, "device")}
PART_OF |= {"machine": "machine", "run_dir": "run directory"}

JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
WITHOUT_JAX = {*HOST, *FLOORS[0], "run_dir", "config", "report"}
# Rooms in which every parameter of a public function or method has a type.
TYPED_ROOMS = {room for rooms in FLOORS.values() for room in rooms}
# What an inner package may import from distill_jax, besides itself.
INNER = {
  "teacher/store": {
    *("disk", "errors", "records", "settings"),
    *("teacher.reply", "teacher.types"),
  },
  "teacher/prompts": {"records"},
  "teacher/client": {
    *("disk", "errors", "records", "settings"),
    *("teacher.finish", "teacher.reply", "teacher.types", "teacher.prompts", "teacher.store"),
  },
  "teacher/batch": {
    *("disk", "errors", "records", "settings"),
    *("teacher.types", "teacher.client", "teacher.store"),
  },
  "teacher/builtin": {"disk", "errors", "worlds", "teacher.prompts", "teacher.client"},
}
EFFECTS = {
  *("os", "time", "logging", "random", "pathlib", "io", "sys", "shutil", "subprocess", "threading"),
  *("asyncio", "sqlite3", "tempfile", "absl", "rich"),
}
NETWORK = {
  *("openai", "httpx", "httpx2", "requests", "aiohttp", "urllib3", "urllib.request", "socket"),
  *("http", "socketserver", "ssl", "ftplib", "smtplib", "xmlrpc", "websockets"),
}
# How the processes of one run find each other and stay connected.
CONNECTIONS = ("machine/meeting.py", "machine/relay.py")
TORCH = {"torch", "torchvision", "torchaudio"}
HUGGING_FACE = {"transformers", "tokenizers", "datasets", "safetensors", "huggingface_hub"}
SETTINGS = {"c", "s", "cfg", "conf", "config", "settings"}
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
FILE_LINES, FUNCTION_LINES = 400, 80


def breaches(root: pathlib.Path) -> list[str]:
  """Returns every breach in the package at `root`, sorted by file."""
  found = []
  for path in sorted(root.rglob("*.py")):
    file, source = path.relative_to(root), path.read_text(encoding="utf-8")
    tree = ast.parse(source, str(file))
    found += [f"{file}:{line}: {text}" for line, text in _of_file(file, source)]
    found += [f"{file}:{line}: {text}" for line, text in _of_imports(file, tree)]
    found += [f"{file}:{line}: {text}" for line, text in _of_code(file, tree)]
  return found


def room_of(file: pathlib.Path) -> str:
  """The first part of a path below the package, without .py."""
  return file.parts[0].removesuffix(".py")


def imports(file: pathlib.Path, tree: ast.AST):
  """Yields (line, dotted name) of every import, including those inside functions."""
  package = ("distill_jax", *file.parts[:-1])
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else ()
      start = ".".join([*base, *filter(None, [node.module])])
      yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
      if not _loads_own_module(file, node):
        yield node.lineno, "import by string"


def _loads_own_module(file: pathlib.Path, call: ast.Call) -> bool:
  """Whether the __init__.py of a room loads a module of that room.

  phases/__init__.py must be importable without jax, which the modules of phases import.
  """
  name = call.args[0] if call.args else None
  start = name.values[0] if isinstance(name, ast.JoinedStr) and name.values else None
  named = isinstance(start, ast.FormattedValue) and ast.unparse(start.value) == "__name__"
  return file.name == "__init__.py" and named


def _of_file(file, source):
  lines = len(source.splitlines())
  if lines > FILE_LINES:
    yield 1, f"{lines} lines, but at most {FILE_LINES} are allowed"
  if "SimpleNamespace" in source:
    yield 1, "mentions SimpleNamespace; use a dataclass or a protocol"
  for name in {part.removesuffix(".py") for part in file.parts} & EMPTY_NAMES:
    yield 1, f"{name} does not say what it contains"


def _of_imports(file, tree):
  room = room_of(file)
  if room == "__init__":
    return
  if room not in FLOOR_OF:
    yield 1, f"{room} is in no layer; add it to FLOORS in tests/floors.py"
    return
  for line, name in imports(file, tree):
    breaches = (_inside(room, name), _within(file, name), _outside(room, file, name))
    for text in filter(None, breaches):
      yield line, text


def _inside(room: str, name: str) -> str | None:
  """What is wrong with an import from distill_jax, or None."""
  parts = name.split(".")
  if parts[0] != "distill_jax" or len(parts) == 1:
    return None
  other = parts[1]
  if other not in FLOOR_OF:
    return f"imports {name}, which is in no layer"
  if FLOOR_OF[other] > FLOOR_OF[room]:
    return f"imports {other}, which is in a higher layer"
  if room in PART_OF and other in PART_OF and PART_OF[room] != PART_OF[other]:
    return f"imports {other}: {PART_OF[room]} code must not import {PART_OF[other]} code"
  if room in DEVICE and other == "console":
    return "imports console: device code has no side effects"
  return None


def _within(file: pathlib.Path, name: str) -> str | None:
  """What is wrong with an import in an inner package, or None."""
  package = file.parent.as_posix()
  if package not in INNER or not name.startswith("distill_jax."):
    return None
  other = name.removeprefix("distill_jax.")
  allowed = {*INNER[package], package.replace("/", ".")}
  if any(f"{other}.".startswith(f"{name}.") for name in allowed):
    return None
  return f"imports {other}: {package} may import only {', '.join(sorted(INNER[package]))}"


def _outside(room: str, file: pathlib.Path, name: str) -> str | None:
  """What is wrong with an import from another package, or None."""
  if name == "import by string":
    return "imports by string, which cannot be checked"
  if _among(name, JAX) and room in WITHOUT_JAX:
    return f"imports {name}: this module must not import jax"
  if _among(name, EFFECTS) and room in DEVICE:
    return f"imports {name}: device code has no side effects"
  if _among(name, NETWORK) and room != "teacher" and file.as_posix() not in CONNECTIONS:
    return f"imports {name}: only teacher/ and {', '.join(CONNECTIONS)} may use the network"
  if _among(name, HUGGING_FACE) and room != "data" and not file.match("machine/hf*.py"):
    return f"imports {name}: only data/ and machine/hf*.py may use Hugging Face packages"
  if _among(name, TORCH) and file.as_posix() != "machine/hf_verify.py":
    return f"imports {name}: only machine/hf_verify.py may use torch"
  return None


def _among(name: str, packages: set[str]) -> bool:
  parts = name.split(".")
  return any(".".join(parts[:n]) in packages for n in range(1, len(parts) + 1))


def _of_code(file, tree):
  if room_of(file) in TYPED_ROOMS:
    yield from _untyped(tree)
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      lines = node.end_lineno - node.lineno + 1
      if lines > FUNCTION_LINES:
        text = f"{node.name} has {lines} lines, but at most {FUNCTION_LINES} are allowed"
        yield node.lineno, text
    elif isinstance(node, ast.Call):
      if text := _hidden_default(node):
        yield node.lineno, text
      if room_of(file) in DEVICE and isinstance(node.func, ast.Name):
        if node.func.id in ("open", "print", "input"):
          yield node.lineno, f"{node.func.id}(): device code has no side effects"


def _untyped(body: ast.Module | ast.ClassDef):
  """Yields (line, text) of every untyped parameter of a public function or method."""
  for node in body.body:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
      if node.name.startswith("_"):
        continue
      if isinstance(node, ast.ClassDef):
        yield from _untyped(node)
        continue
      for parameter in _parameters(node, is_method=isinstance(body, ast.ClassDef)):
        if parameter.annotation is None:
          yield parameter.lineno, f"{node.name}: parameter {parameter.arg} has no type"


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool):
  """Yields the parameters of a function, without self or cls."""
  a = function.args
  for parameter in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg):
    if parameter and not (is_method and parameter.arg in ("self", "cls")):
      yield parameter


def _hidden_default(call: ast.Call) -> str | None:
  """What is wrong with a call that reads a setting with a default, or None."""
  function = call.func
  if isinstance(function, ast.Attribute) and function.attr == "get":
    if _names(function.value) & SETTINGS:
      return "a setting is read by .get(: its default belongs in settings.py"
  if isinstance(function, ast.Name) and function.id == "getattr" and len(call.args) == 3:
    if _names(call.args[0]) & SETTINGS:
      return "a setting is read by getattr with a default, which belongs in settings.py"
  return None


def _names(node: ast.AST) -> set[str]:
  """The names in a dotted chain: {ctx, settings, train} of ctx.settings.train."""
  names = set()
  while isinstance(node, ast.Attribute | ast.Subscript):
    if isinstance(node, ast.Attribute):
      names.add(node.attr)
    node = node.value
  return names | ({node.id} if isinstance(node, ast.Name) else set())


def _last_name(node: ast.AST) -> str:
  return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
