"""SentenceTransformer: shapes, order, errors, and independence from the batch within the stated bound."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tolerances import BATCH

import minilm_np
from minilm_np import SentenceTransformer, encoder
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.model import stage_names
from minilm_np.tokenizer import Tokens

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "",
    "The girl is carrying a baby.",
    "caf\u00e9 \u4f60\u597d \U0001f600",
    "one two three four five six seven eight nine ten " * 12,
    "x",
    "The new movie is awesome. " * 60,
]


@pytest.fixture(scope="module")
def alone(model: SentenceTransformer) -> Any:
    """Each text's embedding, computed by itself."""
    return np.stack([model.encode(text) for text in TEXTS])


def test_shapes_and_dtypes(model: SentenceTransformer) -> None:
    assert model.encode("hello").shape == (384,)
    assert model.encode(["hello"]).shape == (1, 384)
    assert model.encode(("hello", "world")).shape == (2, 384)  # a tuple of str is a batch, not a pair
    assert model.encode([("hello", "world")]).shape == (1, 384)  # a pair
    for given_ in (
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
        (text for text in "ab"),
        {"a": 0, "b": 0}.keys(),
    ):
        found = model.encode(given_)
        assert found.shape == (2, 384) and found.dtype == np.float32
    assert model.encode(np.str_("hello")).shape == (384,)
    empty = model.encode([])
    assert empty.shape == (0,) and empty.dtype == np.float64  # as sentence-transformers 6.2


def test_unit_length(alone: Any) -> None:
    assert np.abs(np.linalg.norm(alone.astype("float64"), axis=1) - 1).max() < 5e-7


def test_the_empty_text_is_its_two_special_tokens(model: SentenceTransformer) -> None:
    tokens = model.tokens([""])
    assert tokens.token_ids.tolist() == [101, 102]
    pooled = minilm_np.mean_pool(model.token_embeddings(tokens), tokens.offsets)
    assert np.array_equal(minilm_np.l2_normalize(pooled)[0], model.encode(""))


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=16), st.integers(1, 20))
def test_batch_order_and_split_do_not_matter(
    model: SentenceTransformer, alone: Any, rows: list[int], batch_size: int
) -> None:
    found = model.encode([TEXTS[row] for row in rows], batch_size=batch_size)
    assert np.abs(found - alone[rows]).max() <= BATCH


def test_slices_come_back_in_order(model: SentenceTransformer, alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoder.TEXTS_AT_ONCE, "numpy", 3)
    assert np.abs(model.encode(TEXTS) - alone).max() <= BATCH


def test_float32_is_near_the_oracle(oracle: SentenceTransformer, alone: Any) -> None:
    truth = oracle.encode(TEXTS)
    assert truth.dtype == np.float64
    assert np.abs(alone - truth).max() <= 5e-7  # measured 1.5e-7


def test_pairs_differ_from_joined_texts(model: SentenceTransformer) -> None:
    pair, joined = model.encode([("hello", "world"), "hello world"])
    assert np.abs(pair - joined).max() > 1e-2


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (None, "sentences: found NoneType"),
        (b"bytes", "sentences: found bytes"),
        (3, "sentences: found int"),
        ({"text": 1}, r"sentences\[0\]: found dict"),
        ({"image": "a"}, r"sentences\[0\]: found dict"),
        ({"a", "b"}, "sentences: found set"),
        (np.array("a"), r"sentences: found a ndarray of shape \(\)"),
        (np.array([["a", "b"]]), r"sentences: found a ndarray of shape \(1, 2\)"),
        (["a", None], r"sentences\[1\]: found NoneType None"),
        (["a", b"b"], r"sentences\[1\]: found bytes"),
        (["a", "b", 3.5], r"sentences\[2\]: found float 3\.5"),
        ([["a"]], r"sentences\[0\]: found list"),
        ([("a", "b", "c")], r"sentences\[0\]: found tuple"),
        ([("a", None)], r"sentences\[0\]: found tuple"),
        (["ok"] * 1500 + [float("nan")], r"sentences\[1500\]: found float nan"),
    ],
)
def test_bad_input_is_a_type_error_that_names_the_row(model: SentenceTransformer, sentences: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.encode(sentences)


@pytest.mark.parametrize("op_set", ["model", "numba_model"])
def test_token_embeddings_of_ids_that_are_none(op_set: str, request: pytest.FixtureRequest) -> None:
    if op_set == "numba_model" and WITHOUT_JIT:
        pytest.skip("slow without the JIT")
    model: SentenceTransformer = request.getfixturevalue(op_set)
    tokens = model.tokens(["a text"])
    for field, value, message in (
        ("token_ids", 30522, r"token_ids\[1\]: found 30522, wanted 0 to 30521"),
        ("token_ids", -1, r"token_ids\[1\]: found -1"),
        ("token_type_ids", 2, r"token_type_ids\[1\]: found 2, wanted 0 to 1"),
    ):
        values = getattr(tokens, field).copy()
        values[1] = value
        with pytest.raises(ValueError, match=f"tokens: {message}"):
            model.token_embeddings(tokens._replace(**{field: values}))
    long = Tokens(np.full(513, 101, np.int32), np.zeros(513, np.int32), np.array([0, 513]))
    with pytest.raises(ValueError, match=r"tokens: lengths\[0\]: found 513, wanted 0 to 512"):
        model.token_embeddings(long)


def test_half_a_surrogate_pair_is_named(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"sentences\[1100\]: character 2 is '\\ud800'"):
        model.encode(["ok"] * 1100 + ["no\ud800"])
    with pytest.raises(ValueError, match=r"sentences\[1\]: character 0"):
        model.encode(["ok", ("ok", "\udfff")])


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "32", None])
def test_bad_batch_size(model: SentenceTransformer, batch_size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size: found"):
        model.encode(["a"], batch_size=batch_size)


@pytest.mark.parametrize(
    ("argument", "value"), [("backend", "torch"), ("threads", 2), ("dtype", "int8"), ("dtype", "float16")]
)
def test_bad_constructor_arguments(weights_folder: Path, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}: found {value!r}"):
        SentenceTransformer(weights_folder, **{"backend": "numpy", argument: value})


def test_stages_are_those_named_and_end_in_the_embedding(model: SentenceTransformer) -> None:
    stages = model.stages(TEXTS[:3])
    assert list(stages) == stage_names(model.config)
    T = len(model.tokens(TEXTS[:3]).token_ids)
    for name, value in stages.items():
        if name.endswith("attention_probs"):
            assert [probs.shape for probs in value] == [(12, S, S) for S in (8, 11, 2)]
            assert all(np.abs(probs.sum(axis=-1) - 1).max() < 1e-6 for probs in value)
        elif name in ("pooled", "sentence_embedding"):
            assert value.shape == (3, 384)
        else:
            assert value.shape == (T, 1536 if name.endswith("intermediate") else 384)
    assert np.abs(stages["sentence_embedding"] - model.encode(TEXTS[:3])).max() <= BATCH


def test_observing_changes_nothing(model: SentenceTransformer) -> None:
    tokens = model.tokens(TEXTS)
    plain = minilm_np.model.forward(model._bert, *tokens)
    assert np.array_equal(plain, model.stages(TEXTS)["sentence_embedding"])


def test_progress_bar_on_request_or_when_logging(
    model: SentenceTransformer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model.encode(TEXTS[:2])
    assert capfd.readouterr() == ("", "")
    model.encode(TEXTS[:2], show_progress_bar=True)
    assert "2/2" in capfd.readouterr().err
    with caplog.at_level(logging.INFO, "minilm_np"):
        model.encode(TEXTS[:2])
        assert "2/2" in capfd.readouterr().err
        model.encode(TEXTS[:2], show_progress_bar=False)
    assert capfd.readouterr() == ("", "")


def test_the_model_cards_first_example(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
    example = """
from sentence_transformers import SentenceTransformer
sentences = ["This is an example sentence", "Each sentence is converted"]

model = SentenceTransformer('sentence-transformers/all-MiniLM-L6-v2')
embeddings = model.encode(sentences)
"""
    scope: dict[str, Any] = {}
    exec(example.replace("from sentence_transformers import", "from minilm_np import"), scope)
    assert scope["embeddings"].shape == (2, 384)
    pytorch = [0.0676569119, 0.0634959415, 0.0487131365]  # what sentence-transformers 6.2 gives first
    assert np.abs(scope["embeddings"][0, :3] - pytorch).max() < 1e-6
