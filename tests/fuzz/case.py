"""One input for the code under test, and how it is kept: a folder with the hostile files and a case.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, repr=False)
class Case:
    """What one area feeds to the package once."""

    area: str  # the name of a module in fuzz/areas, whose `run` takes the case
    files: Mapping[str, bytes] = field(default_factory=dict)  # contents by path in the case's folder
    settings: Mapping[str, Any] = field(default_factory=dict)  # everything else, as JSON can hold it

    def __repr__(self) -> str:  # hypothesis prints it
        return f"<{self.area} {', '.join(self.files)[:200]} {self.size} bytes>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # else hypothesis prints every byte of a dataclass
        printer.text(repr(self))

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        text = json.dumps({"area": self.area, "settings": self.settings}, indent=1)
        (folder / "case.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Case:
        written = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        files = {
            path.relative_to(folder / "files").as_posix(): path.read_bytes()
            for path in sorted((folder / "files").rglob("*"))
            if path.is_file()
        }
        return cls(written["area"], files, written["settings"])

    def put_files(self, folder: Path) -> None:
        """Write the files into a folder, in place of those of the same name."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                path.unlink()
            path.write_bytes(content)

    @property
    def size(self) -> int:
        """The number of bytes of the files and the settings."""
        return sum(map(len, self.files.values())) + len(json.dumps(self.settings))
