"""Training against PyTorch, in float64 where nothing else is said. Needs the parity extra."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import write_tiny

with warnings.catch_warnings():  # warnings from importing PyTorch and transformers
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    from sentence_transformers import SentenceTransformer as TorchModel
    from sentence_transformers import losses

from minilm_np import SentenceTransformer, backward, model, ops
from minilm_np.training import AdamW, MultipleNegativesRankingLoss, clip_gradients, learning_rate_at, loss_and_gradients
from minilm_np.training.dropout import Dropout, DropoutTape

pytestmark = pytest.mark.parity
WORDS = ["bread", "butter", "river", "house", "cat", "dog", "moon", "tree", "road", "lamp", "chair", "green"]


def random_tokens(lengths: list[int], vocab_size: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Random ids and types, packed; [PAD] is among the ids."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return rng.integers(0, vocab_size, offsets[-1]), rng.integers(0, 2, offsets[-1]), offsets


def padded(values: Any, offsets: Any) -> Any:
    lengths = np.diff(offsets)
    result = np.zeros((len(lengths), lengths.max()), np.int64)
    for row, (start, stop) in zip(result, pairwise(offsets), strict=True):
        row[: stop - start] = values[start:stop]
    return torch.from_numpy(result)


def torch_gradients(bert: Any, ids: Any, types: Any, offsets: Any, dembeddings: Any) -> dict[str, Any]:
    """The gradients of the mean-pooled, normalized embeddings."""
    mask = padded(np.ones_like(ids), offsets)
    hidden = bert(padded(ids, offsets), mask, padded(types, offsets)).last_hidden_state
    weights = mask[:, :, None].to(hidden.dtype)
    embeddings = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)
    (embeddings * torch.from_numpy(dembeddings)).sum().backward()
    return {name: p.grad.numpy() for name, p in bert.named_parameters()}


def assert_gradients(actual: dict[str, Any], expected: dict[str, Any], most: float) -> None:
    assert set(actual) == set(expected)
    for name, gradient in actual.items():
        scale = np.abs(expected[name.replace("key.bias", "query.bias")]).max()
        assert np.abs(gradient - expected[name]).max() <= most * max(scale, 1e-30), name


def random_bert(H: int, L: int, N: int, I: int, activation: str = "gelu") -> tuple[Any, Any]:  # noqa: E741
    """A random BertModel, and the same model here."""
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "vocab_size": 60, "hidden_size": H, "num_hidden_layers": L, "num_attention_heads": N, "intermediate_size": I,
        "max_position_embeddings": 20, "hidden_act": activation,
    }  # fmt: skip
    config = transformers.BertConfig(**names, initializer_range=0.3, attn_implementation="eager")
    bert = transformers.BertModel(config, add_pooling_layer=False).double().eval()
    params = {name: p.detach().numpy() for name, p in bert.named_parameters()}
    return bert, model.prepare(params, model.BertConfig(**names, layer_norm_eps=config.layer_norm_eps), ops)


@pytest.mark.parametrize(
    ("H", "L", "N", "I", "activation"),
    [(24, 1, 3, 40, "gelu_new"), (16, 4, 2, 64, "relu"), (12, 12, 1, 8, "gelu"), (64, 2, 16, 32, "gelu")],
)
def test_gradients_of_other_depths_and_widths(H: int, L: int, N: int, I: int, activation: str) -> None:  # noqa: E741
    bert, ours = random_bert(H, L, N, I, activation)
    tokens = random_tokens([1, 5, 5, 20, 2], 60)
    recorded = backward.forward(ours, *tokens)
    dembeddings = np.random.default_rng(1).normal(size=recorded.embeddings.shape)
    expected = torch_gradients(bert, *tokens, dembeddings)
    assert_gradients(backward.backward(recorded, dembeddings), expected, 1e-12)  # measured: 6.7e-14


def test_the_same_dropout_masks_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    bert, ours = random_bert(24, 3, 3, 40)
    ids, types, offsets = random_tokens([1, 5, 5, 20, 2], 60)
    dropout = Dropout(hidden=0.2, attention=0.3, seed=5, step=7)
    sentences = np.array([4, 0, 9, 2, 3])  # numbers of the sentences in a larger batch
    recorded = backward.forward(ours, ids, types, offsets, DropoutTape(ours, dropout, sentences, offsets))
    dembeddings = np.random.default_rng(1).normal(size=recorded.embeddings.shape)
    places: list[float] = []

    def drop(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        assert training
        mask = np.zeros(x.shape)
        for b, length in enumerate(np.diff(offsets)):
            shape = (3, length, length) if x.ndim == 4 else (length, 24)
            part = (b, slice(None), slice(length), slice(length)) if x.ndim == 4 else (b, slice(length))
            flat = dropout.mask(sentences[b : b + 1], len(places), np.array([np.prod(shape)]), np.float64)
            mask[part] = flat.reshape(shape)
        places.append(p)
        return x * torch.from_numpy(mask)

    bert.config.hidden_dropout_prob, bert.config.attention_probs_dropout_prob = 0.2, 0.3
    bert.train()
    monkeypatch.setattr(torch.nn.functional, "dropout", drop)
    expected = torch_gradients(bert, ids, types, offsets, dembeddings)
    assert len(places) == 1 + 3 * 3
    assert_gradients(backward.backward(recorded, dembeddings), expected, 1e-12)  # measured: 1.2e-15


def test_100_steps_of_a_small_model(tmp_path: Path, weights_folder: Path) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    ours = SentenceTransformer(folder, backend="numpy", dtype="float64")
    theirs: Any = TorchModel(str(folder), device="cpu").double().eval()
    rng = np.random.default_rng(0)
    adam = AdamW(ours.weights, weight_decay=0.01)
    named = {name.rpartition("auto_model.")[2].rpartition("model.")[2]: p for name, p in theirs.named_parameters()}
    named = {name: p for name, p in named.items() if name in ours.weights}
    assert set(named) == set(ours.weights)
    decays = {True: [], False: []}  # type: dict[bool, list[Any]]
    for name, p in named.items():
        decays[name.endswith("weight") and "LayerNorm" not in name].append(p)
    groups = [{"params": ps, "weight_decay": 0.01 * decay} for decay, ps in decays.items()]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 10, 100)
    loss = losses.MultipleNegativesRankingLoss(theirs)
    for step in range(100):
        pairs = [[" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(2)] for _ in range(6)]
        ours.replace_weights(adam.params)
        value, gradients = loss_and_gradients(ours, pairs, loss=MultipleNegativesRankingLoss())
        adam.step(clip_gradients(gradients)[1], learning_rate_at(step, 1e-3, 10, 100))
        optimizer.zero_grad()
        expected = loss([theirs.preprocess(list(column)) for column in zip(*pairs, strict=True)], None)
        expected.backward()
        torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        optimizer.step()
        schedule.step()
        assert abs(value - float(expected.detach())) <= 1e-11, step  # measured: 2.2e-15
    for name, p in named.items():
        error = np.abs(adam.params[name] - p.detach().numpy()).max()
        assert error <= 1e-10, name  # measured: 5.2e-12


def test_float32_gradients_are_as_exact_as_those_of_pytorch(weights_folder: Path) -> None:
    from gradient_errors import errors

    for name, (ours, theirs) in errors().items():
        assert ours <= 3 * theirs, name
