"""Adapters and recipes inside the real frameworks: what they compute comes from our vectors and from no other model."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.frameworks import OtherModelError, framework, no_other_model
from support.tolerances import BATCH, assert_close

from minilm_np import SentenceTransformer

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]  # we cannot fix the frameworks' warnings
ANIMALS = ["The cat sleeps on the sofa.", "A dog barks at the postman.", "Two horses graze in the field."]
MARKETS = ["Shares fell in London today.", "The bank raised its interest rate.", "Investors sold their bonds."]
TEXTS = ANIMALS + MARKETS
QUERY = "news about the stock market"
NEAREST = MARKETS[2]


class Marked(SentenceTransformer):
    """A model whose vectors no other model has: turned by a permutation of the dimensions, which keeps cosines."""

    texts: list[str]

    def encode(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        self.texts += [inputs] if isinstance(inputs, str) else list(inputs)
        return np.roll(super().encode(inputs, *args, **kwargs), 7, axis=-1)


@pytest.fixture
def marked(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Marked:
    no_other_model(monkeypatch)
    model = Marked(weights_folder, backend="numpy")
    model.texts = []
    return model


def rolled(model: SentenceTransformer, texts: Any) -> Any:
    """Return the vectors that a Marked model gives."""
    return np.roll(model.encode(texts), 7, axis=-1)


# --- KeyBERT


def test_keybert_uses_our_vectors(marked: Marked, model: SentenceTransformer) -> None:
    keybert = framework("keybert")
    from minilm_np.integrations.keybert import MiniLMBackend

    backend = MiniLMBackend(marked)
    assert backend.embedding_model is marked
    found = dict(keybert.KeyBERT(backend).extract_keywords(TEXTS[0], top_n=9))
    assert set(marked.texts) == {TEXTS[0], *found} and {"cat", "sofa"} <= set(found)
    words = list(found)
    assert_close(list(found.values()), model.encode(words) @ model.encode(TEXTS[0]), 6e-5, "scores of four digits")
    documents, candidates = keybert.KeyBERT(backend).extract_embeddings(TEXTS)
    assert_close(documents, rolled(model, TEXTS), BATCH, "documents")
    assert candidates.shape[1] == 384
    seeded = keybert.KeyBERT(backend).extract_keywords(TEXTS, seed_keywords=["money"], use_mmr=True)
    assert len(seeded) == len(TEXTS)


# --- BERTopic


def topic_model(backend: Any, **more: Any) -> Any:
    """Return a BERTopic without UMAP and HDBSCAN, which need many texts."""
    from bertopic import BERTopic
    from bertopic.dimensionality import BaseDimensionalityReduction
    from sklearn.cluster import KMeans

    parts = {"umap_model": BaseDimensionalityReduction(), "hdbscan_model": KMeans(2, n_init=10, random_state=0)}
    return BERTopic(embedding_model=backend, **parts, **more)


def test_bertopic_uses_our_vectors(marked: Marked, model: SentenceTransformer, tmp_path: Path) -> None:
    bertopic = framework("bertopic")
    from minilm_np.integrations.bertopic import MiniLMBackend

    topics = topic_model(MiniLMBackend(marked))
    found, _ = topics.fit_transform(TEXTS)
    assert found in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]) and set(TEXTS) <= set(marked.texts)
    means = [rolled(model, texts).mean(axis=0) for texts in (ANIMALS, MARKETS)]
    assert_close(topics.topic_embeddings_[[found[0], found[-1]]], means, BATCH, "topic embeddings")
    nearest, _ = topics.find_topics("a kitten", top_n=1)
    assert nearest == [found[0]] and marked.texts[-1] == "a kitten"
    topics.save(str(tmp_path / "topics"), serialization="safetensors")
    again = bertopic.BERTopic.load(str(tmp_path / "topics"), embedding_model=MiniLMBackend(marked))
    assert again.embedding_model.embedding_model is marked
    assert again.transform(["A kitten naps."])[0] == [found[0]] and marked.texts[-1] == "A kitten naps."


def test_bertopic_stores_the_backend_with_pickle(
    weights_folder: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bertopic = framework("bertopic")
    from minilm_np.integrations.bertopic import MiniLMBackend

    no_other_model(monkeypatch)
    topics = topic_model(MiniLMBackend(weights_folder, {"truncate_dim": 64}, backend="numpy"))
    topics.fit(TEXTS)
    assert topics.topic_embeddings_.shape == (2, 64)
    topics.save(str(tmp_path / "topics.pickle"), serialization="pickle")
    again = bertopic.BERTopic.load(str(tmp_path / "topics.pickle"))
    assert_close(again.embedding_model.embed(TEXTS), model.encode(TEXTS)[:, :64], BATCH, "restored")


def test_bertopic_names_topics_by_zero_shot_and_keywords(marked: Marked) -> None:
    """Both parts of BERTopic embed words and topic names with the backend."""
    framework("bertopic")
    from bertopic.representation import KeyBERTInspired

    from minilm_np.integrations.bertopic import MiniLMBackend

    topics = topic_model(MiniLMBackend(marked), representation_model=KeyBERTInspired(), zeroshot_topic_list=["animals"])
    topics.fit(TEXTS)
    assert "animals" in marked.texts and "cat" in marked.texts


@pytest.mark.parametrize("name", ["keybert", "bertopic"])
def test_backend_of_no_texts(name: str, model: SentenceTransformer) -> None:
    framework(name)
    from importlib import import_module

    backend = import_module(f"minilm_np.integrations.{name}").MiniLMBackend(model)
    assert backend.embed([]).shape == (0, 384) and backend.embed(iter(["a"]), verbose=False).shape == (1, 384)


# --- MTEB


def test_mteb_registry_has_the_default_model(weights_folder: Path, model: SentenceTransformer) -> None:
    mteb = framework("mteb")
    from minilm_np.integrations.mteb import MiniLMEncoder

    theirs = mteb.get_model_meta("sentence-transformers/all-MiniLM-L6-v2")
    meta = mteb.get_model_meta("minilm_np/all-MiniLM-L6-v2")
    assert meta.loader is not theirs.loader and meta.revision == theirs.revision and meta.embed_dim == 384
    found = mteb.get_model("minilm_np/all-MiniLM-L6-v2", backend="numpy", device="cpu")
    assert type(found) is MiniLMEncoder and found.model.backend == "numpy"
    assert found.mteb_model_meta.name == meta.name and found.mteb_model_meta.experiment_kwargs == {"backend": "numpy"}
    assert_close(found.encode([{"text": TEXTS}]), model.encode(TEXTS), BATCH, "vectors")


def test_mteb_evaluates_the_registered_model_by_its_metadata(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mteb = framework("mteb")
    from support.mteb_tasks import mteb_task

    import minilm_np.integrations.mteb  # noqa: F401

    no_other_model(monkeypatch)
    monkeypatch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
    encode, texts = SentenceTransformer.encode, []

    def counting(self: SentenceTransformer, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        texts.extend(inputs)
        return encode(self, inputs, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", counting)
    meta = mteb.get_model_meta("minilm_np/all-MiniLM-L6-v2")
    result = mteb.evaluate(meta, mteb_task("STS"), cache=None, show_progress_bar=False)
    assert result.model_name == "minilm_np/all-MiniLM-L6-v2" and -1 < result.task_results[0].get_score() < 1
    assert len(set(texts)) > 40
    with pytest.raises(TypeError, match="model_name_or_path"):  # scores of another model belong to another name
        mteb.get_model("minilm_np/all-MiniLM-L6-v2", model_name_or_path=str(weights_folder))


# --- LlamaIndex


def test_llama_index_uses_our_vectors(marked: Marked, model: SentenceTransformer) -> None:
    framework("llama_index.core")
    from llama_index.core import Document, Settings, VectorStoreIndex

    from minilm_np.integrations.llama_index import MiniLMEmbedding

    embedding = MiniLMEmbedding(marked)
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embedding)
    (hit,) = index.as_retriever(similarity_top_k=1).retrieve(QUERY)
    assert hit.text == NEAREST and marked.texts == [*TEXTS, QUERY]
    assert_close(hit.score, model.encode(QUERY) @ model.encode(NEAREST), BATCH, "score")
    assert_close(embedding.get_text_embedding_batch(TEXTS), rolled(model, TEXTS), BATCH, "texts")
    assert_close(asyncio.run(embedding.aget_query_embedding(QUERY)), rolled(model, QUERY), BATCH, "query")
    assert_close(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), rolled(model, TEXTS), BATCH, "async texts")
    before = Settings._embed_model
    named = MiniLMEmbedding(marked, model_name="ours", num_workers=2, embed_batch_size=4)
    assert (named.model_name, named.num_workers, named.embed_batch_size) == ("ours", 2, 4)
    assert named.get_text_embedding_batch(TEXTS) == embedding.get_text_embedding_batch(TEXTS[:4]) + (
        embedding.get_text_embedding_batch(TEXTS[4:])
    )
    try:
        Settings.embed_model = embedding
        assert Settings.embed_model is embedding
    finally:
        Settings._embed_model = before


def test_llama_index_embedding_is_restored(weights_folder: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    framework("llama_index.core")
    from minilm_np.integrations.llama_index import MiniLMEmbedding

    SentenceTransformer(weights_folder, backend="numpy", prompts={"query": "y"}).save_pretrained(tmp_path / "another")
    options: dict[str, Any] = {"backend": "numpy", "prompts": {"query": "x"}, "encode_kwargs": {"truncate_dim": 9}}
    embedding = MiniLMEmbedding(tmp_path / "another", **options)
    loaded = MiniLMEmbedding(
        SentenceTransformer(tmp_path / "another", backend="numpy", prompts={"query": "x"}, truncate_dim=9)
    )
    described = embedding.to_dict()
    assert described["model_name"] == str(tmp_path / "another") and described["class_name"] == "MiniLMEmbedding"
    stored = pickle.dumps(embedding)
    assert len(stored) < 10_000
    copies = [pickle.loads(stored), copy.deepcopy(embedding), embedding.model_copy()]
    copies += [MiniLMEmbedding.from_dict(one.to_dict()) for one in (embedding, loaded)]
    for again in copies:
        assert again._model.place.folder == tmp_path / "another"
        assert_close(again.get_text_embedding(TEXTS[0]), model.encode(TEXTS[0])[:9], BATCH, "restored")
        assert_close(again.get_query_embedding(TEXTS[0]), model.encode("x" + TEXTS[0])[:9], BATCH, "restored")


def test_llama_index_description_has_a_dtype_unless_it_is_the_default(weights_folder: Path) -> None:
    framework("llama_index.core")
    from minilm_np.integrations.llama_index import MiniLMEmbedding

    assert "dtype" not in MiniLMEmbedding(weights_folder, backend="numpy").to_dict()["model_options"]
    model = SentenceTransformer(weights_folder, dtype="bfloat16")
    for embedding in (MiniLMEmbedding(weights_folder, dtype="bfloat16"), MiniLMEmbedding(model)):
        described = embedding.to_dict()
        assert described["model_options"]["dtype"] == "bfloat16"
        assert MiniLMEmbedding.from_dict(described)._model.compute_dtype == "bfloat16"


def test_langchain_name_of_a_low_precision_is_another_namespace(weights_folder: Path) -> None:
    framework("langchain_core")
    from minilm_np.integrations.langchain import MiniLMEmbeddings

    names = [MiniLMEmbeddings(weights_folder, dtype=dtype).model_name for dtype in ("float32", "bfloat16")]
    assert names == [str(weights_folder), f"{weights_folder} (bfloat16)"]


def test_llama_index_cache_tells_options_apart(weights_folder: Path) -> None:
    """An ingestion pipeline looks up cached vectors by the description of the embedding."""
    framework("llama_index.core")
    from llama_index.core import Document
    from llama_index.core.ingestion import IngestionCache, IngestionPipeline

    from minilm_np.integrations.llama_index import MiniLMEmbedding

    cache = IngestionCache()
    lengths = []
    for options in ({}, {"truncate_dim": 9}, {"encode_kwargs": {"truncate_dim": 8}}, {"truncate_dim": 9}):
        embedding = MiniLMEmbedding(weights_folder, backend="numpy", **options)
        (node,) = IngestionPipeline(transformations=[embedding], cache=cache).run(
            documents=[Document(text="a", id_="a")]
        )
        lengths.append(len(node.embedding or ()))
    assert lengths == [384, 9, 8, 9]


# --- Haystack


def test_haystack_pipelines_use_our_vectors(
    weights_folder: Path, model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    haystack = framework("haystack")
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from minilm_np.integrations.haystack import MiniLMDocumentEmbedder, MiniLMTextEmbedder

    no_other_model(monkeypatch)
    store = InMemoryDocumentStore()
    indexing = haystack.Pipeline()
    indexing.add_component("embedder", MiniLMDocumentEmbedder(str(weights_folder), backend="numpy"))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": [haystack.Document(content=text) for text in TEXTS]}})
    stored = {document.content: document.embedding for document in store.filter_documents()}
    assert_close([stored[text] for text in TEXTS], model.encode(TEXTS), BATCH, "documents")

    querying = haystack.Pipeline()
    options: dict[str, Any] = {"backend": "numpy", "encode_kwargs": {"truncation": "ignore"}}
    querying.add_component("embedder", MiniLMTextEmbedder(str(weights_folder), **options))
    querying.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    querying.connect("embedder.embedding", "retriever.query_embedding")
    trusted = ["minilm_np.integrations.haystack"]
    for pipeline in (querying, haystack.Pipeline.loads(querying.dumps(), allowed_modules=trusted)):
        text_embedder = pipeline.get_component("embedder")
        assert text_embedder.to_dict()["init_parameters"]["encode_kwargs"] == {"truncation": "ignore"}
        text_embedder.warm_up()
        assert_close(text_embedder.run(QUERY)["embedding"], model.encode(QUERY), BATCH, "query")
    (found,) = querying.run({"embedder": {"text": QUERY}})["retriever"]["documents"]
    assert found.content == NEAREST


def test_haystack_pipeline_stores_the_dtype(weights_folder: Path) -> None:
    haystack = framework("haystack")
    from minilm_np.integrations.haystack import MiniLMTextEmbedder

    embedder = MiniLMTextEmbedder(str(weights_folder), dtype="bfloat16")
    again = haystack.default_from_dict(MiniLMTextEmbedder, embedder.to_dict())
    assert again._loaded().compute_dtype == "bfloat16"


def test_haystack_documents_are_checked(weights_folder: Path, model: SentenceTransformer) -> None:
    haystack = framework("haystack")
    from minilm_np.integrations.haystack import MiniLMDocumentEmbedder

    embedder = MiniLMDocumentEmbedder(str(weights_folder), backend="numpy")
    document = haystack.Document(content=None)
    (embedded,) = embedder.run([document])["documents"]
    assert document.embedding is None and embedded.id == document.id
    assert_close(embedded.embedding, model.encode(""), BATCH, "no content")
    assert embedder.run([]) == {"documents": []}
    for value, message in (
        ("hello", "documents: expected a list of Documents, got str"),
        ({"a": 1}, "documents: expected a list of Documents, got dict"),
        ([document, "hello"], r"documents\[1\]: expected a Document, got str"),
    ):
        with pytest.raises(TypeError, match=f"^{message}$"):
            embedder.run(value)
    with pytest.raises(TypeError, match=r"^model: expected the name or folder of a model, got SentenceTransformer$"):
        MiniLMDocumentEmbedder(model)  # type: ignore[arg-type]


# --- models and options that adapters take

ADAPTERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "KeyBERT": ("keybert", lambda m, **o: adapter("keybert").MiniLMBackend(m, **o).embedding_model),
    "BERTopic": ("bertopic", lambda m, **o: adapter("bertopic").MiniLMBackend(m, **o).embedding_model),
    "LlamaIndex": ("llama_index.core", lambda m, **o: adapter("llama_index").MiniLMEmbedding(m, **o)._model),
    "LangChain": ("langchain_core", lambda m, **o: adapter("langchain").MiniLMEmbeddings(m, **o).model),
}


def adapter(name: str) -> Any:
    from importlib import import_module

    return import_module(f"minilm_np.integrations.{name}")


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_takes_a_model_or_its_folder(name: str, model: SentenceTransformer, weights_folder: Path) -> None:
    module, load = ADAPTERS[name]
    framework(module)
    assert load(model) is model
    for folder in (weights_folder, str(weights_folder)):
        loaded = load(folder, backend="numpy", truncate_dim=9)
        assert loaded.place.folder == weights_folder and loaded.truncate_dim == 9
    with pytest.raises(ValueError, match=r"^truncate_dim: expected no option, because the model is loaded already$"):
        load(model, truncate_dim=9)
    for other in (3, ["a"], object()):
        with pytest.raises(
            TypeError, match=r"^model: expected a minilm_np.SentenceTransformer, or a name or folder, got "
        ):
            load(other)


def test_other_models_are_blocked_in_these_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_transformers = framework("sentence_transformers", "the parity extra")
    no_other_model(monkeypatch)
    with pytest.raises(OtherModelError, match="all-MiniLM"):
        sentence_transformers.SentenceTransformer("all-MiniLM-L6-v2")
