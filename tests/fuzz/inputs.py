"""Texts for a model: ordinary, odd, long, paired."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

WORDS = [
    "the", "cat", "sat", "on", "mats", "under", "Far", "running", "12", "zebra", "[CLS]", "[SEP]", "[MASK]", "##s",
    ".",
]  # fmt: skip
ODD = [
    "", " ", "\n", "\0", "a", "\u4f60\u597d", "Cafe\u0301 na\u00efve", "\U0001f468\u200d\U0001f469", "\u202eabc\u202c",
    "\ufffd", "\u0130I\u0131", "\u00df\ufb01", "a" * 101, "a" * 3000, "the " * 400, "." * 50, "[SEP]" * 30,
    "\u1e9b\u0323", "\ud800",
]  # fmt: skip


def single_texts() -> st.SearchStrategy[str]:
    sentences = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
    return st.one_of(sentences, sentences, st.sampled_from(ODD), st.text(max_size=12))


def batches(most: int = 3) -> st.SearchStrategy[list[Any]]:
    """Return a strategy for a few texts and pairs, a pair as a list of two."""
    pairs = st.lists(single_texts(), min_size=2, max_size=2)
    return st.lists(st.one_of(single_texts(), single_texts(), pairs), min_size=1, max_size=most)
