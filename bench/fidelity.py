"""Measure the error of every stage against the float64 reference: `python bench/fidelity.py`.

The reference is minilm_np in float64, on the NumPy op set. PyTorch in float64 confirms it at every stage; then the
float32 runs of NumPy, Numba and PyTorch are compared with it. Needs the parity extra. tests/test_model_parity.py
asserts bounds on these errors.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import SentenceTransformer, weights
from minilm_np.crosscheck import probe_texts
from minilm_np.tokenizer import Text, Tokens

Array = npt.NDArray[Any]
Table = dict[str, dict[str, float]]  # largest error, by kind of stage and run
CONFIRMS = "PyTorch float64"  # the run that confirms the reference; all others are float32


def kind(stage: str) -> str:
    """Return the stage's name without its layer: attention.self.query of encoder.layer.3.attention.self.query."""
    return re.sub(r"^encoder\.layer\.\d+\.", "", stage)


def load_bert(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import BertModel

    return BertModel.from_pretrained(folder, attn_implementation="eager", dtype=getattr(torch, dtype)).eval()


def pytorch_stages(bert: Any, tokens: Tokens) -> dict[str, Array]:
    """Return every stage of transformers' BertModel for one text, then mean pooling and L2 normalization."""
    import torch

    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    handles = [bert.embeddings.register_forward_hook(keep("embeddings"))]
    for i, layer in enumerate(bert.encoder.layer):
        modules = {
            "attention.self.query": layer.attention.self.query,
            "attention.self.key": layer.attention.self.key,
            "attention.self.value": layer.attention.self.value,
            "attention.self": layer.attention.self,
            "attention.output": layer.attention.output,
            "intermediate": layer.intermediate,
            "output": layer.output,
        }
        handles += [m.register_forward_hook(keep(f"encoder.layer.{i}.{name}")) for name, m in modules.items()]
    ids, types = (torch.tensor(np.asarray(part, np.int64))[None] for part in tokens[:2])
    with torch.no_grad():
        hidden_states = bert(input_ids=ids, token_type_ids=types, attention_mask=torch.ones_like(ids)).last_hidden_state
        pooled = hidden_states.mean(dim=1)
        embedding = torch.nn.functional.normalize(pooled, dim=1)
    for handle in handles:
        handle.remove()
    stages = {}
    for name, value in seen.items():
        if name.endswith("attention.self"):
            stages[f"{name}.attention_probs"] = value[1][0].numpy()
            stages[f"{name}.context"] = value[0][0].numpy()
        else:
            stages[name] = value[0].numpy()
    return {**stages, "pooled": pooled.numpy(), "sentence_embedding": embedding.numpy()}


def our_stages(model: SentenceTransformer, text: Text) -> dict[str, Array]:
    """Return every stage for one text; attention_probs is one array (N, S, S)."""
    stages = model.stages([text])
    return {name: value[0] if isinstance(value, list) else value for name, value in stages.items()}


def measure(folder: Path, texts: Iterable[Text]) -> Table:
    """Return the largest error of an element over texts, layers and tokens, by kind of stage and run."""
    ours = {dtype: SentenceTransformer(folder, backend="numpy", dtype=dtype) for dtype in ("float32", "float64")}
    numba = SentenceTransformer(folder, backend="numba")
    theirs = {dtype: load_bert(folder, dtype) for dtype in ("float32", "float64")}
    table: Table = {}
    for text in texts:
        tokens = ours["float32"].tokens([text])
        reference = our_stages(ours["float64"], text)
        runs = {
            "NumPy float32": our_stages(ours["float32"], text),
            "Numba float32": our_stages(numba, text),
            "PyTorch float32": pytorch_stages(theirs["float32"], tokens),
            CONFIRMS: pytorch_stages(theirs["float64"], tokens),
        }
        for stage, expected in reference.items():
            row = table.setdefault(kind(stage), dict.fromkeys(runs, 0.0))
            for name, run in runs.items():
                assert run[stage].shape == expected.shape, (name, stage)
                # np.maximum keeps NaN; max() would not
                row[name] = float(np.maximum(row[name], np.abs(run[stage] - expected).max()))
    return table


def markdown(table: Table) -> str:
    """Return the table with a row for each kind of stage and a column for each run."""
    runs = list(next(iter(table.values())))
    lines = ["| stage | " + " | ".join(runs) + " |", "|---|" + "---|" * len(runs)]
    lines += [f"| {kind} | " + " | ".join(f"{row[run]:.1e}" for run in runs) + " |" for kind, row in table.items()]
    return "\n".join(lines) + "\n"


def summary(table: Table) -> str:
    """Return the README's table: for each float32 run the error of the sentence embedding and that of any stage."""
    lines = ["| largest error of an element | sentence embedding | any stage |", "|---|---|---|"]
    for run in table["sentence_embedding"]:
        if run != CONFIRMS:
            worst = max(row[run] for row in table.values())
            lines.append(f"| {run} | {table['sentence_embedding'][run]:.1e} | {worst:.1e} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> tuple[str, str]:
    """Measure and print; return the page's table and the README's summary as Markdown."""
    import torch
    import transformers

    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args(argv)
    folder, texts = weights.find_or_fetch().folder, probe_texts()
    table = measure(folder, texts)
    lengths = np.diff(SentenceTransformer(folder, backend="numpy").tokens(texts).offsets)
    about = (
        f"NumPy {np.__version__}, PyTorch {torch.__version__}, transformers {transformers.__version__}; "
        f"{len(texts)} texts of {lengths.min()} to {lengths.max()} word pieces."
    )
    page = f"{markdown(table)}\n{about}\n"
    print(page)
    return page, summary(table)


if __name__ == "__main__":
    main()
