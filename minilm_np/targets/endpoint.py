"""Encode texts with an HTTP endpoint, which may hang, redirect, return HTML, or send a gigabyte.

The key goes to the origin of the URL (scheme, host, port) and nowhere else: a redirect to another origin is an error.
Error messages show no key, password or query, even if the endpoint sends them back.
"""

from __future__ import annotations

import base64
import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm_np.model import Array
from minilm_np.targets.error import CannotCompareError, one_line, without_credentials
from minilm_np.targets.json_arrays import JsonArrays, decode

MAX_ANSWER_BYTES = 2**26
MAX_REDIRECTS = 5
MIN_SECRET_LENGTH = 8  # of a value in the URL's query; "v1" and "cls" are no secrets
MAX_TIMEOUT = 86400  # seconds; a socket raises OverflowError for 1e20
REPEATED = (301, 302, 307, 308)  # 303 asks for a GET, which cannot carry the texts
PORTS = {"http": 80, "https": 443}

Encode = Callable[[list[str]], Any]


def http_endpoint(url: str, model: str = "all-MiniLM-L6-v2", key: str | None = None, timeout: float = 30.0) -> Encode:
    """Return a function that encodes texts with an HTTP endpoint.

    Parameters
    ----------
    url
        A URL that ends in /embeddings is called like OpenAI's /v1/embeddings, any other like the /embed of
        text-embeddings-inference.
    model
        The model name that is sent to /v1/embeddings.
    key
        Sent as a bearer token, if given. A redirect to another scheme, host or port is an error.
    timeout
        Seconds to wait for a complete answer, not only for its next byte. Where no thread can be started, the endpoint
        may need this long for each part of its answer.

    Raises
    ------
    CannotCompareError
        If an argument is not valid. The returned function raises it if the endpoint fails.
    """
    _check_url(url)
    if not 0 < timeout <= MAX_TIMEOUT:
        raise CannotCompareError(f"timeout: expected seconds above 0 and at most {MAX_TIMEOUT}, got {timeout:g}")
    key, parts = _checked_key(key), urllib.parse.urlsplit(url)
    in_query = [value for _, value in urllib.parse.parse_qsl(parts.query) if len(value) >= MIN_SECRET_LENGTH]
    endpoint = _Endpoint(url, without_credentials(url), key, [*([key] if key else []), *in_query], timeout)
    open_ai = parts.path.rstrip("/").endswith("/embeddings")

    def encode(texts: list[str]) -> Any:
        if not open_ai:
            return endpoint.vectors(endpoint.post({"inputs": texts, "truncate": True}), len(texts))
        answers = []
        for encoding_format in ("float", "base64"):  # an endpoint may get only one of the two right
            body = {"model": model, "input": texts, "encoding_format": encoding_format}
            answers.append(endpoint.vectors(endpoint.open_ai_rows(endpoint.post(body)), len(texts)))
        from_floats, from_base64 = answers
        if from_floats.shape != from_base64.shape or not np.allclose(
            from_floats, from_base64, rtol=1e-6, atol=1e-9, equal_nan=True
        ):
            raise endpoint.error("encoding_format 'float' and 'base64' give different vectors")
        return from_floats

    return encode


def _check_url(url: str) -> None:
    shown = without_credentials(url)
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:  # an invalid IPv6 address or port
        raise CannotCompareError(f"{shown}: not a valid URL: {one_line(error)}") from None
    if "@" in parts.netloc:
        raise CannotCompareError(f"{shown}: expected a URL without user name and password, and the key beside it")
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise CannotCompareError(f"{shown}: expected http://host[:port]/embed or http://host[:port]/v1/embeddings")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise CannotCompareError(f"{shown}: expected a URL of ASCII characters without spaces; %-encode others")


def _checked_key(key: str | None) -> str | None:
    """Return the key without surrounding white space, or None. The message does not show it."""
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise CannotCompareError("key: expected printable ASCII characters without spaces, got others")
    return key or None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect to us: urllib sends the Authorization header to any host and turns a POST into a GET."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@dataclass(frozen=True)
class _Endpoint:
    """Sends requests to a URL and checks the answers; every method raises CannotCompareError."""

    url: str
    shown: str  # the URL in messages
    key: str | None
    secrets: Sequence[str]  # what messages must not show: the key and values of the URL's query
    timeout: float

    def error(self, what: str) -> CannotCompareError:
        return CannotCompareError(f"{self.shown}: {what}")

    def excerpt(self, value: Any, length: int = 200) -> str:
        """Return the start of what the endpoint sent, without secrets."""
        return one_line(value, length, self.secrets)

    def post(self, body: dict[str, Any]) -> Any:
        """Return the endpoint's answer to a JSON object, as JsonArrays reads it."""
        try:
            content_type, data = _run_within(self.timeout, lambda: self._exchange(json.dumps(body).encode()))
        except TimeoutError:
            raise self.error(f"no complete answer within {self.timeout:g} s") from None
        try:
            return JsonArrays().parse(decode(data))
        except ValueError as error:
            start = self.excerpt(data[:20000].decode(errors="replace"), 60)
            raise self.error(f"expected JSON, got {content_type} {start!r} ({self.excerpt(error)})") from None

    def _exchange(self, body: bytes) -> tuple[str, bytearray]:
        """Post the body, follow redirects within the origin, and return the answer's content type and body."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url, opener = self.url, urllib.request.build_opener(_NoRedirects)
        deadline = time.monotonic() + self.timeout
        for _ in range(MAX_REDIRECTS + 1):
            request = urllib.request.Request(url, body, headers)
            try:
                with self._open(opener, request) as response:
                    if response.code in REPEATED:
                        url = self._redirected(url, response.code, response.headers.get("Location"))
                        continue
                    if not 200 <= response.code < 300:
                        start = self.excerpt(response.read(20000).decode(errors="replace"))
                        raise self.error(f"HTTP {response.code}: {start}")
                    return self.excerpt(response.headers.get_content_type()), self._read(response, deadline)
            except (TimeoutError, CannotCompareError):
                raise
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    raise reason from None
                raise self.error(self.excerpt(reason) or type(reason).__name__) from None
            except ValueError as error:  # an invalid host name or proxy; the text may have the proxy's password
                raise self.error(f"the host name or the proxy's URL is not valid ({type(error).__name__})") from None
        raise self.error(f"expected at most {MAX_REDIRECTS} redirects")

    def _open(self, opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Any:
        """Return the response, also if its status is an error."""
        try:
            return opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            return error

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytearray:
        data = bytearray()
        while block := response.read1(65536):
            data += block
            if len(data) > MAX_ANSWER_BYTES:
                raise self.error(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError
        return data

    def _redirected(self, url: str, code: int, location: str | None) -> str:
        """Return the URL of a redirect, if its origin is the same."""
        try:
            new = urllib.parse.urljoin(url, location or "")
            _check_url(new)
            same = location is not None and _origin(new) == _origin(url)
        except ValueError:
            same, new = False, location or ""
        if not same:
            to = self.excerpt(without_credentials(new)) or "no URL"
            raise self.error(f"HTTP {code}: expected an answer or a redirect within the host, got a redirect to {to}")
        return new

    def open_ai_rows(self, answer: Any) -> list[Any]:
        """Return the vectors of an answer in OpenAI's format, sorted by their index."""
        try:
            data = list(answer["data"])
            indices = [item["index"] for item in data]
            if any(type(index) is not int for index in indices) or sorted(indices) != list(range(len(data))):
                raise self.error(f"expected each index from 0 to {len(data) - 1} once")
            rows = [item["embedding"] for item in sorted(data, key=lambda item: item["index"])]
        except (KeyError, TypeError, IndexError):
            raise self.error("expected an object with data: [{index, embedding}, ...]") from None
        return [self._decode_base64(row) if isinstance(row, str) else row for row in rows]

    def _decode_base64(self, text: str) -> Array:
        try:
            with np.errstate(invalid="ignore"):  # bytes in the wrong order may be NaN
                return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
        except ValueError:
            raise self.error("expected an embedding as a list or as base64 of float32") from None

    def vectors(self, rows: Any, n: int) -> Array:
        """Return the n rows of an answer as an array (n, D) in float64."""
        if not isinstance(rows, list) or len(rows) != n:
            got = "a list of numbers" if isinstance(rows, np.ndarray) and rows.size else type(rows).__name__
            got = f"{len(rows)} vectors" if isinstance(rows, list | np.ndarray) and got != "a list of numbers" else got
            raise self.error(f"expected a list of {n} vectors, one for each text, got {got}")
        for i, row in enumerate(rows):
            if not isinstance(row, np.ndarray) or not row.size:  # JSON has no NaN: some servers send null
                got = repr(self.excerpt(row, 60))
                raise self.error(f"vector {i}: expected a list of numbers, got {got}")
        sizes = sorted({len(row) for row in rows})
        if len(sizes) > 1:
            raise self.error(f"expected vectors of one size, got {sizes[0]} and {sizes[-1]} numbers")
        return np.stack(rows).astype(np.float64)


def _run_within(timeout: float, exchange: Callable[[], Any]) -> Any:
    """Return or raise what `exchange` does, or raise TimeoutError after `timeout` seconds.

    A socket's own timeout starts again with each byte, so a server that sends slowly would never reach it. Where no
    thread can be started, it has to do.
    """
    outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            outcome.put((exchange(), None))
        except BaseException as error:
            outcome.put((None, error))

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:  # the limit of threads is reached, or the interpreter is shutting down
        return exchange()
    try:
        value, error = outcome.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value
