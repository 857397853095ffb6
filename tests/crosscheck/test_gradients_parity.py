"""The check of gradients on ports in PyTorch: right ones pass, mistakes are named. Needs the parity extra.

The mistakes are made in a model that is written in PyTorch here, with wrong `backward` methods of autograd functions;
it shares nothing with this package but the weights.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():  # warnings from importing PyTorch and transformers
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the parity extra")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="needs the parity extra")

from minilm_np.crosscheck import crosscheck
from minilm_np.crosscheck.gradients import FLOAT32_ERROR

pytestmark = pytest.mark.parity
F = torch.nn.functional
Change = Callable[["Port"], None]
MIN_NAMED_SHARE = 0.9


# --- right ports


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sentence_transformers_passes(weights_folder: Path, dtype: str, attention: str) -> None:
    options = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    model = sentence_transformers.SentenceTransformer(str(weights_folder), device="cpu", model_kwargs=options).eval()
    ranking = losses.MultipleNegativesRankingLoss(model)

    def gradients(examples: list[list[str]]) -> Any:
        model.zero_grad()
        loss = ranking([model.preprocess(list(column)) for column in zip(*examples, strict=True)], None)
        loss.backward()
        return loss, {name: parameter.grad for name, parameter in model.named_parameters()}

    report = crosscheck(gradients=gradients)
    print(f"\n{dtype}, {attention}: largest error {report.max_error:.1e}")  # measured: 9.1e-6 and 9.7e-15
    assert report.ok and report.max_error <= (2 * FLOAT32_ERROR if dtype == "float32" else 1e-12), report


def adam_steps(
    params: Any,
    gradients: Any,
    rates: Any,
    weight_decay: Any,
    dtype: Any = torch.float32,
    make: Any = torch.optim.AdamW,
) -> Any:
    values = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in params.items()}
    decays = {name: "bias" not in name and "LayerNorm" not in name for name in values}
    groups = [
        {"params": [p for name, p in values.items() if decays[name] is yes], "weight_decay": yes * weight_decay}
        for yes in (True, False)
    ]
    adam = make(groups)
    for step, rate in zip(gradients, rates, strict=True):
        for name, p in values.items():
            p.grad = torch.tensor(step[name], dtype=dtype)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
    return values


def test_adamw_of_pytorch_passes() -> None:
    report = crosscheck(optimizer=adam_steps)
    print(f"\nAdamW in float32: largest error {report.max_error:.1e}")
    assert report.ok and report.max_error > 0, report
    exact = crosscheck(optimizer=partial(adam_steps, dtype=torch.float64))
    assert exact.max_error <= 1e-12


@pytest.mark.parametrize(
    ("cause", "optimizer", "options"),
    [
        ("decay-in-gradient", "Adam", {}),
        ("amsgrad", "AdamW", {"amsgrad": True}),
        ("betas-swapped", "AdamW", {"betas": (0.999, 0.9)}),
        ("eps-1e-06", "AdamW", {"eps": 1e-6}),
        ("sign", "AdamW", {"maximize": True}),
    ],
)
def test_names_other_optimizers_of_pytorch(cause: str, optimizer: str, options: dict[str, Any]) -> None:
    report = crosscheck(optimizer=partial(adam_steps, make=partial(getattr(torch.optim, optimizer), **options)))
    assert report.causes and report.causes[0].name == cause, report


def test_names_a_missing_decay() -> None:
    report = crosscheck(optimizer=lambda params, gradients, rates, decay: adam_steps(params, gradients, rates, 0.0))
    assert report.causes[0].name == "decay-missing", report


# --- a port, written out, whose parts can be replaced


def function(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` with a gradient of its own: backward(dy, *inputs) -> gradients of the inputs."""

    def save_and_run(ctx: Any, *inputs: Any) -> Any:
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    methods = {
        "forward": staticmethod(save_and_run),
        "backward": staticmethod(lambda ctx, dy: backward(dy, *ctx.saved_tensors)),
    }
    created: Any = type("Function", (torch.autograd.Function,), methods)
    apply: Callable[..., Any] = created.apply
    return apply


class Port:
    """BERT as a sentence encoder in PyTorch, with its loss."""

    def __init__(self, bert: Any, tokenizer: Any):
        self.params = {name: p.requires_grad_(True) for name, p in bert.named_parameters()}
        self.tokenizer, self.scale, self.layer = tokenizer, 20.0, -1
        self.after: Callable[[], None] = lambda: None

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        return F.linear(x, weight, bias)

    def layer_norm(self, x: Any, weight: Any, bias: Any) -> Any:
        return F.layer_norm(x, (384,), weight, bias, 1e-12)

    def gelu(self, x: Any) -> Any:
        return F.gelu(x)

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, -1)

    def scores(self, query: Any, key: Any) -> Any:
        return query @ key.transpose(-1, -2) / math.sqrt(32)

    def look_up(self, table: Any, ids: Any, name: str) -> Any:
        return F.embedding(ids, table, padding_idx=0 if name == "word" else None)

    def add(self, x: Any, residual: Any, name: str) -> Any:
        return x + residual

    def pool(self, hidden: Any, mask: Any) -> Any:
        return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def normalize(self, x: Any) -> Any:
        return x / x.norm(dim=1, keepdim=True)

    def between_layers(self, hidden: Any) -> Any:
        return hidden

    def loss(self, anchors: Any, positives: Any) -> Any:
        return F.cross_entropy(self.scale * anchors @ positives.T, torch.arange(len(anchors)))

    def dense(self, x: Any, name: str) -> Any:
        return self.linear(x, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def norm(self, x: Any, name: str) -> Any:
        return self.layer_norm(x, self.params[f"{name}.LayerNorm.weight"], self.params[f"{name}.LayerNorm.bias"])

    def encode(self, texts: list[str]) -> Any:
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        rows = {"word": ids, "token_type": torch.zeros_like(ids), "position": torch.arange(ids.shape[1]).expand_as(ids)}
        looked_up = (
            self.look_up(self.params[f"embeddings.{name}_embeddings.weight"], row, name) for name, row in rows.items()
        )
        hidden = self.norm(sum(looked_up), "embeddings")
        for i in range(6):
            self.layer = i
            hidden = self.between_layers(hidden)
            name = f"encoder.layer.{i}"
            query, key, value = (
                self.dense(hidden, f"{name}.attention.self.{part}").unflatten(-1, (12, 32)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            probs = self.softmax(self.scores(query, key).masked_fill(mask[:, None, None] == 0, -1e9))
            context = (probs @ value).transpose(1, 2).flatten(2)
            projected = self.dense(context, f"{name}.attention.output.dense")
            attention = self.norm(self.add(projected, hidden, "attention"), f"{name}.attention.output")
            intermediate = self.gelu(self.dense(attention, f"{name}.intermediate.dense"))
            projected = self.dense(intermediate, f"{name}.output.dense")
            hidden = self.norm(self.add(projected, attention, "feed-forward"), f"{name}.output")
        return self.normalize(self.pool(hidden, mask))

    def gradients(self, examples: list[list[str]]) -> Any:
        for p in self.params.values():
            p.grad = None
        loss = self.loss(*(self.encode(list(column)) for column in zip(*examples, strict=True)))
        loss.backward()
        self.after()
        return loss, {name: p.grad for name, p in self.params.items()}


# --- mistakes


def part(name: str, new: Callable[..., Any], layer: int | None = None) -> Change:
    """Replace a part of the port, in one layer if it is given."""

    def change(port: Port) -> None:
        right = getattr(port, name)
        setattr(port, name, lambda *inputs: (new if layer in (None, port.layer) else right)(*inputs))

    return change


def on_gradients(change_one: Callable[[str, Any, Any], Any]) -> Change:
    """Replace each gradient at the end: (name, gradient, parameter) -> gradient."""

    def change(port: Port) -> None:
        def after() -> None:
            for name, p in port.params.items():
                p.grad = change_one(name, p.grad, p)

        port.after = after

    return change


def gelu(derivative: Callable[[Any], Any], layer: int | None = None) -> Change:
    return part("gelu", function(F.gelu, lambda dy, x: dy * derivative(x)), layer)


def phi(x: Any) -> Any:
    return torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def derivative_of(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: torch.func.vmap(torch.func.grad(f))(x.flatten()).reshape(x.shape)


def layer_norm(
    mean: bool = True, projection: bool = True, deviation: bool = True, of_weight: str = "z", weighted: bool = True
) -> Change:
    def backward(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
        sd, m = torch.std_mean(x, -1, correction=0, keepdim=True)
        z = (x - m) / sd
        g = dy * weight if weighted else dy
        dx = g - mean * g.mean(-1, keepdim=True) - projection * z * (g * z).mean(-1, keepdim=True)
        dw = dy * (z if of_weight == "z" else x)
        return dx / (sd if deviation else 1), dw.sum((0, 1)), dy.sum((0, 1))

    return part("layer_norm", function(lambda x, w, b: F.layer_norm(x, (384,), w, b, 1e-12), backward))


def linear(change: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any]]) -> Change:
    """`change` gets dx, dW, db and the number of rows of dy."""

    def backward(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
        dx, dweight, dbias = dy @ weight, dy.flatten(0, 1).T @ x.flatten(0, 1), dy.sum((0, 1))
        return change((dx, dy, weight), dweight, dbias, dy.shape[0] * dy.shape[1])

    return part("linear", function(F.linear, backward))


def transposed_dx(inputs: Any, dweight: Any, dbias: Any, n: int) -> Any:
    dx, dy, weight = inputs
    return dy @ weight.T if weight.shape == (384, 384) else dx, dweight, dbias


def softmax(backward: Callable[[Any, Any], Any], layer: int | None = None) -> Change:
    forward = partial(torch.softmax, dim=-1)
    return part("softmax", function(forward, lambda dy, x: backward(dy, forward(x))), layer)


def scores(of_query: float, of_key: float) -> Change:
    def backward(dy: Any, query: Any, key: Any) -> Any:
        return dy @ key * of_query, dy.transpose(-1, -2) @ query * of_key

    return part("scores", function(lambda q, k: q @ k.transpose(-1, -2) / math.sqrt(32), backward))


def look_up(tables: tuple[str, ...], first: bool = False) -> Change:
    """Overwrite rows that occur several times; the last, or the first, remains."""

    def change(port: Port) -> None:
        right = port.look_up

        def wrong(table: Any, ids: Any, name: str) -> Any:
            if name not in tables:
                return right(table, ids, name)

            def backward(dy: Any, table: Any, ids: Any) -> Any:
                dtable = torch.zeros_like(table)
                order = list(zip(ids.flatten().tolist(), dy.flatten(0, 1), strict=True))
                for row, value in reversed(order) if first else order:
                    dtable[row] = value
                if name == "word":
                    dtable[0] = 0
                return dtable, None

            return function(lambda table, ids: table[ids], backward)(table, ids)

        port.look_up = wrong  # type: ignore[method-assign]

    return change


def add(keep: Callable[[str], bool], layer: int | None = None) -> Change:
    return part("add", lambda x, r, name: x + (r if keep(name) else r.detach()), layer)


def cross_entropy(**options: Any) -> Change:
    return part("loss", lambda a, p: F.cross_entropy(20 * a @ p.T, torch.arange(len(a)), **options))


def symmetric(weight: float) -> Change:
    def loss(a: Any, p: Any) -> Any:
        own = torch.arange(len(a))
        return weight * (F.cross_entropy(20 * a @ p.T, own) + F.cross_entropy(20 * p @ a.T, own))

    return part("loss", loss)


def clipped(port: Port) -> None:
    port.after = lambda: torch.nn.utils.clip_grad_norm_(port.params.values(), 1.0)


def clipped_by_value(port: Port) -> None:
    port.after = lambda: torch.nn.utils.clip_grad_value_(port.params.values(), 1.0)


def frozen(start: str) -> Change:
    def change(port: Port) -> None:
        for name, p in port.params.items():
            p.requires_grad_(not name.startswith(start))

    return change


def not_reset(port: Port) -> None:
    right = port.gradients
    total: dict[str, Any] = {}

    def gradients(examples: list[list[str]]) -> Any:
        loss, new = right(examples)
        for name, gradient in new.items():
            total[name] = total.get(name, 0) + gradient
        return loss, dict(total)

    port.gradients = gradients  # type: ignore[method-assign]


def dropout(port: Port) -> None:
    port.add = lambda x, residual, name: F.dropout(x, 0.1) + residual  # type: ignore[method-assign]


def swapped(port: Port) -> None:
    right = port.gradients

    def gradients(examples: list[list[str]]) -> Any:
        loss, new = right(examples)
        return loss, {n.replace("key", "!").replace("value", "key").replace("!", "value"): g for n, g in new.items()}

    port.gradients = gradients  # type: ignore[method-assign]


MISTAKES: dict[str, Change] = {
    "attention-gradient-unscaled": scores(1, 1),
    "attention-gradient-unscaled-query": scores(1, 32**-0.5),
    "attention-gradient-scaled-twice": scores(1 / 32, 1 / 32),
    "softmax-gradient-no-sum": softmax(lambda dy, p: p * dy),
    "softmax-gradient-elementwise": softmax(lambda dy, p: p * (1 - p) * dy),
    "softmax-gradient-missing": softmax(lambda dy, p: dy),
    "softmax-gradient-no-sum-layer-2": softmax(lambda dy, p: p * dy, layer=2),
    "layer-norm-gradient-no-mean": layer_norm(mean=False),
    "layer-norm-gradient-no-projection": layer_norm(projection=False),
    "layer-norm-gradient-no-means": layer_norm(mean=False, projection=False),
    "layer-norm-gradient-no-deviation": layer_norm(deviation=False),
    "layer-norm-gradient-no-weight": layer_norm(weighted=False),
    "layer-norm-weight-gradient-x": layer_norm(of_weight="x"),
    "gelu-gradient-tanh": gelu(derivative_of(lambda x: F.gelu(x, approximate="tanh"))),
    "gelu-gradient-no-density": gelu(lambda x: F.gelu(x) / x),
    "gelu-gradient-relu": gelu(lambda x: (x > 0).float()),
    "gelu-gradient-at-output": gelu(lambda x: derivative_of(F.gelu)(F.gelu(x))),
    "gelu-gradient-density-unscaled": gelu(lambda x: F.gelu(x) / x + x * torch.exp(-(x**2) / 2)),
    "gelu-gradient-density-without-x": gelu(lambda x: F.gelu(x) / x + phi(x)),
    "gelu-gradient-missing": gelu(torch.ones_like),
    "gelu-gradient-relu-layer-4": gelu(lambda x: (x > 0).float(), layer=4),
    "residual-gradient-missing": add(lambda name: False),
    "residual-gradient-missing-attention": add(lambda name: name != "attention"),
    "residual-gradient-missing-feed-forward": add(lambda name: name == "attention"),
    "residual-gradient-missing-layer-0": add(lambda name: False, layer=0),
    "sublayer-gradient-missing-feed-forward": part(
        "add", lambda x, r, name: (x.detach() if name == "feed-forward" else x) + r
    ),
    "linear-gradient-transposed": linear(transposed_dx),
    "bias-gradient-mean-padded": linear(lambda dx, dw, db, n: (dx[0], dw, db / n)),
    "weight-gradient-transposed": on_gradients(
        lambda name, g, p: g.T if name.startswith("encoder") and g.shape == (384, 384) else g
    ),
    "embedding-gradient-last-word": look_up(("word",)),
    "embedding-gradient-first-word": look_up(("word",), first=True),
    "embedding-gradient-last-padded": look_up(("word", "token_type", "position")),
    "padding-row-gradient": part("look_up", lambda table, ids, name: table[ids]),
    "pool-gradient-no-mean": part(
        "pool",
        function(
            lambda h, m: (h * m[:, :, None]).sum(1) / m.sum(1, keepdim=True),
            lambda dy, h, m: (dy[:, None] * m[:, :, None], None),
        ),
    ),
    "pool-gradient-padded": part(
        "pool",
        function(
            lambda h, m: (h * m[:, :, None]).sum(1) / m.sum(1, keepdim=True),
            lambda dy, h, m: (dy[:, None] * m[:, :, None] / m.shape[1], None),
        ),
    ),
    "pool-gradient-first-token": part("pool", lambda h, m: (h * m[:, :, None]).sum(1).detach() / m.sum(
        1, keepdim=True) + h[:, 0] - h[:, 0].detach()),
    "normalize-gradient-no-projection": part("normalize", lambda x: x / x.norm(dim=1, keepdim=True).detach()),
    "normalize-gradient-no-length": part(
        "normalize",
        function(
            lambda x: F.normalize(x),
            lambda dy, x: dy - F.normalize(x) * (dy * F.normalize(x)).sum(1, keepdim=True),
        ),
    ),
    "normalize-gradient-missing": part("normalize", function(F.normalize, lambda dy, x: dy)),
    "loss-sum": cross_entropy(reduction="sum"),
    "loss-scale-1": part("loss", lambda a, p: F.cross_entropy(a @ p.T, torch.arange(len(a)))),
    "loss-scale-1/0.07": part("loss", lambda a, p: F.cross_entropy(a @ p.T / 0.07, torch.arange(len(a)))),
    "loss-symmetric": symmetric(0.5),
    "loss-symmetric-sum": symmetric(1.0),
    "loss-direction-reversed": part("loss", lambda a, p: F.cross_entropy(20 * p @ a.T, torch.arange(len(a)))),
    "positives-detached": part("loss", lambda a, p: F.cross_entropy(20 * a @ p.detach().T, torch.arange(len(a)))),
    "gradients-clipped": clipped,
    "gradients-clipped-by-value": clipped_by_value,
    "gradients-doubled": on_gradients(lambda name, g, p: 2 * g),
    "gradients-scaled": on_gradients(lambda name, g, p: 65536 * g),
    "gradients-accumulate": not_reset,
    "gradients-swapped": swapped,
    "weight-decay-in-gradient": on_gradients(lambda name, g, p: g + 0.01 * p.detach()),
    "dropout-on": dropout,
    "gradient-missing": frozen("encoder.layer.3."),
    "gradient-stops": part("between_layers", lambda hidden: hidden.detach(), layer=2),
    "gradient-of-value-input-missing": lambda port: setattr(
        port, "dense", lambda x, name: Port.dense(port, x.detach() if name.endswith("value") else x, name)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ports(weights_folder: Path) -> Callable[[Change], Port]:
    bert = transformers.BertModel.from_pretrained(weights_folder, add_pooling_layer=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_folder)

    def make(change: Change) -> Port:
        port = Port(bert, tokenizer)
        change(port)
        return port

    return make


def test_the_port_without_a_mistake_passes(ports: Callable[[Change], Port]) -> None:
    report = crosscheck(gradients=ports(lambda port: None).gradients)
    print(f"\nlargest error {report.max_error:.1e}")
    assert report.ok and report.max_error > 0, report


def test_names_at_least_90_percent_of_mistakes_first(ports: Callable[[Change], Port]) -> None:
    wrong, seconds = [], []
    for name, change in MISTAKES.items():
        port, start = ports(change), time.process_time()
        report = crosscheck(gradients=port.gradients)
        seconds.append(time.process_time() - start)
        assert not report.ok, name
        named = report.causes[0].name if report.causes and report.causes[0].fits else None
        if named != name:
            wrong.append((name, named, str(report)))
    print(f"\n{len(MISTAKES) - len(wrong)} of {len(MISTAKES)} named first; not: {wrong}")
    print(f"CPU seconds for each: median {sorted(seconds)[len(seconds) // 2]:.1f}, most {max(seconds):.1f}")
    assert len(MISTAKES) >= 20 and len(wrong) <= (1 - MIN_NAMED_SHARE) * len(MISTAKES), wrong


# Mistakes that are in no catalogue, and the parameter that is wrong first
OUTSIDE: dict[str, tuple[str, Change]] = {
    "half the softmax's sum": (
        "encoder.layer.5.attention.self.query.bias",
        softmax(lambda dy, p: p * (dy - 0.5 * (dy * p).sum(-1, keepdim=True))),
    ),
    "a derivative of GELU that is 1 % too large in layer 3": (
        "encoder.layer.3.intermediate.dense.bias",
        gelu(lambda x: 1.01 * derivative_of(F.gelu)(x), layer=3),
    ),
    "half the residual's gradient in layer 2": (
        "encoder.layer.2.attention.output.LayerNorm.bias",
        part("add", lambda x, r, name: x + 0.5 * r + 0.5 * r.detach(), layer=2),
    ),
    "focal loss": (
        "encoder.layer.5.output.LayerNorm.bias",
        part("loss", lambda a, p: F.cross_entropy(20 * a @ p.T, torch.arange(len(a)), label_smoothing=0.1)),
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_places_a_mistake_that_is_in_no_catalogue(ports: Callable[[Change], Port], name: str) -> None:
    first, change = OUTSIDE[name]
    report = crosscheck(gradients=lambda examples: ports(change).gradients(examples)[1])
    assert report.first_divergence == first and not any(cause.fits for cause in report.causes), report
    assert f"the first wrong parameter, from the loss backwards, is {first}" in str(report)


def test_rounding_of_a_low_precision_is_recognized(ports: Callable[[Change], Port]) -> None:
    bfloat16 = part("linear", lambda *inputs: F.linear(*(value.bfloat16() for value in inputs)).float())
    report = crosscheck(gradients=ports(bfloat16).gradients)
    print(f"\nbfloat16: largest error {report.max_error:.1e}")
    assert not any(cause.fits for cause in report.causes) and "rounding of float16, bfloat16 or TF32?" in str(report)
