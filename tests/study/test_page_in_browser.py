"""The page in a real browser: opened from a file without a network, by mouse, by keyboard, and for screen readers.

Needs playwright and Debian's chromium, and for the rules of accessibility axe-core: $AXE_CORE names axe.min.js.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.study import lab, token_pairs, trace

pytestmark = pytest.mark.browser
A, B = "A man is eating a large piece of food at home.", "A woman is playing the violin on a small stage."
TOLERANCE = 1e-6  # of what JavaScript recomputes, relative to the larger of 1 and the value
NASTY = [
    "مرحبا بالعالم",
    "我爱自然语言处理",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈",
    '<script>window.broken = 1</script><img src=x onerror="window.broken = 1">',
    "</script> <!-- & {{ 1 }}",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: SentenceTransformer) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    trace(model, A, B).save(folder / "two.html")
    return folder


@pytest.fixture
def page(open_page: Any, folder: Path) -> Any:
    return open_page(folder / "two.html")


def test_the_page_has_the_models_bits(page: Any, model: SentenceTransformer) -> None:
    assert page.evaluate("minilm.texts") == [A, B]
    expected = model.stages([A, B])
    assert page.evaluate("minilm.stages") == list(expected)
    offsets = model.tokens([A, B]).offsets
    for name, value in expected.items():
        for text in (0, 1):
            found = page.evaluate("([name, text]) => minilm.value(name, text)", [name, text])
            one = (
                value[text] if isinstance(value, list) or len(value) == 2 else value[offsets[text] : offsets[text + 1]]
            )
            assert found["shape"] == list(one.shape)
            assert np.array(found["data"], np.float32).tobytes() == one.astype(np.float32).tobytes(), name
    assert page.evaluate("minilm.value('embeddings', minilm.texts[1]).shape") == [13, 384]


def test_the_similarity_is_that_of_the_model(page: Any, model: SentenceTransformer) -> None:
    expected = token_pairs(model, A, B)
    found = page.evaluate("minilm.tokenPairs")
    assert (tuple(found["rows"]), tuple(found["columns"])) == (expected.rows, expected.columns)
    np.testing.assert_allclose(found["values"], expected.values, rtol=0, atol=1e-15)
    assert page.evaluate("minilm.cosine") == pytest.approx(expected.cosine, abs=1e-14)


CELLS = [
    ("embeddings", 384),
    ("encoder.layer.{}.attention.self.context", 384),
    ("encoder.layer.{}.attention.output", 384),
    ("encoder.layer.{}.intermediate", 1536),
    ("encoder.layer.{}.output", 384),
]


def test_what_the_page_recomputes_is_the_models_value(page: Any, model: SentenceTransformer) -> None:
    random = np.random.default_rng(0)
    stages = model.stages([A, B])
    worst = 0.0

    def check(stage: str, text: int, index: list[int], value: float) -> None:
        nonlocal worst
        found = page.evaluate("(cell) => minilm.recompute(...cell)", [stage, text, index])
        worst = max(worst, abs(found - value) / max(1, abs(value)))

    for name, columns in CELLS:
        for stage in {name.format(layer) for layer in range(6)}:
            for t, j in random.integers((27, columns), size=(4, 2)).tolist():
                check(stage, int(t >= 14), [t % 14, j], float(stages[stage][t, j]))
    for layer in range(6):
        stage = f"encoder.layer.{layer}.attention.self.attention_probs"
        for head, i, j in random.integers((12, 13, 13), size=(6, 3)).tolist():
            check(stage, 1, [head, i, j], float(stages[stage][1][head, i, j]))
    for stage in ("pooled", "sentence_embedding"):
        for j in random.integers(384, size=4).tolist():
            check(stage, 1, [j], float(stages[stage][1, j]))
    assert 0 < worst <= TOLERANCE  # measured: 1.7e-7


def test_dense_layers_show_all_terms_of_their_cell(page: Any, model: SentenceTransformer) -> None:
    stages = model.stages([A, B], detail=True)
    cells = page.evaluate("JSON.parse(document.getElementById('data').textContent).cells")
    assert len(cells) == 36
    worst = 0.0
    for module, cell in cells.items():
        is_stage = module.endswith(("query", "key", "value"))
        stage, j = module if is_stage else module.removesuffix(".dense"), cell["column"]
        for t in (0, 3, 13):
            found = page.evaluate("(cell) => minilm.dense(...cell)", [stage, 0, [t, j]])
            value = float(stages[module][t, j])
            worst = max(worst, abs(found - value) / max(1, abs(value)))
            if is_stage:
                assert page.evaluate("(cell) => minilm.recompute(...cell)", [stage, 0, [t, j]]) == found
    assert 0 < worst <= TOLERANCE  # measured: 7.0e-7
    assert page.evaluate("minilm.recompute('encoder.layer.0.attention.self.query', 0, [0, -1])") is None


def test_every_level_by_mouse(page: Any) -> None:
    page.get_by_role("button", name="attention.self.query").first.click()
    assert page.locator("#stage-body h3").inner_text() == "encoder.layer.0.attention.self.query"
    page.locator("#stage-body canvas").first.click(position={"x": 5, "y": 5})
    assert page.locator("#cell-body h3").inner_text().startswith("encoder.layer.0.attention.self.query[0, ")
    page.get_by_role("button", name="Look inside layer 4").click()
    assert page.locator("#layer-choice [aria-pressed=true]").inner_text() == "Layer 4"
    assert page.evaluate("document.activeElement.id") == "layer-title"
    page.locator("#layer-body .heads canvas").nth(3).click(position={"x": 2, "y": 2})
    assert (
        page.locator("#cell-body h3").inner_text().startswith("encoder.layer.4.attention.self.attention_probs[1, 0, 0]")
    )
    assert "def attention_scores" in page.locator("#cell-body").inner_text()
    page.get_by_label("merge word pieces into words").check()
    page.locator("#pairs-body canvas").first.click(position={"x": 2, "y": 2})
    assert page.locator("#cell-body h3").inner_text() == "“[CLS]” with “[CLS]”"
    page.get_by_role("button", name="Show the dot product").click()
    assert page.locator("#cell-body h3").inner_text().startswith("cosine")


def test_every_level_by_keyboard(page: Any) -> None:
    def tab_to(what: str) -> None:
        for _ in range(400):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({what!r})"):
                return
        raise AssertionError(f"{what}: not reached by Tab")

    tab_to(".skip")
    page.keyboard.press("Enter")
    tab_to("button.box")
    page.keyboard.press("Enter")
    assert page.locator("#stage-body h3").inner_text() == "embeddings"
    tab_to("#stage-body canvas")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#cell-body h3").inner_text() == "embeddings[2, 1] of text 1"
    page.evaluate("document.querySelector('#layer-title').focus()")
    tab_to("#layer-choice button:nth-of-type(3)")
    page.keyboard.press("Space")
    assert page.locator("#layer-choice [aria-pressed=true]").inner_text() == "Layer 2"
    tab_to("#layer-body canvas")
    page.keyboard.press("ArrowRight")
    assert page.locator("#layer-body .readout").first.inner_text().startswith("[CLS], a: 0.")
    page.keyboard.press("Enter")
    assert "attention_probs[0, 0, 1]" in page.locator("#cell-body h3").inner_text()
    page.evaluate("document.querySelector('#similarity-title').focus()")
    tab_to("#pair-options input")
    page.keyboard.press("Space")
    tab_to("#pairs-body canvas")
    page.keyboard.press("Enter")
    assert page.locator("#cell-body h3").inner_text() == "“a” with “a”"
    page.evaluate("document.querySelector('#questions-title').focus()")
    tab_to("#questions-body input")
    page.keyboard.press("Space")
    assert page.locator("#questions-body .reply").first.inner_text().startswith(("Right.", "No."))


def test_a_table_stands_behind_each_picture(page: Any) -> None:
    without = """[...document.querySelectorAll('main figure')].filter((one) => one.querySelector('[role=img]')
        && !one.querySelector('details.numbers') && !one.nextElementSibling?.matches('details.numbers'))"""
    assert page.locator("main figure").count() > 30
    assert page.evaluate(f"{without}.map((one) => one.textContent)") == []
    for label in page.evaluate(
        "[...document.querySelectorAll('[role=img]')].map((one) => one.getAttribute('aria-label'))"
    ):
        assert label
    page.evaluate("document.querySelectorAll('details.numbers').forEach((one) => { one.open = true; })")
    page.wait_for_function(
        "[...document.querySelectorAll('details.numbers')].every((one) => one.querySelector('table'))"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_violated(open_page: Any, violations: Any, folder: Path, scheme: str) -> None:
    page = open_page(folder / "two.html", color_scheme=scheme, bypass_csp=True)
    page.locator("#layer-body .heads canvas").nth(3).click(position={"x": 2, "y": 2})
    for details in page.locator("#texts details, #pairs-body details").all():
        details.evaluate("(one) => { one.open = true; }")
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_laboratory(
    open_page: Any, violations: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    some = [mistake for mistake in catalogue() if mistake.name in ("gelu-tanh", "gelu-quick", "no-cls")]
    monkeypatch.setattr(lab, "catalogue", lambda _: some)
    path = tmp_path / "lab.html"
    lab.laboratory(["A man is eating food.", "Someone eats bread.", "The moon is far away."]).save(path)
    page = open_page(path, ready=None, color_scheme=scheme, bypass_csp=True)
    names = [mistake.name for mistake in some]
    assert all(page.get_by_text(name, exact=True).first.is_visible() for name in names)
    assert violations(page) == []


def test_colors_follow_the_scheme(open_page: Any, folder: Path) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        page = open_page(folder / "two.html", color_scheme=scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(24, 26, 30)"]


def test_it_can_be_printed(page: Any) -> None:
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 3


@pytest.mark.parametrize("text", NASTY)
def test_any_text_stays_text(open_page: Any, tmp_path: Path, model: SentenceTransformer, text: str) -> None:
    path = tmp_path / "nasty.html"
    trace(model, text, NASTY[0]).save(path)
    page = open_page(path)
    assert page.evaluate("minilm.texts") == [text, NASTY[0]]
    assert page.locator("#texts-body .text").first.inner_text() == (text or "(empty)")
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.images.length") == 0


def test_256_word_pieces_open(open_page: Any, tmp_path: Path, model: SentenceTransformer) -> None:
    path = tmp_path / "long.html"
    trace(model, "a long text of many words, " * 60).save(path)
    page = open_page(path)
    assert page.evaluate("minilm.value('encoder.layer.5.output', 0).shape") == [256, 384]
    assert page.evaluate("minilm.value('encoder.layer.0.intermediate', 0)") is None
    assert "cut off" in page.locator("#texts-body .note").inner_text()
    assert "intermediate" in page.locator("#dropped .note").inner_text()
    page.get_by_role("button", name="Look inside layer 5").click()


def test_links_to_sections_stay_in_the_frame_of_a_notebook(
    browser: Any, tmp_path: Path, model: SentenceTransformer
) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><title>n</title>{trace(model, A)._repr_html_()}", encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="One number").click()
    assert frame.locator("#cell-body h3").inner_text().startswith("sentence_embedding[0]")
    assert page.frames[1].evaluate("document.activeElement.id") == "cell"
    page.close()


def test_it_opens_in_less_than_ten_seconds(page: Any) -> None:
    assert page.evaluate("minilm.readyAfter") < 10_000  # on a machine that does other work; alone: 780 to 910
