"""SentenceTransformer on the NumPy op set: shapes, order, errors, and the same embedding in every batch."""

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
from minilm_np import SentenceTransformer, encoder, ops
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.model import forward, prepare, stage_names
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
    """Return the embedding of each text, computed alone."""
    return np.stack([model.encode(text) for text in TEXTS])


def test_encode_returns_the_shapes_and_dtypes_of_sentence_transformers(model: SentenceTransformer) -> None:
    assert model.encode("hello").shape == (384,)
    assert model.encode(["hello"]).shape == (1, 384)
    assert model.encode(("hello", "world")).shape == (2, 384)  # a tuple of str is a batch, not a pair
    assert model.encode([("hello", "world")]).shape == (1, 384)  # a pair
    for texts in (
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
        (text for text in "ab"),
        {"a": 0, "b": 0}.keys(),
    ):
        embeddings = model.encode(texts)
        assert embeddings.shape == (2, 384) and embeddings.dtype == np.float32
    assert model.encode(np.str_("hello")).shape == (384,)
    empty = model.encode([])
    assert empty.shape == (0,) and empty.dtype == np.float64  # as sentence-transformers 6.2


def test_embeddings_have_unit_length(alone: Any) -> None:
    assert np.abs(np.linalg.norm(alone.astype("float64"), axis=1) - 1).max() < 5e-7


def test_empty_text_is_encoded_as_two_special_tokens(model: SentenceTransformer) -> None:
    tokens = model.tokens([""])
    assert tokens.token_ids.tolist() == [101, 102]
    pooled = minilm_np.mean_pool(model.token_embeddings(tokens), tokens.offsets)
    assert np.array_equal(minilm_np.l2_normalize(pooled)[0], model.encode(""))


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=16), st.integers(1, 20))
def test_embedding_does_not_depend_on_batch_order_or_batch_size(
    model: SentenceTransformer, alone: Any, rows: list[int], batch_size: int
) -> None:
    embeddings = model.encode([TEXTS[row] for row in rows], batch_size=batch_size)
    assert np.abs(embeddings - alone[rows]).max() <= BATCH


def test_slices_keep_the_order_of_texts(
    model: SentenceTransformer, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoder.TEXTS_AT_ONCE, "numpy", 3)
    assert np.abs(model.encode(TEXTS) - alone).max() <= BATCH


def test_float32_is_close_to_float64(float64_model: SentenceTransformer, alone: Any) -> None:
    reference = float64_model.encode(TEXTS)
    assert reference.dtype == np.float64
    assert np.abs(alone - reference).max() <= 5e-7  # measured 1.5e-7


def test_pair_differs_from_joined_text(model: SentenceTransformer) -> None:
    pair, joined = model.encode([("hello", "world"), "hello world"])
    assert np.abs(pair - joined).max() > 1e-2


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (None, "sentences: expected a str or an iterable of str, got NoneType"),
        (b"bytes", "sentences: expected .*, got bytes"),
        (3, "sentences: expected .*, got int"),
        ({"text": 1}, r"sentences\[0\]: expected a str or a pair of str, got dict"),
        ({"image": "a"}, r"sentences\[0\]: expected .*, got dict"),
        ({"a", "b"}, "sentences: expected .*, got set"),
        (np.array("a"), r"sentences: expected .*, got ndarray of shape \(\)"),
        (np.array([["a", "b", "c"]]), r"sentences: expected .*, got ndarray of shape \(1, 3\)"),
        (["a", None], r"sentences\[1\]: expected .*, got a missing value \(NoneType None\)"),
        (["a", b"b"], r"sentences\[1\]: expected .*, got bytes"),
        (["a", "b", 3.5], r"sentences\[2\]: expected .*, got float 3\.5"),
        ([["a"]], r"sentences\[0\]: expected .*, got list"),
        ([("a", "b", "c")], r"sentences\[0\]: expected .*, got tuple"),
        ([("a", None)], r"sentences\[0\]: expected .*, got tuple"),
        (["ok"] * 1500 + [float("nan")], r"sentences\[1500\]: expected .*, got a missing value \(float nan\)"),
    ],
)
def test_rejects_inputs_that_are_not_texts_and_names_the_row(
    model: SentenceTransformer, sentences: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        model.encode(sentences)


def column(library: str, values: list[str | None]) -> Any:
    """Return a column of texts, as a library for data frames holds it."""
    if library == "pandas":
        return pytest.importorskip("pandas").Series(values, dtype="string")
    if library == "polars":
        return pytest.importorskip("polars").Series(values)
    pyarrow = pytest.importorskip("pyarrow")
    if library == "pyarrow chunks":
        return pyarrow.chunked_array([values[:1], values[1:]])
    array = pyarrow.array(values)
    return array.dictionary_encode() if library == "pyarrow dictionary" else array


LIBRARIES = ["pandas", "polars", "pyarrow", "pyarrow chunks", "pyarrow dictionary"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_encodes_a_column_of_texts_and_names_a_missing_one(model: SentenceTransformer, library: str) -> None:
    expected = model.encode(["a", "b", "a"])
    assert np.array_equal(model.encode(column(library, ["a", "b", "a"])), expected)
    with pytest.raises(TypeError, match=r"sentences\[1\]: expected a str .*, got a missing value"):
        model.encode(column(library, ["a", None, "b"]))


@pytest.mark.parametrize("op_set", ["model", "numba_model"])
def test_token_embeddings_rejects_ids_outside_the_tables(op_set: str, request: pytest.FixtureRequest) -> None:
    if op_set == "numba_model" and WITHOUT_JIT:
        pytest.skip("slow without the JIT")
    model: SentenceTransformer = request.getfixturevalue(op_set)
    tokens = model.tokens(["a text"])
    for field, value, message in (
        ("token_ids", 30522, r"token_ids\[1\]: expected 0 to 30521, got 30522"),
        ("token_ids", -1, r"token_ids\[1\]: expected 0 to 30521, got -1"),
        ("token_type_ids", 2, r"token_type_ids\[1\]: expected 0 to 1, got 2"),
    ):
        values = getattr(tokens, field).copy()
        values[1] = value
        with pytest.raises(ValueError, match=f"tokens: {message}"):
            model.token_embeddings(tokens._replace(**{field: values}))
    ids, types, offsets = tokens
    huge: Any = ids.astype(np.uint64) + np.uint64(2**63)
    for broken, message in (
        (Tokens(ids, types[:-1], offsets), "expected 4 token_type_ids, and offsets from 0 to 4, got 3 and"),
        (Tokens(ids, types, np.array([0, 5])), "offsets from 0 to 4, got 4 and"),
        (Tokens(ids, types, np.array([1, 4])), "offsets from 0 to 4"),
        (Tokens(ids, types, np.array([0, 600, 4])), r"lengths\[0\]: expected 0 to 512, got 600"),
        (Tokens(ids, types, np.array([0, 3, 2, 4])), r"lengths\[1\]: expected 0 to 512, got -1"),
        (Tokens(ids, types, np.array([], np.int64)), "offsets from 0 to 4"),
        (Tokens(ids.astype(np.float64), types, offsets), r"token_ids: expected integers \(n,\), got float64"),
        (Tokens(ids[:, None], types, offsets), r"token_ids: expected integers \(n,\), got int32 of shape \(4, 1\)"),
        (Tokens(huge, types, offsets), r"token_ids\[0\]: expected 0 to 30521, got 922"),
        (Tokens(ids + np.int64(2**32), types, offsets), r"token_ids\[0\]: expected 0 to 30521, got 429"),
    ):
        with pytest.raises(ValueError, match=f"tokens: .*{message}"):
            model.token_embeddings(broken)
        with pytest.raises(ValueError, match=f"tokens: .*{message}"):
            forward(model._bert, *broken)
    with pytest.raises(TypeError, match="tokens: expected Tokens, as `tokens` returns them, got list"):
        model.token_embeddings(["a"])  # type: ignore[arg-type]
    too_long = Tokens(np.full(513, 101, np.int32), np.zeros(513, np.int32), np.array([0, 513]))
    with pytest.raises(ValueError, match=r"tokens: lengths\[0\]: expected 0 to 512, got 513"):
        model.token_embeddings(too_long)


def test_rejects_half_a_surrogate_pair_and_names_row_and_character(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"sentences\[1100\]: expected valid Unicode, got '\\ud800'.* character 2"):
        model.encode(["ok"] * 1100 + ["no\ud800"])
    with pytest.raises(ValueError, match=r"sentences\[1\]: .*character 0"):
        model.encode(["ok", ("ok", "\udfff")])


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "32", None])
def test_rejects_batch_size_that_is_not_a_positive_integer(model: SentenceTransformer, batch_size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size: expected a positive integer, got"):
        model.encode(["a"], batch_size=batch_size)


@pytest.mark.parametrize(
    ("argument", "value"), [("backend", "torch"), ("threads", 2), ("dtype", "int8"), ("dtype", "float16")]
)
def test_constructor_rejects_unsupported_values(weights_folder: Path, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected .*, got {value!r}"):
        SentenceTransformer(weights_folder, **{"backend": "numpy", argument: value})


def test_stages_have_the_documented_names_and_shapes(model: SentenceTransformer) -> None:
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


def test_observing_stages_does_not_change_the_embedding(model: SentenceTransformer) -> None:
    without_observer = forward(prepare(model.weights, model.config, ops), *model.tokens(TEXTS))
    assert np.array_equal(without_observer, model.stages(TEXTS)["sentence_embedding"])


def test_progress_bar_is_shown_on_request_or_at_log_level_info(
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


@pytest.mark.usefixtures("weights_folder")
def test_first_example_of_the_model_card_gives_the_vectors_of_pytorch() -> None:
    example = """
from sentence_transformers import SentenceTransformer
sentences = ["This is an example sentence", "Each sentence is converted"]

model = SentenceTransformer('sentence-transformers/all-MiniLM-L6-v2')
embeddings = model.encode(sentences)
"""
    scope: dict[str, Any] = {}
    exec(example.replace("from sentence_transformers import", "from minilm_np import"), scope)
    assert scope["embeddings"].shape == (2, 384)
    pytorch = [0.0676569119, 0.0634959415, 0.0487131365]  # the first numbers of sentence-transformers 6.2
    assert np.abs(scope["embeddings"][0, :3] - pytorch).max() < 1e-6
