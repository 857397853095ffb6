"""How far from the truth is every stage? `python bench/fidelity.py` measures and writes the table in README.md.

The truth is minilm_np in float64. PyTorch in float64 confirms it, stage by stage; then the float32 runs of both are
measured against it. Needs the parity extra. tests/test_model_parity.py asserts what this measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import SentenceTransformer, weights
from minilm_np.tokenizer import Text, Tokens

Array = npt.NDArray[Any]
README = Path(__file__).parent.parent / "README.md"
TEXTS: list[Text] = [
    "",
    "A man is eating food.",
    "Caf\u00e9 \u4f60\u597d \U0001f600 na\u00efve",
    ("How many people live in Berlin?", "Berlin has a population of 3,520,031."),
    "Sentence embeddings are compared by their cosine; one wrong constant is hardly seen in it. " * 3,
    "The quick brown fox jumps over the lazy dog, twice on Sundays; nobody knows why it bothers. " * 20,  # cut at 256
]


def kind(stage: str) -> str:
    """encoder.layer.3.attention.self.query -> attention.self.query"""
    return re.sub(r"^encoder\.layer\.\d+\.", "", stage)


def load_bert(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import BertModel

    return BertModel.from_pretrained(folder, attn_implementation="eager", dtype=getattr(torch, dtype)).eval()


def pytorch_stages(bert: Any, tokens: Tokens) -> dict[str, Array]:
    """Every stage of transformers' BertModel for one text, then mean pooling and L2 normalisation."""
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
    """Every stage for one text; attention_probs as one array (N, S, S)."""
    stages = model.stages([text])
    return {name: value[0] if isinstance(value, list) else value for name, value in stages.items()}


def measure(folder: Path, texts: Iterable[Text] = TEXTS) -> dict[str, dict[str, float]]:
    """Largest difference of an element, by kind of stage, over texts and layers, one column a run."""
    ours = {dtype: SentenceTransformer(folder, backend="numpy", dtype=dtype) for dtype in ("float32", "float64")}
    numba = SentenceTransformer(folder, backend="numba")
    theirs = {dtype: load_bert(folder, dtype) for dtype in ("float32", "float64")}
    table: dict[str, dict[str, float]] = {}
    for text in texts:
        tokens = ours["float32"].tokens([text])
        truth = our_stages(ours["float64"], text)
        runs = {
            "NumPy float32": our_stages(ours["float32"], text),
            "Numba float32": our_stages(numba, text),
            "PyTorch float32": pytorch_stages(theirs["float32"], tokens),
            "PyTorch float64": pytorch_stages(theirs["float64"], tokens),
        }
        for stage, wanted in truth.items():
            row = table.setdefault(kind(stage), dict.fromkeys(runs, 0.0))
            for name, run in runs.items():
                assert run[stage].shape == wanted.shape, (name, stage)
                # np.maximum keeps NaN; max() would not
                row[name] = float(np.maximum(row[name], np.abs(run[stage] - wanted).max()))
    return table


def markdown(table: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(table.values())))
    lines = ["| stage | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {kind} | " + " | ".join(f"{row[c]:.1e}" for c in columns) + " |" for kind, row in table.items()]
    return "\n".join(lines) + "\n"


def write_block(name: str, text: str) -> None:
    """Replace what stands in README.md, if there is one, between <!-- name:begin --> and <!-- name:end -->."""
    if not README.exists():
        print("README.md: no such file; nothing written")
        return
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"README.md: {begin.strip()} ... {end} not found")
    README.write_text(before + begin + text + end + after, encoding="utf-8")


if __name__ == "__main__":
    import torch
    import transformers

    table = measure(weights.find_or_fetch().folder)
    versions = f"NumPy {np.__version__}, PyTorch {torch.__version__}, transformers {transformers.__version__}"
    text = f"{markdown(table)}\n{versions}; {len(TEXTS)} texts of 2 to 256 word pieces.\n"
    print(text)
    write_block("fidelity", text)
