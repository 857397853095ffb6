"""Exercises that grade themselves: write the encoder with six holes, and check what a student put into them.

The check runs in a process of its own (exercise/judge.py), because BLAS with one thread is several times as fast for
its small matrices where other programs run, and the student's file in another one (exercise/child.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from minilm_np.files import replaced

Verdict = Literal["right", "not written", "wrong"]
TEMPLATES = Path(__file__).parent / "exercise"
FILES = {"encoder.py": "skeleton.py", "README.md": "instructions.md"}  # file of the exercise -> its template
WHOLE = "whole"
MAX_SECONDS = 3600.0
SECONDS = 5.0  # the time limit of a hole; a right one takes less than one
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class HoleResult(NamedTuple):
    """What the check says about one hole.

    Attributes
    ----------
    name
        The hole's function in encoder.py, such as "attention"; "whole" for the whole model.
    verdict
        "right", "not written" or "wrong".
    first_wrong_stage
        The first stage of the hole that differs, under its name in the checkpoint, such as
        "encoder.layer.0.attention.self.attention_probs"; None if no values could be compared.
    mistake
        The mistake that explains the difference, such as "attention-unscaled"; a pair is joined by " + ". Names that
        crosscheck's catalogue has, too, are the same. None if no known mistake explains it.
    message
        One line for the student.
    """

    name: str
    verdict: Verdict
    first_wrong_stage: str | None
    mistake: str | None
    message: str


def write_exercise(folder: str | os.PathLike[str]) -> Path:
    """Write the exercise: encoder.py, an encoder with six holes, and README.md, the instructions.

    Parameters
    ----------
    folder
        A new or empty folder.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the folder has files, or is a file.
    OSError
        If the files cannot be written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"folder: expected a new or empty folder, got the file {path}")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"folder: expected a new or empty folder, got {path}, which has files")
    path.mkdir(parents=True, exist_ok=True)
    for name, template in FILES.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        with replaced(path / name) as part:
            part.write_text(text, encoding="utf-8")
    return path


def check_exercise(folder: str | os.PathLike[str], *, seconds: float = SECONDS) -> list[HoleResult]:
    """Check the encoder.py of an exercise: each hole alone, on the right input, then the whole model.

    Parameters
    ----------
    folder
        The folder that `write_exercise` wrote. Its encoder.py runs in a process of its own.
    seconds
        The time limit of each hole.

    Returns
    -------
    list of HoleResult
        One for each hole, in the order of encoder.py: embeddings, layer_norm, attention, feed_forward, pooling and
        encode. If all are right and the whole model is wrong, one more, named "whole".

    Raises
    ------
    ValueError
        If the folder has no encoder.py that can be imported.
    """
    *holes, whole = check_all(folder, seconds=seconds)
    return [*holes, whole] if whole.verdict == "wrong" and all(one.verdict == "right" for one in holes) else holes


def check_all(folder: str | os.PathLike[str], *, seconds: float = SECONDS) -> list[HoleResult]:
    """Return the results of all holes and, last, that of the whole model. Otherwise as `check_exercise`."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"folder: expected the folder of an exercise, got {path}")
    if not (path / "encoder.py").is_file():
        raise ValueError(f"{path}: expected the folder of an exercise, found no encoder.py in it")
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"seconds: expected above 0 and at most {MAX_SECONDS:g}, got {seconds:g}")
    job = json.dumps({"folder": str(path), "seconds": seconds})
    judged = subprocess.run(
        [sys.executable, "-m", "minilm_np.study.exercise.judge", job],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
    )
    if judged.returncode:
        last = judged.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"the process that checks {path} failed: {last[0]}")
    answer = json.loads(judged.stdout)
    if "error" in answer:
        raise (OSError if answer["system"] else ValueError)(answer["error"])
    return [HoleResult(*result) for result in answer["results"]]
