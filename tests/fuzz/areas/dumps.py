"""Files of results given to `minilm-np crosscheck`: .npy, .npz, .safetensors, .json and .jsonl.

A case knows whether its file is right, or wrong or incomplete. A right one must pass, and no other may.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fuzz import checks, mutations, tiny
from fuzz.case import Case
from hypothesis import strategies as st

from minilm_np.crosscheck.truth import STAGE_ROWS, truth

Draw = st.DrawFn
Array = npt.NDArray[Any]
Named = list[tuple[str, Any]]  # a list, because a hostile file may have a name twice
CHANGES = ["missing", "element", "constant", "nan", "swap", "unknown", "twice", "shape", "kind"]
FINAL = "sentence_embedding"
SMALL = ("pooled", FINAL, "token_ids")  # stages that are short enough to be written as JSON
STAGES = (*SMALL, FINAL, "embeddings", "encoder.layer.0.attention.self.attention_probs", "encoder.layer.5.output")
CONTAINERS = {"npz": ".npz", "safetensors": ".safetensors", "json": ".json", "npy": ".npy", "jsonl": ".jsonl"}
MARKER = "pickle-was-loaded"


class Payload:
    """An object whose pickle makes a file when it is loaded."""

    def __reduce__(self) -> Any:
        return open, (MARKER, "w")


# --- right values, and ways to make them wrong --------------------------------------------------


@st.composite
def right_values(draw: Draw, stages: tuple[str, ...]) -> Named:
    """Draw the right values of one stage in one of the documented forms."""
    stage = draw(st.sampled_from(stages))
    rows = range(40) if stage == FINAL and draw(st.integers(0, 3)) else STAGE_ROWS
    values = [np.asarray(value) for value in truth().of(stage, rows)]
    values = [value if stage == "token_ids" else value.astype(np.float32) for value in values]
    forms = ["by case"] if stage == "token_ids" else ["by case", "by case", "together"]
    if draw(st.sampled_from(forms)) == "by case":
        return [(f"{row:02}/{stage}", value) for row, value in zip(rows, values, strict=True)]
    name = {"encoder.layer.5.output": draw(st.sampled_from(["last_hidden_state", "token_embeddings"]))}.get(
        stage, stage
    )
    if values[0].ndim == 1:
        return [(name, np.stack(values))]
    if values[0].ndim == 2 and draw(st.booleans()):
        return [(name, np.concatenate(values))]
    longest = np.max([value.shape for value in values], axis=0)
    padded = [np.pad(v, [(0, int(m - n)) for m, n in zip(longest, v.shape, strict=True)]) for v in values]
    return [(name, np.stack(padded))]


@st.composite
def wrong_values(draw: Draw, values: Named, kind: str) -> Named:
    """Draw a change of this kind, after which the values must not pass."""
    i = draw(st.integers(0, len(values) - 1))
    name, array = values[i]
    array = np.array(array)
    case, slash, stage = name.rpartition("/")
    last = array.reshape(-1)
    compared = 1 if array.ndim == 4 else min(len(last), 384)  # in padded attention, the next element may be padding
    if kind == "missing" and slash:
        # some cases are left out, and some of the others are constant
        missing = draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=4))
        constant = draw(st.sets(st.integers(0, len(values) - 1), max_size=28))
        return [
            (name, np.full_like(value, 0.05) if j in constant else value)
            for j, (name, value) in enumerate(values)
            if j not in missing
        ]
    if kind == "missing":
        return [(name, array[: draw(st.integers(0, len(array) - 1))])]
    if kind == "swap" and slash and len(values) > 1:
        j = (i + 1) % len(values)
        values = list(values)
        values[i], values[j] = (name, values[j][1]), (values[j][0], array)
        return values
    if kind == "unknown":
        other = draw(
            st.sampled_from(["x", f"{stage}s", f"77/{stage}", f"-1/{stage}", f"\u00b2/{stage}", f"0/x/{stage}", ""])
        )
        return [*values, (other, array)]
    if kind == "twice" and slash:
        other = draw(st.sampled_from([name, f"0{name}", f"{int(case)}/{stage}", f"{case}//{stage}"]))
        pair = [(other, np.full_like(array, 1)), (name, array)]
        return [*values[:i], *(pair if draw(st.booleans()) else pair[::-1]), *values[i + 1 :]]
    if kind == "shape":
        shapes = [array[None, None], array[..., None], array[:0], array[..., :-1], np.asarray(array.reshape(-1)[0])]
        array = draw(st.sampled_from(shapes))
    elif kind == "kind":
        kinds = [array.astype(bool), array.astype("U8"), array.astype("S2"), (array * 64).astype(np.int8), array + 1j]
        array = draw(st.sampled_from(kinds))
    elif kind == "nan" and array.dtype.kind == "f":
        last[draw(st.integers(0, compared - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    elif kind == "element":
        last[draw(st.integers(0, compared - 1))] += 1
    else:
        array[...] = 7
    return [*values[:i], (name, array), *values[i + 1 :]]


# --- containers --------------------------------------------------------------------------------


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def npz(values: Named, suffix: str = ".npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, value in values:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Duplicate name")  # a hostile file may have a name twice
                archive.writestr(name + suffix, npy(np.asarray(value)))
    return file.getvalue()


def safetensors(values: Named) -> bytes:
    names = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "int8": "I8", "bool": "BOOL"}
    entries, data = [], b""
    for name, value in values:
        array = np.ascontiguousarray(value)
        info = {
            "dtype": names.get(str(array.dtype), "F16"),
            "shape": list(np.shape(value)),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        entries.append(f"{json.dumps(name)}: {json.dumps(info)}")
        data += array.tobytes()
    text = ("{" + ", ".join(entries) + "}").encode()
    return len(text).to_bytes(8, "little") + text + data


def as_json(value: Any) -> Any:
    array = np.asarray(value)
    return array.astype(str).tolist() if array.dtype.kind in "SUc" else array.tolist()


def write(container: str, values: Named) -> bytes:
    if container == "npz":
        return npz(values)
    if container == "safetensors":
        return safetensors(values)
    if container == "npy":
        return npy(np.asarray(values[0][1]))
    if container == "json":
        return ("{" + ", ".join(f"{json.dumps(n)}: {json.dumps(as_json(v))}" for n, v in values) + "}").encode()
    rows = as_json(values[0][1])
    return "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows])).encode()


# --- files that are not valid ------------------------------------------------------------------

DESCRIPTIONS = [
    "'<f4'", "'>f4'", "'|O'", "'<f2'", "'<U999999999'", "'|V0'", "'<M8[ns]'", "[('a', '<f4')]", "[]", "1", "'", "''",
]  # fmt: skip
SHAPES = [
    "(40, 384)", "(15360,)", "()", "(-1, 384)", "(10**12,)", "(1000000000000,)", "(99999999999999999999,)", "(0,)",
    "((", "[40]",
]  # fmt: skip
HEADERS = [
    "{{'descr': {0}, 'fortran_order': {1}, 'shape': {2}, }}\n",
    "{{'descr': {0}, 'shape': {2}}}\n",
    "{0}, {2}\n",
    "(" * 200 + "\n",
]


@st.composite
def npy_headers(draw: Draw) -> bytes:
    text = draw(st.sampled_from(HEADERS)).format(
        draw(st.sampled_from(DESCRIPTIONS)),
        draw(st.sampled_from(["False", "True", "0", "None"])),
        draw(st.sampled_from(SHAPES)),
    )
    text += draw(st.sampled_from(["", "", " " * 20000, "'''", "\\\n", "\x00"]))
    version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\7\0"]))
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode() + bytes(40 * 384 * 4)


@st.composite
def invalid(draw: Draw, container: str) -> bytes:
    kind = draw(st.sampled_from(["bytes", "bytes", "own", "own", "own", "empty"]))
    if mutations.seldom(draw, 10):
        bomb = draw(mutations.json_bombs())
        return b'{"sentence_embedding": ' + bomb + b"}" if draw(st.booleans()) else bomb
    if kind == "empty":
        return draw(st.sampled_from([b"", b"\0", b"{}", b"[]", b"\n\n", npz([]), safetensors([])]))
    valid = write(container, [(FINAL, truth().embeddings.astype(np.float32))])
    if kind == "bytes":
        end = draw(st.sampled_from([140, len(valid)]))
        return draw(mutations.byte_mutations(valid[:end])) + valid[end:]
    if container in ("npy", "npz"):
        header = draw(npy_headers())
        if draw(st.booleans()):
            header = npy_pickle()
        if container == "npy":
            return header
        file = io.BytesIO()
        with zipfile.ZipFile(
            file, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
        ) as a:
            a.writestr(
                draw(st.sampled_from(["sentence_embedding.npy", "sentence_embedding", "../x.npy", "/x.npy", ".npy"])),
                header,
            )
        return draw(mutations.byte_mutations(file.getvalue(), 1))
    small: Any = {FINAL: [[0.1, 0.2]], "00/pooled": [1.0], "01/token_ids": [1, 2]}
    if container == "safetensors":
        header, data = tiny.header_and_data({FINAL: np.zeros((2, 4), np.float32), "x": np.zeros(3, np.int64)})
        return tiny.safetensors(draw(mutations.json_mutations(header)), data)
    if container == "jsonl":
        row = draw(mutations.json_mutations(draw(st.sampled_from([[0.1, 0.2], {"text": "a", "embedding": [0.1]}]))))
        return valid + draw(mutations.texts_of(row)) + draw(st.sampled_from([b"", b"\n", b"\r\n"]))
    return draw(
        mutations.texts_of(draw(mutations.json_mutations(draw(st.sampled_from([small, [[0.1, 0.2], [0.3, 0.4]]])))))
    )


def npy_pickle() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Payload()], dtype=object), allow_pickle=True)
    return file.getvalue()


# --- the area ----------------------------------------------------------------------------------


@st.composite
def cases(draw: Draw) -> Case:
    container = draw(st.sampled_from(sorted(CONTAINERS)))
    name = "results" + CONTAINERS[container]
    if mutations.seldom(draw, 3):
        return Case("dumps", {name: draw(invalid(container))}, {"expected": "unknown"})
    if container in ("npy", "jsonl"):
        values: Named = [(FINAL, truth().embeddings.astype(np.float32))]
    else:
        values = draw(right_values(SMALL if container == "json" else STAGES))
    change = draw(st.sampled_from(["none", *CHANGES, *CHANGES]))
    if container in ("npy", "jsonl") and change in ("unknown", "twice"):
        change = "none"  # these files have one value without a name
    if change != "none":
        values = draw(wrong_values(values, change))
    return Case(
        "dumps", {name: write(container, values)}, {"expected": "right" if change == "none" else f"wrong: {change}"}
    )


def run(case: Case, scratch: Path) -> str:
    case.put_files(scratch)
    (name,) = case.files
    result = checks.command(["crosscheck", name, "--no-causes"])
    outcome = checks.check_command(result, [name, "encode", "stages", "token_ids"])
    if (scratch / MARKER).exists():
        raise checks.FaultError("pickle", "a pickle in the file was executed")
    expected = case.settings["expected"]
    if expected.startswith("wrong") and result.code == 0:
        raise checks.FaultError(f"passed, {expected}", result.out.decode()[:200])
    if expected == "right" and result.code != 0:
        raise checks.FaultError("refused, though right", f"{outcome} {result.out.decode()[:200]}")
    return f"{expected.partition(':')[0]} {outcome}"
