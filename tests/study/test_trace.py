"""The page's data has the model's bits, the page is one file, and texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generate.d3_bundle import VERSIONS
from support.kernels import needs_jit
from support.tiny import write_tiny

from minilm_np import SentenceTransformer, cli, ops
from minilm_np.study import ablate, packing, token_pairs, trace
from minilm_np.study.page import SHOWN, asset, json_in_html, sources

A, B = "A man is eating a large piece of food at home.", "A woman is playing the violin on a small stage."


class Reader:
    """Reads a trace's blocks as the page does."""

    def __init__(self, page: Any):
        self.data = json.loads(json_in_html(page.data))
        self.bytes = np.frombuffer(zlib.decompress(base64.b64decode(page.packed)), np.uint8)

    def words(self, block: list[int]) -> Any:
        start, count = 4 * block[0], block[1]
        planes = self.bytes[start : start + 4 * count].reshape(4, count)
        return np.ascontiguousarray(planes.T).view("<u4").reshape(-1)

    def floats(self, block: list[int]) -> Any:
        return self.words(block).view(np.float32)

    def stage(self, name: str) -> Any:
        stored = self.data["stages"][name]
        if "values" in stored:
            return self.floats(stored["values"])
        x = self.floats(stored["input"]).astype(np.float64)
        if name.endswith("intermediate"):
            recomputed = packing.gelu(x)
        else:
            H = self.data["config"]["hidden_size"]
            weight, bias = (
                self.floats(self.data["weights"][f"{name}.LayerNorm.{part}"]).astype(np.float64)
                for part in ("weight", "bias")
            )
            eps = self.data["config"]["layer_norm_eps"]
            recomputed = packing.layer_norm(x.reshape(-1, H), weight, bias, eps).reshape(-1)
        zigzag = self.words(stored["steps"]).astype(np.int64)
        ordered = packing._ordered(recomputed.astype(np.float32)) + ((zigzag >> 1) ^ -(zigzag & 1))
        return np.where(ordered < 0, -(2**31) - ordered - 1, ordered).astype(np.int32).view(np.float32)


def flat(value: Any) -> Any:
    return np.concatenate([part.reshape(-1) for part in value]) if isinstance(value, list) else value.reshape(-1)


@pytest.mark.parametrize("texts", [(A, B), ("",), ("unbelievable 漢字 🙂", "x")], ids=["two", "empty", "others"])
@pytest.mark.parametrize("backend", ["model", pytest.param("numba_model", marks=needs_jit)])
def test_every_stage_has_the_bits_of_the_model(
    request: pytest.FixtureRequest, backend: str, texts: tuple[str, ...]
) -> None:
    model: SentenceTransformer = request.getfixturevalue(backend)
    reader = Reader(trace(model, *texts))
    expected = model.stages(list(texts))
    assert reader.data["names"] == list(reader.data["stages"]) == list(expected)
    for name, value in expected.items():
        assert reader.stage(name).tobytes() == flat(value).astype(np.float32).tobytes(), name


@pytest.mark.usefixtures("study_extra")
def test_a_page_of_two_sentences_is_below_4_mb_and_the_same_each_time(model: SentenceTransformer) -> None:
    page = trace(model, A, B)
    html = page.to_html()
    assert page.dropped == () and len(html.encode()) < 4_000_000  # measured: 3.68 MB
    assert trace(model, A, B).to_html() == html


@pytest.mark.usefixtures("study_extra")
def test_long_texts_drop_the_widest_stages_and_say_so(model: SentenceTransformer) -> None:
    page = trace(model, "word " * 300, A)
    html = page.to_html()
    assert len(html.encode()) < 4_000_000
    assert set(page.dropped[:2]) == {"attention.self.attention_probs", "intermediate"}
    assert page.data["dropped"] == list(page.dropped)
    reader = Reader(page)
    assert not any(name.endswith("intermediate") for name in reader.data["stages"])
    expected = model.stages(["word " * 300, A])
    for name in ("embeddings", "encoder.layer.5.output", "sentence_embedding"):
        assert reader.stage(name).tobytes() == flat(expected[name]).tobytes()
    text = reader.data["texts"][0]
    assert len(text["tokens"]) == text["limit"] == 256 and text["dropped"] == 300 - 254
    assert text["text"][: text["read_until"]].split() == ["word"] * 254


@pytest.mark.usefixtures("study_extra")
@pytest.mark.parametrize("words", [12, 20, 33, 47, 120])
def test_no_page_is_larger_than_its_limit(model: SentenceTransformer, words: int) -> None:
    random = np.random.default_rng(words)
    table = [token for token in model.tokenizer.strings(range(2000, 20000)) if token.isalpha()]
    a, b = (" ".join(random.choice(table, words)) for _ in range(2))
    page = trace(model, a, b)
    size = len(page.to_html().encode())
    assert size <= page.size <= 4_000_000
    assert page.size - size < 20_000  # the bound is not far away
    if words == 12:  # 14 word pieces each, with [CLS] and [SEP]
        assert page.dropped == ()


def test_a_limit_that_cannot_be_met_is_named(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"max_size: expected at least \d+ bytes for these texts, got 1000"):
        trace(model, A, B, max_size=1000)
    with pytest.raises(TypeError, match="b: expected a str, got int"):
        trace(model, A, 3)  # type: ignore[arg-type]


def test_the_cells_have_the_numbers_of_the_dense_layers(model: SentenceTransformer) -> None:
    reader = Reader(trace(model, A))
    stages = model.stages([A], detail=True)
    assert len(reader.data["cells"]) == 6 * 6
    for module, cell in reader.data["cells"].items():
        column, weight = cell["column"], reader.floats(cell["weight"])
        assert np.array_equal(weight, model.weights[f"{module}.weight"][column])
        assert np.float32(cell["bias"]) == model.weights[f"{module}.bias"][column]
    name = "encoder.layer.3.attention.self.value"
    cell = reader.data["cells"][name]
    products = stages["encoder.layer.2.output"].astype(np.float64) @ reader.floats(cell["weight"]) + cell["bias"]
    np.testing.assert_allclose(products, stages[name][:, cell["column"]], atol=5e-6)


def test_rows_of_the_tables(model: SentenceTransformer) -> None:
    reader = Reader(trace(model, "a a b"))
    word = reader.data["rows"]["word"]
    expected = model.weights["embeddings.word_embeddings.weight"][word["ids"]]
    assert np.array_equal(reader.floats(word["rows"]).reshape(-1, 384), expected)
    assert reader.data["rows"]["position"]["ids"] == [0, 1, 2, 3, 4]


def test_another_architecture(tmp_path: Path, weights_folder: Path) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder, hidden_act="gelu_new")
    tiny = SentenceTransformer(folder, backend="numpy")
    reader = Reader(trace(tiny, A, B))
    for name, value in tiny.stages([A, B]).items():
        assert reader.stage(name).tobytes() == flat(value).tobytes(), name


def test_the_bundle_of_d3_is_the_recorded_one() -> None:
    record = json.loads(asset("d3/bundle.json"))
    assert hashlib.sha256(asset("d3/d3.min.js").encode()).hexdigest() == record["sha256"]
    assert {**record["modules"], "esbuild": record["esbuild"]} == VERSIONS


# --- the page ----------------------------------------------------------------------------------

NASTY = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> & <!-- \u2028 {{ 7 * 7 }} "'


class Tags(HTMLParser):
    """Collects the tags with their attributes, and the scripts' texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


@pytest.mark.usefixtures("study_extra")
def test_texts_are_never_markup(model: SentenceTransformer) -> None:
    html = trace(model, NASTY, "plain").to_html()
    parser = Tags()
    parser.feed(html)
    plain = Tags()
    plain.feed(trace(model, "one", "plain").to_html())
    assert [tag for tag, _ in parser.tags] == [tag for tag, _ in plain.tags]  # no tag came from the text
    assert json.loads(parser.scripts[0])["texts"][0]["text"] == NASTY
    assert "49" not in re.findall(r"<title>(.*?)</title>", html)[0]


@pytest.mark.usefixtures("study_extra")
def test_the_page_refers_to_nothing(model: SentenceTransformer) -> None:
    html = trace(model, A, B).to_html()
    parser = Tags()
    parser.feed(html)
    for tag, attributes in parser.tags:
        for name in ("src", "href", "action", "data", "poster"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)
    assert "@import" not in html and "url(" not in html and "fetch(" not in html


@pytest.mark.usefixtures("study_extra")
def test_the_sources_are_those_of_the_files() -> None:
    found = sources()
    assert [source["name"] for source in found] == [function.__name__ for function in SHOWN]
    package = Path(ops.__file__).parents[1]
    for source in found:
        lines = (package / source["file"]).read_text().splitlines()[source["first"] - 1 : source["last"]]
        parser = HTMLParser(convert_charrefs=True)
        texts: list[str] = []
        parser.handle_data = texts.append  # type: ignore[method-assign, assignment]
        parser.feed(source["html"])
        parser.close()
        assert "".join(texts).splitlines() == lines


@pytest.mark.usefixtures("study_extra")
def test_a_notebook_gets_a_frame(model: SentenceTransformer) -> None:
    html = trace(model, NASTY)._repr_html_()
    parser = Tags()
    parser.feed(html)
    ((tag, attributes),) = parser.tags
    assert tag == "iframe" and attributes["srcdoc"] == trace(model, NASTY).to_html()


@pytest.mark.usefixtures("study_extra")
def test_the_command_writes_the_page(
    model: SentenceTransformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    assert cli.main(["trace", A, B, "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: {path.stat().st_size / 1e6:.1f} MB\n"
    assert path.read_text() == trace(model, A, B).to_html()
    assert cli.main(["trace", "a", "b", "c", "-o", str(path)]) == 2
    assert capsys.readouterr().err == "minilm-np: error: TEXT: expected one or two texts, got 3\n"
    for size in ("nan", "inf", "-1", "0"):
        assert cli.main(["trace", "a", "--max-size", size, "-o", str(path)]) == 2
        assert capsys.readouterr().err.startswith("minilm-np: error: --max-size: expected a number of MB above 0, got ")
    assert cli.main(["trace", "a", "-o", "-"]) == 0
    assert capsys.readouterr().out == trace(model, "a").to_html()
    assert cli.main(["trace", "a", "-o", str(tmp_path / "no" / "page.html")]) == 2
    assert capsys.readouterr().err.startswith("minilm-np: error: --output: ")


def test_without_the_extra_the_command_says_so_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minilm_np.study.page.find_spec", lambda name: None if name == "pygments" else name)
    monkeypatch.setattr("minilm_np.study.traces.trace", lambda *_, **__: pytest.fail("the work was done"))
    assert cli.main(["trace", A, "-o", str(tmp_path / "page.html")]) == 2
    assert capsys.readouterr().err == (
        "minilm-np: error: pygments is needed for pages and not installed; install minilm-np[study]\n"
    )


def test_the_effects_are_those_of_the_ablations(model: SentenceTransformer) -> None:
    reader = Reader(trace(model, "food", "a meal"))
    found = reader.data["ablation"]
    texts = ["food", "a meal", *found["others"]]
    whole = token_pairs(model, *texts[:2])
    np.testing.assert_allclose(reader.floats(found["whole"]["pairs"]), whole.values.reshape(-1), rtol=2.5e-4)
    parts = {part["name"]: part for part in found["parts"]}
    assert len(parts) == 72 + 6 + 13 + 1 + 3 + 4
    for name, off in {
        "layer 2, head 7": {"heads": [(2, 7)]},
        "layer 3": {"layers": [3]},
        "encoder.layer.1.output.LayerNorm": {"layer_norms": ["encoder.layer.1.output.LayerNorm"]},
        "position embeddings": {"positions": True},
        "meal (2) of text 2": {"tokens": [(1, 2)]},
    }.items():
        ablation = ablate(model, texts, **off)  # type: ignore[arg-type]
        assert parts[name]["cosine"] == pytest.approx(ablation.cosines()[1], abs=1e-12)
        assert [number for number, _ in parts[name]["ranking"]] == [number for number, _ in ablation.ranking()[1]]
        expected = ablation.token_pairs()[1].values.reshape(-1)
        np.testing.assert_allclose(reader.floats(parts[name]["pairs"]), expected, rtol=2.5e-4)
