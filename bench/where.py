"""Where the time of the forward pass goes, operation by operation: `python bench/where.py`.

One thread, chunks of about 320 word pieces in texts of 20, 64 and 256, both op sets. With matplotlib (the bench extra)
a picture as well, bench/where.svg.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from ladder import one_blas_thread

from minilm_np import kernels, model, ops, weights

LENGTHS = (20, 64, 256)


class Timed:
    """An op set that notes how long each operation of another takes; dense layers by the name of their shape."""

    def __init__(self, op_set: Any):
        self._op_set = op_set
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._op_set, name)

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = operation(*arguments)
            took = time.perf_counter() - start
            key = name
            if name == "linear":
                columns, inputs = result.shape[1], arguments[0].shape[1]
                key = {3: "query, key, value", 1: "attention.output"}.get(columns // inputs, "intermediate")
                key = "output" if columns < inputs else key
            self.seconds[key] = self.seconds.get(key, 0.0) + took
            return result

        return timed


def flop(operation: str, T: int, L: int, config: model.BertConfig) -> float:
    """Of one forward pass over T word pieces in texts of L: 2 for each multiplication and addition of a matmul."""
    H, intermediate = config.hidden_size, config.intermediate_size
    per_token = {
        "query, key, value": 2 * H * 3 * H,
        "attention": 4 * L * H,
        "attention.output": 2 * H * H,
        "intermediate": 2 * H * intermediate,
        "output": 2 * H * intermediate,
    }
    return float(config.num_hidden_layers * T * per_token.get(operation, 0))


def measure(
    berts: dict[str, model.Bert], rounds: int = 9, tokens: int = 320
) -> dict[tuple[str, int], dict[str, float]]:
    """Seconds of each operation in one forward pass, by name of the model and length of its texts.

    Medians over rounds, in each of which every model computes texts of every length once, after two warm-up passes.
    """
    seen: dict[tuple[str, int], dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, bert in berts.items():
            for L in LENGTHS:
                B = max(1, tokens // L)
                token_ids = np.random.default_rng(0).integers(1000, bert.config.vocab_size - 1, B * L).astype(np.int32)
                offsets = np.arange(B + 1, dtype=np.int64) * L
                for _ in range(3):
                    timed = Timed(bert.ops)
                    model.forward(bert._replace(ops=timed), token_ids, np.zeros_like(token_ids), offsets)
                for operation, seconds in timed.seconds.items():
                    seen.setdefault((name, L), {}).setdefault(operation, []).append(seconds)
    return {key: {name: statistics.median(times) for name, times in table.items()} for key, table in seen.items()}


def draw(tables: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "minilm_np"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    left = np.zeros(len(tables))
    names = list(next(iter(tables.values())))
    colors = pyplot.get_cmap("tab10")
    for i, name in enumerate(names):
        shares = np.array([100 * table[name] / sum(table.values()) for table in tables.values()])
        axes.barh(list(tables), shares, left=left, label=name, color=colors(i))
        left += shares
    axes.set(xlabel="% of the time of the forward pass", xlim=(0, 100))
    axes.invert_yaxis()
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.2), frameon=False)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    _, config, params = weights.load()
    limit, _ = one_blas_thread()
    with limit:
        op_sets = {"Numba": kernels, "NumPy": ops}
        tables = measure({name: model.prepare(params, config, op_set) for name, op_set in op_sets.items()})
    for (name, L), table in tables.items():
        T, total = max(1, 320 // L) * L, sum(table.values())
        print(f"{name}, {T} word pieces in texts of {L}: {1e3 * total:.1f} ms")
        for operation, seconds in sorted(table.items(), key=lambda item: -item[1]):
            speed = flop(operation, T, L, config) / seconds / 1e9
            print(f"  {operation:20}{100 * seconds / total:5.1f} %" + (f"{speed:8.0f} GFLOP/s" if speed else ""))
    try:
        draw(
            {f"{name}, texts of {L}": table for (name, L), table in tables.items()}, Path(__file__).parent / "where.svg"
        )
    except ImportError:
        print("matplotlib is not installed: no picture")


if __name__ == "__main__":
    main()
