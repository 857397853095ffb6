"""model.safetensors: wrong headers, damaged bytes, and valid files with extreme numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fuzz import checks, inputs, mutations, tiny
from fuzz.case import Case
from hypothesis import strategies as st

PARAMETERS = tiny.parameters()
VALUES = [0.0, 1e4, 1e10, 1e15, 1e19, 1e30, 3.4e38, 1e-30, 1e-42, float("inf"), float("-inf"), float("nan")]


@st.composite
def extreme_numbers(draw: st.DrawFn) -> dict[str, Any]:
    """Draw parameters in which some tensors are scaled, or have extreme elements."""
    tensors: dict[str, Any] = dict(PARAMETERS)
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(tensors)))
        value = np.float32(draw(st.sampled_from(VALUES)))
        changed = tensors[key].copy()
        with np.errstate(all="ignore"):
            if draw(st.booleans()):
                changed *= value
            else:
                changed.reshape(-1)[:: draw(st.sampled_from([1, 7, 10**6]))] = value
        tensors[key] = changed
    return tensors


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tensors = draw(extreme_numbers())
    kind = draw(st.sampled_from(["numbers", "numbers", "format", "header", "bytes"]))
    if kind == "format":
        name = draw(st.sampled_from(["float64", "float16", "bfloat16", "int64", "int32"]))
        keys = draw(st.sampled_from([sorted(tensors), sorted(tensors)[:1]]))
        with np.errstate(all="ignore"):
            for key in keys:
                bits = np.ascontiguousarray(tensors[key])
                tensors[key] = (
                    (bits.view(np.uint32) >> 16).astype(np.uint16) if name == "bfloat16" else bits.astype(name)
                )
    if draw(st.booleans()):
        tensors = {f"bert.{key}": tensor for key, tensor in tensors.items()}
    header, data = tiny.header_and_data(tensors)
    if kind == "header":
        header = draw(mutations.json_mutations(header))
    content = tiny.safetensors(header, data)
    if kind == "bytes":
        end = draw(st.sampled_from([8, 300, len(content)]))
        content = draw(mutations.byte_mutations(content[:end])) + content[end:]
    return Case("model_weights", {"model.safetensors": content}, {"texts": draw(inputs.batches())})


def run(case: Case, scratch: Path) -> str:
    case.put_files(tiny.write(scratch))
    return checks.check_checkpoint(scratch, case.settings["texts"], odd_weights=True, names=[str(scratch)])
