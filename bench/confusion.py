"""Check which cause crosscheck names for each fault made in PyTorch: `python bench/confusion.py [NAME ...]`.

The faults are those of tests/support/faults.py. Without names, all that final vectors can show are checked, which takes
some minutes. Needs the parity extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "tests"))


class Row(NamedTuple):
    fault: str  # name of the fault, which is that of the mistake in the catalogue
    named: str  # the first cause in the report; "pass" if the report has no difference, "none" if it has no cause
    explained: float  # share of the squared difference that this cause explains
    max_error: float  # largest error of the final vectors


def visible_faults() -> list[str]:
    """Return the faults that final vectors can show."""
    from support.faults import FAULTS, INVISIBLE

    return [name for name in FAULTS if not INVISIBLE.fullmatch(name)]


def confusion(folder: Path, faults: Sequence[str]) -> list[Row]:
    """Cross-check a port of the checkpoint in `folder` with each of these faults."""
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
    """Return the matrix as a table, with rows that name another mistake first."""
    named_first = sum(row.fault == row.named for row in rows)
    lines = [f"{named_first} of {len(rows)} mistakes made in PyTorch are named first.", ""]
    lines += ["| made in PyTorch | named first | explained | largest error |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.fault == row.named):
        lines.append(f"| {row.fault} | {row.named} | {row.explained:.4f} | {row.max_error:.1e} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Check and print; return the table as Markdown."""
    from minilm_np import weights

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="faults to check (default: all that final vectors can show)")
    arguments = parser.parse_args(argv)
    text = markdown(confusion(weights.find_or_fetch().folder, arguments.names or visible_faults()))
    print(text)
    return (text,)


if __name__ == "__main__":
    main()
