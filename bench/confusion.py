"""Which mistake is taken for which? `python bench/confusion.py --write` puts the matrix into docs/confusion.md.

Every fault of tests/support/faults.py is made in PyTorch and cross-checked. Needs the parity extra; some minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))
PAGE = HERE.parent / "docs" / "confusion.md"


class Row(NamedTuple):
    fault: str  # what was done
    named: str  # what was named first; "pass", or "none" if nothing explains it
    explained: float
    max_error: float


def visible_faults() -> list[str]:
    """Every fault that a final vector can show."""
    from support.faults import FAULTS, INVISIBLE

    return [name for name in FAULTS if not INVISIBLE.fullmatch(name)]


def confusion(folder: Path, faults: Sequence[str]) -> list[Row]:
    """Make each of these faults and see what it is taken for."""
    from support.faults import FAULTS, Backend

    from minilm_np.crosscheck import crosscheck

    rows = []
    for fault in faults:
        backend = Backend(folder)
        FAULTS[fault](backend)
        report = crosscheck(backend.encode)
        cause = report.causes[0] if report.causes else None
        named = "pass" if report.ok else cause.name if cause else "none"
        rows.append(Row(fault, named, cause.explained if cause else 0.0, report.max_error))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    right = sum(row.fault == row.named for row in rows)
    lines = [f"{right} of {len(rows)} mistakes made in PyTorch are named first.", ""]
    lines += ["| made in PyTorch | named first | explained | largest error |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.fault == row.named):
        lines.append(f"| {row.fault} | {row.named} | {row.explained:.4f} | {row.max_error:.1e} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from minilm_np import weights

    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    text = markdown(confusion(weights.find_or_fetch().folder, arguments.names or visible_faults()))
    print(text)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- confusion:begin -->\n")
        after = rest.partition("<!-- confusion:end -->")[2]
        PAGE.write_text(f"{before}<!-- confusion:begin -->\n{text}<!-- confusion:end -->{after}", encoding="utf-8")
