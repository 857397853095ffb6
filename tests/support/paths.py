"""Where the files of this checkout are."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"  # data for tests that is not part of the project; it may be absent
