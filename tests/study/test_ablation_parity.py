"""`ablate` against PyTorch with the same parts masked; needs the parity extra."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tolerances import FLOAT64, assert_close

from minilm_np import SentenceTransformer
from minilm_np.study.ablation import ablate

with warnings.catch_warnings():  # importing PyTorch and transformers raises warnings of their own
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")

pytestmark = pytest.mark.parity
TEXTS = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
FLOAT32 = 1e-6  # of unit vectors; measured 3.6e-7
WITHOUT_LAYER_NORMS = 5e-6  # the hidden states grow, and one column dominates; measured 1.25e-6
D = 32  # head size


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def bert(weights_folder: Path, dtype: str) -> Iterator[Any]:
    """A new BertModel, which a test may change."""
    made = transformers.BertModel.from_pretrained(
        weights_folder, attn_implementation="eager", add_pooling_layer=False
    ).eval()
    yield made.to(getattr(torch, dtype))


@pytest.fixture
def check(bert: Any, dtype: str, model: SentenceTransformer, float64_model: SentenceTransformer) -> Callable[..., None]:
    """Compare `ablate` with `bert`, whose tokens are masked by `tokens`."""

    def check(**off: Any) -> None:
        ours = model if dtype == "float32" else float64_model
        ablation = ablate(ours, TEXTS, **off)
        ids, types, mask = (torch.tensor(part) for part in ours.preprocess(TEXTS).values())
        for text, token in off.get("tokens", ()):
            mask[text, token] = 0
        with torch.no_grad():
            hidden = bert(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        expected = torch.nn.functional.normalize(pooled, dim=1).numpy()
        float32 = WITHOUT_LAYER_NORMS if "layer_norms" in off else FLOAT32
        assert_close(ablation.after, expected, float32 if dtype == "float32" else FLOAT64, str(off))
        assert abs(ablation.after - ablation.before).max() > 1e-4, off

    return check


def mask_heads(bert: Any, heads: list[tuple[int, int]]) -> list[Any]:
    """Multiply the output of each head by 0, as a head_mask of 0 does to its attention probabilities."""

    def without(head: int) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            context = inputs[0].clone()
            context[..., D * head : D * (head + 1)] = 0
            return (context, *inputs[1:])

        return hook

    layers = bert.encoder.layer
    return [layers[i].attention.output.dense.register_forward_pre_hook(without(head)) for i, head in heads]


def test_each_head(bert: Any, check: Callable[..., None]) -> None:
    for layer, head in [(0, 0), (0, 11), (1, 3), (2, 7), (3, 5), (4, 10), (5, 0), (5, 11)]:
        hooks = mask_heads(bert, [(layer, head)])
        check(heads=[(layer, head)])
        for hook in hooks:
            hook.remove()


def test_probabilities_multiplied_by_0(bert: Any, check: Callable[..., None]) -> None:
    """The definition of head_mask, which transformers 5 no longer has as an argument."""

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float = 1.0, **_: Any
    ) -> tuple[Any, Any]:
        scores = query @ key.transpose(2, 3) * scaling + (0 if mask is None else mask)
        head_mask = torch.ones(1, 12, 1, 1, dtype=query.dtype)
        if module is bert.encoder.layer[4].attention.self:
            head_mask[:, [2, 9]] = 0
        return ((scores.softmax(-1) * head_mask) @ value).transpose(1, 2), None

    transformers.AttentionInterface.register("head_mask", attend)
    transformers.AttentionMaskInterface.register("head_mask", transformers.masking_utils.eager_mask)
    bert.set_attn_implementation("head_mask")
    check(heads=[(4, 2), (4, 9)])


def test_several_heads_and_layers(bert: Any, check: Callable[..., None]) -> None:
    heads = [(0, 1), (0, 2), (3, 0), (5, 8)]
    mask_heads(bert, heads)
    bert.encoder.layer = torch.nn.ModuleList(bert.encoder.layer[i] for i in (0, 2, 3, 5))
    check(heads=heads, layers=[1, 4])


def test_all_heads_of_a_layer(bert: Any, check: Callable[..., None]) -> None:
    heads = [(2, head) for head in range(12)]
    mask_heads(bert, heads)
    check(heads=heads)


def test_layer_norms(bert: Any, check: Callable[..., None]) -> None:
    bert.embeddings.LayerNorm = torch.nn.Identity()
    bert.encoder.layer[1].attention.output.LayerNorm = torch.nn.Identity()
    bert.encoder.layer[5].output.LayerNorm = torch.nn.Identity()
    check(
        layer_norms=[
            "embeddings.LayerNorm",
            "encoder.layer.1.attention.output.LayerNorm",
            "encoder.layer.5.output.LayerNorm",
        ]
    )


def test_positions(bert: Any, check: Callable[..., None]) -> None:
    bert.embeddings.position_embeddings.weight.data.zero_()
    check(positions=True)


@pytest.mark.parametrize("tokens", [[(0, 0)], [(0, 5)], [(1, 9)], [(0, 0), (0, 7), (2, 1), (2, 2), (2, 3)]])
def test_tokens(check: Callable[..., None], tokens: list[tuple[int, int]]) -> None:
    check(tokens=tokens)
