"""Every stage against what PyTorch computed in float64 (bench/generate/pytorch_reference.py); needs no PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from fidelity import kind, our_stages
from generate.pytorch_reference import REFERENCE, sample
from safetensors.numpy import load_file
from support.texts import TEXTS
from support.tolerances import FLOAT32, GOLDEN64, STORED, assert_close

from minilm_np import SentenceTransformer
from minilm_np.model import stage_names

ARRAYS = load_file(REFERENCE)


@pytest.mark.parametrize("name", TEXTS)
def test_word_pieces(model: SentenceTransformer, name: str) -> None:
    tokens = model.tokens([TEXTS[name]])
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
    stages = our_stages(oracle, TEXTS[name])
    assert list(stages) == stage_names(oracle.config)
    for stage, value in stages.items():
        assert_close(sample(stage, value), ARRAYS[f"{name}/{stage}"], GOLDEN64, f"{name}: {stage}", rtol=STORED)


def test_all_texts_in_one_batch(model: SentenceTransformer) -> None:
    wanted = np.stack([ARRAYS[f"{name}/sentence_embedding"] for name in TEXTS])
    assert_close(model.encode(list(TEXTS.values())), wanted, FLOAT32["sentence_embedding"].atol, "sentence_embedding")


@pytest.mark.parametrize("T", range(2, 65))
def test_the_sample_visits_everything(T: int) -> None:
    """Every row, column, head, query and key of a stage; of intermediate's 1536 columns, 384."""
    for shape, columns in (((T, 384), 384), ((12, T, T), T), ((T, 1536), 384)):
        seen = sample("any", np.arange(np.prod(shape)))
        assert len(set(seen.tolist())) == len(seen)
        *others, last = np.unravel_index(seen, shape)
        assert len(set(last.tolist())) == columns
        assert [len(set(axis.tolist())) for axis in others] == list(shape[:-1])


def test_every_golden_is_used(model: SentenceTransformer) -> None:
    stages = ["token_ids", "token_type_ids", *stage_names(model.config)]
    assert set(ARRAYS) == {f"{name}/{stage}" for name in TEXTS for stage in stages}
    assert REFERENCE.stat().st_size < 3_000_000
