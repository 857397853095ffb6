"""Each integration inside the real framework; a framework that is not installed is skipped."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import BATCH, assert_close

from minilm_np import SentenceTransformer

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]  # their warnings are not ours to mend
TEXTS = ["A man is eating food.", "", "The girl is carrying a baby.", "A cheetah runs behind its prey."]


def framework(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason="needs the integrations extra")


# --- LangChain


def test_langchain_standard_tests(weights_folder: Path, tmp_path: Path) -> None:
    """LangChain's own conformance suites, collected and run in a pytest of their own."""
    framework("langchain_tests")
    (tmp_path / "test_standard.py").write_text(f"""
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from minilm_np.integrations.langchain import MiniLMEmbeddings

class TestUnit(EmbeddingsUnitTests):
    embeddings_class = MiniLMEmbeddings
    embedding_model_params = {{"model": {str(weights_folder)!r}, "backend": "numpy"}}

class TestIntegration(EmbeddingsIntegrationTests):
    embeddings_class = MiniLMEmbeddings
    embedding_model_params = {{"model": {str(weights_folder)!r}, "backend": "numpy"}}
""")
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--asyncio-mode=auto", str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert " passed" in run.stdout and "failed" not in run.stdout


def test_langchain(weights_folder: Path, model: SentenceTransformer) -> None:
    framework("langchain_core")
    from minilm_np.integrations.langchain import MiniLMEmbeddings

    embeddings = MiniLMEmbeddings(str(weights_folder), backend="numpy", encode_kwargs={"truncate_dim": 9})
    documents = embeddings.embed_documents(TEXTS)
    assert all(type(number) is float for row in documents for number in row)
    assert_close(documents, model.encode(TEXTS)[:, :9], BATCH, "documents")
    assert_close(embeddings.embed_query("x"), model.encode("x")[:9], BATCH, "query")
    assert embeddings.embed_documents([]) == []


# --- scikit-learn


def test_scikit_learn(weights_folder: Path, model: SentenceTransformer) -> None:
    framework("sklearn")
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from minilm_np.integrations.sklearn import SentenceEncoder

    encoder = SentenceEncoder(str(weights_folder), backend="numpy")
    with pytest.raises(NotFittedError):
        encoder.transform(TEXTS)
    copy = clone(encoder)
    assert copy.get_params() == encoder.get_params() and copy is not encoder
    vectors = copy.fit_transform(TEXTS)
    assert_close(vectors, model.encode(TEXTS), BATCH, "fit_transform")
    assert copy.transform([]).shape == (0, 384)
    assert list(copy.get_feature_names_out()[:2]) == ["minilm0", "minilm1"] and len(copy.get_feature_names_out()) == 384
    again = pickle.loads(pickle.dumps(copy))
    assert np.array_equal(again.transform(TEXTS), vectors)
    assert len(pickle.dumps(copy)) < 10_000

    rng = np.random.default_rng(0)
    animals, food = (
        ["cat", "dog", "horse", "bird", "fish", "wolf"],
        ["bread", "cheese", "soup", "rice", "apple", "pie"],
    )
    texts = [f"the {rng.choice(words)} is here" for words in (animals, food) * 20]
    labels = [0, 1] * 20
    pipeline = make_pipeline(
        SentenceEncoder(str(weights_folder), backend="numpy", truncate_dim=64), LogisticRegression()
    )
    pipeline.fit(texts, labels)
    assert pipeline.predict(["a lion", "a slice of cake"]).tolist() == [0, 1]
    assert pipeline[0].transform(texts).shape == (40, 64)
    pipeline.set_params(sentenceencoder__truncate_dim=8).fit(texts, labels)
    assert pipeline[0].transform(texts).shape == (40, 8)


def test_scikit_learn_estimator_checks(weights_folder: Path) -> None:
    """Those of its estimator checks that do not need numbers as input."""
    framework("sklearn")
    from sklearn.utils import estimator_checks as checks

    from minilm_np.integrations.sklearn import SentenceEncoder

    encoder = SentenceEncoder(str(weights_folder), backend="numpy")
    for name in (
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_valid_tag_types",
        "check_mixin_order",
    ):
        getattr(checks, name)("SentenceEncoder", encoder)


# --- Chroma


def test_chroma_collection(weights_folder: Path, tmp_path: Path, model: SentenceTransformer) -> None:
    chromadb = framework("chromadb")
    from minilm_np.integrations.chroma import MiniLMEmbeddingFunction

    function = MiniLMEmbeddingFunction(str(weights_folder), backend="numpy")
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings)
    collection = client.create_collection("texts", embedding_function=function)
    collection.add(ids=["a", "b", "c", "d"], documents=TEXTS)
    found = collection.query(query_texts=["Someone eats a meal."], n_results=2)
    assert found["ids"][0][0] == "a"
    wanted = 1 - float(model.encode(TEXTS[0]) @ model.encode("Someone eats a meal."))
    assert_close(found["distances"][0][0], wanted, 1e-5, "cosine distance")
    stored = collection.get(ids=["c"], include=["embeddings"])["embeddings"][0]
    assert_close(stored, model.encode(TEXTS[2]), BATCH, "stored")
    again = client.get_collection("texts")  # made again from its stored name and options
    assert again.query(query_texts=["Someone eats a meal."], n_results=1)["ids"] == [["a"]]
    assert function.get_config() == {"model_name": str(weights_folder), "backend": "numpy"}


# --- MTEB


def test_mteb(model: SentenceTransformer) -> None:
    mteb = framework("mteb")
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.models_protocols import EncoderProtocol
    from scipy.stats import spearmanr

    from minilm_np.integrations.mteb import MiniLMEncoder

    pairs = [("a cat", "a kitten", 5.0), ("a cat", "a dog", 3.0), ("a cat", "stock markets fell", 0.0), ("x", "x", 4.9)]

    class Tiny(AbsTaskSTS):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="TinySTS",
            dataset={"path": "nowhere/none", "revision": "0"},
            description="four pairs",
            type="STS",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
            reference="https://example.org",
            date=("2024-01-01", "2024-01-02"),
            domains=[],
            task_subtypes=[],
            license="mit",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )
        min_score, max_score = 0, 5

        def load_data(self, *_: Any, **__: Any) -> None:
            columns = dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*pairs, strict=True)), strict=True))
            self.dataset, self.data_loaded = {"test": Dataset.from_dict(columns)}, True

    encoder = MiniLMEncoder(model)
    assert isinstance(encoder, EncoderProtocol)
    result = mteb.evaluate(encoder, Tiny(), cache=None, show_progress_bar=False)
    a, b = (model.encode([pair[i] for pair in pairs]) for i in range(2))
    wanted = spearmanr((a * b).sum(axis=1), [pair[2] for pair in pairs]).statistic
    assert abs(result.task_results[0].get_score() - wanted) < 1e-6
