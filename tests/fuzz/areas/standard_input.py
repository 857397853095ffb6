"""Bytes given to `encode` and `search` on standard input: not UTF-8, NUL, long lines, odd line ends, closed streams."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from fuzz import checks, inputs, mutations, tiny
from fuzz.case import Case
from hypothesis import strategies as st

from minilm_np import SentenceTransformer

Draw = st.DrawFn
ENDS = [b"\n"] * 6 + [b"\r\n", b"\r", b"\n\n", b"", b"\x00\n", b"\x0b", b"\x85", "\u2028".encode()]
INVALID = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xfe\xff"]
BOMBS = [b"the cat ", b"x", b"\xe4\xbd\xa0", b". ", b" ", b"x" * 3000 + b" "]
# Where a text can be cut nowhere, it is tokenized as a whole, which takes 45 times its size.
WHOLE = [b"\0", "\u0301".encode()]
STREAMS = ["stdin", "stdout", "stderr"]


@st.composite
def cases(draw: Draw) -> Case:
    if mutations.seldom(draw, 25):
        content = draw(st.one_of(mutations.bombs(BOMBS), mutations.bombs(WHOLE, mutations.MAX_BYTES // 2)))
    else:
        texts = draw(st.lists(inputs.single_texts(), max_size=5))
        content = b"".join(t.encode("utf-8", "surrogatepass") + draw(st.sampled_from(ENDS)) for t in texts)
        if draw(st.booleans()):
            content *= draw(st.sampled_from([1, 3, 40]))  # more than 100 lines go to the Numba op set
        if mutations.seldom(draw, 5):
            content = draw(mutations.byte_mutations(content + draw(st.sampled_from(INVALID))))
        if mutations.seldom(draw, 20):
            content = b"\xef\xbb\xbf" + content
    closed = draw(st.sets(st.sampled_from(STREAMS), min_size=1)) if mutations.seldom(draw, 8) else []
    arguments = draw(
        st.sampled_from(
            [["encode"], ["encode", "-"], ["encode", "-o", "out.npy"], ["search", "-", "the cat", "-k", "3"]]
        )
    )
    return Case("standard_input", {"input": content}, {"arguments": arguments, "closed": sorted(closed)})


def run(case: Case, scratch: Path) -> str:
    data, closed = case.files["input"], case.settings["closed"]
    folder = tiny.write(scratch / "model")
    arguments = [*case.settings["arguments"], "--model", str(folder)]
    result = checks.command(arguments, data, closed)
    outcome = checks.check_command(
        result, ["standard input", "standard output", "CORPUS", "-:", "sentences"], closed, [0]
    )
    if result.code or arguments[0] != "encode" or "stdin" in closed:
        return outcome
    if "-o" in arguments:
        vectors = np.load(scratch / "out.npy")
    elif "stdout" in closed:
        if not data.removeprefix(b"\xef\xbb\xbf"):
            return outcome  # there is nothing to print
        raise checks.FaultError("exit code", "0, though the output is closed")
    else:
        vectors = np.array([json.loads(line)["embedding"] for line in result.out.splitlines()], np.float32)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    texts = [line.removesuffix(b"\r").decode() for line in (lines if lines[-1] else lines[:-1])]
    if len(vectors) != len(texts):
        raise checks.FaultError("rows", f"{len(texts)} lines gave {len(vectors)} vectors")
    if texts:
        model = SentenceTransformer(str(folder), backend="numba", threads=2)
        if np.abs(model.encode(texts, truncation="ignore") - vectors).max() > checks.OP_SETS:
            raise checks.FaultError("op sets", "the vectors of the command line and of the Numba op set differ")
    return f"{outcome}, {min(len(texts), 101)} lines"
