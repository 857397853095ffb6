"""Draw the pictures of the walk, docs/images/walk-1.svg to walk-8.svg, one for each chapter of docs/walk.

`python bench/generate/walk_pictures.py [CHAPTER ...]`. Needs the bench extra. Every number is computed in float64.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from minilm_np import SentenceTransformer
from minilm_np.study import layer_cosines, token_pairs

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "minilm_np"  # the same numbers give the same bytes
from matplotlib import pyplot  # noqa: E402

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FOOD, BREAD, BABY = "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."
BLUE, ORANGE, RED, GREY = "#4c72b0", "#dd8452", "#c44e52", "#999999"


def draw_word_pieces(model: SentenceTransformer) -> Any:
    """The text, its tokens and their ids, for the walk's sentence and for one with a rare word."""
    figure, axes = pyplot.subplots(figsize=(9, 3.6), facecolor="white")
    for top, text in ((0, FOOD), (3.6, "Sentence embeddings")):
        stages = model.stages(text, detail=True)
        tokens = stages["tokens"][0]
        axes.text(0, top, f"“{text}”", fontsize=12, va="center")
        for i, (token, token_id) in enumerate(zip(tokens, stages["token_ids"], strict=True)):
            color = GREY if token in ("[CLS]", "[SEP]") else ORANGE if token.startswith("##") else BLUE
            axes.add_patch(pyplot.Rectangle((i, top + 0.7), 0.94, 0.8, facecolor=color, alpha=0.35))
            axes.text(i + 0.47, top + 1.1, token, fontsize=10, ha="center", va="center")
            axes.text(i + 0.47, top + 1.9, str(token_id), fontsize=10, ha="center", va="center", family="monospace")
        axes.text(len(tokens) + 0.15, top + 1.1, "tokens", fontsize=10, va="center")
        axes.text(len(tokens) + 0.15, top + 1.9, "token ids", fontsize=10, va="center")
    axes.set(xlim=(-0.1, 9.4), ylim=(5.9, -0.5))
    axes.axis("off")
    return figure


def draw_embeddings(model: SentenceTransformer) -> Any:
    """The three vectors of each token, their sum, and the sum after LayerNorm; the first 32 columns of each."""
    stages = model.stages(FOOD, detail=True)
    tables = (("word", "token_ids"), ("position", "position_ids"), ("token_type", "token_type_ids"))
    parts = [model.weights[f"embeddings.{table}_embeddings.weight"][stages[ids]] for table, ids in tables]
    values = (*parts, stages["embeddings.LayerNorm.input"], stages["embeddings"])
    titles = ("word", "+ position", "+ token type", "= sum", "after LayerNorm")
    figure, panels = pyplot.subplots(1, 5, figsize=(11, 2.6), facecolor="white", layout="constrained")
    for panel, value, title in zip(panels, values, titles, strict=True):
        limit = 2 if title == "after LayerNorm" else 0.2
        heat = panel.imshow(
            value[:, :32], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        panel.set_title(title, fontsize=10)
        panel.set(xticks=[], yticks=[])
        if title in ("= sum", "after LayerNorm"):
            figure.colorbar(heat, ax=panel, ticks=[-limit, 0, limit])
    tokens = stages["tokens"][0]
    panels[0].set_yticks(range(len(tokens)), tokens)
    panels[2].set_xlabel("the first 32 of 384 columns")
    return figure


def draw_attention_scores(model: SentenceTransformer) -> Any:
    """The scores and the shares of one head, with their numbers."""
    stages = model.stages(FOOD, detail=True)
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.6), facecolor="white", layout="constrained")
    names = (("attention_scores", "scores: Q Kᵀ / √32", "RdBu_r", -3, 3), ("attention_probs", "shares", "Blues", 0, 1))
    for panel, (name, title, colors, low, high) in zip(panels, names, strict=True):
        heat_map(panel, stages[f"encoder.layer.0.attention.self.{name}"][0][3], stages["tokens"][0], colors, low, high)
        panel.set_title(f"{title}, head 3 of layer 0", fontsize=10)
    panels[0].set_ylabel("token")
    return figure


def heat_map(
    axes: Any, values: Any, tokens: Any, colors: str, low: float, high: float, digits: int = 2, columns: Any = None
) -> None:
    """Draw a matrix (n, m) with its numbers."""
    columns = tokens if columns is None else columns
    axes.imshow(values, cmap=colors, vmin=low, vmax=high, interpolation="nearest")
    for (i, j), value in np.ndenumerate(values):
        color = "white" if abs(value) > 0.6 * max(abs(low), high) else "black"
        text = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: without the sign of -0.0
        text = text.replace("-0.", "-.").removeprefix("0")
        axes.text(j, i, text, fontsize=7, ha="center", va="center", color=color)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
    axes.set_yticks(range(len(tokens)), tokens)


def draw_heads(model: SentenceTransformer) -> Any:
    """The shares of all twelve heads of layer 0."""
    stages = model.stages(FOOD, detail=True)
    tokens = stages["tokens"][0]
    figure, panels = pyplot.subplots(2, 6, figsize=(11, 4.4), facecolor="white", layout="constrained")
    for head, panel in enumerate(panels.flat):
        probs = stages["encoder.layer.0.attention.self.attention_probs"][0][head]
        panel.imshow(probs, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(f"head {head}", fontsize=9)
        panel.set(xticks=[], yticks=[])
        if head % 6 == 0:
            panel.set_yticks(range(len(tokens)), tokens, fontsize=8)
        if head >= 6:
            panel.set_xticks(range(len(tokens)), tokens, fontsize=8, rotation=90)
    return figure


def draw_residual(model: SentenceTransformer) -> Any:
    """How long a token's row is, and what attention adds to it; the row of one token before and after LayerNorm."""
    stages = model.stages(FOOD, detail=True)
    figure, (bars, histogram) = pyplot.subplots(1, 2, figsize=(11, 3.4), facecolor="white", layout="constrained")
    inputs = [stages["embeddings"], *(stages[f"encoder.layer.{i}.output"] for i in range(5))]
    added = [stages[f"encoder.layer.{i}.attention.output.dense"] for i in range(6)]
    layers = np.arange(6)
    for shift, color, label, values in ((-0.2, BLUE, "the token's row", inputs), (0.2, ORANGE, "added", added)):
        lengths = [np.linalg.norm(rows, axis=1).mean() for rows in values]
        bars.bar_label(bars.bar(layers + shift, lengths, 0.38, color=color, label=label), fmt="%.1f", fontsize=8)
    bars.set(xlabel="layer", ylabel="length, mean of 8 tokens", xticks=layers)
    bars.legend(frameon=False, loc="upper left")
    bars.set_ylim(0, 16)
    food = stages["tokens"][0].index("food")
    name = "encoder.layer.0.attention.output"
    edges = np.linspace(-3, 3, 49)
    for color, label, row in (
        (GREY, "the sum: input + attention", stages[f"{name}.LayerNorm.input"][food]),
        (BLUE, "after LayerNorm", stages[name][food]),
    ):
        histogram.hist(row, edges, color=color, alpha=0.6, label=label)
    histogram.set(xlabel="element of the row of “food”, layer 0", ylabel="columns")
    histogram.legend(frameon=False)
    return figure


def draw_gelu(model: SentenceTransformer) -> Any:
    """GELU and ReLU, above a histogram of GELU's inputs."""
    stages = model.stages(FOOD, detail=True)
    inputs = stages["encoder.layer.0.intermediate.dense"]
    figure, (curve, histogram) = pyplot.subplots(
        2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(1.4, 1), facecolor="white", layout="constrained"
    )
    x = np.linspace(-4, 3, 351)
    curve.plot(x, np.maximum(x, 0), color=GREY, linestyle="--", label="ReLU: max(x, 0)")
    curve.plot(x, x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2, color=BLUE, label="GELU: x Φ(x)")
    curve.axhline(0, color="black", linewidth=0.5)
    curve.legend(frameon=False)
    curve.set_ylabel("output")
    counts, edges, bars = histogram.hist(inputs.ravel(), np.linspace(-4, 3, 71), color=ORANGE)
    for edge, bar in zip(edges, bars, strict=False):
        bar.set_facecolor(GREY if edge < -1e-9 else ORANGE)
    share = float(np.mean(inputs < 0))
    histogram.text(-3.9, counts.max() * 0.85, f"{share:.0%} of the inputs are negative", fontsize=9)
    histogram.set(xlabel="input of GELU, layer 0", ylabel="count", xlim=(-4, 3))
    return figure


def draw_layers(model: SentenceTransformer) -> Any:
    """The cosine of three pairs of texts after each layer."""
    figure, axes = pyplot.subplots(figsize=(8, 3.8), facecolor="white", layout="constrained")
    pairs = ((FOOD, BREAD, BLUE, "food and bread", "o"), (FOOD, BABY, RED, "food and baby", "s"))
    for a, b, color, label, marker in (*pairs, (BREAD, BABY, ORANGE, "bread and baby", "^")):
        cosines = list(layer_cosines(model, a, b).values())
        axes.plot(range(7), cosines, color=color, marker=marker, label=label)
        side = "top" if label == "food and baby" else "bottom"  # the labels of the two lowest points would overlap
        axes.annotate(f"{cosines[-1]:.2f}", (6, cosines[-1]), (8, 0), textcoords="offset points", va=side)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xticks(range(7), ["embeddings", *(f"layer {i}" for i in range(6))])
    axes.set(ylabel="cosine of the pooled rows", xlim=(-0.2, 6.5))
    axes.legend(frameon=False, loc="center left")
    return figure


def draw_pairs(model: SentenceTransformer) -> Any:
    """What each pair of tokens adds to two cosines."""
    figure, panels = pyplot.subplots(
        1, 2, figsize=(12, 4.8), width_ratios=(11, 9), facecolor="white", layout="constrained"
    )
    for panel, other in zip(panels, (BREAD, BABY), strict=True):
        pairs = token_pairs(model, FOOD, other)
        heat_map(panel, 100 * pairs.values, pairs.rows, "RdBu_r", -5.4, 5.4, digits=1, columns=pairs.columns)
        panel.set_title(f"hundredths of the cosine; they add up to {100 * pairs.cosine:.2f}", fontsize=10)
    return figure


# By chapter: how it is drawn, its title and its description
PICTURES: tuple[tuple[Callable[[SentenceTransformer], Any], str, str], ...] = (
    (draw_word_pieces, "From text to token ids",
     "“A man is eating food.” becomes eight tokens: [CLS], a, man, is, eating, food, a full stop and [SEP], each with "
     "its id. “Sentence embeddings” becomes seven: embeddings is split into em, ##bed, ##ding and ##s."),
    (draw_embeddings, "Word + position + token type, then LayerNorm",
     "Five heat maps with a row for each of the eight tokens. The vectors from the word, position and type tables add "
     "up to the sum; LayerNorm scales its rows. In the position map, the row of [CLS] is by far the strongest."),
    (draw_attention_scores, "Scores and shares of head 3 in layer 0",
     "Two heat maps, eight by eight tokens, with their numbers. In the row of food, eating has the score 1.77 and the "
     "share .44; food itself has .22."),
    (draw_heads, "The twelve heads of layer 0",
     "Twelve heat maps, eight by eight tokens. Head 2 is a diagonal line: every token looks at the one before. The "
     "other heads spread their attention, often over [CLS] in the first column."),
    (draw_residual, "The residual and LayerNorm",
     "Left: bars for each layer. The row of a token is about twice as long as what attention adds to it; in layer 5 "
     "the two come near each other. Right: two histograms of the row of food, of about the same width. After "
     "LayerNorm, a few columns stand out."),
    (draw_gelu, "GELU and its inputs",
     "Above: ReLU is 0 for negative x and x for positive x; GELU is a smooth curve near it, a little below 0 for "
     "negative x. Below: a histogram of GELU's inputs in layer 0. Most are negative."),
    (draw_layers, "The cosine after each layer",
     "Three curves for the pairs food and bread, food and baby, bread and baby. They rise from about .66 and .84 and "
     "stay above .78 up to layer 4. After layer 5, food and bread are at .76, the other two pairs below 0."),
    (draw_pairs, "What each pair of tokens adds to the cosine",
     "Two heat maps with a row for each token of “A man is eating food.” With the text about bread, eating and eating, "
     "and man and man, add most. With the text about a baby, most pairs are slightly negative."),
)  # fmt: skip


def svg(figure: Any, title: str, description: str) -> str:
    """Return a figure as SVG, with a title and a description that screen readers read out."""
    file = io.StringIO()
    figure.savefig(file, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)
    start, tag, rest = file.getvalue().partition("<svg ")
    attributes, end, content = rest.partition(">")
    lines = [line.rstrip() for line in content.splitlines()]
    names = f"<title>{escape(title)}</title>\n <desc>{escape(description)}</desc>"
    return f'{start}{tag}role="img" {attributes}{end}\n {names}' + "\n".join(lines) + "\n"


def draw(chapter: int, model: SentenceTransformer) -> str:
    """Return the picture of a chapter, 1 to 8, as SVG."""
    picture, title, description = PICTURES[chapter - 1]
    return svg(picture(model), title, description)


def main() -> None:
    chapters = sys.argv[1:] or [str(i) for i in range(1, len(PICTURES) + 1)]
    if unknown := [name for name in chapters if name not in map(str, range(1, len(PICTURES) + 1))]:
        raise SystemExit(f"CHAPTER: expected 1 to {len(PICTURES)}, got {unknown[0]}")
    model = SentenceTransformer(backend="numpy", dtype="float64")
    for name in chapters:
        path = IMAGES / f"walk-{name}.svg"
        path.write_text(draw(int(name), model), encoding="utf-8")
        print(f"{path.name} written")


if __name__ == "__main__":
    main()
