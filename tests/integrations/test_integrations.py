"""Each integration inside its real framework; tests are skipped if the framework is not installed."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import HANG_SECONDS
from support.frameworks import framework
from support.mteb_tasks import FIRST, HALVES, SECOND, metadata, mteb_task
from support.tolerances import BATCH, assert_close

from minilm_np import SentenceTransformer

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]  # we cannot fix the frameworks' warnings
TEXTS = ["A man is eating food.", "", "The girl is carrying a baby.", "A cheetah runs behind its prey."]


# --- LangChain


def test_langchain_conformance_suites_pass(weights_folder: Path, tmp_path: Path) -> None:
    """Runs LangChain's own conformance suites in a separate pytest process."""
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
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert " passed" in run.stdout and "failed" not in run.stdout


def test_langchain_embeddings_match_encode(weights_folder: Path, model: SentenceTransformer) -> None:
    framework("langchain_core")
    from minilm_np.integrations.langchain import MiniLMEmbeddings

    embeddings = MiniLMEmbeddings(str(weights_folder), backend="numpy", encode_kwargs={"truncate_dim": 9})
    documents = embeddings.embed_documents(TEXTS)
    assert all(type(number) is float for row in documents for number in row)
    assert_close(documents, model.encode(TEXTS)[:, :9], BATCH, "documents")
    assert_close(embeddings.embed_query("x"), model.encode("x")[:9], BATCH, "query")
    assert embeddings.embed_documents([]) == []


# --- scikit-learn


def test_scikit_learn_encoder_in_pipelines(weights_folder: Path, model: SentenceTransformer) -> None:
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
    rounded = clone(SentenceEncoder(str(weights_folder), dtype="bfloat16")).fit([])
    assert rounded.model_.compute_dtype == "bfloat16"


def test_scikit_learn_estimator_checks_pass(weights_folder: Path) -> None:
    """Runs scikit-learn's estimator checks that do not need numeric input."""
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


def test_chroma_collection_is_restored(weights_folder: Path, tmp_path: Path, model: SentenceTransformer) -> None:
    chromadb = framework("chromadb")
    from minilm_np.integrations.chroma import MiniLMEmbeddingFunction

    function = MiniLMEmbeddingFunction(str(weights_folder), backend="numpy")
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings)
    collection = client.create_collection("texts", embedding_function=function)
    collection.add(ids=["a", "b", "c", "d"], documents=TEXTS)
    actual = collection.query(query_texts=["Someone eats a meal."], n_results=2)
    assert actual["ids"][0][0] == "a"
    expected = 1 - float(model.encode(TEXTS[0]) @ model.encode("Someone eats a meal."))
    assert_close(actual["distances"][0][0], expected, 1e-5, "cosine distance")
    stored = collection.get(ids=["c"], include=["embeddings"])["embeddings"][0]
    assert_close(stored, model.encode(TEXTS[2]), BATCH, "stored")
    again = client.get_collection("texts")  # restored from the stored name and options
    assert again.query(query_texts=["Someone eats a meal."], n_results=1)["ids"] == [["a"]]
    assert function.get_config() == {"model_name": str(weights_folder), "backend": "numpy"}


def test_chroma_refuses_a_function_of_another_precision(weights_folder: Path, tmp_path: Path) -> None:
    chromadb = framework("chromadb")
    from minilm_np.integrations.chroma import MiniLMEmbeddingFunction

    float32, rounded = (MiniLMEmbeddingFunction(str(weights_folder), dtype=dtype) for dtype in (np.float32, "bfloat16"))
    assert float32.get_config()["dtype"] == "float32" and float32.name() == "minilm_np"
    client = chromadb.PersistentClient(str(tmp_path), chromadb.Settings(anonymized_telemetry=False))
    for mine, other in ((float32, rounded), (rounded, float32)):
        collection = client.create_collection(mine.name(), embedding_function=mine)
        collection.add(ids=["a"], documents=TEXTS[:1])
        for open_collection in (client.get_collection, client.get_or_create_collection):
            with pytest.raises(ValueError, match=r"(?i)embedding function conflict: new: minilm_np"):
                open_collection(mine.name(), embedding_function=other)
    again = client.get_collection("minilm_np_bfloat16")  # restored from the stored name and options
    assert again.configuration["embedding_function"]._model.compute_dtype == "bfloat16"
    assert again.query(query_texts=TEXTS[:1])["distances"][0][0] < 1e-6
    assert pickle.loads(pickle.dumps(rounded)).name() == "minilm_np_bfloat16"


# --- MTEB


def our_scores(kind: str, encode: Any) -> dict[str, float]:
    """Return the scores of the same task from minilm_np.evaluate."""
    from minilm_np.evaluate import protocols

    task = mteb_task(kind)
    task.load_data()
    data = task.dataset
    if kind == "Retrieval":
        data = data["default"]["test"]
        corpus = [(row["id"], row["text"]) for row in data["corpus"]]
        queries = {row["id"]: row["text"] for row in data["queries"]}
        return protocols.retrieval(encode, corpus, queries, data["relevant_docs"])
    test = data["test"]
    if kind == "STS":
        return protocols.sts(encode, test["sentence1"], test["sentence2"], test["score"])
    if kind == "PairClassification":
        return protocols.pair_classification(encode, test["sentence1"], test["sentence2"], test["labels"])
    if kind == "Classification":
        train, held_out = ((data[part]["text"], data[part]["label"]) for part in ("train", "test"))
        return protocols.classification(encode, train, held_out)[0]
    if kind == "Clustering":
        return protocols.clustering(encode, zip(test["sentences"], test["labels"], strict=True))[0]
    return protocols.summarization(encode, test)


@pytest.mark.parametrize(
    "kind", ["STS", "PairClassification", "Classification", "Clustering", "Retrieval", "Summarization"]
)
def test_protocols_score_like_mteb(kind: str, model: SentenceTransformer) -> None:
    """Compares every measure with the real MTEB, for the same encoder."""
    mteb = framework("mteb")
    framework("pytrec_eval")
    from minilm_np.integrations.mteb import MiniLMEncoder

    with warnings.catch_warnings(record=True):  # of a bug in MTEB's summarization task, which the model card has, too
        result = mteb.evaluate(MiniLMEncoder(model), mteb_task(kind), cache=None, show_progress_bar=False)
    (theirs,) = result.task_results[0].scores["test"]
    ours = our_scores(kind, lambda texts: model.encode(texts, truncation="ignore"))
    compared = 0
    for name, value in ours.items():
        measure = name.replace("cos_sim", "cosine")  # MTEB's current name
        if measure in theirs:
            # texts may be batched differently, which changes similarities by up to 3e-7
            assert_close(value, 100 * theirs[measure], 1e-3, f"{kind}: {name}")
            compared += 1
    assert compared >= {"Clustering": 1, "Classification": 3, "Retrieval": 24, "Summarization": 4}.get(kind, 6)


def test_evaluates_data_from_the_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `datasets` library itself writes the cache; the test forbids network access."""
    datasets = framework("datasets")
    framework("pytrec_eval")
    from minilm_np.evaluate import all_tasks, evaluate
    from minilm_np.evaluate.data import Datasets, Files

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def store(name: str, config: str, splits: dict[str, dict[str, list[Any]]], revision: str = "") -> None:
        task = all_tasks()[name]

        class Builder(datasets.GeneratorBasedBuilder):  # type: ignore[misc, name-defined]
            BUILDER_CONFIGS = [datasets.BuilderConfig(config)]  # noqa: RUF012

            def _info(self) -> Any:
                return datasets.DatasetInfo()

            def _split_generators(self, _: Any) -> Any:
                return [datasets.SplitGenerator(split, {"rows": rows}) for split, rows in splits.items()]

            def _generate_examples(self, rows: Any) -> Any:
                names = list(rows)
                yield from enumerate(dict(zip(names, row, strict=True)) for row in zip(*rows.values(), strict=True))

        builder = Builder(
            cache_dir=str(tmp_path / "cache"),
            dataset_name=task.dataset.split("/")[1],  # type: ignore[union-attr]
            repo_id=task.dataset,
            config_name=config,
            hash=revision or task.revision,
        )
        builder.download_and_prepare()

    gold = [float(i % 6) for i in range(40)]
    store(
        "STS12", "default", {"test": {"sentence1": FIRST, "sentence2": SECOND, "score": gold}, "test_other": {"x": [1]}}
    )
    store("STS12", "default", {"test": {"sentence1": ["x"], "sentence2": ["y"], "score": [1.0]}}, "another" * 5)
    store("STS13", "default", {"test": {"sentence1": FIRST, "sentence2": SECOND, "score": gold}}, "another" * 5)
    store("TwitterURLCorpus", "default", {"test": {"sent1": [FIRST], "sent2": [SECOND], "labels": [HALVES[:40]]}})
    store("STS17.en-en", "en-en", {"test": {"sentence1": FIRST, "sentence2": SECOND, "score": gold}})
    store("NFCorpus", "corpus", {"corpus": {"_id": ["a", "b"], "title": ["", "t"], "text": FIRST[:2]}})
    store("NFCorpus", "queries", {"queries": {"_id": ["q"], "text": SECOND[:1]}})
    store("NFCorpus", "default", {"test": {"query-id": ["q"], "corpus-id": ["b"], "score": [1]}})

    def no_network(*_: object) -> None:
        raise AssertionError("unexpected network access")

    monkeypatch.setattr("socket.socket.connect", no_network)
    source = Datasets()
    assert [name for name, task in all_tasks().items() if source.has(task)] == [
        "NFCorpus",
        "STS12",
        "STS17.en-en",
        "TwitterURLCorpus",
    ]

    def encode(texts: list[str]) -> Any:
        return np.stack([np.cos(np.arange(9) * len(text) + ord(text[4])) for text in texts])

    lines = ["sentence1\tsentence2\tscore"]
    lines += [f"{a}\t{b}\t{score}" for a, b, score in zip(FIRST, SECOND, gold, strict=True)]
    (tmp_path / "STS12.tsv").write_text("\n".join(lines))
    assert evaluate(encode, "STS12").scores == evaluate(encode, "STS12", Files(tmp_path)).scores
    assert evaluate(encode, "STS17.en-en").scores == evaluate(encode, "STS12").scores
    assert evaluate(encode, "TwitterURLCorpus").texts == len({*FIRST, *SECOND})
    assert evaluate(encode, "NFCorpus").scores["recall_at_10"] == 100
    with pytest.raises(
        ValueError, match=r"STS13: no data in the cache of datasets, .*; expected mteb/sts13-sts, revision"
    ):
        evaluate(encode, "STS13")


def test_mteb_evaluates_a_task(model: SentenceTransformer) -> None:
    mteb = framework("mteb")
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.models.models_protocols import EncoderProtocol
    from scipy.stats import spearmanr

    from minilm_np.integrations.mteb import MiniLMEncoder

    pairs = [("a cat", "a kitten", 5.0), ("a cat", "a dog", 3.0), ("a cat", "stock markets fell", 0.0), ("x", "x", 4.9)]

    class Tiny(AbsTaskSTS):  # type: ignore[misc]
        metadata = metadata("STS", "cosine_spearman")
        min_score, max_score = 0, 5

        def load_data(self, *_: Any, **__: Any) -> None:
            columns = dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*pairs, strict=True)), strict=True))
            self.dataset, self.data_loaded = {"test": Dataset.from_dict(columns)}, True

    encoder = MiniLMEncoder(model)
    assert isinstance(encoder, EncoderProtocol)
    result = mteb.evaluate(encoder, Tiny(), cache=None, show_progress_bar=False)
    a, b = (model.encode([pair[i] for pair in pairs]) for i in range(2))
    expected = spearmanr((a * b).sum(axis=1), [pair[2] for pair in pairs]).statistic
    assert abs(result.task_results[0].get_score() - expected) < 1e-6


def test_mteb_does_not_reuse_results_of_another_model(model: SentenceTransformer, tmp_path: Path) -> None:
    mteb = framework("mteb")
    from minilm_np.integrations.mteb import MiniLMEncoder

    cache = mteb.ResultCache(tmp_path)
    small = SentenceTransformer(model.place.folder, backend="numpy", truncate_dim=8)
    scores = []
    for candidate in (model, small, model):
        encoder = MiniLMEncoder(candidate)
        assert encoder.mteb_model_meta.name == "minilm_np/all-MiniLM-L6-v2"
        result = mteb.evaluate(encoder, mteb_task("STS"), cache=cache, show_progress_bar=False)
        scores.append(result.task_results[0].get_score())
    assert abs(scores[0] - scores[2]) < 1e-5 < abs(scores[0] - scores[1])  # cached scores have six digits
