"""Fuzz by hand: `python tests/fuzz/run.py --minutes 120 --seed 3 [AREA ...]`. See README.md in this folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import search
from fuzz.parent import Child, FuzzError


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed hostile input to minilm_np until the time is over.")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"{', '.join(search.AREAS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="default: 1")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--replay", type=Path, metavar="DIR", help="run the saved case in this folder, and no other")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), metavar="DIR", help="where failed cases are saved"
    )
    arguments = parser.parse_args()
    if arguments.replay:
        with Child() as child:
            try:
                print(child.run_folder(arguments.replay))
            except FuzzError as error:
                print(f"FAILED  {error}")
                return 1
        return 0
    areas = arguments.areas or list(search.AREAS)
    unknown = sorted(set(areas) - set(search.AREAS))
    if unknown:
        parser.error(f"AREA: expected {', '.join(search.AREAS)}, got {', '.join(unknown)}")
    return search.many_rounds(areas, arguments.minutes * 60, arguments.seed, arguments.failures)


if __name__ == "__main__":
    sys.exit(main())
