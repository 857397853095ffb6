"""Reference values for the probe texts, and the reproducible op set they are computed with."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from support.tolerances import FLOAT64, assert_close

from minilm_np import SentenceTransformer, ops
from minilm_np.crosscheck import probe_batches, probe_texts, reproducible, stage_texts
from minilm_np.crosscheck.truth import truth
from minilm_np.model import stage_names


def test_reference_values_equal_float64_model(float64_model: SentenceTransformer) -> None:
    assert_close(truth().embeddings, float64_model.encode(probe_texts(), truncation="ignore"), FLOAT64, "embeddings")
    stages = float64_model.stages(stage_texts())
    assert set(truth().stages) == set(stage_names(float64_model.config))
    intermediate = np.concatenate(truth().stages["encoder.layer.3.intermediate"])
    assert_close(intermediate, stages["encoder.layer.3.intermediate"], FLOAT64, "intermediate")


def test_probes_are_forty_distinct_texts_in_batches() -> None:
    assert len(probe_texts()) == 40 == len(set(probe_texts()))
    assert [text for batch in probe_batches() for text in batch] == probe_texts()
    lengths = [len(ids) for ids in truth().token_ids]
    assert sum(length > 128 for length in lengths) >= 3 and max(lengths) == 256  # so truncation shows


def test_matmul_is_exact_for_integers_and_close_otherwise() -> None:
    rng = np.random.default_rng(1)
    integers = rng.integers(-(2**20), 2**20, (2, 5, 300)).astype(float)
    assert np.array_equal(reproducible.matmul(integers[0], integers[1].T), integers[0] @ integers[1].T)
    a, b = rng.standard_normal((7, 1536)) * 10.0 ** rng.integers(-9, 9, (7, 1)), rng.standard_normal((1536, 4))
    expected = np.array([[float(sum(map(Fraction, x * y))) for y in b.T] for x in a])
    scale = np.abs(a).max(1, keepdims=True) * np.abs(b).max(0)
    assert_close(reproducible.matmul(a, b) / scale, expected / scale, 1e-13, "matmul")  # measured 8e-15
    assert not reproducible.matmul(np.zeros((2, 3)), np.ones((3, 2))).any()


def test_reproducible_functions_are_accurate() -> None:
    x = np.concatenate([np.linspace(-12, 12, 1001), [0.0, -40.0, 40.0]])
    exact = [value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x]
    assert_close(reproducible.gelu(x), exact, 1.5e-14, "gelu")  # measured 4.6e-15
    negative = -np.linspace(0, 800, 1001)
    assert_close(reproducible.exp(negative), np.exp(negative), 0, "exp", rtol=4e-16)
    rng = np.random.default_rng(2)
    hidden_states, offsets = rng.standard_normal((9, 6)), np.array([0, 2, 9])
    for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens"):
        pooled = reproducible.pool(hidden_states, offsets, mode)
        assert_close(pooled, ops.pool(hidden_states, offsets, mode), 1e-15, mode)
    with pytest.raises(ValueError, match="activation: expected 'gelu' or 'relu', got 'gelu_new'"):
        reproducible.linear(hidden_states, ops.Dense(np.ones((2, 6)), np.ones(2)), "gelu_new")
