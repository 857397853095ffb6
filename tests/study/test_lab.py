"""The laboratory of mistakes: its numbers are crosscheck's, its code differences make the mistakes."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tolerances import assert_close

import minilm_np
from minilm_np import model as architecture
from minilm_np import ops
from minilm_np.commands import lab as command
from minilm_np.crosscheck import crosscheck, stage_texts, word_pieces
from minilm_np.crosscheck.causes import variant_of
from minilm_np.crosscheck.mistakes import Mistake, catalogue
from minilm_np.crosscheck.probes import TEXTS as PROBE_TEXTS
from minilm_np.crosscheck.truth import simulator, tolerance
from minilm_np.crosscheck.variant import Run
from minilm_np.model import Array, stage_names
from minilm_np.study import lab as module
from minilm_np.study.lab import LINES, Laboratory, Switch, code_of, laboratory
from minilm_np.tokenizer import Tokenizer

PAIR = ["A man is eating food.", "A man is eating a piece of bread."]
TEXTS = [*PAIR, "The girl is carrying a baby."]
PACKAGE = Path(minilm_np.__file__).parent
PATCHED = 5e-7  # of final vectors, the patched package against crosscheck's simulator; measured 7.8e-8
CHECKED = (  # a sample of every kind of mistake, of which a whole crosscheck is run
    *("gelu-tanh", "layer-norm-eps-1e-06", "attention-unscaled", "truncation-32", "no-cls", "positions-not-restarted"),
    *("padding-in-mean", "int8-dynamic", "no-normalization", "rows-longest-first", "bias-dropped-key-all-layers"),
    *("hidden-states-of-layer-1", "digits-dropped", "embeddings-layer-norm-missing"),
)


def mistakes() -> list[Mistake]:
    """The catalogue without the copies in a single layer, by their names."""
    in_one_layer = re.compile(r"(weight-transposed|bias-dropped|residual-dropped|layer-norm-missing)-.*-layer-\d")
    return [mistake for mistake in catalogue() if not in_one_layer.fullmatch(mistake.name)]


@pytest.fixture(scope="module")
def lab(weights_folder: Path) -> Laboratory:
    """All mistakes on three texts, which takes half a minute on a busy machine."""
    return laboratory(TEXTS)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the laboratory know no other mistakes than some."""

    def only(*names: str) -> None:
        chosen = [mistake for mistake in catalogue() if mistake.name in names]
        assert len(chosen) == len(names)
        monkeypatch.setattr(module, "catalogue", lambda config: chosen)

    return only


def cosine(u: Array, v: Array) -> float:
    u, v = u.astype(np.float64), v.astype(np.float64)
    return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


# --- the numbers


def test_names_and_descriptions_are_those_of_the_catalogue(lab: Laboratory) -> None:
    assert [(switch.name, switch.says) for switch in lab.switches] == [(m.name, m.description) for m in mistakes()]
    assert len(lab.switches) == len(catalogue()) - 6 * 18


def test_equals_a_crosscheck_of_each_mistake(only: Callable[..., None], weights_folder: Path) -> None:
    only(*CHECKED)
    texts = stage_texts()
    names = stage_names(simulator().checkpoint.config)
    for switch in laboratory(texts).switches:
        (mistake,) = (mistake for mistake in catalogue() if mistake.name == switch.name)
        run = simulator().run(variant_of((mistake,)), texts, [range(len(texts))], names)
        report = crosscheck(stages={"token_ids": run.token_ids, **run.stages}, causes=False)
        first = next((stage.stage for stage in report.stages if not stage.ok), None)
        assert (switch.name, switch.first_wrong_stage) == (switch.name, first)
        # the two references differ in their last bits, because they are computed in other batches
        assert switch.error == pytest.approx(report.stages[-1].max_error, abs=1e-13)
        assert switch.cosine == pytest.approx(cosine(*run.embeddings[:2]), abs=1e-12)


@pytest.mark.parametrize("stage", ["token_ids", "embeddings", "encoder.layer.5.attention.self.key", "pooled"])
def test_the_first_stage_out_of_crosschecks_tolerance_is_wrong(stage: str) -> None:
    names = ["token_ids", *stage_names(simulator().checkpoint.config)]
    reference = {name: [np.zeros((3, 2))] for name in names}

    def first_wrong(tolerances: float) -> str | None:
        stages = {name: [np.zeros((3, 2))] for name in names}
        for name in names[names.index(stage) :]:
            stages[name] = [np.full((3, 2), tolerances * (tolerance(name) or 1))]
        run = Run(np.zeros((1, 2)), stages, stages["token_ids"])
        return module._first_wrong_stage(run, reference)

    assert (first_wrong(0.0), first_wrong(1.01)) == (None, stage)
    assert first_wrong(0.99) == (stage if stage == "token_ids" else None)


def test_cosines_and_rankings_are_those_of_the_vectors(lab: Laboratory) -> None:
    right = simulator().run(variant_of(()), TEXTS, [range(3)]).embeddings
    assert lab.cosine == pytest.approx(cosine(right[0], right[1]), abs=1e-12)
    for switch in [*lab.switches[:3], *lab.switches[-3:]]:
        (mistake,) = (mistake for mistake in catalogue() if mistake.name == switch.name)
        made = simulator().run(mistake.apply(), TEXTS, [range(3)]).embeddings
        expected = {text: cosine(made[0], made[text]) for text in (1, 2)}
        assert dict(switch.ranking) == pytest.approx(expected, abs=1e-12)
        assert [text for text, _ in switch.ranking] == sorted(expected, key=lambda text: -expected[text])


def test_a_mistake_that_no_text_shows_changes_nothing(lab: Laboratory) -> None:
    for switch in lab.switches:
        if switch.name in ("truncation-128", "cjk-not-split", "kana-split", "padding-mask-by-id"):
            assert switch.first_wrong_stage is None
            assert switch.cosine == lab.cosine and switch.ranking == lab.ranking
            assert 0 < switch.error < tolerance("sentence_embedding")


def test_no_normalization_changes_the_vectors_and_no_cosine(lab: Laboratory) -> None:
    (switch,) = (switch for switch in lab.switches if switch.name == "no-normalization")
    assert switch.first_wrong_stage == "sentence_embedding"
    assert switch.error > 0.5 and abs(lab.change(switch)) < 1e-6 and not lab.moves(switch)


def test_lesson_counts_the_mistakes(lab: Laboratory) -> None:
    visible = [switch for switch in lab.switches if switch.error > tolerance("sentence_embedding")]
    changes = np.array([switch.cosine - lab.cosine for switch in visible])
    small, raised = int(np.sum(np.abs(changes) < 0.01)), int(np.sum(changes > 1e-6))
    assert lab.lesson == (len(lab.switches), len(visible), small, raised)
    assert str(lab.lesson) in str(lab)
    assert f"{small} move the cosine" in str(lab.lesson) and f"{raised} raise it" in str(lab.lesson)
    # The lesson itself: a fifth of the mistakes hardly moves the cosine, and half of them raise it (32 and 89 of 138).
    assert small > len(visible) / 5 and raised > len(visible) / 2


def test_table_has_the_largest_change_first(lab: Laboratory) -> None:
    lines = str(lab).splitlines()
    assert lines[0] == f"{TEXTS[0]!r} and {TEXTS[1]!r}: cosine {lab.cosine:.4f}"
    rows = [line.split() for line in lines[3 : 3 + len(lab.switches)]]
    changes = [abs(float(row[0])) for row in rows]
    assert changes == sorted(changes, reverse=True)
    assert sorted(row[-1] for row in rows) == sorted(switch.name for switch in lab.switches)
    by_name = {switch.name: switch for switch in lab.switches}
    for change, value, error, stage, ranking, name in rows:
        switch = by_name[name]
        assert (change, value) == (f"{lab.change(switch):+.4f}", f"{switch.cosine:.4f}")
        assert (error, stage) == (f"{switch.error:.1e}", switch.first_wrong_stage or "none")
        assert ranking == ("changed" if lab.moves(switch) else "same")


def test_values_that_are_not_finite_come_first_and_are_null_in_the_page(lab: Laboratory) -> None:
    broken = replace(lab.switches[0], cosine=np.nan, error=np.inf)
    odd = replace(lab, switches=(*lab.switches[1:4], broken))
    assert str(odd).splitlines()[3].split()[:3] == ["+nan", "nan", "inf"]
    assert odd.lesson.visible == lab.lesson._replace(visible=4).visible
    pytest.importorskip("jinja2", reason="needs the study extra")
    assert read(odd.to_html()).data["switches"][-1]["cosine"] is None


def test_mistakes_are_reported_as_they_are_made(only: Callable[..., None], weights_folder: Path) -> None:
    only("gelu-tanh", "relu")
    tried: list[str] = []
    made = laboratory(PAIR, tried=tried.append)
    assert tried == ["gelu-tanh", "relu"] == [switch.name for switch in made.switches]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "texts: expected 2 to 20, got 1"),
        (["a"] * 21, "texts: expected 2 to 20, got 21"),
        ("ab", "texts: expected an iterable of str, got str 'ab'"),
        (["a", ("b", "c")], r"texts\[1\]: expected a str, got a pair"),
        (["a", 3], r"texts\[1\]: expected a str"),
        (["a", "b\udce4"], r"texts\[1\]: expected valid Unicode, got '\\udce4', half of a surrogate pair"),
    ],
)
def test_bad_texts_are_named(texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        laboratory(texts)


# --- the code differences


@pytest.fixture(scope="module")
def pair_vectors(weights_folder: Path) -> Callable[[Any, Any], Array]:
    """Return the vectors of TEXTS by a version of model.py and of ops.py."""
    checkpoint = simulator().checkpoint
    tokens = Tokenizer(checkpoint.folder / "tokenizer.json", 256)(TEXTS)

    def vectors(model: Any, op_set: Any) -> Array:
        result: Array = model.forward(model.prepare(checkpoint.params, checkpoint.config, op_set), *tokens)
        return result

    return vectors


def patched(code: module.Code) -> tuple[Any, Any]:
    """Return model.py and ops.py with the wrong line in place of the right one."""
    source = (PACKAGE.parent / code.file).read_text(encoding="utf-8")
    assert source.count(code.right) == 1, f"{code.right}: expected once in {code.file}, got {source.count(code.right)}"
    name = "minilm_np." + Path(code.file).stem
    values = {"__name__": name}
    exec(compile(source.replace(code.right, code.wrong), code.file, "exec"), values)
    changed = argparse.Namespace(**values)
    return (changed, ops) if name == "minilm_np.model" else (architecture, changed)


IN_THE_PACKAGE = [m for m in mistakes() if code_of(m).file.removeprefix("minilm_np/") in ("ops.py", "model.py")]


def test_most_mistakes_of_arithmetic_are_lines_of_this_package() -> None:
    assert len(IN_THE_PACKAGE) > 60
    assert {mistake.name for mistake in IN_THE_PACKAGE} > set(LINES)


@pytest.mark.parametrize("mistake", IN_THE_PACKAGE, ids=lambda mistake: mistake.name)
def test_the_wrong_line_makes_the_mistake(mistake: Mistake, pair_vectors: Callable[[Any, Any], Array]) -> None:
    made = pair_vectors(*patched(code_of(mistake)))
    expected = simulator().run(mistake.apply(), TEXTS, [range(len(TEXTS))]).embeddings
    assert_close(made, expected, PATCHED, mistake.name)


@pytest.mark.parametrize("name", word_pieces.RULES)
def test_the_wrong_rule_of_word_pieces_makes_the_mistake(name: str) -> None:
    (mistake,) = (mistake for mistake in catalogue() if mistake.name == name)
    code = code_of(mistake)
    right, wrong = (
        word_pieces.Rule(**eval(f"dict({line})", dict(vars(word_pieces)))) for line in (code.right, code.wrong)
    )
    assert right == word_pieces.Rule()
    vocabulary = simulator()._vocabulary()
    expected = word_pieces.RuleTokenizer(vocabulary, word_pieces.RULES[name])
    made = word_pieces.RuleTokenizer(vocabulary, wrong)
    assert [made.token_ids(text) for text in PROBE_TEXTS] == [expected.token_ids(text) for text in PROBE_TEXTS]


def test_the_wrong_normalizer_makes_the_mistake() -> None:
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers.normalizers import BertNormalizer

    tokenizer = HuggingFaceTokenizer.from_file(str(simulator().checkpoint.folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    chosen = [mistake for mistake in mistakes() if mistake.change[0][0] == "normalizer"]
    assert len(chosen) == 6
    for mistake in chosen:
        tokenizer.normalizer = eval(code_of(mistake).wrong, {"BertNormalizer": BertNormalizer})
        made = [[encoding.ids] for encoding in tokenizer.encode_batch(list(PROBE_TEXTS))]
        assert made == simulator().token_ids(mistake.apply())


@pytest.mark.parametrize("part", ["query", "intermediate"])
def test_the_wrong_dense_layer_makes_the_mistake(part: str) -> None:
    """A transposed weight, square or not, and a missing bias, as the simulator stores them."""
    random = np.random.default_rng(0)
    by_name = {mistake.name: mistake for mistake in mistakes()}
    module_name = {"query": "attention.self.query", "intermediate": "intermediate.dense"}[part]
    name = f"encoder.layer.0.{module_name}"
    weight, bias = (simulator().checkpoint.params[f"{name}.{kind}"] for kind in ("weight", "bias"))
    x = random.normal(size=(3, weight.shape[1])).astype(np.float32)
    for kind in ("weight-transposed", "bias-dropped"):
        mistake = by_name[f"{kind}-{part}-all-layers"]
        code = code_of(mistake)
        bert = simulator()._prepare(mistake.apply())
        dense = bert.weights["encoder.layer.0.attention.self" if part == "query" else name].value
        rows = slice(0, len(weight))
        values = {"x": x, "weight": weight, "bias": bias}
        exec(code.right, {}, values)
        assert_close(values["y"], ops.linear(x, ops.Dense(weight, bias), None), 1e-6, code.right)  # measured 0
        exec(code.wrong, {}, values)
        expected = ops.linear(x, ops.Dense(dense.weight[rows], dense.bias[rows]), None)
        assert_close(values["y"], expected, 1e-6, code.wrong)  # measured 0


@pytest.mark.parametrize("mistake", mistakes(), ids=lambda mistake: mistake.name)
def test_every_mistake_has_two_different_lines(mistake: Mistake) -> None:
    code = code_of(mistake)
    assert code.right != code.wrong
    for line in (code.right, code.wrong):
        assert line == line.strip() and "\n" not in line and 0 < len(line) < 170
    assert not code.file or (PACKAGE.parent / code.file).is_file()


# --- the page


class Page(HTMLParser):
    """The elements of a page, and what stands in its scripts."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # (innermost element, text)
        self.open: list[str] = []
        self.inputs_outside_labels: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "input" and "label" not in self.open:
            self.inputs_outside_labels.append(dict(attrs).get("id"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"expected </{self.open[-1]}>, got </{tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    @property
    def data(self) -> Any:
        return json.loads(self.text_of("script")[0])


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def page(lab: Laboratory) -> Page:
    pytest.importorskip("jinja2", reason="needs the study extra")
    return read(lab.to_html())


def test_page_has_every_number(lab: Laboratory, page: Page) -> None:
    data = page.data
    assert (data["texts"], data["layers"]) == (TEXTS, 6)
    assert data["cosine"] == round(lab.cosine, 6)
    assert [one["name"] for one in data["switches"]] == [switch.name for switch in lab.switches]
    for made, switch in zip(data["switches"], lab.switches, strict=True):
        assert made["cosine"] == round(switch.cosine, 6)
        assert (made["says"], made["stage"]) == (switch.says, switch.first_wrong_stage)
        assert made["error"] == f"{switch.error:.1e}"
        assert made["code"] == switch.code._asdict()
        assert made["ranking"] == [[text, round(value, 6)] for text, value in switch.ranking]
    stages = {"token_ids", *stage_names(simulator().checkpoint.config), None}
    assert {one["stage"] for one in data["switches"]} <= stages


def test_page_is_readable_without_its_script(lab: Laboratory, page: Page) -> None:
    cells = page.text_of("td") + page.text_of("th")
    for switch in lab.switches:
        assert switch.name in cells and switch.says in cells
        assert f"{switch.cosine:.4f}" in cells and f"{switch.error:.1e}" in cells
    assert str(lab.lesson.small) in page.text_of("strong") and str(lab.lesson.raised) in page.text_of("strong")


def test_page_needs_nothing_else(page: Page) -> None:
    for name, attributes in page.elements:
        assert not {"src", "srcset", "data", "action", "background"} & set(attributes), name
        assert name not in ("link", "img", "iframe", "object", "embed", "base")
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#")
    styles = "".join(page.text_of("style"))
    assert "url(" not in styles and "@import" not in styles
    script = page.text_of("script")[1]
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import|eval|innerHTML|outerHTML)\b", script)
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"


def test_page_has_landmarks_headings_and_labels(page: Page, lab: Laboratory) -> None:
    assert page.all("html")[0]["lang"] == "en" and "".join(page.text_of("title"))
    names = [name for name, _ in page.elements]
    assert [names.count(name) for name in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {label.get("for") for label in page.all("label")}
    assert page.inputs_outside_labels == ["filter"] and {"filter", "order"} <= labelled
    for _, attributes in page.elements:
        for reference in (attributes.get("aria-labelledby"), (attributes.get("href") or "").removeprefix("#")):
            assert not reference or reference in ids
    radios = [radio for radio in page.all("input") if radio["type"] == "radio"]
    assert [radio["value"] for radio in radios] == [switch.name for switch in lab.switches]
    assert {radio["name"] for radio in radios} == {"switch"} and sum("checked" in radio for radio in radios) == 1
    assert all(attributes.get("tabindex") in (None, "0", "-1") for _, attributes in page.elements)


def test_script_uses_only_elements_of_the_page(page: Page) -> None:
    script = page.text_of("script")[1]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    used = set(re.findall(r'getElementById\("([^"]+)"\)', script))
    assert used and used <= ids


def contrast(first: str, second: str) -> float:
    """The contrast of two colors #rrggbb, after WCAG 2."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_colors_have_enough_contrast_in_light_and_dark(page: Page) -> None:
    style = "".join(page.text_of("style"))
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*", style)[:2]
    )
    assert "prefers-color-scheme: dark" in style and set(light) == set(dark)
    for colors in (light, dark):
        for text, background in [
            *((text, background) for text in ("text", "quiet", "accent") for background in ("background", "panel")),
            ("text", "mark"),
        ]:
            assert contrast(colors[text], colors[background]) >= 4.5, (text, background)


def test_texts_are_text_in_the_page(lab: Laboratory) -> None:
    pytest.importorskip("jinja2", reason="needs the study extra")
    hostile = (
        "</script><script>alert(1)</script>",
        "<!-- <b onclick=x>&amp;</b>",
        "\u0645\u0631\u062d\u0628\u0627 \u202e ]]>",
    )
    html = replace(lab, texts=hostile).to_html()
    page = read(html)
    assert page.data["texts"] == list(hostile)
    assert len(page.all("script")) == 2 and page.all("b") == []
    assert "".join(page.text_of("li")).count(hostile[0]) == 1
    assert "<script>alert" not in html and "<!--" not in html


def test_page_has_the_same_bytes_for_the_same_texts(only: Callable[..., None], tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the study extra")
    only("gelu-tanh", "relu", "rows-all-first", "cased")
    for name in ("a.html", "b.html"):
        laboratory(TEXTS).save(tmp_path / name)
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes() == laboratory(TEXTS).to_html().encode()
    assert b"\r" not in first


def test_without_jinja2_the_error_names_the_extra(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"jinja2 .*minilm-np\[study\]"):
        lab.to_html()


# --- the command


@pytest.fixture
def run(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, list[Any]]]:
    """Run the command; return what it prints, and the texts that the laboratory got."""

    def run(*arguments: str) -> tuple[str, list[Any]]:
        got: list[Any] = []

        def made(texts: Any, tried: Callable[[str], None]) -> Laboratory:
            got.append(texts)
            tried("gelu-tanh")
            return lab

        monkeypatch.setattr(module, "laboratory", made)
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        command.run(parser.parse_args(arguments))
        out, err = capsys.readouterr()
        assert err == ""
        return out, got

    return run


def test_command_prints_the_table(run: Callable[..., tuple[str, list[Any]]], lab: Laboratory) -> None:
    assert run() == (f"{lab}\n", [module.EXAMPLES])
    assert run("a", "b") == (f"{lab}\n", [["a", "b"]])


def test_command_writes_a_page(run: Callable[..., tuple[str, list[Any]]], lab: Laboratory, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the study extra")
    path = tmp_path / "lab.html"
    assert run("-o", str(path)) == (f"{lab.lesson}\n", [module.EXAMPLES])
    assert path.read_text(encoding="utf-8") == lab.to_html()
    assert run("--output", "-")[0] == f"{lab.to_html()}\n"


def test_command_names_what_is_wrong(run: Callable[..., tuple[str, list[Any]]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^TEXT: expected two or more texts, got 1$"):
        run("a")
    with pytest.raises(ValueError, match=r"^--output: .*missing is not a folder$"):
        run("-o", str(tmp_path / "missing" / "lab.html"))
    assert list(tmp_path.iterdir()) == []


def test_command_needs_jinja2_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(module, "laboratory", lambda *_, **__: pytest.fail("the work was done"))
    with pytest.raises(ImportError, match=r"minilm-np\[study\]"):
        command.run(argparse.Namespace(texts=[], output=tmp_path / "lab.html"))
    assert list(tmp_path.iterdir()) == []


def test_switches_can_be_read_one_by_one(lab: Laboratory) -> None:
    switch = next(switch for switch in lab.switches if switch.name == "gelu-tanh")
    assert isinstance(switch, Switch) and switch.first_wrong_stage == "encoder.layer.0.intermediate"
    assert 1e-5 < switch.error < 1e-3 and abs(lab.change(switch)) < 1e-4
