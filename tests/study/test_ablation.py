"""`ablate` against models whose weights or operations lack the same parts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import write_tiny
from support.tolerances import FLOAT64, assert_close

from minilm_np import SentenceTransformer, ops
from minilm_np import model as architecture
from minilm_np.crosscheck.truth import simulator
from minilm_np.crosscheck.variant import Variant
from minilm_np.model import Array, BertConfig
from minilm_np.study.ablation import AblationOps, Off, ablate, head_effects, layer_norm_names, without_tokens
from minilm_np.study.similarity import token_pairs

TEXTS = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
OP_SETS = 1e-6  # of unit vectors, the same parts off on the two op sets; measured 2.9e-7
VARIANT = 1e-6  # of unit vectors, against crosscheck's variant in float32; measured 1.8e-7
PARTS: dict[str, dict[str, Any]] = {
    "a head": {"heads": [(2, 7)]},
    "heads": {"heads": [(0, 0), (0, 11), (5, 3)]},
    "a layer": {"layers": [3]},
    "all layers": {"layers": range(6)},
    "LayerNorms": {"layer_norms": ["embeddings.LayerNorm", "encoder.layer.5.output.LayerNorm"]},
    "a LayerNorm in the middle": {"layer_norms": ["encoder.layer.1.attention.output.LayerNorm"]},
    "positions": {"positions": True},
    "tokens": {"tokens": [(0, 0), (1, 5), (1, 6)]},
    "everything at once": {"heads": [(1, 1)], "layers": [4], "layer_norms": ["encoder.layer.2.output.LayerNorm"],
                           "positions": True, "tokens": [(2, 3)]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["model", "float64_model", "numba_model"])
def test_nothing_off_has_the_same_bits(name: str, request: pytest.FixtureRequest) -> None:
    model: SentenceTransformer = request.getfixturevalue(name)
    ablation = ablate(model, TEXTS)
    assert ablation.off == Off()
    assert np.array_equal(ablation.before, model.stages(TEXTS)["sentence_embedding"])
    assert np.array_equal(ablation.after, ablation.before)
    assert ablation.cosine_change() == 0


@pytest.mark.parametrize("part", PARTS)
def test_both_op_sets_agree_and_the_model_stays_as_it_was(
    part: str, model: SentenceTransformer, numba_model: SentenceTransformer, float64_model: SentenceTransformer
) -> None:
    exact = ablate(float64_model, TEXTS, **PARTS[part])
    for other in (model, numba_model):
        before = other.encode(TEXTS)
        ablation = ablate(other, TEXTS, **PARTS[part])
        assert ablation.after.dtype == np.float32
        assert_close(ablation.after, exact.after, OP_SETS, part)
        assert np.abs(ablation.after - before).max() > 1e-3  # the part matters
        assert np.array_equal(other.encode(TEXTS), before)


def test_a_head_off_is_a_head_whose_columns_of_the_next_weight_are_0(float64_model: SentenceTransformer) -> None:
    params = dict(float64_model.weights)
    for layer, head in PARTS["heads"]["heads"]:
        name = f"encoder.layer.{layer}.attention.output.dense.weight"
        params[name] = params[name].copy()
        params[name][:, 32 * head : 32 * (head + 1)] = 0
    bert = architecture.prepare(params, float64_model.config, ops)
    expected = architecture.forward(bert, *float64_model.tokens(TEXTS))
    assert_close(ablate(float64_model, TEXTS, **PARTS["heads"]).after, expected, FLOAT64, "heads")


def test_stages_of_a_head_off_are_0(model: SentenceTransformer) -> None:
    tokens = model.tokens(TEXTS)
    _, position_ids = without_tokens(tokens, [])
    stages: dict[str, Any] = {}
    bert = model._bert._replace(ops=AblationOps(model._bert, Off(heads=frozenset({(2, 7)})), position_ids))
    architecture.forward(bert, *tokens, stages.__setitem__)
    for layer in range(6):
        name = f"encoder.layer.{layer}.attention.self"
        for probs in stages[f"{name}.attention_probs"]:
            heads_off = [head for head in range(12) if not probs[head].any()]
            assert heads_off == ([7] if layer == 2 else [])
        context = stages[f"{name}.context"].reshape(-1, 12, 32)
        assert [head for head in range(12) if not context[:, head].any()] == ([7] if layer == 2 else [])


@pytest.mark.parametrize(
    ("parts", "variant"),
    [
        ({"layers": [3]}, Variant(layers=(0, 1, 2, 4, 5))),
        ({"layers": [0, 5]}, Variant(layers=(1, 2, 3, 4))),
        ({"layers": range(6)}, Variant(layers=())),
        ({"layer_norms": ["embeddings.LayerNorm"]}, Variant(without_norm=frozenset({"embeddings.LayerNorm"}))),
        (
            {"layer_norms": layer_norm_names(BertConfig())},
            Variant(without_norm=frozenset(layer_norm_names(BertConfig()))),
        ),
        ({"positions": True}, Variant(without_positions=True)),
    ],
)
def test_equals_the_variant_of_crosscheck(model: SentenceTransformer, parts: dict[str, Any], variant: Variant) -> None:
    expected = simulator().run(variant, TEXTS, [range(len(TEXTS))]).embeddings
    assert_close(ablate(model, TEXTS, **parts).after, expected, VARIANT, str(parts))


class MaskedOps:
    """The NumPy op set with a mask (T,) of the tokens that are attended to and pooled."""

    def __init__(self, mask: Array):
        self.mask = mask

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, name)

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:
        parts = []
        for start, stop in pairwise(offsets):
            query, key, value = ops.split_heads(qkv[start:stop], 1, num_heads)[:, 0]
            scores = np.where(self.mask[start:stop], ops.attention_scores(query, key), -np.inf)
            parts.append((ops.softmax(scores) @ value).swapaxes(0, 1).reshape(stop - start, -1))
        return np.concatenate(parts)

    def pool(self, hidden_states: Array, offsets: Array, mode: str) -> Array:
        spans = [slice(start, stop) for start, stop in pairwise(offsets)]
        return np.stack([hidden_states[span][self.mask[span]].mean(axis=0) for span in spans])


class PlacedOps:
    """The NumPy op set with given positions (T,)."""

    def __init__(self, position_ids: Array):
        self.position_ids = position_ids

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, name)

    def embed(self, ids: Array, types: Array, positions: Array, tables: Any, norm: Any, eps: float) -> Array:
        return ops.embed(ids, types, self.position_ids, tables, norm, eps)


def test_a_token_off_is_masked_in_attention_and_pooling(float64_model: SentenceTransformer) -> None:
    tokens = float64_model.tokens(TEXTS)
    mask = np.ones(len(tokens.token_ids), bool)
    for text, token in PARTS["tokens"]["tokens"]:
        mask[tokens.offsets[text] + token] = False
    masked: Any = MaskedOps(mask)
    bert = architecture.prepare(float64_model.weights, float64_model.config, ops)._replace(ops=masked)
    ablation = ablate(float64_model, TEXTS, **PARTS["tokens"])
    assert_close(ablation.after, architecture.forward(bert, *tokens), FLOAT64, "tokens")
    assert_close(ablation.after[2], ablation.before[2], FLOAT64, "the third text, which has all its tokens")


def test_tokens_that_are_left_keep_their_positions(model: SentenceTransformer) -> None:
    tokens = model.tokens(TEXTS[:2])
    shorter, position_ids = without_tokens(tokens, [(0, 2), (1, 0), (1, 1)])
    assert position_ids.tolist() == [0, 1, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert shorter.offsets.tolist() == [0, 7, 16]
    assert shorter.token_ids.tolist() == np.delete(tokens.token_ids, [2, 8, 9]).tolist()


@pytest.mark.parametrize("part", PARTS)
def test_token_pairs_add_up_to_both_cosines(float64_model: SentenceTransformer, part: str) -> None:
    ablation = ablate(float64_model, TEXTS, **PARTS[part])
    for pairs, cosine in zip(ablation.token_pairs(1, 2), ablation.cosines(1, 2), strict=True):
        assert (len(pairs.rows), len(pairs.columns)) == pairs.values.shape
        assert abs(pairs.cosine - cosine) < 1e-12  # measured 7e-16
    expected = token_pairs(float64_model, TEXTS[1], TEXTS[2])
    assert ablation.token_pairs(1, 2)[0].rows == expected.rows
    assert_close(ablation.token_pairs(1, 2)[0].values, expected.values, 1e-14, part)  # measured 7e-17


def test_a_token_off_adds_nothing_to_the_pairs(model: SentenceTransformer) -> None:
    before, after = ablate(model, TEXTS, tokens=[(0, 5), (1, 0)]).token_pairs()
    assert after.rows == before.rows and after.rows[5] == "food"
    assert not after.values[5].any() and not after.values[:, 0].any()
    assert np.all(after.values[np.ix_([0, 1, 2, 3, 4, 6, 7], range(1, 10))] != 0)
    assert np.all(before.values != 0)


def test_rankings_and_cosines_are_those_of_the_embeddings(model: SentenceTransformer) -> None:
    ablation = ablate(model, TEXTS, layers=[4, 5])
    for embeddings, ranking, cosine in zip(
        (ablation.before, ablation.after), ablation.ranking(1), ablation.cosines(1, 0), strict=True
    ):
        similarities = model.similarity(embeddings[1], embeddings)[0]
        assert [text for text, _ in ranking] == [text for text in np.argsort(-similarities).tolist() if text != 1]
        assert_close([value for _, value in ranking], [similarities[text] for text, _ in ranking], 3e-7, "ranking")
        assert dict(ranking)[0] == cosine
    assert ablation.cosine_change(1, 0) == ablation.cosines(1, 0)[1] - ablation.cosines(1, 0)[0]


def test_head_effects_are_those_of_single_ablations(model: SentenceTransformer) -> None:
    effects = head_effects(model, TEXTS[0], TEXTS[1])
    assert effects.shape == (6, 12)
    for layer, head in ((0, 0), (3, 11), (5, 2)):
        assert effects[layer, head] == ablate(model, TEXTS[:2], heads=[(layer, head)]).cosine_change()


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("normalize", [False, True])
def test_other_sizes_and_poolings(tmp_path: Path, weights_folder: Path, mode: str, normalize: bool) -> None:
    model = SentenceTransformer(write_tiny(tmp_path, weights_folder), backend="numpy", dtype="float64")
    model.config = replace(model.config, pooling_mode=mode, normalize=normalize)
    model._bert = architecture.prepare(model.weights, model.config, ops)
    ablation = ablate(model, TEXTS, heads=[(1, 1)], tokens=[(0, 0), (1, 9)])
    for pairs, cosine in zip(ablation.token_pairs(), ablation.cosines(), strict=True):
        assert abs(pairs.cosine - cosine) < 1e-12  # measured 3e-16
    name = "encoder.layer.1.attention.output.dense.weight"
    params = {**model.weights, name: model.weights[name] * ([1] * 4 + [0] * 4)}
    tokens, position_ids = without_tokens(model.tokens(TEXTS), [(0, 0), (1, 9)])
    assert np.diff(tokens.offsets).tolist() == [7, 10, 9]
    placed: Any = PlacedOps(position_ids)
    bert = architecture.prepare(params, model.config, ops)._replace(ops=placed)
    assert_close(ablation.after, architecture.forward(bert, *tokens), FLOAT64, mode)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": [(6, 0)]}, r"heads: expected pairs \(layer, head\) of layer 0 to 5 and head 0 to 11, got \(6, 0\)"),
        ({"heads": [(0, 12)]}, r"heads: expected pairs .*, got \(0, 12\)"),
        ({"heads": [(-1, 0)]}, r"heads: expected pairs .*, got \(-1, 0\)"),
        ({"heads": (0, 3)}, "heads: expected pairs .*, got 0"),
        ({"heads": [(0, 1, 2)]}, r"heads: expected pairs .*, got \(0, 1, 2\)"),
        ({"heads": [(0, 1.5)]}, r"heads: expected pairs .*, got \(0, 1.5\)"),
        ({"heads": ["01"]}, "heads: expected pairs .*, got '01'"),
        ({"layers": [6]}, "layers: expected numbers 0 to 5, got 6"),
        ({"layers": [True]}, "layers: expected numbers 0 to 5, got True"),
        ({"layers": 3}, "layers: expected a list, got 3"),
        ({"layer_norms": ["encoder.layer.6.output.LayerNorm"]}, "layer_norms: expected names such as .*, got 'encoder"),
        ({"layer_norms": ["encoder.layer.0.output"]}, "layer_norms: expected names such as .*, got 'encoder"),
        ({"layer_norms": "embeddings.LayerNorm"}, "layer_norms: expected a list, got 'embeddings.LayerNorm'"),
        ({"positions": "no"}, "positions: expected True or False, got 'no'"),
        ({"tokens": [(3, 0)]}, r"tokens: expected pairs \(text, token\) of text 0 to 2, got \(3, 0\)"),
        ({"tokens": [(0, 8)]}, r"tokens: expected token 0 to 7 in text 0, got \(0, 8\)"),
        ({"tokens": [(0, i) for i in range(8)]}, "tokens: expected one token or more left in text 0, got all 8"),
    ],
)
def test_parts_that_do_not_exist_are_named(model: SentenceTransformer, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ablate(model, TEXTS, **arguments)


def test_bad_texts_are_named(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"^texts: expected one or more texts, got none"):
        ablate(model, [])
    with pytest.raises(ValueError, match=r"^texts: expected an iterable of str, got str 'a'"):
        ablate(model, "a")
    ablation = ablate(model, TEXTS)
    for call in (ablation.cosines, ablation.token_pairs):
        with pytest.raises(ValueError, match=r"^text: expected 0 to 2, got 3"):
            call(0, 3)
    with pytest.raises(ValueError, match=r"^text: expected 0 to 2, got -1"):
        ablation.ranking(-1)
