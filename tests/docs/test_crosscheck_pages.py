"""The numbers on the cross-check's pages are those of the code."""

from __future__ import annotations

import re

from support.paths import REPOSITORY

from minilm_np.crosscheck.gradient_mistakes import GRADIENT_MISTAKES
from minilm_np.crosscheck.gradients import TOLERANCE
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.truth import TOLERANCE_FACTOR, tolerance


def test_crosscheck_pages_show_the_numbers_of_the_code() -> None:
    docs = REPOSITORY / "docs"
    page, matrix = ((docs / name).read_text(encoding="utf-8") for name in ("crosscheck.md", "confusion.md"))
    assert f"{tolerance('sentence_embedding'):.1e} on the final vectors" in page
    assert (
        TOLERANCE_FACTOR == 4
        and "four times" in page
        and "four times" in (docs / "goldens.md").read_text(encoding="utf-8")
    )
    assert f"The tolerance is {TOLERANCE:.1e}" in page
    assert len(GRADIENT_MISTAKES) == 95 and "each of 95 [known" in page
    matrix = matrix.split("<!-- confusion:begin -->")[1]
    made = [row.split(" | ") for row in matrix.splitlines() if re.search(r"\d\.\de[+-]\d\d \|$", row)]
    assert len(made) > 180 and {row[0].removeprefix("| ") for row in made} <= {mistake.name for mistake in catalogue()}
    first = sum(row[0] == f"| {row[1]}" for row in made)
    assert matrix.startswith(f"\n{first} of {len(made)} mistakes made in PyTorch are named first.")
    assert matrix.splitlines()[1].split(" mistakes")[0] in page


def test_sample_reports_describe_causes_as_the_catalogue_does() -> None:
    pages = ((REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "docs/crosscheck.md"))
    causes = [cause for page in pages for cause in re.findall(r"^cause    (\S+): (.*) \(\d", page, re.M)]
    assert len(causes) >= 3 and set(causes) <= {(mistake.name, mistake.description) for mistake in catalogue()}
