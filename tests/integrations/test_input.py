"""Every adapter refuses what `encode` refuses, with an error that names the argument, instead of embedding letters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from support.frameworks import framework
from support.tolerances import BATCH, assert_close

from minilm_np import InputError, SentenceTransformer
from minilm_np.integrations._common import several, single

IN_FRAMEWORK = (pytest.mark.integrations, pytest.mark.filterwarnings("default"))  # the frameworks issue warnings
NO_LIST = {  # not an iterable of texts -> what the error says after "NAME: expected an iterable of str, got"
    "str": ("hello", "str 'hello'"),
    "str subclass": (np.str_("hello"), "str 'hello'"),
    "bytes": (b"hello", "bytes"),
    "bytearray": (bytearray(b"hello"), "bytearray"),
    "None": (None, "NoneType"),
    "int": (3, "int"),
    "float": (0.5, "float"),
    "dict": ({"hello": 1, "world": 2}, "dict"),
    "mapping": (MappingProxyType({"hello": 1}), "mappingproxy"),
    "set": ({"hello", "world"}, "set"),
    "frozenset": (frozenset({"hello"}), "frozenset"),
    "array of no dimensions": (np.array("hello"), r"ndarray of shape \(\)"),
    "table": (np.array([["a", "b"], ["c", "d"], ["e", "f"]]).reshape(1, 3, 2), r"ndarray of shape \(1, 3, 2\)"),
}
NO_TEXTS = {  # an iterable with an element that is no text -> the row and what the error says
    "bytes": (["a", b"b"], 1, "bytes b'b'"),
    "None": (["a", "b", None], 2, r"a missing value \(NoneType None\)"),
    "int": ([7], 0, "int 7"),
    "NaN": (["a", float("nan")], 1, r"a missing value \(float nan\)"),
    "list of one": ([["a"]], 0, r"list \['a'\]"),
    "list of three": ([["a", "b", "c"]], 0, "list"),
    "nested lists": ([[["a", "b"]]], 0, r"list \[\['a', 'b'\]\]"),
    "dict": ([{"title": "a"}], 0, "dict"),
    "vector": ([np.zeros(3)], 0, "ndarray"),
}
ACCEPTED: dict[str, Callable[[], Any]] = {  # each has the texts "a cat", "dogs"
    "list": lambda: ["a cat", "dogs"],
    "tuple": lambda: ("a cat", "dogs"),
    "generator": lambda: (text for text in ("a cat", "dogs")),
    "iterator": lambda: iter(["a cat", "dogs"]),
    "array": lambda: np.array(["a cat", "dogs"]),
    "array of objects": lambda: np.array(["a cat", "dogs"], object),
    "keys": lambda: {"a cat": 1, "dogs": 2}.keys(),
    "dicts": lambda: [{"text": "a cat"}, {"text": "dogs"}],
}


def langchain(folder: Path) -> Any:
    framework("langchain_core")
    from minilm_np.integrations.langchain import MiniLMEmbeddings

    return MiniLMEmbeddings(str(folder), backend="numpy")


def chroma(folder: Path) -> Any:
    framework("chromadb")
    from minilm_np.integrations.chroma import MiniLMEmbeddingFunction

    return MiniLMEmbeddingFunction(str(folder), backend="numpy")


def scikit_learn(folder: Path) -> Any:
    framework("sklearn")
    from minilm_np.integrations.sklearn import SentenceEncoder

    return SentenceEncoder(str(folder), backend="numpy").fit([])


def mteb(folder: Path) -> Any:
    framework("mteb")
    from minilm_np.integrations.mteb import MiniLMEncoder

    return MiniLMEncoder(str(folder), backend="numpy")


def keybert(folder: Path) -> Any:
    framework("keybert")
    from minilm_np.integrations.keybert import MiniLMBackend

    return MiniLMBackend(str(folder), backend="numpy")


def bertopic(folder: Path) -> Any:
    framework("bertopic")
    from minilm_np.integrations.bertopic import MiniLMBackend

    return MiniLMBackend(str(folder), backend="numpy")


def llama_index(folder: Path) -> Any:
    framework("llama_index.core")
    from minilm_np.integrations.llama_index import MiniLMEmbedding

    return MiniLMEmbedding(str(folder), backend="numpy")


def haystack(folder: Path) -> Any:
    framework("haystack")
    from minilm_np.integrations.haystack import MiniLMTextEmbedder

    return MiniLMTextEmbedder(str(folder), backend="numpy")


# Each adapter's methods that take several texts: name -> (the argument, the adapter, the call).
METHODS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any, Any], Any]]] = {
    "langchain": ("texts", langchain, lambda adapter, x: adapter.embed_documents(x)),
    "chroma documents": ("input", chroma, lambda adapter, x: adapter(x)),
    "chroma queries": ("input", chroma, lambda adapter, x: adapter.embed_query(x)),
    "scikit-learn": ("X", scikit_learn, lambda adapter, x: adapter.transform(x)),
    "scikit-learn fit_transform": ("X", scikit_learn, lambda adapter, x: adapter.fit_transform(x)),
    "KeyBERT": ("documents", keybert, lambda adapter, x: adapter.embed(x)),
    "BERTopic documents": ("documents", bertopic, lambda adapter, x: adapter.embed_documents(x)),
    "BERTopic words": ("documents", bertopic, lambda adapter, x: adapter.embed_words(x)),
    "LlamaIndex": ("texts", llama_index, lambda adapter, x: adapter.get_text_embedding_batch(x)),
    "LlamaIndex async": ("texts", llama_index, lambda adapter, x: asyncio.run(adapter.aget_text_embedding_batch(x))),
    "mteb": ("inputs[0]['text']", mteb, lambda adapter, x: adapter.encode([{"text": x}])),
}
# Methods that take one text.
SINGLE: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any, Any], Any]]] = {
    "langchain": ("text", langchain, lambda adapter, x: adapter.embed_query(x)),
    "LlamaIndex query": ("query", llama_index, lambda adapter, x: adapter.get_query_embedding(x)),
    "LlamaIndex text": ("text", llama_index, lambda adapter, x: adapter.get_text_embedding(x)),
    "Haystack": ("text", haystack, lambda adapter, x: adapter.run(x)),
}


# --- the function that the adapters share, without a framework


@pytest.mark.parametrize(("value", "described"), NO_LIST.values(), ids=NO_LIST)
def test_anything_but_an_iterable_of_texts_is_refused(value: Any, described: str) -> None:
    with pytest.raises(InputError, match=rf"^X: expected an iterable of str, got {described}$"):
        several(value, "X")


@pytest.mark.parametrize(("values", "row", "described"), NO_TEXTS.values(), ids=NO_TEXTS)
def test_an_element_that_is_no_text_is_refused_with_its_row(values: Any, row: int, described: str) -> None:
    with pytest.raises(InputError, match=rf"^X\[{row}\]: expected a str or a pair of str, got {described}"):
        several(values, "X")


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED)
def test_any_iterable_of_texts_is_accepted(make: Callable[[], Any]) -> None:
    assert several(make(), "X") == ["a cat", "dogs"]
    assert several([["a", "b"]], "X") == [("a", "b")]  # a pair, as in `encode`


@pytest.mark.parametrize("value", [["hello"], ("a", "b"), b"hello", None, 3, {"text": "a"}, np.array("a"), iter("ab")])
def test_a_single_text_is_a_str(value: Any) -> None:
    assert single(np.str_("hello"), "query") == "hello"
    with pytest.raises(InputError, match=rf"^query: expected a str, got {type(value).__name__}$"):
        single(value, "query")


def test_a_long_text_is_shortened_in_the_message() -> None:
    with pytest.raises(InputError) as raised:
        several("a" * 10_000, "X")
    assert len(str(raised.value)) < 100


# --- each adapter


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest, weights_folder: Path) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    name, make, call = METHODS[request.param]
    adapter = make(weights_folder)
    yield name, lambda value: call(adapter, value)


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
def test_every_adapter_refuses_what_is_no_iterable_of_texts(method: tuple[str, Callable[[Any], Any]]) -> None:
    name, call = method
    for value, described in NO_LIST.values():
        with pytest.raises(InputError, match=rf"^{re.escape(name)}: expected an iterable of str, got {described}"):
            call(value)
    for values, row, described in NO_TEXTS.values():
        with pytest.raises(
            InputError, match=rf"^{re.escape(name)}\[{row}\]: expected a str or a pair.* got {described}"
        ):
            call(values)


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
def test_every_adapter_accepts_what_encode_accepts(
    method: tuple[str, Callable[[Any], Any]], model: SentenceTransformer
) -> None:
    _, call = method
    expected = model.encode(["a cat", "dogs"])
    for kind, make in ACCEPTED.items():
        assert_close(np.array(call(make())), expected, BATCH, kind)


@pytest.mark.parametrize(
    ("name", "make", "call"), [pytest.param(*case, marks=IN_FRAMEWORK, id=key) for key, case in SINGLE.items()]
)
def test_every_adapter_for_one_text_takes_only_a_str(
    name: str, make: Callable[[Path], Any], call: Callable[[Any, Any], Any], weights_folder: Path
) -> None:
    adapter = make(weights_folder)
    for value in (["hello"], [], ("a", "b"), b"hello", None, 3, {"text": "a"}):
        with pytest.raises(InputError, match=rf"^{name}: expected a str, got {type(value).__name__}$"):
            call(adapter, value)


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("batches", ["hello", ["hello"], {"text": ["hello"]}, [{"image": [1]}], [["hello"]]])
def test_mteb_takes_batches(batches: Any, weights_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^inputs\[0\]: expected a batch with 'text', got (str|dict|list)$"):
        mteb(weights_folder).encode(batches)
