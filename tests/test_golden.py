"""Every stage against what PyTorch computed in float64 (tests/golden/make_goldens.py); needs no PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import TEXTS
from fidelity import kind, our_stages
from golden.make_goldens import GOLDENS, sample
from safetensors.numpy import load_file
from tolerances import FLOAT32, STORED, assert_close

from minilm_np import SentenceTransformer
from minilm_np.model import stage_names

ARRAYS = load_file(GOLDENS)


@pytest.mark.parametrize("name", TEXTS)
def test_word_pieces(model: SentenceTransformer, name: str) -> None:
    tokens = model.tokenize([TEXTS[name]])
    assert np.array_equal(tokens.token_ids, ARRAYS[f"{name}/token_ids"])
    assert np.array_equal(tokens.token_type_ids, ARRAYS[f"{name}/token_type_ids"])


@pytest.mark.parametrize("name", TEXTS)
def test_float32_stages(model: SentenceTransformer, name: str) -> None:
    stages = our_stages(model, TEXTS[name])
    assert list(stages) == stage_names(model.config)
    for stage, value in stages.items():
        atol = FLOAT32[kind(stage)].atol
        assert_close(sample(stage, value), ARRAYS[f"{name}/{stage}"], atol, f"{name}: {stage}", rtol=STORED)


@pytest.mark.parametrize("name", TEXTS)
def test_float64_stages(oracle: SentenceTransformer, name: str) -> None:
    for stage, value in our_stages(oracle, TEXTS[name]).items():
        assert_close(sample(stage, value), ARRAYS[f"{name}/{stage}"], 1e-12, f"{name}: {stage}", rtol=STORED / 2)


def test_all_texts_in_one_batch(model: SentenceTransformer) -> None:
    wanted = np.stack([ARRAYS[f"{name}/sentence_embedding"] for name in TEXTS])
    assert_close(model.encode(list(TEXTS.values())), wanted, FLOAT32["sentence_embedding"].atol, "sentence_embedding")


def test_every_golden_is_used() -> None:
    names = {key.partition("/")[0] for key in ARRAYS}
    assert names == set(TEXTS)
    assert GOLDENS.stat().st_size < 3_000_000
