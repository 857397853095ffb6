"""Faults made in PyTorch: transformers' BertModel, tokenizer and pooling with one mistake.

`FAULTS` maps names of the catalogue to functions that change a `TorchPort`. The faults share no code with
minilm_np/crosscheck/variant.py, so they test the detector independently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
import transformers
from support.word_pieces import WORD_PIECE_CHANGES, PythonTokenizer, settings
from torch import nn

H, N, D = 384, 12, 32


def load(folder: Path, attention: str = "eager") -> Any:
    return transformers.BertModel.from_pretrained(folder, attn_implementation=attention, add_pooling_layer=False).eval()


class TorchPort:
    """A correct port until a fault changes it. `encode(texts)` pads to the longest text."""

    def __init__(self, folder: Path, attention: str = "eager"):
        self.folder = folder
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.bert = load(folder, attention)
        self.max_length = 256
        self.specials = True
        self.prefix = ""
        self.keep = slice(None)
        self.pad_to: int | None = None
        self.attend_padding = self.pool_padding = self.mask_by_id = False
        self.token_type = 0
        self.positions: Callable[[Any], Any] = lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
        self.pool: Callable[[Any, Any], Any] = mean
        self.scale: Callable[[Any], Any] = lambda pooled: nn.functional.normalize(pooled, dim=1)
        self.order: Callable[[Any], Any] = lambda lengths: np.arange(len(lengths))
        self.types_from_mask = False

    def encode(self, texts: list[str]) -> Any:
        ids = self.tokenizer(
            [self.prefix + text for text in texts], truncation=True, max_length=self.max_length,
            add_special_tokens=self.specials,
        )["input_ids"]  # fmt: skip
        ids = [row[self.keep] for row in ids]
        lengths = [len(row) for row in ids]
        width = max(self.pad_to or 0, *lengths)
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        if self.mask_by_id:
            mask = (padded != 0).long()
        with torch.no_grad():
            hidden = self.bert(
                input_ids=padded,
                attention_mask=torch.ones_like(mask) if self.attend_padding else mask,
                token_type_ids=mask if self.types_from_mask else torch.full_like(padded, self.token_type),
                position_ids=self.positions(mask).clip(0, 511),
            ).last_hidden_state
            vectors = self.scale(self.pool(hidden, torch.ones_like(mask) if self.pool_padding else mask))
        return vectors[torch.as_tensor(self.order(lengths))].float().numpy()

    def layers(self, which: str) -> list[Any]:
        layers = list(self.bert.encoder.layer)
        return layers if which == "all-layers" else [layers[int(which.removeprefix("layer-"))]]


def mean(hidden: Any, mask: Any) -> Any:
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def without_specials(hidden: Any, mask: Any) -> Any:
    inner = mask.clone()
    inner[:, 0] = 0
    inner[torch.arange(len(mask)), mask.sum(1) - 1] = 0
    return mean(hidden, inner)


def module(layer: Any, name: str) -> Any:
    return {
        "query": layer.attention.self.query,
        "key": layer.attention.self.key,
        "value": layer.attention.self.value,
        "attention-output": layer.attention.output.dense,
        "intermediate": layer.intermediate.dense,
        "output": layer.output.dense,
        "attention-layer-norm": layer.attention.output.LayerNorm,
        "output-layer-norm": layer.output.LayerNorm,
    }[name]


DENSE = ("query", "key", "value", "attention-output", "intermediate", "output")


def transpose(dense: Any) -> None:
    weight = dense.weight.data
    dense.weight.data = weight.T.contiguous().view(weight.shape)  # of a square weight simply the transpose


def attention(change: Callable[..., Any]) -> Callable[[TorchPort], None]:
    """Register change(query, key, value, mask, scaling) -> (B, S, N, D) as the attention function of transformers."""

    def apply(port: TorchPort) -> None:
        def forward(
            module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float = 1.0, **_: Any
        ) -> tuple[Any, Any]:
            return change(query, key, value, mask, scaling), None

        transformers.AttentionInterface.register("faulty", forward)
        transformers.AttentionMaskInterface.register("faulty", transformers.masking_utils.eager_mask)
        port.bert = load(port.folder, "faulty")

    return apply


def softmax_attention(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value  # (B, N, S, D)


def scaled_by(factor: float) -> Callable[[TorchPort], None]:
    def change(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
        return softmax_attention(query, key, value, mask, factor).transpose(1, 2)

    return attention(change)


def reorder(first: int, second: int, third: int) -> Callable[[TorchPort], None]:
    def change(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
        parts = (query, key, value)
        return softmax_attention(parts[first], parts[second], parts[third], mask, scaling).transpose(1, 2)

    return attention(change)


def joined(x: Any) -> Any:  # (B, N, S, D) -> (B, S, H)
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], H)


def interleaved(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
    def split(x: Any) -> Any:
        return joined(x).view(x.shape[0], x.shape[2], D, N).permute(0, 3, 1, 2)

    context = softmax_attention(split(query), split(key), split(value), mask, scaling)
    return context.permute(0, 2, 3, 1).reshape(query.shape[0], query.shape[2], N, D)


def not_transposed(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
    B, _, S, _ = query.shape
    query, key, value = (joined(x).view(B, N, S, D) for x in (query, key, value))
    return softmax_attention(query, key, value, mask, scaling).reshape(B, S, N, D)


def not_transposed_back(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
    context = softmax_attention(query, key, value, mask, scaling)
    return context.reshape(context.shape[0], context.shape[2], N, D)


class Unbiased(nn.Module):  # type: ignore[misc]
    def __init__(self, norm: Any):
        super().__init__()
        self.norm = norm

    def forward(self, x: Any) -> Any:
        variance = x.var(-1, keepdim=True, correction=1)
        return (x - x.mean(-1, keepdim=True)) / (variance + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias


def norms(port: TorchPort, change: Callable[[Any], Any]) -> None:
    """Replace each LayerNorm by change(LayerNorm)."""
    port.bert.embeddings.LayerNorm = change(port.bert.embeddings.LayerNorm)
    for layer in port.bert.encoder.layer:
        for output in (layer.attention.output, layer.output):
            output.LayerNorm = change(output.LayerNorm)


def with_eps(eps: float) -> Callable[[Any], Any]:
    def change(norm: Any) -> Any:
        norm.eps = eps
        return norm

    return change


def drop_residual(output: Any) -> None:
    output.forward = MethodType(lambda self, x, residual: self.LayerNorm(self.dense(x)), output)


def pre_norm(port: TorchPort) -> None:
    for layer in port.bert.encoder.layer:
        first, second = layer.attention.output, layer.output
        attend, grow = layer.attention.self.forward, layer.intermediate.forward
        layer.attention.self.forward = lambda x, *a, attend=attend, norm=first.LayerNorm, **k: attend(norm(x), *a, **k)
        layer.intermediate.forward = lambda x, grow=grow, norm=second.LayerNorm: grow(norm(x))
        for output in (first, second):
            output.forward = MethodType(lambda self, x, residual: self.dense(x) + residual, output)


class Function(nn.Module):  # type: ignore[misc]
    def __init__(self, function: Callable[[Any], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def activation(function: Callable[[Any], Any]) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        for layer in port.bert.encoder.layer:
            layer.intermediate.intermediate_act_fn = Function(function)

    return apply


def normalizer(**options: Any) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        from tokenizers.normalizers import BertNormalizer

        right = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
        port.tokenizer.backend_tokenizer.normalizer = BertNormalizer(**(right | options))

    return apply


def parameters(change: Callable[[str, Any], Any]) -> Callable[[TorchPort], None]:
    """Replace each parameter by change(name, parameter)."""

    def apply(port: TorchPort) -> None:
        for name, parameter in port.bert.named_parameters():
            parameter.data = change(name, parameter.data)

    return apply


def int8(axis: int | None) -> Callable[[str, Any], Any]:
    def change(name: str, value: Any) -> Any:
        if value.ndim < 2 or "embeddings" in name:
            return value
        largest = value.abs().amax() if axis is None else value.abs().amax(axis, keepdim=True)
        return torch.round(value / (largest / 127)).clip(-127, 127) * (largest / 127)

    return change


def dense_layers(of_input: Callable[[Any], Any], of_weight: Callable[[Any], Any]) -> Callable[[TorchPort], None]:
    """Round the input of every dense layer, and its weight."""

    def apply(port: TorchPort) -> None:
        for layer in port.bert.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.data = of_weight(layer.weight.data)
                layer.register_forward_pre_hook(lambda _, inputs: (of_input(inputs[0]),))

    return apply


def uint8_by_row(x: Any) -> Any:
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = (high - low) / 255
    return torch.round((x - low) / step) * step + low


def in_format(dtype: Any) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        port.bert = port.bert.to(dtype)

    return apply


def zero_types(port: TorchPort) -> None:
    port.bert.embeddings.token_type_embeddings.weight.data.zero_()


def python_tokenizer(change: Callable[[PythonTokenizer], None]) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        port.tokenizer = PythonTokenizer(port.folder, change)

    return apply


def zero_positions(port: TorchPort) -> None:
    port.bert.embeddings.position_embeddings.weight.data.zero_()


def pooler(tanh: bool = True, normalize: bool = True) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        dense = transformers.BertModel.from_pretrained(port.folder).eval().pooler.dense
        port.pool = lambda hidden, mask: torch.tanh(dense(hidden[:, 0])) if tanh else dense(hidden[:, 0])
        if not normalize:
            port.scale = lambda pooled: pooled

    return apply


def over_width(masked: bool) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        port.pool = lambda hidden, mask: (hidden * mask[:, :, None]).mean(1) if masked else hidden.mean(1)
        port.scale = lambda pooled: pooled

    return apply


def attend_alike(query: Any, key: Any, value: Any, mask: Any, scaling: float) -> Any:
    return softmax_attention(query * 0, key, value, mask, scaling).transpose(1, 2)


def swap_mask_and_types(port: TorchPort) -> None:
    """Types are the mask; the mask is 0 everywhere, and its large negative numbers absorb the scores."""
    attention(lambda q, k, v, mask, scaling: attend_alike(q, k, v, None, scaling))(port)
    port.types_from_mask = True


def keep_layers(*order: int) -> Callable[[TorchPort], None]:
    def apply(port: TorchPort) -> None:
        layers = list(port.bert.encoder.layer)
        port.bert.encoder.layer = nn.ModuleList(layers[i] for i in order)

    return apply


def no_embedding_norm(port: TorchPort) -> None:
    port.bert.embeddings.LayerNorm = nn.Identity()


def running_positions(mask: Any) -> Any:
    """Return positions that continue from one text to the next, as one arange over a packed batch."""
    lengths = mask.sum(1)
    return torch.arange(mask.shape[1]) + (lengths.cumsum(0) - lengths)[:, None]


def left_positions(mask: Any) -> Any:
    return torch.arange(mask.shape[1]) + (mask.shape[1] - mask.sum(1))[:, None]


def longest_first(lengths: list[int]) -> Any:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


FAULTS: dict[str, Callable[[TorchPort], None]] = {
    "gelu-tanh": activation(lambda x: nn.functional.gelu(x, approximate="tanh")),
    "gelu-quick": activation(lambda x: x * torch.sigmoid(1.702 * x)),
    "relu": activation(torch.relu),
    "layer-norm-eps-1e-05": lambda port: norms(port, with_eps(1e-5)),
    "layer-norm-eps-1e-06": lambda port: norms(port, with_eps(1e-6)),
    "layer-norm-unbiased": lambda port: norms(port, Unbiased),
    "embeddings-layer-norm-missing": no_embedding_norm,
    "pre-norm": pre_norm,
    "attention-unscaled": scaled_by(1.0),
    "attention-scale-hidden": scaled_by(1 / math.sqrt(H)),
    "attention-qk-swapped": reorder(1, 0, 2),
    "attention-kv-swapped": reorder(0, 2, 1),
    "attention-qv-swapped": reorder(2, 1, 0),
    "heads-interleaved": attention(interleaved),
    "heads-not-transposed-padded": attention(not_transposed),
    "heads-merged-untransposed-padded": attention(not_transposed_back),
    "attention-scale-squared": scaled_by(1 / D),
    "attention-uniform": attention(attend_alike),
    "mask-and-types-swapped": swap_mask_and_types,
    "mask-and-types-swapped-unmasked": settings(types_from_mask=True, attend_padding=True),
    "positions-all-0": settings(positions=lambda mask: torch.zeros_like(mask)),
    "positions-missing": zero_positions,
    "pooler": pooler(),
    "pooler-not-normalized": pooler(normalize=False),
    "pooler-before-tanh": pooler(tanh=False),
    "pooler-before-tanh-not-normalized": pooler(tanh=False, normalize=False),
    "pooling-sum": settings(pool=lambda hidden, mask: (hidden * mask[:, :, None]).sum(1), scale=lambda pooled: pooled),
    "mean-over-width": over_width(masked=True),
    "mean-over-width-unmasked": over_width(masked=False),
    **{f"truncation-{length}": settings(max_length=length) for length in (32, 64, 254, 258, 384)},
    **{
        f"hidden-states-of-{name}": keep_layers(*range(count))
        for count, name in enumerate(("embeddings", "layer-0", "layer-1", "layer-2", "layer-3"))
    },
    **{name: python_tokenizer(change) for name, change in WORD_PIECE_CHANGES.items()},
    "truncation-128": settings(max_length=128),
    "truncation-512": settings(max_length=512),
    "no-special-tokens": settings(specials=False),
    "no-cls": settings(keep=slice(1, None)),
    "no-sep": settings(keep=slice(None, -1)),
    "cased": normalizer(lowercase=False),
    "cased-without-accents": normalizer(lowercase=False, strip_accents=True),
    "accents-kept": normalizer(strip_accents=False),
    "cjk-not-split": normalizer(handle_chinese_chars=False),
    "no-unicode-cleaning": normalizer(clean_text=False),
    "prefix-query": settings(prefix="query: "),
    "token-types-missing": zero_types,
    "token-types-1": settings(token_type=1),
    "positions-off-by-1": settings(positions=lambda mask: torch.arange(mask.shape[1]).expand(mask.shape) + 1),
    "positions-off-by-2": settings(positions=lambda mask: torch.arange(mask.shape[1]).expand(mask.shape) + 2),
    "positions-not-restarted": settings(positions=running_positions),
    "positions-left-padded": settings(positions=left_positions),
    "padding-attended": settings(attend_padding=True),
    "padding-attended-128": settings(attend_padding=True, pad_to=128),
    "padding-in-mean": settings(pool_padding=True),
    "padding-in-mean-256": settings(pool_padding=True, pad_to=256),
    "padding-unmasked": settings(attend_padding=True, pool_padding=True),
    "padding-mask-by-id": settings(mask_by_id=True),
    "fp16-weights": parameters(lambda _, value: value.half().float()),
    "fp16-activations": in_format(torch.float16),
    "bf16-weights": parameters(lambda _, value: value.bfloat16().float()),
    "bf16-activations": in_format(torch.bfloat16),
    "bf16-dense": dense_layers(lambda x: x.bfloat16().float(), lambda weight: weight.bfloat16().float()),
    "int8-weights-per-tensor": parameters(int8(None)),
    "int8-weights-per-channel": parameters(int8(1)),
    "int8-dense": dense_layers(uint8_by_row, lambda weight: int8(1)("weight", weight)),
    "pooling-cls": settings(pool=lambda hidden, mask: hidden[:, 0]),
    "pooling-max": settings(pool=lambda hidden, mask: hidden.masked_fill(mask[:, :, None] == 0, -1e9).amax(1)),
    "pooling-mean-sqrt-len": settings(
        pool=lambda hidden, mask: mean(hidden, mask) * mask.sum(1, keepdim=True).sqrt(), scale=lambda pooled: pooled
    ),
    "pooling-without-specials": settings(pool=without_specials),
    "no-normalization": settings(scale=lambda pooled: pooled),
    "normalization-twice": settings(scale=lambda pooled: pooled / pooled.square().sum(1, keepdim=True)),
    "rows-longest-first": settings(order=longest_first),
    "rows-shortest-first": settings(order=lambda lengths: np.argsort(lengths, kind="stable")),
    "rows-first-repeated": settings(order=lambda lengths: [0, *range(len(lengths) - 1)]),
    "rows-all-first": settings(order=lambda lengths: [0] * len(lengths)),
    "layers-reversed": keep_layers(5, 4, 3, 2, 1, 0),
    "last-layer-dropped": keep_layers(0, 1, 2, 3, 4),
}


def _of_parameters() -> Iterator[tuple[str, Callable[[TorchPort], None]]]:
    def each(name: str, which: str, change: Callable[[Any], Any]) -> Callable[[TorchPort], None]:
        def apply(port: TorchPort) -> None:
            for layer in port.layers(which):
                change(module(layer, name))

        return apply

    for which in ("all-layers", *(f"layer-{i}" for i in range(6))):
        for name in (*DENSE, "attention-layer-norm", "output-layer-norm"):
            yield f"bias-dropped-{name}-{which}", each(name, which, lambda m: m.bias.data.zero_())
            if name in DENSE:
                yield f"weight-transposed-{name}-{which}", each(name, which, transpose)
        for slug in ("attention", "output"):

            def residual(port: TorchPort, which: str = which, slug: str = slug) -> None:
                for layer in port.layers(which):
                    drop_residual(layer.attention.output if slug == "attention" else layer.output)

            yield f"residual-dropped-{slug}-{which}", residual
    for i in range(5):
        yield f"layer-dropped-{i}", keep_layers(*(j for j in range(6) if j != i))
        for j in range(i + 1, 6):
            order = list(range(6))
            order[i], order[j] = j, i
            yield f"layers-swapped-{i}-{j}", keep_layers(*order)


FAULTS.update(_of_parameters())
# A key bias adds one number to all scores of a row, which does not change their softmax: no vector shows it.
INVISIBLE = re.compile(r"bias-dropped-key-.*")
