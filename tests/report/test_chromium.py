"""A report in Debian's Chromium, from file://, by clicks. Heavy: apt-get install chromium, then

bash launch/test.sh -m heavy tests/report
"""

import asyncio
import contextlib
import json
import pathlib
import subprocess
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
STATUS = "document.getElementById('status').textContent"


async def browse(page: pathlib.Path) -> None:
  async with opened(page) as tab:
    await tab.until(f"{STATUS}.includes('questions')")
    assert await tab.value("document.querySelectorAll('svg').length") >= 4
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    assert 0 < await tab.until(paint) < 3000
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
  page = tmp_path / "report.html"
  page.write_text(write.render(tmp_path / "run"), "utf-8")
  asyncio.run(browse(page))


async def turn_pages(page: pathlib.Path) -> None:
  async with opened(page) as tab:
    await tab.until(f"{STATUS}.includes('questions')")
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    assert 0 < await tab.until(paint) < 3000
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
  page = tmp_path / "report.html"
  page.write_text(write.render(tmp_path / "run"), "utf-8")
  assert page.stat().st_size < 20e6
  asyncio.run(turn_pages(page))


@pytest.mark.parametrize("dark", (False, True))
@pytest.mark.parametrize("width", (1280, 500))
def test_pictures_are_taken_without_an_error(tmp_path, width, dark):
  material.write_run(tmp_path / "run")
  page = tmp_path / "report.html"
  page.write_text(write.render(tmp_path / "run"), "utf-8")
  out = tmp_path / "page.png"
  assert report_picture.take(page, out, width=width, height=3000, dark=dark) == ""
  assert out.stat().st_size > 20_000
