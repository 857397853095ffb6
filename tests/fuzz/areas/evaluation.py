"""Data files of `minilm-np evaluate`: .tsv and .jsonl, plain and gzipped.

Where the eval extra is not installed, the rows are only read and checked.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz import checks, mutations
from fuzz.case import Case
from hypothesis import strategies as st
from support.evaluation import TINY_TASKS, unit_vector, write_tiny_data

from minilm_np.evaluate import data, evaluate
from minilm_np.evaluate.data import PARTS, Files, read
from minilm_np.evaluate.tasks import task_named

Draw = st.DrawFn
EXTRA = all(importlib.util.find_spec(name) for name in ("scipy", "sklearn", "pytrec_eval"))
CELLS = [
    "", "nan", "inf", "-1", "1e400", "2147483648", "1_000", "0.5", "\\", "\\t", "x" * 3000, "\u0663", " 1", "None",
    "\ufeff", "0",
]  # fmt: skip
LINE_BOMBS = [b"a", b"a\t", b"\t", b"[],", b'{"a":{}},', b"\n", b"\r", b"\\t", b"\0"]


@lru_cache(1)
def tiny_data() -> dict[str, bytes]:
    with TemporaryDirectory() as name:
        folder = write_tiny_data(Path(name))
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {
        name.removesuffix(".gz"): gzip.decompress(content) if name.endswith(".gz") else content
        for name, content in files.items()
    }


@lru_cache(4)
def gzip_bomb(unit: bytes) -> bytes:
    """Return 300 KB that unpack to 300 MB."""
    return gzip.compress(unit * (300 * 2**20 // len(unit)), compresslevel=1)


@st.composite
def damaged(draw: Draw, name: str, content: bytes) -> bytes:
    """Draw a change of one file's rows or bytes."""
    lines = content.splitlines()
    i = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["row"] * 6 + ["delete", "repeat", "bytes", "empty"]))
    if mutations.seldom(draw, 30):
        return draw(mutations.bombs(LINE_BOMBS))
    if kind == "row" and name.endswith(".jsonl"):
        lines[i] = draw(mutations.texts_of(draw(mutations.json_mutations(json.loads(lines[i])))))
    elif kind == "row":
        cells = lines[i].split(b"\t")
        for _ in range(draw(st.integers(1, 2))):
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(CELLS)).encode()
        lines[i] = b"\t".join(cells)
    elif kind == "delete":
        del lines[i : i + draw(st.sampled_from([1, len(lines)]))]
    elif kind == "repeat":
        lines += [lines[i]] * draw(st.sampled_from([1, 3]))
    elif kind == "bytes":
        return draw(mutations.byte_mutations(content))
    else:
        return draw(st.sampled_from([b"", b"\n", b"\xef\xbb\xbf", b"\r\n\r\n", b"{}"]))
    return b"\n".join(lines) + draw(st.sampled_from([b"\n", b"", b"\r\n"]))


@st.composite
def cases(draw: Draw) -> Case:
    task = draw(st.sampled_from(TINY_TASKS))
    own = sorted(name for name in tiny_data() if name.startswith(task))
    files = {}
    for name in draw(st.lists(st.sampled_from(own), min_size=1, max_size=2, unique=True)):
        content = draw(damaged(name, tiny_data()[name]))
        kind = draw(st.sampled_from(["plain"] * 6 + ["gzip", "damaged gzip"]))
        if kind != "plain":
            content = gzip.compress(content, mtime=0)
            content = draw(mutations.byte_mutations(content)) if kind == "damaged gzip" else content
        if mutations.seldom(draw, 60):
            content = gzip_bomb(draw(st.sampled_from([b"\0", b"[]", b'{"a":'])))
        files[name] = content
    return Case("evaluation", files, {"task": task})


def run(case: Case, scratch: Path) -> str:
    task = task_named(case.settings["task"])
    for name, content in tiny_data().items():
        if name.startswith(task.name):
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_bytes(content)
    case.put_files(scratch)
    data.MAX_LINE_BYTES = 2**24  # lowered, so that a file can reach it
    rows = checks.attempt(lambda: read_all(scratch, case.settings["task"]), [task.name])
    if not EXTRA:
        return rows.error or "rows"

    def encode(texts: list[str]) -> Any:
        return [unit_vector(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")) for text in texts]

    result = checks.attempt(lambda: evaluate(encode, task, scratch), [task.name, "corpus: ", "summarization: "])
    if rows.error and not result.error:
        raise checks.FaultError("evaluated", f"rows that cannot be read were evaluated: {rows.error}")
    return result.error or "score"


def read_all(folder: Path, name: str) -> int:
    task = task_named(name)
    return sum(1 for part in PARTS.get(task.type, ("test",)) for _ in read(Files(folder), task, part))
