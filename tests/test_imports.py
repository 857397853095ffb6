"""Names that code for sentence-transformers imports: each is here, or its absence is explained."""

from __future__ import annotations

import copy
import logging
import pickle
from importlib import import_module
from typing import Any

import pytest

from minilm_np import SentenceTransformer
from minilm_np.absent import NAMES
from minilm_np.sentence_transformer import Device


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("minilm_np", "SentenceTransformer, SimilarityFunction, quantize_embeddings, LoggingHandler, util"),
        ("minilm_np.util", "cos_sim, semantic_search, batch_to_device, disable_logging, quantize_embeddings"),
        ("minilm_np.quantization", "quantize_embeddings"),
        ("minilm_np.evaluation", "EmbeddingSimilarityEvaluator, TripletEvaluator, SimilarityFunction"),
    ],
)
def test_documented_imports_work(module: str, names: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from {module} import {names}", namespace)
    assert all(namespace[name].__name__.rpartition(".")[2] == name for name in names.split(", "))


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_other_imports_say_why_not(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=f"^{name}: {module} has no such name; "):
        exec(f"from {module} import {name}", {})


@pytest.mark.parametrize("module", NAMES)
def test_unknown_names_raise_attribute_error(module: str) -> None:
    assert not hasattr(import_module(module), "nonsense")


def test_device_is_a_str_with_the_attributes_of_a_torch_device(model: SentenceTransformer) -> None:
    device = model.device
    assert (device, device.type, device.index) == ("cpu", "cpu", None)
    assert device != "cuda" and hash(device) == hash("cpu")
    assert isinstance(pickle.loads(pickle.dumps(device)), Device) and copy.deepcopy(device) == device


@pytest.mark.parity
def test_device_equals_the_torch_device(model: SentenceTransformer) -> None:
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    assert model.device == torch.device("cpu") and torch.device("cpu") == model.device
    assert model.device != torch.device("cuda")
    assert torch.zeros(1, device=model.device).device == model.device


def test_disable_logging_ends_with_its_block() -> None:
    from minilm_np.util import disable_logging

    before = logging.root.manager.disable
    with disable_logging(logging.INFO):
        assert not logging.getLogger().isEnabledFor(logging.INFO)
    assert logging.root.manager.disable == before
