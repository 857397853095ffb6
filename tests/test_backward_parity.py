"""Gradients of the whole model against PyTorch's autograd, in float64. Needs the parity extra."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():  # warnings from importing PyTorch and transformers
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")

from minilm_np import SentenceTransformer, backward, model, ops
from minilm_np.tokenizer import Text

pytestmark = pytest.mark.parity
MAX_ERROR = 1e-12  # relative to the parameter's largest gradient; measured: 3.4e-14
LONG = "word " * 300
CASES: dict[str, list[Text]] = {
    "one text": ["A man is eating food."],
    "many lengths": ["", "bread", "The cat chased the mouse.", "again " * 40, LONG],
    "equal texts": ["bread and butter"] * 3,
    "repeated word pieces": ["the the the", "the cat the cat"],
    "[PAD] as text": ["[PAD] bread [PAD]", "bread"],
    "pairs of texts": [("How many people live in Berlin?", "3,520,031."), ("a", "b c")],
}


def pooled(hidden: Any, mask: Any, mode: str) -> Any:
    weights = mask[:, :, None].to(hidden.dtype)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return hidden.masked_fill(mask[:, :, None] == 0, -1e9).max(1)[0]
    total = (hidden * weights).sum(1)
    return total / (weights.sum(1) if mode == "mean" else weights.sum(1).sqrt())


@pytest.fixture(scope="module")
def bert_model(weights_folder: Path) -> Any:
    load = transformers.BertModel.from_pretrained
    return load(weights_folder, attn_implementation="eager", add_pooling_layer=False).double().eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("mode", "normalize"),
    [("mean", True), ("mean", False), ("cls", True), ("max", True), ("mean_sqrt_len_tokens", False)],
)
def test_equals_autograd(
    float64_model: SentenceTransformer, bert_model: Any, case: str, mode: str, normalize: bool
) -> None:
    ids, types, offsets = float64_model.tokens(CASES[case])
    config = replace(float64_model.config, pooling_mode=mode, normalize=normalize)
    params = {name: np.asarray(value) for name, value in float64_model.weights.items()}
    recorded = backward.forward(model.prepare(params, config, ops), ids, types, offsets)
    dembeddings = np.random.default_rng(1).normal(size=recorded.embeddings.shape)
    gradients = backward.backward(recorded, dembeddings)

    lengths = np.diff(offsets)
    shape = (len(lengths), int(lengths.max()))
    padded, padded_types, mask = (np.zeros(shape, np.int64) for _ in range(3))
    for b, (start, length) in enumerate(zip(offsets, lengths, strict=False)):
        padded[b, :length], padded_types[b, :length] = ids[start : start + length], types[start : start + length]
        mask[b, :length] = 1
    bert_model.zero_grad()
    torch_mask = torch.from_numpy(mask)
    hidden = bert_model(torch.from_numpy(padded), torch_mask, torch.from_numpy(padded_types)).last_hidden_state
    vectors = pooled(hidden, torch_mask, mode)
    if normalize:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    (vectors * torch.from_numpy(dembeddings)).sum().backward()

    expected = {name: p.grad.numpy() for name, p in bert_model.named_parameters()}
    assert set(gradients) == set(expected)
    worst = 0.0
    for name, gradient in gradients.items():
        # A key bias has the gradient 0; its rounding is compared with the size of the query bias's gradient
        scale = np.abs(expected[name.replace("key.bias", "query.bias")]).max()
        if scale == 0:
            assert not gradient.any(), name
        else:
            worst = max(worst, float(np.abs(gradient - expected[name]).max() / scale))
    assert worst <= MAX_ERROR, worst
