"""Encode texts with an exported model, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np import weights
from minilm_np.checkpoint import read_config
from minilm_np.targets.error import CannotCompareError, one_line
from minilm_np.tokenizer import Tokenizer

ONNX_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ONNX_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings")  # in order of preference


def onnx_file(path: Path) -> Callable[[list[str]], Any]:
    """Return a function that encodes texts with an exported model, run by ONNX Runtime with this package's tokenizer.

    If the model returns token embeddings, they are averaged and scaled to length 1.

    Raises
    ------
    CannotCompareError
        If onnxruntime is not installed, the file is not a valid model, or its inputs or outputs are unknown.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CannotCompareError(f"{path}: needs onnxruntime, which is not installed") from None
    if not path.is_file():
        raise CannotCompareError(f"{path}: no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types
        raise CannotCompareError(f"{path}: {one_line(error)}") from None
    inputs = [entry.name for entry in session.get_inputs()]
    if "input_ids" not in inputs or not set(inputs) <= set(ONNX_INPUTS):
        raise CannotCompareError(f"{path}: expected the inputs {', '.join(ONNX_INPUTS)}, got {', '.join(inputs)}")
    outputs = [entry.name for entry in session.get_outputs()]
    output_name = next((name for name in ONNX_OUTPUTS if name in outputs), outputs[0] if len(outputs) == 1 else None)
    if output_name is None or output_name == "pooler_output":  # BERT's pooler gives no sentence embedding
        raise CannotCompareError(
            f"{path}: expected one of the outputs {', '.join(ONNX_OUTPUTS)}, or one output that is not pooler_output, "
            f"got {', '.join(outputs)}"
        )
    tokenizer = _default_tokenizer()

    def encode(texts: list[str]) -> Any:
        tokens = tokenizer(texts)
        arrays = dict(zip(("input_ids", "token_type_ids", "attention_mask"), tokens.padded(), strict=True))
        (output,) = session.run([output_name], {name: arrays[name] for name in inputs})
        if output.ndim == 2:
            return output
        hidden_states = output.astype(np.float64)
        mask = arrays["attention_mask"]
        pooled = (hidden_states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    return encode


def _default_tokenizer() -> Tokenizer:
    folder = weights.find_or_fetch().folder
    weights.verify(folder, {"tokenizer.json": weights.SHA256["tokenizer.json"]})
    return Tokenizer(folder / "tokenizer.json", read_config(folder).max_seq_length)
