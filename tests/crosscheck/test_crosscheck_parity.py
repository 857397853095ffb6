"""Cross-checks of ports in PyTorch, ONNX Runtime and OpenVINO: correct ports pass, mistakes are named. Parity extra."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():  # warnings from importing PyTorch and transformers
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the parity extra")

import race
from confusion import confusion, visible_faults
from fidelity import our_stages, pytorch_stages
from support.faults import TorchPort
from support.texts import NASTY

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import CannotCompareError, crosscheck, stage_texts
from minilm_np.crosscheck.backends import onnx_file
from minilm_np.crosscheck.truth import tolerance

pytestmark = pytest.mark.parity
# Faults that differ only in the layer; bench/confusion.py checks them all.
REPETITIVE = re.compile(r"-layer-[0-4]$|^layers-swapped-[0-4]-[3-5]$")


# --- correct ports


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_transformers_passes(weights_folder: Path, attention: str) -> None:
    report = crosscheck(TorchPort(weights_folder, attention).encode)
    assert report.ok and report.max_error > 0, report


def test_pytorch_stages_pass(weights_folder: Path, model: SentenceTransformer) -> None:
    bert = TorchPort(weights_folder).bert

    def stages(texts: list[str]) -> dict[str, list[Any]]:
        values = [pytorch_stages(bert, model.tokens([text])) for text in texts]
        return {
            name: [value[name][0] if name in ("pooled", "sentence_embedding") else value[name] for value in values]
            for name in our_stages(model, texts[0])
        }

    report = crosscheck(stages=stages)
    assert report.ok and len(report.stages) == len(our_stages(model, stage_texts()[0])), report


def test_sentence_transformers_passes(weights_folder: Path) -> None:
    model = sentence_transformers.SentenceTransformer(str(weights_folder), device="cpu")
    assert crosscheck(model.encode).ok
    assert crosscheck(lambda texts: model.encode(texts, convert_to_tensor=True)).ok


def test_two_hundred_correct_runs_raise_no_false_alarm(
    weights_folder: Path, float64_model: SentenceTransformer
) -> None:
    """Random batches of difficult texts, padded to random widths, stay within the probes' tolerance."""
    rng = np.random.default_rng(20261124)
    port = TorchPort(weights_folder, "sdpa")
    texts = [text for text in NASTY.values() if isinstance(text, str)]
    short = [text for text in texts if len(text) < 300]
    reference = dict(zip(texts, float64_model.encode(texts, truncation="ignore"), strict=True))
    worst = 0.0
    for run in range(200):
        pool = texts if run % 10 == 0 else short
        batch = [pool[i] for i in rng.choice(len(pool), rng.integers(1, 9), replace=False)]
        port.pad_to = int(rng.integers(0, 100))
        errors = np.abs(port.encode(batch) - np.stack([reference[text] for text in batch]))
        worst = max(worst, float(errors.max()))
    assert 0 < worst <= tolerance("sentence_embedding")  # measured 2.1e-7, tolerance 1.0e-6


# --- mistakes


def test_names_bfloat16(weights_folder: Path) -> None:
    options = {"dtype": torch.bfloat16}
    model = sentence_transformers.SentenceTransformer(str(weights_folder), device="cpu", model_kwargs=options)
    report = crosscheck(lambda texts: model.encode(texts, convert_to_tensor=True))
    assert not report.ok and report.causes[0].name == "bf16-activations", report


def test_names_at_least_95_percent_of_single_mistakes_first(weights_folder: Path) -> None:
    faults = [name for name in visible_faults() if not REPETITIVE.search(name)]
    rows = confusion(weights_folder, faults)
    wrong = [row for row in rows if row.named != row.fault]
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} named first; not: {wrong}")
    assert len(rows) >= 90
    assert len(wrong) <= 0.05 * len(rows), wrong
    assert all(row.named != "pass" for row in rows)


# --- ONNX


@pytest.fixture(scope="module")
def onnx(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnx", reason="needs onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield race.export_onnx(weights_folder)


def test_onnx_runtime_passes(onnx: Path) -> None:
    report = crosscheck(onnx_file(onnx))
    assert report.ok and report.max_error > 0, report


def test_rejects_pooler_output_as_embedding(tmp_path: Path) -> None:
    """An ONNX export of BERT has pooler_output: it is rejected alone and ignored next to last_hidden_state."""
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    inputs = [helper.make_tensor_value_info("input_ids", kind.INT64, ["B", "S"])]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["pooler_output"], to=kind.FLOAT),
        helper.make_node("Unsqueeze", ["pooler_output", "axis"], ["last_hidden_state"]),
    ]
    axis = helper.make_tensor("axis", kind.INT64, [1], [2])
    shapes = {"pooler_output": ["B", "S"], "last_hidden_state": ["B", "S", 1]}
    for names in (["pooler_output"], ["pooler_output", "last_hidden_state"]):
        outputs = [helper.make_tensor_value_info(name, kind.FLOAT, shapes[name]) for name in names]
        graph = helper.make_graph(nodes, "pooler", inputs, outputs, [axis])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "pooler.onnx")
        if len(names) == 1:
            with pytest.raises(CannotCompareError, match=r"expected one of the outputs .*, got pooler_output"):
                onnx_file(tmp_path / "pooler.onnx")
        else:
            assert onnx_file(tmp_path / "pooler.onnx")(["one", "two"]).shape == (2, 1)


def test_names_dynamic_int8_of_onnx_runtime(onnx: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(str(onnx), str(tmp_path / "int8.onnx"))
    report = crosscheck(onnx_file(tmp_path / "int8.onnx"))
    assert not report.ok and report.causes[0].name.startswith("int8"), report


def test_openvino_passes(onnx: Path, weights_folder: Path) -> None:
    pytest.importorskip("openvino", reason="needs OpenVINO")
    encode: Callable[[list[str]], Any] = race.openvino(weights_folder, 2)
    report = crosscheck(encode)
    print(f"\n{report}")
    assert report.ok, report


def drop_words(test: Callable[[str], bool]) -> Callable[[Any], None]:
    def apply(port: Any) -> None:
        right = port.encode
        port.encode = lambda texts: right([" ".join(word for word in text.split() if not test(word)) for text in texts])

    return apply


def pool_by(weights: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Pool with weights (B, S) computed from the mask (B, S)."""

    def apply(port: Any) -> None:
        port.pool = lambda hidden, mask: (hidden * (weights(mask) * mask)[:, :, None]).sum(1)

    return apply


def last_layers(count: int) -> Callable[[Any], None]:
    def apply(port: Any) -> None:
        kept: list[Any] = []
        for layer in port.bert.encoder.layer[-count:]:
            layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        mean = port.pool

        def pool(hidden: Any, mask: Any) -> Any:
            states, kept[:] = list(kept), []
            return sum(mean(state, mask) for state in states)

        port.pool = pool

    return apply


def half_scores(port: Any) -> None:
    for layer in port.bert.encoder.layer[:3]:
        layer.attention.self.query.weight.data /= 2
        layer.attention.self.query.bias.data /= 2


def scaled_norms(port: Any) -> None:
    for layer in port.bert.encoder.layer:
        layer.output.LayerNorm.weight.data *= 1.01


# Mistakes that are in no catalogue, and the part that is wrong
OUTSIDE: dict[str, tuple[str, Callable[[Any], None]]] = {
    "words in capitals dropped": ("tokenizer", drop_words(lambda word: word.isupper() and len(word) > 1)),
    "long words dropped": ("tokenizer", drop_words(lambda word: len(word) > 12)),
    "words with an at sign dropped": ("tokenizer", drop_words(lambda word: "@" in word)),
    "later tokens weigh more": ("pooling", pool_by(lambda mask: mask.cumsum(1))),
    "[CLS] counts ten times": ("pooling", pool_by(lambda mask: mask + 9 * (mask.cumsum(1) == 1))),
    "mean of the last 3 layers": ("pooling", last_layers(3)),
    "half the scores in three layers": ("encoder", half_scores),
    "LayerNorm weights 1 % too large": ("encoder", scaled_norms),
    "lengths that are the largest element": ("output format", lambda port: setattr(
        port, "scale", lambda x: x / x.norm(dim=1, keepdim=True) * x.abs().amax(1, keepdim=True))),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_places_a_mistake_that_is_in_no_catalogue(weights_folder: Path, name: str) -> None:
    part, change = OUTSIDE[name]
    port = TorchPort(weights_folder)
    change(port)
    start = time.process_time()
    report = crosscheck(lambda texts: port.encode(texts))
    assert report.part == part and not any(cause.fits for cause in report.causes), report
    assert time.process_time() - start < 60
