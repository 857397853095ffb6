"""Steps of training against PyTorch's autograd, AdamW and clipping, and transformers' schedule, in float64."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():  # warnings from importing PyTorch and transformers
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")

from minilm_np import SentenceTransformer, backward, model, ops
from minilm_np.training import AdamW, MultipleNegativesRankingLoss, clip_gradients, learning_rate_at
from minilm_np.training.optimizer import has_decay

MAX_ERROR = 1e-12  # of a parameter after 20 steps, relative to its largest element; measured: 1.2e-13
pytestmark = pytest.mark.parity
STEPS, WARMUP, RATE, DECAY = 20, 5, 2e-5, 0.01  # 2e-5 is the model card's rate
PAIRS = [
    ("How far is the moon?", "It is 384,400 km away."),
    ("Who wrote Hamlet?", "Shakespeare."),
    ("bread", "A loaf."),
]


def test_20_steps_of_the_real_model(float64_model: SentenceTransformer, weights_folder: Path) -> None:
    loss = MultipleNegativesRankingLoss()
    ids, types, offsets = float64_model.tokens([text for column in zip(*PAIRS, strict=True) for text in column])
    adam = AdamW(float64_model.weights, weight_decay=DECAY)

    load = transformers.BertModel.from_pretrained
    bert = load(weights_folder, attn_implementation="eager", add_pooling_layer=False).double().eval()
    named = dict(bert.named_parameters())
    groups = [
        {"params": [p for name, p in named.items() if has_decay(name) is decays], "weight_decay": DECAY * decays}
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    lengths = np.diff(offsets)
    padded = np.zeros((len(lengths), int(lengths.max())), np.int64)
    for row, start, length in zip(padded, offsets, lengths, strict=False):
        row[:length] = ids[start : start + length]
    mask = torch.tensor(np.arange(padded.shape[1]) < lengths[:, None])

    for step in range(STEPS):
        recorded = backward.forward(model.prepare(adam.params, float64_model.config, ops), ids, types, offsets)
        value, dcolumns = loss.value_and_gradients(np.split(recorded.embeddings, 2))
        _, gradients = clip_gradients(backward.backward(recorded, np.concatenate(dcolumns)))
        adam.step(gradients, learning_rate_at(step, RATE, WARMUP, STEPS))

        hidden = bert(torch.from_numpy(padded), mask.long()).last_hidden_state * mask[:, :, None]
        vectors = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=1)
        scores = 20 * vectors[: len(PAIRS)] @ vectors[len(PAIRS) :].T
        expected = torch.nn.functional.cross_entropy(scores, torch.arange(len(PAIRS)))
        optimizer.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(bert.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        assert abs(value - expected.item()) <= 1e-11, step

    errors: dict[str, Any] = {
        name: float(np.abs(adam.params[name] - p.detach().numpy()).max() / p.detach().abs().max())
        for name, p in named.items()
        if not name.endswith("key.bias")  # its gradient is rounding, which Adam scales to full steps
    }
    assert max(errors.values()) <= MAX_ERROR, max(errors.items(), key=lambda item: item[1])
    print(f"largest relative error of a parameter after {STEPS} steps: {max(errors.values()):.1e}")
