"""No fuzzing: faults on purpose, with which test_harness.py shows that the harness finds each kind."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from fuzz import checks, tiny
from fuzz.case import Case

from minilm_np import SentenceTransformer

ENCODE = SentenceTransformer.encode


def run(case: Case, scratch: Path) -> str:
    return FAULTS[case.settings["fault"]](scratch)


def crash(_: Path) -> str:
    return ctypes.string_at(0).decode()


def hang(_: Path) -> str:
    time.sleep(60)
    return "late"


def grow(_: Path) -> str:
    return f"{np.ones(300 * 2**20, np.uint8).sum()} bytes"


def undocumented(_: Path) -> str:
    raise KeyError("key")


def unnamed(_: Path) -> str:
    return str(checks.attempt(lambda: float("something"), [".json"]))


def check(scratch: Path, encode: Callable[..., Any]) -> str:
    with patch.object(SentenceTransformer, "encode", encode):
        return checks.check_checkpoint(tiny.write(scratch), ["the cat", "the dog"])


def wrong_vectors(scratch: Path) -> str:
    return check(scratch, lambda self, texts, **k: ENCODE(self, texts, **k) + (0.01 if self.backend == "numba" else 0))


def neighbors(scratch: Path) -> str:
    return check(scratch, lambda self, texts, **k: ENCODE(self, texts, **k) + np.float32(len(texts)))


def one_refuses(scratch: Path) -> str:
    def encode(self: Any, texts: list[str], **options: Any) -> Any:
        if self.backend == "numba":
            raise ValueError("sentences[0]: refused")
        return ENCODE(self, texts, **options)

    return check(scratch, encode)


def none(_: Path) -> str:
    return "fine"


FAULTS: dict[str, Callable[[Path], str]] = {
    f.__name__: f for f in (crash, hang, grow, undocumented, unnamed, wrong_vectors, neighbors, one_refuses, none)
}
