"""A report in Debian's Chromium, from file://, by clicks. Heavy: apt-get install chromium, then

bash launch/test.sh -m heavy tests/report       (runs the quickstart: minutes)
REPORT_RUN=runs/quickstart REPORT_PICTURES=FOLDER bash launch/test.sh -m heavy tests/report
"""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import aiohttp
import pytest

from benchmarks import report_picture
from distill_jax.report import write
from tests.report import material

pytestmark = [
  pytest.mark.heavy,
  pytest.mark.skipif(report_picture.browser() is None, reason="needs chromium"),
]
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Tab:
  """A page, driven through Chromium's DevTools protocol."""

  def __init__(self, socket: aiohttp.ClientWebSocketResponse):
    self._socket, self._next = socket, 0
    self.events: list[dict] = []

  async def call(self, method: str, **params):
    self._next += 1
    await self._socket.send_json({"id": self._next, "method": method, "params": params})
    while True:
      message = await asyncio.wait_for(self._socket.receive_json(), 60)
      if message.get("id") == self._next:
        assert "error" not in message, message
        return message["result"]
      self.events.append(message)

  async def value(self, expression: str):
    found = await self.call(
      "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
    )
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")

  async def until(self, expression: str, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while not (value := await self.value(expression)):
      assert time.monotonic() < deadline, f"never true: {expression}"
      await asyncio.sleep(0.05)
    return value

  async def click(self, selector: str) -> None:
    """Presses and releases the mouse on the first element that fits."""
    x, y = await self.value(
      f"(() => {{ const e = document.querySelector('{selector}');"
      " e.scrollIntoView({ block: 'center' }); const b = e.getBoundingClientRect();"
      " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
      await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@contextlib.asynccontextmanager
async def opened(page: pathlib.Path):
  """Opens a page and yields its tab; records its console, errors and requests."""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "--remote-allow-origins=*", "about:blank"]  # fmt: skip
    with subprocess.Popen([report_picture.browser(), *words], stderr=subprocess.DEVNULL) as process:
      try:
        port_file = pathlib.Path(profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not port_file.exists() or not port_file.read_text().strip():
          assert time.monotonic() < deadline
          await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
          target = next(t for t in json.load(answer) if t["type"] == "page")
        async with aiohttp.ClientSession() as session:
          address = target["webSocketDebuggerUrl"]
          async with session.ws_connect(address, max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
              await tab.call(f"{domain}.enable")
            await tab.call("Page.navigate", url=page.resolve().as_uri())
            await tab.until("document.readyState === 'complete'")
            yield tab
      finally:
        process.terminate()
        process.wait(10)


def problems(tab: Tab) -> list:
  """Console messages, errors and requests other than of the page itself."""
  kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
  found = [event for event in tab.events if event.get("method") in kinds]
  asked = [e["params"]["request"]["url"] for e in tab.events
           if e.get("method") == "Network.requestWillBeSent"]  # fmt: skip
  return found + [url for url in asked if not url.startswith(("file://", "blob:"))] + asked[1:]


CHOOSE = """(id, value) => { const e = document.getElementById(id); e.value = value;
  e.dispatchEvent(new Event(id === 'search' ? 'input' : 'change')); }"""
ROWS = "document.querySelectorAll('.item').length"
FIRST = "document.querySelector('.item .first').textContent"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
STATUS = "document.getElementById('status').textContent"


async def browse(page: pathlib.Path) -> None:
  async with opened(page) as tab:
    await tab.until(f"{STATUS}.includes('questions')")
    assert await tab.value("document.querySelectorAll('svg').length") >= 4
    assert 0 < await tab.until(PAINT) < 3000
    await tab.value(f"({CHOOSE})('filter', 'all')")
    await tab.until(f"{STATUS}.startsWith('1–')")
    assert 0 < await tab.value(ROWS) <= 40
    for chosen, wanted in (("gained", "✗"), ("lost", "✓"), ("never", "✗")):
      await tab.value(f"({CHOOSE})('filter', '{chosen}')")
      await asyncio.sleep(0.3)
      marks = "[...document.querySelectorAll('.outcome')].map((e) => e.textContent)"
      for text in await tab.value(marks):
        assert wanted in text and (chosen != "never" or "✓" not in text)
    await tab.value(f"({CHOOSE})('filter', 'all')")
    await tab.value(f"({CHOOSE})('search', 'megabyte')")
    await tab.until(f"{STATUS}.includes(' of 3 questions')")
    assert await tab.value(ROWS) == 3
    await tab.value("document.querySelector('.item > button').click()")
    assert "critique" in await tab.value("document.querySelector('.events').textContent")
    for part in ("script", "b", "img"):
      assert await tab.value(f"document.querySelectorAll('#list {part}').length") == 0
    await tab.value(f"({CHOOSE})('search', 'alert(1)')")
    await tab.until(f"{STATUS}.includes(' of 3 questions')")
    inline = await tab.value(
      "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
      " document.body.append(s); return window.ran ?? 'blocked'; })()"
    )
    assert inline == "blocked"
    noise = [p for p in problems(tab) if "Content Security Policy" not in json.dumps(p)]
    assert noise == []


def test_the_page_works_by_clicks_and_runs_nothing_else(tmp_path):
  material.write_run(tmp_path / "run")
  page = written(tmp_path / "run", tmp_path / "report.html")
  asyncio.run(browse(page))


async def turn_pages(page: pathlib.Path) -> None:
  async with opened(page) as tab:
    await tab.until(f"{STATUS}.includes('questions')")
    assert 0 < await tab.until(PAINT) < 3000
    await tab.value(f"({CHOOSE})('filter', 'all')")
    await tab.until(f"{STATUS}.includes(' of 12500 ')")
    await tab.value("document.getElementById('after').click()")
    await tab.until(f"{STATUS}.startsWith('41–80')")
    assert await tab.value(ROWS) == 40
    await tab.value(f"({CHOOSE})('search', 'no such text')")
    await tab.until(f"{STATUS} === 'no question matches'", 120)
    assert problems(tab) == []


def test_100_000_attempts_are_browsed_and_searched(tmp_path):
  material.large_run(tmp_path / "run", 100_000)
  page = written(tmp_path / "run", tmp_path / "report.html")
  assert page.stat().st_size < 20e6
  asyncio.run(turn_pages(page))


# What is wrong with the layout, as texts: [] is good.
LAYOUT = """(() => {
  const wrong = [], root = document.documentElement;
  const box = (e) => e.getBoundingClientRect();
  const named = (e, what) => wrong.push(what + ": " + e.textContent.slice(0, 60));
  if (root.scrollWidth > root.clientWidth) wrong.push("the page scrolls sideways");
  for (const e of document.querySelectorAll("body *:not(svg *)")) {
    if (e.closest(".scroll") && !e.matches(".scroll")) continue;
    if (box(e).width && box(e).right > root.clientWidth + 1) named(e, "beyond the right edge");
  }
  for (const chart of document.querySelectorAll("svg.chart")) {
    const texts = [...chart.querySelectorAll("text")], edge = box(chart);
    const scale = edge.width / chart.viewBox.baseVal.width;
    for (const [n, text] of texts.entries()) {
      const own = box(text);
      const size = parseFloat(getComputedStyle(text).fontSize) * scale;
      if (size < 9.5) named(text, `a label of ${size} pixels`);
      if (own.left < edge.left - 1 || own.right > edge.right + 1 || own.bottom > edge.bottom + 1)
        named(text, "a label beyond its chart");
      for (const other of texts.slice(n + 1)) {
        const b = box(other), x = Math.min(own.right, b.right) - Math.max(own.left, b.left);
        const y = Math.min(own.bottom, b.bottom) - Math.max(own.top, b.top);
        if (x > 1 && y > 4) named(other, "over " + text.textContent);
      }
    }
  }
  return wrong;
})()"""
# The lowest contrast of a text with its background, as WCAG defines it.
CONTRAST = """(() => {
  const rgb = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = rgb(color).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const [r, g, b, a = 1] = rgb(getComputedStyle(e).backgroundColor);
    return a === 1 || !e.parentElement ? `rgb(${r}, ${g}, ${b})` : ground(e.parentElement);
  };
  const ratio = (e) => {
    const style = getComputedStyle(e), drawn = e.namespaceURI.endsWith("svg");
    const found = [light(drawn ? style.fill : style.color), light(ground(e))];
    return (Math.max(...found) + 0.05) / (Math.min(...found) + 0.05);
  };
  return Math.min(...[...document.querySelectorAll(
    "h1, h2, h3, p, a, span, strong, small, figcaption, li, text, th, td, summary, .label, .text"
  )].filter((e) => e.textContent && !e.matches(".none")).map(ratio));
})()"""


async def look(page: pathlib.Path, out: pathlib.Path, *, width: int, dark: bool) -> None:
  """Checks the layout of a page on a screen, and takes a picture of all of it."""
  async with opened(page) as tab:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    await tab.call("Emulation.setEmulatedMedia", features=[scheme])
    await tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                   deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
    assert await tab.value("innerWidth") == width
    if await tab.value("document.getElementById('status') !== null"):
      await tab.until(f"{STATUS}.includes('question')")
      await tab.value("document.querySelector('.item > button')?.click()")
    await tab.value("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert await tab.value(LAYOUT) == []
    assert await tab.value(CONTRAST) >= 4.5
    height = await tab.value("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16_000), "scale": 1}
    shot = await tab.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    out.write_bytes(base64.b64decode(shot["data"]))
    assert problems(tab) == []


def written(path: pathlib.Path, page: pathlib.Path, others: tuple = ()) -> pathlib.Path:
  page.write_text(write.render(path, others), "utf-8")
  return page


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> pathlib.Path:
  """The run directory of a finished quickstart: REPORT_RUN, or one that is made here."""
  if "REPORT_RUN" in os.environ:
    return pathlib.Path(os.environ["REPORT_RUN"])
  path = tmp_path_factory.mktemp("chromium") / "quickstart"
  words = ["run", "--config=quickstart", f"--workdir={path}"]
  subprocess.run([sys.executable, "-m", "distill_jax", *words], cwd=ROOT, check=True)
  return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory, quickstart) -> dict[str, pathlib.Path]:
  """Pages to look at: the quickstart; extreme runs, compared; a sweep with long names."""
  path = tmp_path_factory.mktemp("pages")
  material.write_run(path / "hostile")
  material.write_run(path / "unfinished", finished=False)
  material.long_run(path / "long", rounds=14)
  material.write_sweep(path / "sweep")
  return {
    "quickstart": written(quickstart, path / "1.html"),
    "compared": written(path / "hostile", path / "2.html", (path / "long", quickstart)),
    "unfinished": written(path / "unfinished", path / "3.html"),
    "long": written(path / "long", path / "4.html"),
    "sweep": written(path / "sweep", path / "5.html"),
  }


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
@pytest.mark.parametrize("width", (1280, 400))
@pytest.mark.parametrize("name", ("quickstart", "compared", "unfinished", "long", "sweep"))
def test_everything_is_legible_and_inside_of_the_screen(tmp_path, pages, name, width, dark):
  folder = pathlib.Path(os.environ.get("REPORT_PICTURES", tmp_path))
  out = folder / f"{name}_{width}_{'dark' if dark else 'light'}.png"
  asyncio.run(look(pages[name], out, width=width, dark=dark))
  assert out.stat().st_size > 20_000


def test_the_report_of_the_quickstart_works_by_clicks(quickstart, pages):
  asyncio.run(click_through(pages["quickstart"]))


async def click_through(page: pathlib.Path) -> None:
  """Uses every control of the browser of questions with the mouse and the keyboard."""
  async with opened(page) as tab:
    await tab.until(f"{STATUS}.includes('questions')")
    assert 0 < await tab.until(PAINT) < 3000
    total = int((await tab.value(STATUS)).split(" of ")[1].split()[0])
    assert total > 100 and await tab.value(ROWS) == 40
    first = await tab.value(FIRST)
    await tab.click("#after")
    await tab.until(f"{STATUS}.startsWith('41–80 of {total} ')")
    assert await tab.value(FIRST) != first
    await tab.click("#before")
    await tab.until(f"{STATUS}.startsWith('1–40 of {total} ')")
    assert await tab.value(FIRST) == first
    await tab.click(".item > button")
    kinds = "[...document.querySelectorAll('.events .label')].map((e) => e.textContent).join(';')"
    shown = await tab.until(kinds)
    assert shown.startswith("question;gold;round 0 ") and "rationale by" in shown
    await tab.click(".item > button")
    assert await tab.value("document.querySelectorAll('.events').length") == 0
    await tab.click("#search")
    await tab.call("Input.insertText", text=first[:25].upper())
    await tab.until(f"{STATUS}.includes(' of ') && !{STATUS}.endsWith(' of {total} questions')")
    assert await tab.value(FIRST) == first
    assert problems(tab) == []


def test_the_picture_of_the_documentation_is_taken_without_an_error(tmp_path):
  material.write_run(tmp_path / "run")
  page, out = written(tmp_path / "run", tmp_path / "report.html"), tmp_path / "page.png"
  assert report_picture.take(page, out, width=1280, height=1130, dark=False) == ""
  assert out.stat().st_size > 20_000
