"""The same calls on sentence-transformers 6.2 and on minilm_np give the same values, shapes, dtypes and errors.

The documentation lists the deliberate differences; tests/test_sentence_transformer.py checks those.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.texts import NASTY
from support.tolerances import BATCH, VECTORS, assert_close

from minilm_np import SentenceTransformer

with warnings.catch_warnings():  # its own imports warn
    warnings.simplefilter("ignore")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the parity extra")

pytestmark = pytest.mark.parity
Array = npt.NDArray[Any]

TEXTS = [
    "A man is eating food.",
    "",
    "The girl is carrying a baby.",
    "caf\u00e9 \u4f60\u597d \U0001f600",
    "long " * 300,
    "x",
    "The new movie is awesome.",
    "zero\x00inside",
]
MANY = [f"text number {i} of many" for i in range(120)]


@pytest.fixture(scope="module")
def theirs(weights_folder: Path) -> Any:
    return sentence_transformers.SentenceTransformer(str(weights_folder), device="cpu")


@pytest.fixture(scope="module", params=["numpy", "numba"])
def ours(request: pytest.FixtureRequest, weights_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(weights_folder, backend=request.param)


def plain(value: Any) -> Any:
    """Return Tensors as arrays and everything else unchanged."""
    if type(value).__module__ == "torch":
        return value.detach().cpu().numpy()
    return value


def assert_same(actual: Any, expected: Any, name: str, atol: float = VECTORS) -> None:
    """Check shapes and dtypes, floats to `atol`, and integers to 1 in fewer than one of 1000 elements."""
    if isinstance(expected, list):
        assert isinstance(actual, list) and len(actual) == len(expected), name
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, f"{name}[{i}]", atol)
        return
    a, b = plain(actual), plain(expected)
    assert isinstance(a, np.ndarray), f"{name}: {type(a)}"
    assert (a.shape, a.dtype) == (b.shape, b.dtype), name
    if a.dtype.kind == "f":
        assert_close(a, b, atol, name)
    else:
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1, name
        assert (a != b).mean() < 1e-3, name


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "one str": (("A man is eating food.",), {}),
    "numpy str": ((np.str_("A man"),), {}),
    "list": ((TEXTS,), {}),
    "tuple": ((tuple(TEXTS),), {}),
    "object array": ((np.array(TEXTS, object),), {}),
    "unicode array": ((np.array(TEXTS[:4]),), {}),
    "one in a list": ((["x"],), {}),
    "two in a tuple": ((("a", "b"),), {}),
    "a pair": (([("a", "b")],), {}),
    "a pair as a list": (([["a", "b"]],), {}),
    "a dict": (({"text": "x"},), {}),
    "dicts": (([{"text": "x"}, {"text": "yy"}],), {}),
    "empty str": (("",), {}),
    "no texts": (([],), {}),
    "no texts, tuple": (((),), {}),
    "no texts, list": (([],), {"convert_to_numpy": False}),
    "no texts, tensor": (([],), {"convert_to_tensor": True}),
    "no texts, int8": (([],), {"precision": "int8"}),
    "nasty": ((list(NASTY.values()),), {}),
    "prompt": ((TEXTS,), {"prompt": "query: "}),
    "prompt by name": ((TEXTS, "query"), {}),
    "prompt by position": ((TEXTS, None, "query: ", 2), {}),
    "prompt and name": ((TEXTS, "query", "passage: "), {}),
    "prompt before a pair": (([("a", "b")],), {"prompt": "query: "}),
    "batch size": ((TEXTS,), {"batch_size": 3}),
    "sentences=": ((), {"sentences": TEXTS}),
    "inputs=": ((), {"inputs": TEXTS}),
    "float32": ((TEXTS,), {"precision": "float32"}),
    "precision None": ((TEXTS,), {"precision": None}),
    "int8": ((MANY,), {"precision": "int8"}),
    "uint8": ((MANY,), {"precision": "uint8"}),
    "binary": ((MANY,), {"precision": "binary"}),
    "ubinary": ((MANY,), {"precision": "ubinary"}),
    "binary, one": (("x",), {"precision": "binary"}),
    "binary, truncated": ((MANY,), {"precision": "ubinary", "truncate_dim": 20}),
    "int8, normalized": ((MANY,), {"precision": "int8", "truncate_dim": 64, "normalize_embeddings": True}),
    "normalized": ((TEXTS,), {"normalize_embeddings": True}),
    "truncated": ((TEXTS,), {"truncate_dim": 64}),
    "truncated, normalized": ((TEXTS,), {"truncate_dim": 64, "normalize_embeddings": True}),
    "truncated beyond": ((TEXTS,), {"truncate_dim": 1000}),
    "tensor": ((TEXTS,), {"convert_to_tensor": True}),
    "one tensor": (("x",), {"convert_to_tensor": True}),
    "tensor of bits": ((MANY,), {"convert_to_tensor": True, "precision": "ubinary"}),
    "list of vectors": ((TEXTS,), {"convert_to_numpy": False}),
    "tokens": ((TEXTS,), {"output_value": "token_embeddings"}),
    "tokens of one": (("x y",), {"output_value": "token_embeddings"}),
    "tokens, ubinary": ((TEXTS,), {"output_value": "token_embeddings", "precision": "ubinary"}),
    "task": ((TEXTS,), {"task": "query"}),
    "device": ((TEXTS,), {"device": "cpu"}),
}
TOKENS = 1.5e-5  # token embeddings, values up to 4; measured 2.3e-6 between the two


@pytest.mark.parametrize("name", CALLS)
def test_encode_returns_the_same(ours: SentenceTransformer, theirs: Any, name: str) -> None:
    arguments, options = CALLS[name]
    expected = theirs.encode(*arguments, **options)
    actual = ours.encode(*arguments, **options)
    if "tensor" in name:
        assert type(actual) is type(expected)
    assert_same(actual, expected, name, TOKENS if "tokens" in name else VECTORS)


ERRORS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "None": ((None,), {}),
    "bytes": ((b"x",), {}),
    "int": ((3,), {}),
    "set": (({"a"},), {}),
    "None in a list": ((["a", None],), {}),
    "int in a list": ((["a", 3],), {}),
    "bytes in a list": ((["a", b"b"],), {}),
    "0-d array": ((np.array("a"),), {}),
    "another key": (({"image_url": "x"},), {}),
    "surrogate": ((["a\ud800"],), {}),
    "batch size": ((TEXTS,), {"batch_size": 0}),
    "negative batch size": ((TEXTS,), {"batch_size": -1}),
    "unknown prompt": ((TEXTS, "nonsense"), {}),
    "unknown precision": ((TEXTS,), {"precision": "int4"}),
    "one text, int8": (("x",), {"precision": "int8"}),
    "unknown argument": ((TEXTS,), {"foo": 1}),
    "unknown output": ((TEXTS,), {"output_value": "nonsense"}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_encode_raises_the_same_kind_of_error(ours: SentenceTransformer, theirs: Any, name: str) -> None:
    arguments, options = ERRORS[name]
    with pytest.raises(Exception) as expected:
        theirs.encode(*arguments, **options)
    with pytest.raises(type(expected.value)):
        ours.encode(*arguments, **options)


@pytest.fixture(scope="module")
def vectors(theirs: Any) -> tuple[Array, Array]:
    return theirs.encode(TEXTS), theirs.encode(TEXTS[::-1])


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_matches(
    ours: SentenceTransformer, theirs: Any, vectors: tuple[Array, Array], function: str
) -> None:
    a, b = vectors
    ours.similarity_fn_name = theirs.similarity_fn_name = function
    try:
        assert ours.similarity_fn_name == theirs.similarity_fn_name == function
        atol = 2e-5 if function == "manhattan" else 2e-6
        for x, y in ((a, b), (a, b[0]), (a[0], b[0]), (list(a), list(b))):
            assert_same(ours.similarity(x, y), theirs.similarity(x, y), "similarity", atol)
        assert_same(ours.similarity_pairwise(a, b), theirs.similarity_pairwise(a, b), "pairwise", atol)
    finally:
        ours.similarity_fn_name = theirs.similarity_fn_name = None
    assert ours.similarity_fn_name == theirs.similarity_fn_name == "cosine"


def test_attributes_and_methods_match(ours: SentenceTransformer, theirs: Any) -> None:
    for name in ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert str(ours.device) == str(theirs.device)
    for name in ("get_max_seq_length", "get_embedding_dimension"):
        assert getattr(ours, name)() == getattr(theirs, name)(), name
    with ours.truncate_embeddings(7), theirs.truncate_embeddings(7):
        assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 7
        assert_same(ours.encode(TEXTS), theirs.encode(TEXTS), "truncated")
    for text in ("x", ["x"], ("a", "b"), {"text": "x"}, np.array(["a"]), []):
        assert ours.is_singular_input(text) == theirs.is_singular_input(text), text
    assert ours.eval() is ours and ours.to("cpu") is ours and ours.cpu() is ours


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_encode_query_and_encode_document_match(ours: SentenceTransformer, theirs: Any, method: str) -> None:
    before = dict(ours.prompts), dict(theirs.prompts)
    for model in (ours, theirs):
        model.prompts.update(query="find: ", document="read: ")
    try:
        for options in ({}, {"prompt": "p "}, {"prompt_name": "query"}, {"truncate_dim": 9}):
            actual = getattr(ours, method)(TEXTS, **options)
            assert_same(actual, getattr(theirs, method)(TEXTS, **options), method)
    finally:
        ours.prompts, theirs.prompts = before


def test_preprocess_matches(ours: SentenceTransformer, theirs: Any) -> None:
    for texts in (TEXTS, ["x"], [("a", "b c"), ("d", "e")]):
        expected = theirs.preprocess(texts)
        for features in (ours.preprocess(texts), ours.tokenize(texts)):
            for name in ("input_ids", "token_type_ids", "attention_mask"):
                assert_same(features[name], expected[name], name)
    assert ours.preprocess([]) == {}


def test_output_value_none_matches(ours: SentenceTransformer, theirs: Any) -> None:
    actual, expected = ours.encode(TEXTS, output_value=None), theirs.encode(TEXTS, output_value=None)
    for a, b in zip(actual, expected, strict=True):
        n = len(a["input_ids"])
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert_same(a[name], b[name][:n], name)
            assert not b["attention_mask"][n:].any()
        assert_same(a["token_embeddings"], b["token_embeddings"][:n], "token_embeddings", TOKENS)
        assert_same(a["sentence_embedding"], b["sentence_embedding"], "sentence_embedding")
        assert a["modality"] == b["modality"]


@pytest.mark.parametrize("length", [3, 5, 128, 512])
def test_vectors_match_at_other_max_seq_lengths(weights_folder: Path, theirs: Any, length: int) -> None:
    ours = SentenceTransformer(weights_folder, backend="numpy")
    before = theirs.max_seq_length
    ours.max_seq_length = theirs.max_seq_length = length
    try:
        texts = ["word " * 600, "short", ("pair " * 300, "other " * 300)]
        assert_same(ours.encode(texts), theirs.encode(texts), "max_seq_length")
    finally:
        theirs.max_seq_length = before


def test_both_load_a_saved_model(weights_folder: Path, tmp_path: Path) -> None:
    ours = SentenceTransformer(weights_folder, backend="numpy", prompts={"query": "find: "}, similarity_fn_name="dot")
    ours.max_seq_length, ours.truncate_dim = 40, 100
    ours.save_pretrained(tmp_path / "saved")
    copy = SentenceTransformer(tmp_path / "saved", backend="numpy")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    for model in (copy, theirs):
        assert (model.max_seq_length, model.similarity_fn_name, model.prompts["query"]) == (40, "dot", "find: ")
        assert (model.truncate_dim, model.encode(["a"]).shape) == (100, (1, 100))
        assert_same(model.encode_query(TEXTS), ours.encode_query(TEXTS), "saved")


def test_pools_and_devices_do_not_change_the_vectors(ours: SentenceTransformer) -> None:
    expected = ours.encode(TEXTS)
    pool = ours.start_multi_process_pool(["cpu"] * 2)
    assert set(pool) == {"input", "output", "processes"}
    assert_close(ours.encode(TEXTS, pool=pool, chunk_size=3), expected, BATCH, "pool")
    assert_close(ours.encode(TEXTS, device=["cpu", "cpu"]), expected, BATCH, "devices")
    assert_close(ours.encode_multi_process(TEXTS, pool, None, None, 4), expected, BATCH, "encode_multi_process")
    ours.stop_multi_process_pool(pool)
