"""Write tests/reference/public_api.json: the public names, signatures and command-line flags of the package.

`python bench/generate/public_api.py` describes the minilm_np that it imports. tests/test_public_api.py checks that
everything in the file still works, so regenerate it only to add names, and say so in CHANGELOG.md if a name goes.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import textwrap
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "tests" / "reference" / "public_api.json"
INTEGRATIONS = ("bertopic", "chroma", "haystack", "keybert", "langchain", "llama_index", "mteb", "sklearn")
MODULES = (  # a module's public names are those of its __all__, or what it defines
    *("minilm_np", "minilm_np.util", "minilm_np.crosscheck", "minilm_np.evaluate"),
    *("minilm_np.crosscheck.goldens", "minilm_np.crosscheck.plot", "minilm_np.crosscheck.plugin"),
    *(f"minilm_np.integrations.{name}" for name in INTEGRATIONS),
    *(f"minilm_np.{name}" for name in ("checkpoint", "encoder", "model", "ops", "tokenizer", "weights")),
)


def describe(value: Any) -> Any:
    """Return what a caller relies on: a class's members, a callable's parameters, the type of any other value."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return {"bases": [base.__name__ for base in value.__mro__[1:-3] if base.__module__ == "builtins"]}
    if isinstance(value, Enum):
        return repr(value.value)
    if inspect.isclass(value):
        description = {"members": {name: describe(getattr(value, name)) for name in member_names(value)}}
        if issubclass(value, Enum):
            return description
        return {"parameters": parameters(value), "attributes": attributes(value), **description}
    return {"parameters": parameters(value)} if callable(value) else type(value).__name__


def member_names(cls: type) -> list[str]:
    """Return the names of the methods and properties that this package defines, with __call__ and __str__."""
    if issubclass(cls, Enum):  # dir() of an Enum depends on the Python version
        return sorted(name for name in {*cls.__members__, *vars(cls)} if not name.startswith("_"))
    own = [vars(base) for base in cls.__mro__ if base.__module__.startswith("minilm_np")]
    names = [name for name in dir(cls) if not name.startswith("_") or name in ("__call__", "__str__")]
    values = {name: getattr(cls, name) for name in names if any(name in attributes for attributes in own)}
    return [name for name, value in values.items() if callable(value) or isinstance(value, property | cached_property)]


def attributes(cls: type) -> list[str]:
    """Return the public attributes that this package's methods of a class assign to self."""
    sources = (inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("minilm_np"))
    nodes = (node for source in sources for node in ast.walk(ast.parse(textwrap.dedent(source))))
    assigned = (node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    names = {node.attr for node in assigned if isinstance(node.value, ast.Name) and node.value.id == "self"}
    return sorted(name for name in names if not name.startswith("_"))


def parameters(function: Any) -> list[list[str]]:
    """Return name, kind and default of each parameter; a function or class as default is given by its name."""
    found = inspect.signature(function).parameters.values()
    return [[p.name, p.kind.name, "" if p.default is p.empty else default(p.default)] for p in found]


def default(value: Any) -> str:
    """Return a repr that depends neither on addresses nor on the module that defines a function or class."""
    return str(value.__name__) if inspect.isroutine(value) or inspect.isclass(value) else repr(value)


def public_names(module: Any) -> list[str]:
    exported = getattr(module, "__all__", None)
    if exported is not None:
        return sorted(exported)
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return sorted(name for name in own if not name.startswith("_"))


def commands() -> dict[str, dict[str, list[str]]]:
    """Return for each command its arguments (name, or option strings) with their default and number of values."""
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
