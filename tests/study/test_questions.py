"""The twenty questions: the code of each gives its answer with the stated margin, and docs/questions.md shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from generate.study_pages import Measured, measure_questions, questions_block
from support.paths import REPOSITORY

from minilm_np.study.questions import QUESTIONS, Question

PAGE = (REPOSITORY / "docs" / "questions.md").read_text(encoding="utf-8")
NUMBERED = [pytest.param(i, question, id=question.name) for i, question in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def measured(weights_folder: Path) -> list[Measured]:
    return measure_questions()


def test_there_are_twenty_questions_with_distinct_names() -> None:
    assert len(QUESTIONS) == len({question.name for question in QUESTIONS}) == 20


@pytest.mark.parametrize(("i", "question"), NUMBERED)
def test_code_gives_the_answer_with_the_margin(i: int, question: Question, measured: list[Measured]) -> None:
    values = measured[i].values
    assert tuple(values) == question.choices and len(values) >= 2
    answer = question.choices[question.answer]
    second = max(value for choice, value in values.items() if choice != answer)
    assert values[answer] - second >= question.margin
    assert question.margin >= 1e-3  # a cosine in float32 is off by 1e-6 at most (measured: 1.2e-7)


@pytest.mark.parametrize(("i", "question"), NUMBERED)
def test_numbers_in_an_explanation_are_measured(i: int, question: Question, measured: list[Measured]) -> None:
    known = measured[i].printed + question.question + repr(question.choices)
    assert [number for number in re.findall(r"-?\d\.\d{3,}", question.explanation) if number not in known] == []


def test_the_page_is_what_the_script_writes(measured: list[Measured]) -> None:
    _, _, rest = PAGE.partition("<!-- questions:begin -->\n")
    assert rest.partition("<!-- questions:end -->")[0] == questions_block(measured)
    right = measured[[question.name for question in QUESTIONS].index("swap-query-key")].printed
    given = re.findall(r"it is (0\.\d{4}) for `food` and `bread`, and (-0\.\d{4}) for `food` and `baby`", PAGE)
    assert given == [tuple(re.findall(r"texts 0 and [12]: (-?\d\.\d{4})", right))]


def test_every_question_is_asked_on_its_page() -> None:
    for i, question in enumerate(QUESTIONS, 1):
        text = (REPOSITORY / "docs" / f"{question.page}.md").read_text(encoding="utf-8")
        assert re.findall(rf"^- \[Question {i}\]\(\S*questions\.md#question-{i}\): (.*)$", text, re.M) == [
            question.question
        ]
    assert "Question 20 shows" in QUESTIONS[3].explanation and QUESTIONS[19].name == "all-at-position-0"


def test_numbers_that_only_the_explanations_have() -> None:
    """√32, how far GELU and ReLU are apart, and how much longer position 0 is than the others."""
    from minilm_np import SentenceTransformer

    table = SentenceTransformer(backend="numpy").weights["embeddings.position_embeddings.weight"]
    lengths = (table.astype("f8") ** 2).sum(axis=1) ** 0.5
    assert 4.5 < lengths[0] / lengths[1] < 5.5
    import numpy as np

    from minilm_np import ops

    x = np.linspace(-6, 6, 12001)
    apart = np.abs(ops.gelu(x) - np.maximum(x, 0))
    assert f"{apart.max():.2f}" == "0.17" and apart[np.abs(x) > 2].max() < 0.05
    assert f"{32**0.5:.1f}" == "5.7"


def test_the_module_imports_no_heavy_library() -> None:
    code = "import sys, minilm_np.study.questions; assert not {'numpy', 'numba', 'tokenizers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
