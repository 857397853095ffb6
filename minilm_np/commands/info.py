"""`minilm-np info`: print the facts that a bug report needs."""

from __future__ import annotations

import argparse
import sys

from minilm_np.commands.common import MAX_TEXTS_FOR_NUMPY, add_dtype_option, add_model_option, load_model

HELP = "Print the versions, the model's files with their sha256, its configuration and the op set in use."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dtype_option(parser)
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    import numpy as np

    from minilm_np import __version__, weights
    from minilm_np.checkpoint import parameter_shapes
    from minilm_np.encoder import LOW_PRECISION
    from minilm_np.layout import checkpoint_files

    model = load_model(arguments.model, MAX_TEXTS_FOR_NUMPY + 1, arguments.dtype)
    place = model.place
    print(f"minilm_np   {__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}")
    print(f"weights     {place.folder} ({place.what})")
    for path in checkpoint_files(place.folder):
        file, actual = path.relative_to(place.folder).as_posix(), weights.sha256_of(path)
        same = actual == weights.SHA256.get(file)
        print(f"  {actual}  {file}{'' if same else f'  (differs from {weights.DEFAULT_MODEL})'}")
    count = sum(int(np.prod(shape)) for shape in parameter_shapes(model.config).values())
    print(f"parameters  {count:,}")
    print("config      " + ", ".join(f"{key} {value}" for key, value in asdict(model.config).items()))
    few = "" if model.compute_dtype in LOW_PRECISION else f"; numpy for up to {MAX_TEXTS_FOR_NUMPY} texts"
    print(f"op set      {model.backend} ({model.backend_reason}){few}")
    print(f"dtype       {model.compute_dtype} in dense layers, {model.dtype} elsewhere")
    print(f"threads     {model.threads}" if model.backend == "numba" else "threads     set by NumPy's BLAS")
    print(f"cache       {weights.cache_folder()}")
    if model.backend == "numba":
        _print_compile_cache()


def _print_compile_cache() -> None:
    """Print where the kernels' machine code is kept, for which CPU, and how to clear it."""
    from minilm_np.kernels import cache
    from minilm_np.kernels.simd import WIDTH

    print(f"CPU         {cache.target_cpu()}, vectors of {WIDTH} float32")
    files = cache.entries()
    size = sum(file.stat().st_size for file in files) / 1e6
    folders = sorted({str(file.parent) for file in files})
    where = f"{', '.join(folders)}: {len(files)} files, {size:.1f} MB" if files else "none: each start compiles them"
    print(f"kernels     {where}")
    for folder in folders:
        print(f"            to clear: rm {folder}/*{cache.SUFFIX}")
    for path, reason in cache.refused():
        print(f"            not used: {path}: {reason}")
