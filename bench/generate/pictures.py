"""Draw the pictures of docs/images: `python bench/generate/pictures.py overview|ladder|where`. Needs the bench extra.

The overview shows values that the model computes. The other two show new measurements, which bench/ladder.py and
bench/where.py also print.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

IMAGES = Path(__file__).parents[2] / "docs" / "images"

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "minilm_np"  # the same numbers give the same bytes
from matplotlib import pyplot  # noqa: E402


def draw_overview(path: Path) -> None:
    """Draw the way from two sentences to two vectors, and the attention of one head on a third sentence."""
    from minilm_np import SentenceTransformer

    model = SentenceTransformer(backend="numpy")
    sentences = ["Hello, world", "The sun is out"]
    stages = model.stages(sentences, detail=True)
    figure, (flow, heat) = pyplot.subplots(1, 2, figsize=(11, 4.8), width_ratios=(1.45, 1), facecolor="white")
    draw_flow(flow, stages)
    stages = model.stages(["The cat sat on the mat."], detail=True)
    tokens = stages["tokens"][0]
    heat.imshow(stages["encoder.layer.0.attention.self.attention_probs"][0][2], cmap="Blues", vmin=0, vmax=1)
    heat.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
    heat.set_yticks(range(len(tokens)), tokens)
    heat.set(ylabel="token", xlabel="attends to")
    heat.set_title("One of 72 heads: layer 0, head 2", fontsize=10)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def draw_flow(axes: Any, stages: dict[str, Any]) -> None:
    """Draw each step from texts to vectors as a row: its value on the left, its shape on the right."""
    lengths = [len(tokens) for tokens in stages["tokens"]]
    packed = [token for tokens in stages["tokens"] for token in tokens]
    total = len(packed)
    colors = [color for color, n in zip(("#4c72b0", "#dd8452"), lengths, strict=True) for _ in range(n)]
    cosine = float(np.dot(*stages["sentence_embedding"]))
    rows = (
        ("word pieces, packed one sentence after another", f"({total},)", packed),
        ("embeddings: word + position + token type, LayerNorm", f"({total}, 384)", [""] * total),
        (
            "6 layers, each: self-attention within the sentence,\nfeed-forward 384 to 1536 to 384; residual, LayerNorm",
            f"({total}, 384)",
            [""] * total,
        ),
        ("mean over the tokens of each sentence", "(2, 384)", None),
        (f"unit vectors; their dot product is the cosine similarity: {cosine:.2f}", "(2, 384)", None),
    )
    for y, (title, shape, cells) in zip((0, 1, 2.2, 3.2, 4.2), rows, strict=True):
        axes.text(0, y - 0.36, title, fontsize=9, va="bottom")
        axes.text(total + 0.3, y, shape, fontsize=9, va="center", family="monospace")
        for i in range(total if cells else 2):
            x, width = (i, 0.94) if cells else (0 if i == 0 else lengths[0], lengths[i] - 0.06)
            color = colors[i] if cells else ("#4c72b0", "#dd8452")[i]
            axes.add_patch(pyplot.Rectangle((x, y - 0.27), width, 0.5, facecolor=color, alpha=0.3 if y == 0 else 0.75))
            if cells:
                axes.text(x + width / 2, y, cells[i], fontsize=8, ha="center", va="center")
        if y:
            axes.annotate(
                "",
                (total + 1.2, y - 0.3),
                (total + 1.2, y - (0.9 if y == 2.2 else 0.7)),
                arrowprops={"arrowstyle": "->", "lw": 1.2},
            )
    axes.set(xlim=(-0.2, total + 2.6), ylim=(4.6, -0.8))
    axes.axis("off")


def draw_ladder(speeds: dict[str, float], peak: float, path: Path) -> None:
    """Draw a bar for each step, in GFLOP/s, and the peak as a line."""
    figure, axes = pyplot.subplots(figsize=(8, 3))
    bars = axes.barh(list(speeds), list(speeds.values()), color=["#4c72b0"] * (len(speeds) - 1) + ["#999999"])
    axes.bar_label(bars, [f"{speed:.0f}" for speed in speeds.values()], padding=3)
    axes.axvline(peak, color="#c44e52", linestyle="--")
    axes.text(peak, -0.7, f"FMA peak {peak:.0f}", color="#c44e52", ha="right", va="bottom")
    axes.set(xlabel="GFLOP/s, one thread", xlim=(0, 1.1 * max(peak, *speeds.values())))
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def draw_where(tables: dict[tuple[str, int], dict[str, float]], path: Path) -> None:
    """Draw each operation's share of the time, in a bar for each op set and text length."""
    labels = [f"{op_set}, texts of {length}" for op_set, length in tables]
    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    left = np.zeros(len(tables))
    colors = pyplot.get_cmap("tab10")
    for i, name in enumerate(next(iter(tables.values()))):
        shares = np.array([100 * table[name] / sum(table.values()) for table in tables.values()])
        axes.barh(labels, shares, left=left, label=name, color=colors(i))
        left += shares
    axes.set(xlabel="% of the time of the forward pass", xlim=(0, 100))
    axes.invert_yaxis()
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.2), frameon=False)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    name = " ".join(sys.argv[1:])
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if name == "overview":
        draw_overview(IMAGES / "overview.svg")
    elif name == "ladder":
        import ladder

        draw_ladder(*ladder.main(), IMAGES / "ladder.svg")
    elif name == "where":
        import where

        draw_where(where.main(), IMAGES / "where.svg")
    else:
        raise SystemExit("usage: python bench/generate/pictures.py overview|ladder|where")


if __name__ == "__main__":
    main()
