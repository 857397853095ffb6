"""Confusion matrix of crosscheck: the cause named for each fault made in PyTorch (tests/support/faults.py).

`python bench/confusion.py NAME ...` checks the named faults, without names all of them, which takes some minutes.
`--write` writes the matrix into docs/confusion.md. Needs the parity extra.
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
    fault: str
    named: str  # the first cause of the report; "pass" if it has no difference, "none" if it has no cause
    explained: float
    max_error: float


def visible_faults() -> list[str]:
    """Return the faults that final vectors can show."""
    from support.faults import FAULTS, INVISIBLE

    return [name for name in FAULTS if not INVISIBLE.fullmatch(name)]


def confusion(folder: Path, faults: Sequence[str]) -> list[Row]:
    """Cross-check a port with each of these faults. folder: the checkpoint."""
    from support.faults import FAULTS, TorchPort

    from minilm_np.crosscheck import crosscheck

    rows = []
    for fault in faults:
        port = TorchPort(folder)
        FAULTS[fault](port)
        report = crosscheck(port.encode)
        cause = report.causes[0] if report.causes else None
        named = "pass" if report.ok else cause.name if cause else "none"
        rows.append(Row(fault, named, cause.explained if cause else 0.0, report.max_error))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    named_first = sum(row.fault == row.named for row in rows)
    lines = [f"{named_first} of {len(rows)} mistakes made in PyTorch are named first.", ""]
    lines += ["| made in PyTorch | named first | explained | largest error |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.fault == row.named):
        lines.append(f"| {row.fault} | {row.named} | {row.explained:.4f} | {row.max_error:.1e} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from minilm_np import weights

    parser = argparse.ArgumentParser(description="Print which cause is named for each fault made in PyTorch.")
    parser.add_argument("--write", action="store_true", help="write the matrix into docs/confusion.md")
    parser.add_argument("names", nargs="*", help="faults to check (default: all that final vectors can show)")
    arguments = parser.parse_args()
    text = markdown(confusion(weights.find_or_fetch().folder, arguments.names or visible_faults()))
    print(text)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- confusion:begin -->\n")
        after = rest.partition("<!-- confusion:end -->")[2]
        PAGE.write_text(f"{before}<!-- confusion:begin -->\n{text}<!-- confusion:end -->{after}", encoding="utf-8")
