"""The recording op set: the forward pass can be recomputed by hand from what it keeps, and it changes no bit."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.tolerances import assert_close

from minilm_np import SentenceTransformer, ops, tape
from minilm_np.checkpoint import parameter_shapes
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.model import BertConfig, forward, prepare, stage_names
from minilm_np.tokenizer import Text

TEXTS: list[Text] = ["A man is eating food.", "", ("How many people live in Berlin?", "3,520,031."), "bread"]

# Bounds for one step from its rounded inputs, absolute and relative: 3 times the largest float32 error measured on
# either op set, 7.3e-6 + 7.3e-7 |x| (intermediate.dense), and 2^-29 of that in float64.
STEP = {"float32": (2.2e-5, 2.2e-6), "float64": (4e-14, 4e-15)}


@pytest.fixture(params=["model", "float64_model", "numba_model"])
def any_model(request: pytest.FixtureRequest) -> SentenceTransformer:
    if WITHOUT_JIT and request.param == "numba_model":
        pytest.skip("the whole model is too slow without the JIT")
    model: SentenceTransformer = request.getfixturevalue(request.param)
    return model


def test_detail_adds_to_the_stages_and_changes_no_bit(any_model: SentenceTransformer) -> None:
    stages, detailed = any_model.stages(TEXTS), any_model.stages(TEXTS, detail=True)
    assert list(detailed) == ["tokens", *tape.detailed_stage_names(any_model.config)]
    assert [name for name in detailed if name in stages] == list(stages) == stage_names(any_model.config)
    for name, value in stages.items():
        for a, b in zip(value, detailed[name], strict=True):
            assert a.dtype == b.dtype == any_model.dtype and np.array_equal(a, b), name


def test_every_step_can_be_recomputed_by_hand(any_model: SentenceTransformer) -> None:
    """From model.weights and the detailed stages alone, one step at a time, in float64."""
    config, weights = any_model.config, {name: w.astype("f8") for name, w in any_model.weights.items()}
    stages = any_model.stages(TEXTS, detail=True)
    atol, rtol = STEP[str(any_model.dtype)]

    def check(name: str, expected: Any) -> None:
        assert_close(stages[name], expected, atol, name, rtol)

    def value(name: str) -> Any:
        return stages[name].astype("f8")

    def dense(name: str, x: Any) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def check_layer_norm(module: str, output: str, x: Any) -> None:
        norm = f"{module}.LayerNorm"
        check(f"{norm}.input", x)
        check(f"{norm}.mean", value(f"{norm}.input").mean(axis=1, keepdims=True))
        check(f"{norm}.variance", value(f"{norm}.input").var(axis=1, keepdims=True))
        centered = value(f"{norm}.input") - value(f"{norm}.mean")
        scaled = centered / np.sqrt(value(f"{norm}.variance") + config.layer_norm_eps)
        check(output, scaled * weights[f"{norm}.weight"] + weights[f"{norm}.bias"])

    offsets = stages["offsets"]
    assert stages["position_ids"].tolist() == [i for start, stop in pairwise(offsets) for i in range(stop - start)]
    ids = {"word": stages["token_ids"], "token_type": stages["token_type_ids"], "position": stages["position_ids"]}
    rows = [weights[f"embeddings.{table}_embeddings.weight"][i] for table, i in ids.items()]
    check_layer_norm("embeddings", "embeddings", rows[0] + rows[1] + rows[2])
    hidden_states = value("embeddings")
    for layer in (f"encoder.layer.{i}" for i in range(config.num_hidden_layers)):
        attention = f"{layer}.attention.self"
        for part in ("query", "key", "value"):
            check(f"{attention}.{part}", dense(f"{attention}.{part}", hidden_states))
        heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        for b, (start, stop) in enumerate(pairwise(offsets)):
            query, key, values = (
                value(f"{attention}.{part}")[start:stop].reshape(-1, *heads).swapaxes(0, 1)  # (N, S, D)
                for part in ("query", "key", "value")
            )
            scores, probs = stages[f"{attention}.attention_scores"][b], stages[f"{attention}.attention_probs"][b]
            assert_close(scores, query @ key.swapaxes(1, 2) / math.sqrt(heads[1]), atol, "attention_scores", rtol)
            assert_close(probs, ops.softmax(scores.astype("f8")), atol, "attention_probs", rtol)
            context = (probs.astype("f8") @ values).swapaxes(0, 1).reshape(stop - start, -1)
            assert_close(stages[f"{attention}.context"][start:stop], context, atol, "context", rtol)
        check(
            f"{layer}.attention.output.dense", dense(f"{layer}.attention.output.dense", value(f"{attention}.context"))
        )
        residual_sum = value(f"{layer}.attention.output.dense") + hidden_states
        check_layer_norm(f"{layer}.attention.output", f"{layer}.attention.output", residual_sum)
        attention_output = value(f"{layer}.attention.output")
        check(f"{layer}.intermediate.dense", dense(f"{layer}.intermediate.dense", attention_output))
        check(f"{layer}.intermediate", ops.gelu(value(f"{layer}.intermediate.dense")))
        check(f"{layer}.output.dense", dense(f"{layer}.output.dense", value(f"{layer}.intermediate")))
        check_layer_norm(f"{layer}.output", f"{layer}.output", value(f"{layer}.output.dense") + attention_output)
        hidden_states = value(f"{layer}.output")
    check("pooled", [hidden_states[start:stop].mean(axis=0) for start, stop in pairwise(offsets)])
    pooled = value("pooled")
    check("sentence_embedding", pooled / np.sqrt((pooled * pooled).sum(axis=1, keepdims=True)))


def test_detail_has_the_tokens_as_strings(model: SentenceTransformer) -> None:
    tokens = model.stages(TEXTS, detail=True)["tokens"]
    assert tokens[0] == ["[CLS]", "a", "man", "is", "eating", "food", ".", "[SEP]"]
    assert (
        tokens[1] == ["[CLS]", "[SEP]"] and tokens[2].count("[SEP]") == 2 and tokens[3] == ["[CLS]", "bread", "[SEP]"]
    )


def test_detail_of_no_texts_is_empty(model: SentenceTransformer) -> None:
    stages = model.stages([], detail=True)
    assert stages["tokens"] == [] and stages["sentence_embedding"].shape == (0, 384)
    assert stages["encoder.layer.0.attention.self.attention_scores"] == []


def test_detail_is_off_by_default(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("recorded without detail=True")

    monkeypatch.setattr(tape, "Tape", fail)
    assert list(model.stages(TEXTS)) == stage_names(model.config)


def test_the_tape_names_every_call_in_order(model: SentenceTransformer) -> None:
    bert = prepare(model.weights, model.config, ops)
    recorder = tape.Tape(bert)
    embeddings = forward(bert._replace(ops=recorder), *model.tokens(TEXTS))
    layer = [
        ("linear", "attention.self"),
        ("attention", ""),
        ("linear", "attention.output.dense"),
        ("add_layer_norm", "attention.output.LayerNorm"),
        ("linear", "intermediate.dense"),  # without the activation
        ("linear", "intermediate.dense"),
        ("linear", "output.dense"),
        ("add_layer_norm", "output.LayerNorm"),
    ]
    layers = [(op, name and f"encoder.layer.{i}.{name}") for i in range(6) for op, name in layer]
    expected = [("embed", "embeddings"), *layers, ("pool", ""), ("l2_normalize", "")]
    assert [(call.op, call.module) for call in recorder.calls] == expected
    assert recorder.calls[-1].output is embeddings
    for before, after in zip(recorder.calls[-2:], recorder.calls[-1:], strict=False):
        assert after.inputs[0] is before.output


@pytest.mark.parametrize("act", ["gelu_new", "relu"])
def test_other_architectures_have_the_same_details(act: str) -> None:
    config = BertConfig(
        vocab_size=11,
        hidden_size=10,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=7,
        max_position_embeddings=6,
        hidden_act=act,
        pooling_mode="cls",
        normalize=False,
    )
    rng = np.random.default_rng(3)
    params = {name: rng.standard_normal(shape) for name, shape in parameter_shapes(config).items()}
    bert = prepare(params, config, ops)
    stages = tape.detailed_stages(bert, np.array([1, 4, 2, 9, 0]), np.zeros(5, int), np.array([0, 2, 5]))
    assert list(stages) == tape.detailed_stage_names(config)
    before = stages["encoder.layer.1.intermediate.dense"]
    assert np.array_equal(ops.ACTIVATIONS[act](before), stages["encoder.layer.1.intermediate"])
    assert stages["encoder.layer.1.attention.self.attention_scores"][1].shape == (5, 3, 3)


def test_weights_are_the_checkpoints_and_read_only(model: SentenceTransformer) -> None:
    assert {name: array.shape for name, array in model.weights.items()} == parameter_shapes(model.config)
    weight = model.weights["encoder.layer.0.attention.self.query.weight"]
    assert weight.dtype == np.float32 and np.abs(weight).max() > 0
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 1
    with pytest.raises(TypeError):
        model.weights["extra"] = weight  # type: ignore[index]
