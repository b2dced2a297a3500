"""Opens HTTP connection pools, with the proxies and certificates that the environment names."""

import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

import aiohttp
import httpx2
import openai

from distill_jax import errors

IDLE_SECONDS = 5.0  # then a connection is closed; servers close theirs soon after
HEADERS = {"User-Agent": "distill_jax", "Accept-Encoding": "gzip, deflate"}


def open_session(
  address: str, *, local: bool, connections: int, connect_timeout: float
) -> aiohttp.ClientSession:
  """Opens a pool of connections to one server, within an event loop. It keeps no cookies.

  aiohttp takes far less CPU time than httpx2, which the openai package uses
  (benchmarks/teacher_throughput.py).

  Args:
    address: Where its requests go.
    local: Ignore the environment's proxies.
    connections: Maximum concurrent requests.
    connect_timeout: Maximum seconds to connect.

  Raises:
    UserError: The environment's proxies or certificates are unusable.
  """
  try:
    proxy = None if local else proxy_for(address)
    certificates = _certificates(address, proxy, local)
  except (httpx2.InvalidURL, OSError, ValueError):  # which may quote a password
    raise _unusable() from None
  return aiohttp.ClientSession(
    connector=aiohttp.TCPConnector(
      limit=connections, keepalive_timeout=IDLE_SECONDS, ssl=certificates
    ),
    proxy=_address(proxy) if proxy else None,
    headers=HEADERS,
    cookie_jar=aiohttp.DummyCookieJar(),
    timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
    auto_decompress=False,
  )


def openai_client(
  base_url: str, key: str, timeout: float, local: bool, headers: Mapping[str, str]
) -> openai.AsyncOpenAI:
  """Returns a client for files and batches; it lives in one event loop.

  It follows no redirect, which could send files anywhere.

  Args:
    base_url: The server.
    key: API key; "" for none.
    timeout: Seconds for one request.
    local: Ignore the environment's proxies.
    headers: Headers of every request; they replace others of the same name.

  Raises:
    UserError: The environment's proxies or certificates are unusable.
  """
  try:
    proxy = None if local else proxy_for(base_url)
    http = openai.DefaultAsyncHttpxClient(
      follow_redirects=False,
      trust_env=False,
      proxy=proxy,
      verify=_certificates(base_url, proxy, local),
    )
  except (httpx2.InvalidURL, OSError, ValueError):  # which may quote a password
    raise _unusable() from None
  made = openai.AsyncOpenAI(
    api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout, http_client=http
  )
  # The environment's settings may be meant for another server.
  made.organization = made.project = None
  made._custom_headers = dict(headers)
  return made


def proxy_for(address: str) -> httpx2.Proxy | None:
  """Returns the environment's proxy for an address, by httpx2's rules; None without one.

  Raises:
    ValueError: The proxy does not speak http or https.
    httpx2.InvalidURL: The address of a proxy is malformed.
  """
  url = httpx2.URL(address)
  proxy = _Proxies()._transport_for_url(url).proxy  # type: ignore[attr-defined]
  if proxy is not None and proxy.url.scheme not in ("http", "https"):
    raise ValueError("the proxy speaks neither http nor https")
  return proxy


class _Via(httpx2.AsyncBaseTransport):
  def __init__(self, proxy: httpx2.Proxy | None):
    self.proxy = proxy


class _Proxies(httpx2.AsyncClient):
  """Chooses a proxy and connects to nothing."""

  def _init_transport(self, *_: Any, **__: Any) -> _Via:
    return _Via(None)

  def _init_proxy_transport(self, proxy: httpx2.Proxy, *_: Any, **__: Any) -> _Via:
    return _Via(proxy)


def _address(proxy: httpx2.Proxy) -> str:
  """The address of a proxy as aiohttp takes it, with user name and password."""
  if proxy.auth is None:
    return str(proxy.url)
  user, password = (urllib.parse.quote(part, safe="") for part in proxy.auth)
  return str(proxy.url.copy_with(username=user, password=password))


def _certificates(address: str, proxy: httpx2.Proxy | None, local: bool) -> ssl.SSLContext | bool:
  """The environment's certificates; made only if they are used, since that takes 20 ms."""
  schemes = {urllib.parse.urlsplit(address).scheme, proxy.url.scheme if proxy else ""}
  return httpx2.create_ssl_context(trust_env=not local) if "https" in schemes else True


def _unusable() -> errors.UserError:
  return errors.teacher(
    "cannot connect with the proxies or certificates set in the environment; check HTTP_PROXY,"
    " HTTPS_PROXY, ALL_PROXY, NO_PROXY (a proxy must be http or https), SSL_CERT_FILE and"
    " SSL_CERT_DIR"
  )
