"""The pairs of texts whose gradients a port computes.

They are chosen so that every mistake shows: lengths differ, so that padding and the mean over tokens matter; word
pieces occur twice in a text, and in many texts; one text has a written [PAD], whose row of the word table gets no
gradient. All pairs are about one subject, so that the loss is not small: a loss near 0 has gradients that consist of
rounding. Their number is not a power of 2, so that "the sum instead of the mean" is no other factor.
"""

from __future__ import annotations

_PAIRS = (
    ("How do I bake bread?", "Mix flour, water, salt and yeast, let the dough rise, and bake it for 40 minutes."),
    ("the bread and the butter and the bread", "Spread the butter on the bread."),
    ("bread", "Bread is baked."),
    ("Why did my dough not rise, although I waited for three hours and the kitchen was warm?", "The yeast was old."),
    ("Is sourdough bread the same as bread with yeast?", "No: wild yeast and bacteria in a starter make it rise."),
    ("What does [PAD] mean in my bread recipe?", "Nothing, it is a mistake."),
    ("How long should bread cool down before I cut it?",
     "Wait for at least one hour, because the bread is still baking inside while it cools down; bread that is cut "
     "while it is hot gets gummy."),
)  # fmt: skip


def gradient_examples() -> list[list[str]]:
    """Return the 7 rows of [anchor, positive] that `crosscheck(gradients=...)` hands to a port."""
    return [list(pair) for pair in _PAIRS]
