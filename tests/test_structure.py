"""Contracts of the whole package: which module imports which, what an import loads, and that public names resolve."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.paths import REPOSITORY

import minilm_np

PACKAGE = Path(minilm_np.__file__).parent


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            module = node.module or ""
            names |= {f"minilm_np.{alias.name}" for alias in node.names} if module == "minilm_np" else {module}
    return names


def test_imports_go_to_lower_floors_and_only_kernels_import_numba() -> None:
    """The contracts are in pyproject.toml; import-linter checks them."""
    pytest.importorskip("importlinter", reason="needs the lint extra")
    # in a process of its own, because it configures logging and so disables the loggers that other tests look at
    code = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports('pyproject.toml', no_cache=True))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stdout


def test_architecture_stays_short_enough_to_read_in_one_sitting() -> None:
    assert sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in ("model.py", "ops.py")) < 400


def test_model_and_ops_import_only_numpy_and_the_standard_library() -> None:
    for name in ("model", "ops"):
        for module in imports(PACKAGE / f"{name}.py"):
            top = module.partition(".")[0]
            assert top == "numpy" or top in sys.stdlib_module_names, f"{name}.py imports {module}"


def test_package_import_loads_no_heavy_library_and_opens_no_file() -> None:
    code = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
import minilm_np
heavy = {"numpy", "numba", "tokenizers", "safetensors", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
assert not [f for f in opened if not str(f).endswith((".py", ".pyc", ".pyi"))], opened
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_class_import_loads_neither_numba_nor_tokenizers() -> None:
    code = "import sys; from minilm_np import SentenceTransformer; assert not {'numba', 'tokenizers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["minilm_np", "minilm_np.crosscheck", "minilm_np.evaluate"])
def test_public_names_resolve_and_others_raise_attribute_error(name: str) -> None:
    package: Any = import_module(name)
    for public in package.__all__:
        assert getattr(package, public).__name__ == public
        assert public in dir(package)
    with pytest.raises(AttributeError, match=f"{name} attribute nonsense"):
        _ = package.nonsense


def test_package_exports_its_names_and_version() -> None:
    package: Any = minilm_np
    assert package.__all__ == [
        "InputError",
        "LoggingHandler",
        "SentenceTransformer",
        "SimilarityFunction",
        "TextInfo",
        "Tokens",
        "TruncationWarning",
        "WeightsError",
        "WeightsNotFoundError",
        "l2_normalize",
        "mean_pool",
        "quantize_embeddings",
    ]
    assert package.__version__ == version("minilm-np")


def test_model_does_not_change_environment_variables(model: minilm_np.SentenceTransformer) -> None:
    before = dict(os.environ)
    minilm_np.SentenceTransformer(model.place.folder).encode("hello")
    assert dict(os.environ) == before
