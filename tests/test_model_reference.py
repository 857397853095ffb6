"""Every stage against the PyTorch reference: float64 values stored by bench/generate/pytorch_reference.py.

Needs no PyTorch.
"""

from __future__ import annotations

import numpy as np
import pytest
from fidelity import our_stages
from generate.pytorch_reference import REFERENCE, sample
from safetensors.numpy import load_file
from support.texts import TEXTS
from support.tolerances import FLOAT32, PYTORCH_REFERENCE, STORED, assert_close

from minilm_np import SentenceTransformer
from minilm_np.model import stage_names

pytestmark = pytest.mark.quick

ARRAYS = load_file(REFERENCE)


@pytest.mark.parametrize("name", TEXTS)
def test_tokenizer_gives_the_reference_word_pieces(model: SentenceTransformer, name: str) -> None:
    tokens = model.tokens([TEXTS[name]])
    assert np.array_equal(tokens.token_ids, ARRAYS[f"{name}/token_ids"])
    assert np.array_equal(tokens.token_type_ids, ARRAYS[f"{name}/token_type_ids"])


@pytest.mark.parametrize("name", TEXTS)
def test_float32_stages_match_the_reference(model: SentenceTransformer, name: str) -> None:
    stages = our_stages(model, TEXTS[name])
    assert list(stages) == stage_names(model.config)
    for stage, value in stages.items():
        assert_close(sample(stage, value), ARRAYS[f"{name}/{stage}"], FLOAT32[stage], f"{name}: {stage}", rtol=STORED)


@pytest.mark.parametrize("name", TEXTS)
def test_float64_stages_match_the_reference(float64_model: SentenceTransformer, name: str) -> None:
    stages = our_stages(float64_model, TEXTS[name])
    assert list(stages) == stage_names(float64_model.config)
    for stage, value in stages.items():
        expected = ARRAYS[f"{name}/{stage}"]
        assert_close(sample(stage, value), expected, PYTORCH_REFERENCE, f"{name}: {stage}", rtol=STORED)


def test_one_batch_of_all_texts_matches_the_reference(model: SentenceTransformer) -> None:
    expected = np.stack([ARRAYS[f"{name}/sentence_embedding"] for name in TEXTS])
    assert_close(model.encode(list(TEXTS.values())), expected, FLOAT32["sentence_embedding"], "sentence_embedding")


@pytest.mark.parametrize("T", range(2, 65))
def test_sample_covers_every_axis(T: int) -> None:
    """Every row, column, head, query and key of a stage occurs; of intermediate's 1536 columns, 384 do."""
    for shape, columns in (((T, 384), 384), ((12, T, T), T), ((T, 1536), 384)):
        sampled = sample("any", np.arange(np.prod(shape)))
        assert len(set(sampled.tolist())) == len(sampled)
        *others, last = np.unravel_index(sampled, shape)
        assert len(set(last.tolist())) == columns
        assert [len(set(axis.tolist())) for axis in others] == list(shape[:-1])


def test_every_array_of_the_reference_is_compared(model: SentenceTransformer) -> None:
    stages = ["token_ids", "token_type_ids", *stage_names(model.config)]
    assert set(ARRAYS) == {f"{name}/{stage}" for name in TEXTS for stage in stages}
    assert REFERENCE.stat().st_size < 3_000_000
