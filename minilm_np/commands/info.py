"""`minilm-np info`: print the facts that a bug report needs."""

from __future__ import annotations

import argparse
import sys

from minilm_np.commands.common import MAX_TEXTS_FOR_NUMPY, add_model_option, load_model

HELP = "Print the versions, the model's files with their sha256, its configuration and the op set in use."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    import numpy as np

    from minilm_np import __version__, weights
    from minilm_np.checkpoint import parameter_shapes
    from minilm_np.layout import checkpoint_files

    model = load_model(arguments.model, MAX_TEXTS_FOR_NUMPY + 1)
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
    print(f"op set      {model.backend} ({model.backend_reason}); numpy for up to {MAX_TEXTS_FOR_NUMPY} texts")
    print(f"threads     {model.threads}" if model.backend == "numba" else "threads     set by NumPy's BLAS")
    print(f"cache       {weights.cache_folder()}")
