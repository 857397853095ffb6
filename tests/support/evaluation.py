"""Encoders and data files for the tests of minilm_np.evaluate."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SCORE_ATOL = 1e-9  # points: float64 sums in a different order; measured 1.5e-14
STS_TSV = b"sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2.5\ne\\tf\tg\\\\n\t3\n"
TINY_TASKS = [
    "STS12",
    "TwitterURLCorpus",
    "ImdbClassification",
    "RedditClustering",
    "SciDocsRR",
    "NFCorpus",
    "SummEval",
]


def unit_vector(text: str, size: int = 8) -> Any:
    """Return a random float32 unit vector (size,) seeded by the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def encode(texts: Sequence[str]) -> Any:
    """Return the unit vectors (n, 8) of n different texts."""
    assert len(set(texts)) == len(texts), "a text is encoded once"
    return np.stack([unit_vector(text) for text in texts])


class RecordingEncoder:
    """`encode`, with a list of the texts it has encoded."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> Any:
        self.texts.extend(texts)
        return encode(texts)


def numbered(prefix: str, n: int) -> list[str]:
    """Return n different texts."""
    return [f"{prefix} {i}" for i in range(n)]


def jsonl(*rows: Any) -> bytes:
    """Return JSON Lines, one line for each row."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by name into the folder, and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tiny_data(folder: Path) -> Path:
    """Write data for TINY_TASKS, which has one task of each type, and return the folder."""
    return write_files(
        folder,
        {
            "STS12.tsv.gz": gzip.compress(STS_TSV),
            "TwitterURLCorpus.tsv": b"sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t0\ne\tf\t1\n",
            "ImdbClassification.train.jsonl": jsonl(*({"text": f"t{i}", "label": i % 2} for i in range(30))),
            "ImdbClassification.test.jsonl": jsonl(*({"text": f"u{i}", "label": i % 2} for i in range(9))),
            "RedditClustering.jsonl": jsonl(
                {"sentences": numbered("s", 20), "labels": [str(i % 2) for i in range(20)]}
            ),
            "SciDocsRR.jsonl": jsonl({"query": "q", "positive": ["a"], "negative": ["b", "c"]}),
            "NFCorpus/corpus.jsonl": jsonl({"_id": "1", "title": "T", "text": "one"}, {"_id": "2", "text": "two"}),
            "NFCorpus/queries.jsonl": jsonl({"_id": "q", "text": "one"}, {"_id": "r", "text": "no qrels"}),
            "NFCorpus/qrels.tsv": b"query-id\tcorpus-id\tscore\nq\t1\t2\n",
            "SummEval.jsonl": jsonl(
                {"human_summaries": ["h"], "machine_summaries": ["a", "b", "c"], "relevance": [1, 2, 4]},
            ),
        },
    )


def replace_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by name in place of those of the same name, gzipped or not, and return the folder."""
    for name in files:
        for old in folder.glob(name.removesuffix(".gz") + "*"):
            old.unlink()
    return write_files(folder, files)
