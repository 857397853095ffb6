"""What frameworks do with a SentenceTransformer of this package, as the table of docs/frameworks.md says.

If a framework begins to accept the object, its test fails: the table and the adapter then need another look.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.frameworks import OtherModelError, framework, no_other_model
from support.paths import REPOSITORY
from support.tolerances import BATCH, assert_close

from minilm_np import SentenceTransformer

IN_FRAMEWORK = (pytest.mark.integrations, pytest.mark.filterwarnings("default"))  # the frameworks issue warnings
TEXTS = ["The cat sleeps on the sofa.", "A dog barks.", "Shares fell in London today.", "The bank raised its rate."]
PAGE = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")


def keybert(model: SentenceTransformer, _: Path) -> None:
    framework("keybert").KeyBERT(model)


def bertopic(model: SentenceTransformer, _: Path) -> None:
    framework("bertopic").BERTopic(embedding_model=model).fit(TEXTS * 5)


def bertopic_load(model: SentenceTransformer, folder: Path) -> None:
    bertopic = framework("bertopic")
    from bertopic.dimensionality import BaseDimensionalityReduction
    from sklearn.cluster import KMeans

    parts = {"umap_model": BaseDimensionalityReduction(), "hdbscan_model": KMeans(2, n_init=2, random_state=0)}
    topics = bertopic.BERTopic(embedding_model=None, **parts)
    topics.fit(TEXTS, embeddings=model.encode(TEXTS))
    topics.save(str(folder / "topics"), serialization="safetensors")
    bertopic.BERTopic.load(str(folder / "topics"), embedding_model=model)


def mteb(model: SentenceTransformer, _: Path) -> None:
    mteb = framework("mteb")
    from support.mteb_tasks import mteb_task

    mteb.evaluate(model, mteb_task("STS"), cache=None, show_progress_bar=False)


def llama_index(model: SentenceTransformer, _: Path) -> None:
    framework("llama_index.core").Settings.embed_model = model


def haystack(model: SentenceTransformer, _: Path) -> None:
    embedders = framework("haystack_integrations.components.embedders.sentence_transformers", "its Haystack package")
    embedders.SentenceTransformersTextEmbedder(model=model).warm_up()


def txtai_path(model: SentenceTransformer, _: Path) -> None:
    framework("txtai").Embeddings(path=model).index(TEXTS)


def txtai_method(model: SentenceTransformer, _: Path) -> None:
    framework("txtai").Embeddings(method="external", transform=model.encode).index(TEXTS)


def head(model: SentenceTransformer) -> Any:
    from sklearn.linear_model import LogisticRegression

    classifier = framework("setfit").SetFitModel(model_body=model, model_head=LogisticRegression())
    classifier.fit(TEXTS, [0, 0, 1, 1], num_epochs=1)
    return classifier


def setfit_reload(model: SentenceTransformer, folder: Path) -> None:
    setfit = framework("setfit")
    head(model).save_pretrained(folder / "saved")
    setfit.SetFitModel.from_pretrained(folder / "saved")


def setfit_trainer(model: SentenceTransformer, folder: Path) -> None:
    setfit = framework("setfit")
    from datasets import Dataset

    data = Dataset.from_dict({"text": TEXTS, "label": [0, 0, 1, 1]})
    arguments = setfit.TrainingArguments(output_dir=str(folder), max_steps=1, report_to="none")
    setfit.Trainer(model=head(model), args=arguments, train_dataset=data).train()


def spacy(model: SentenceTransformer, _: Path) -> None:
    framework("spacy").blank("en").add_pipe(model)


def langchain(model: SentenceTransformer, _: Path) -> None:
    framework("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    InMemoryVectorStore(model).add_texts(TEXTS)  # type: ignore[arg-type, unused-ignore]


def chroma(model: SentenceTransformer, _: Path) -> None:
    framework("chromadb").EphemeralClient().create_collection("without-adapter", embedding_function=model)


def scikit_learn(model: SentenceTransformer, _: Path) -> None:
    framework("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    make_pipeline(model, LogisticRegression()).fit(TEXTS, [0, 0, 1, 1])


# What a user passes, as the table says it -> the call and the kind of error; OtherModelError stands for "silently".
REFUSED: dict[str, tuple[Callable[[SentenceTransformer, Path], None], type[Exception], str]] = {
    "KeyBERT(model)": (keybert, OtherModelError, "paraphrase-multilingual-MiniLM-L12-v2"),
    "BERTopic(embedding_model=model)": (bertopic, OtherModelError, "sentence-transformers/all-MiniLM-L6-v2"),
    "BERTopic.load(path, embedding_model=model)": (bertopic_load, OtherModelError, "sentence-transformers/all-MiniLM"),
    "mteb.evaluate(model, tasks)": (mteb, NotImplementedError, ""),
    "Settings.embed_model = model": (llama_index, AssertionError, ""),
    "SentenceTransformersTextEmbedder(model=model)": (haystack, TypeError, ""),
    "Embeddings(path=model)": (txtai_path, AttributeError, ""),
    "Embeddings(transform=model.encode)": (txtai_method, ValueError, "got NoneType"),
    "SetFitModel.from_pretrained(path)": (setfit_reload, OtherModelError, "saved"),
    "Trainer(model=...)": (setfit_trainer, AttributeError, "children"),
    "nlp.add_pipe(model)": (spacy, ValueError, ""),
    "InMemoryVectorStore(model)": (langchain, AttributeError, "embed_documents"),
    "embedding_function=model": (chroma, ValueError, ""),
    "make_pipeline(model, classifier)": (scikit_learn, TypeError, ""),
}


def test_table_has_every_case() -> None:
    cells = re.findall(r"^\|[^|]*\| `(.+?)` \| ([^|]+) \|", PAGE, re.M)
    outcomes = dict(cells)
    assert set(outcomes) == {*REFUSED, "SetFitModel(model_body=model, model_head=...)"}
    for passed, (_, error, _) in REFUSED.items():
        expected = {OtherModelError: r"\*\*silently\*\*|the same", ValueError: "ValueError|InputError"}
        assert re.match(expected.get(error, error.__name__), outcomes[passed]), passed


@pytest.mark.parametrize(
    ("call", "error", "message"), [pytest.param(*case, marks=IN_FRAMEWORK, id=name) for name, case in REFUSED.items()]
)
def test_framework_refuses_the_object_or_loads_another_model(
    call: Callable[[SentenceTransformer, Path], None],
    error: type[Exception],
    message: str,
    model: SentenceTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if error is OtherModelError:
        no_other_model(monkeypatch)
    with pytest.raises(error, match=message or None):
        call(model, tmp_path)


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
def test_setfit_accepts_the_object(model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setfit = framework("setfit")
    no_other_model(monkeypatch)
    classifier = head(model)
    assert classifier.model_body is model
    assert_close(classifier.encode(TEXTS), model.encode(TEXTS), BATCH, "vectors")
    expected = classifier.model_head.predict(model.encode(TEXTS))
    assert np.array_equal(classifier.predict(TEXTS), expected)
    classifier.save_pretrained(tmp_path / "saved")
    monkeypatch.undo()
    again = setfit.SetFitModel.from_pretrained(tmp_path / "saved")  # a PyTorch body from the files that we saved
    assert type(again.model_body).__module__.startswith("sentence_transformers.")
    again.model_body = SentenceTransformer(tmp_path / "saved", backend="numpy")
    assert np.array_equal(again.predict(TEXTS), expected)
