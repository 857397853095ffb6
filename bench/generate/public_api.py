"""Write tests/reference/public_api.json: the public names, signatures and command-line flags of the package.

`python bench/generate/public_api.py` describes the minilm_np that it imports. tests/test_public_api.py checks that
everything in the file still works, so regenerate it only to add names, and say so in CHANGELOG.md if one goes.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from enum import Enum
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "tests" / "reference" / "public_api.json"
MODULES = (  # those with an __all__ export just these names, the others what they define
    *("minilm_np", "minilm_np.util", "minilm_np.crosscheck", "minilm_np.evaluate"),
    *("minilm_np.crosscheck.goldens", "minilm_np.crosscheck.plot", "minilm_np.crosscheck.plugin"),
    *(f"minilm_np.integrations.{name}" for name in ("chroma", "langchain", "mteb", "sklearn")),
    *(f"minilm_np.{name}" for name in ("checkpoint", "encoder", "model", "ops", "tokenizer", "weights")),
)


def describe(value: Any) -> Any:
    """A class as its public members, a callable as its parameters, anything else as the name of its type."""
    if inspect.isclass(value) and issubclass(value, Enum | BaseException):
        return "class"
    if inspect.isclass(value):
        members = {name: getattr(value, name) for name in dir(value) if not name.startswith("_")}
        own = {name: describe(member) for name, member in members.items() if is_own(member)}
        return {"parameters": parameters(value), "members": own}
    return {"parameters": parameters(value)} if callable(value) else type(value).__name__


def is_own(member: Any) -> bool:
    """Whether this package defines the member, rather than a base class of another library."""
    function = member.fget if isinstance(member, property) else member
    return str(getattr(function, "__module__", "")).startswith("minilm_np")


def parameters(function: Any) -> list[list[str]] | None:
    """Name, kind and default of each parameter; None for builtins without a signature."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:
        return None
    return [[p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)] for p in found]


def public_names(module: Any) -> list[str]:
    exported = getattr(module, "__all__", None)
    if exported is not None:
        return sorted(exported)
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return sorted(name for name in own if not name.startswith("_"))


def commands() -> dict[str, dict[str, list[str]]]:
    """Command -> argument (its flags, or its name) -> [default, number of values]."""
    from minilm_np.cli import _parser

    (subparsers,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {
        name: {", ".join(a.option_strings) or a.dest: [repr(a.default), repr(a.nargs)] for a in parser._actions}
        for name, parser in subparsers.choices.items()
    }


def main() -> None:
    names: dict[str, Any] = {}
    for path in MODULES:
        module = importlib.import_module(path)
        names[path] = {name: describe(getattr(module, name)) for name in public_names(module)}
    sections = {**names, "commands": commands()}
    blocks = []
    for section, entries in sections.items():  # one line per name, so that a diff shows what changed
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        blocks.append(f" {json.dumps(section)}: {{\n{lines}\n }}")
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
