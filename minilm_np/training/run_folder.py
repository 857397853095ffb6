"""The folder of a training run: its record, a line for each step, the last checkpoint, and at the end the model."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minilm_np.files import named, replaced
from minilm_np.model import Array
from minilm_np.sentence_transformer import SentenceTransformer

if TYPE_CHECKING:
    from minilm_np.training.trainer import History

RECORD, LOG, CHECKPOINT, CURVES = "training.json", "train.jsonl", "checkpoint.safetensors", "curves.png"
Lines = list[dict[str, Any]]


def digest_of(params: Mapping[str, Array]) -> str:
    """Return the sha256 of all parameters, by name."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(f"{name} {params[name].dtype.str} {params[name].shape} ".encode())
        digest.update(np.ascontiguousarray(params[name]).data)
    return digest.hexdigest()


def open_folder(
    output: str | os.PathLike[str], model_folder: Path, record: Mapping[str, Any], resume: bool
) -> RunFolder:
    """Return the folder of a new run, or of the run to resume.

    Raises ValueError if a new run's folder is not empty, or if the run to resume had other arguments or data. Issues a
    warning if it was on other threads or another BLAS.
    """
    if not os.fspath(output):
        raise ValueError("output: expected a folder, got ''")
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise ValueError(f"output: expected a folder, got the file {path}")
    if path.exists() and path.resolve() == model_folder.resolve():
        raise ValueError(f"output: expected another folder than the model's own, got {path}")
    folder = RunFolder(path, record)
    if not resume:
        found = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
        if found:
            has_run = ", or resume the run in it" if RECORD in found else ""
            raise ValueError(f"output: expected a new or empty folder{has_run}, got {path}, which has {found[0]}")
    elif (path / RECORD).exists():
        folder.check_same()
    elif path.exists() and any(path.iterdir()):
        raise ValueError(f"resume: expected {RECORD} in {path}, got a folder without it")
    path.mkdir(parents=True, exist_ok=True)
    return folder


class RunFolder:
    """The files of a run. Each is replaced as a whole, except that lines are added to the log."""

    def __init__(self, path: Path, record: Mapping[str, Any]):
        self.path, self._record = path, json.loads(json.dumps(record))

    def check_same(self) -> None:
        """Raise ValueError unless the run in the folder has this record."""
        path = self.path / RECORD
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            sections = [stored[section] for section in ("arguments", "data", "start", "environment")]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the record of a run: {error}") from None
        arguments, data, start, environment = sections
        for name, value in self._record["arguments"].items():
            if arguments.get(name) != value:
                raise ValueError(f"resume: {name}: expected {arguments.get(name)!r} as in {path}, got {value!r}")
        if data != self._record["data"]:
            changed = next(
                (new for old, new in zip(data, self._record["data"], strict=False) if old != new), {"file": "the list"}
            )
            raise ValueError(f"resume: data: expected the data of {path}, got a change in {changed['file']}")
        if start != self._record["start"]:
            raise ValueError(f"resume: model: expected the model that the run in {self.path} began with, got another")
        for name, value in self._record["environment"].items():
            if environment.get(name) != value:
                message = f"resume: {name} was {environment.get(name)} and is {value}, so bytes may differ"
                warnings.warn(message, UserWarning, stacklevel=4)

    def finished(self) -> bool:
        """Whether the run has ended and its model is there."""
        path = self.path / RECORD
        if not path.is_file() or not json.loads(path.read_text(encoding="utf-8")).get("finished"):
            return False
        (self.path / CHECKPOINT).unlink(missing_ok=True)  # the process was killed before it did this
        return True

    # --- log -----------------------------------------------------------------------------------

    def lines(self, last_step: int) -> tuple[Lines, Lines]:
        """Return the log's lines up to a step: those of steps, and those of evaluations.

        Raises ValueError if the line of a step is missing or damaged.
        """
        steps: Lines = []
        evaluations: Lines = []
        path = self.path / LOG
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                line = json.loads(text)
            except ValueError:  # the last one, if the process was killed while it wrote it
                break
            if line["step"] <= last_step:
                (evaluations if "scores" in line else steps).append(line)
        if len(steps) != last_step:
            raise ValueError(f"resume: {path}: expected the lines of {last_step} steps, got {len(steps)}")
        return steps, evaluations

    def begin_log(self, steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> None:
        """Write the record and the lines so far."""
        self._write(RECORD, json.dumps(self._record, indent=2) + "\n")
        before = [line for line in evaluations if line["step"] == 0]
        after = {line["step"]: line for line in evaluations if line["step"]}
        both = before + [line for step in steps for line in (step, after.get(step["step"])) if line]
        self._write(LOG, "".join(json.dumps(line) + "\n" for line in both))

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        path = self.path / LOG
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise named(error, path) from None

    # --- checkpoint ----------------------------------------------------------------------------

    def save(self, params: Array, means: Array, squares: Array, step: int) -> None:
        """Replace the checkpoint by that of a step. params, means, squares: (P,), those of AdamW."""
        from safetensors.numpy import save_file

        path = self.path / CHECKPOINT
        try:
            with replaced(path) as part:
                arrays = {"params": params, "means": means, "squares": squares}
                save_file(arrays, part, metadata={"step": str(step)})
        except Exception as error:  # the library's own error for a full disk
            if type(error).__name__ != "SafetensorError":
                raise
            raise OSError(0, " ".join(str(error).split()), str(path)) from None

    def restore(self, params: Array, means: Array, squares: Array) -> int:
        """Fill the arrays (P,) from the checkpoint and return its step, or return 0 if there is none yet."""
        from safetensors import SafetensorError, safe_open

        path = self.path / CHECKPOINT
        if not path.is_file():
            return 0
        try:
            with safe_open(path, framework="np") as file:
                step = int(file.metadata()["step"])
                for name, array in (("params", params), ("means", means), ("squares", squares)):
                    array[...] = file.get_tensor(name)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a checkpoint of this run: {' '.join(str(error).split())}") from None
        return step

    # --- the end -------------------------------------------------------------------------------

    def finish(self, model: SentenceTransformer, history: History) -> None:
        """Write the model, its card and the curves; then mark the run as finished and remove the checkpoint."""
        model.save_pretrained(self.path)
        has_curves = _plot(history, self.path / CURVES)
        card = (self.path / "README.md").read_text(encoding="utf-8")
        self._write("README.md", card + self._card(history, has_curves))
        self._write(RECORD, json.dumps({**self._record, "finished": True}, indent=2) + "\n")
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def _card(self, history: History, has_curves: bool) -> str:
        rows = [f"| {s['file']} | {s['rows']} | {s['columns']} | {s['weight']:g} |" for s in self._record["data"]]
        values = [f"| {name} | {value} |" for name, value in self._record["arguments"].items()]
        scores = [
            f"| {line['step']} | {name} | {score:.4f} |"
            for line in history.evaluations[:1] + history.evaluations[1:][-1:]
            for name, score in line["scores"].items()
        ]
        parts = [
            "## Training\n",
            f"Trained for {len(history.steps)} steps with minilm_np; the loss was {history.losses[0]:.4f} in the first "
            f"step and {history.losses[-1]:.4f} in the last.\n",
            *([f"![Loss and scores]({CURVES})\n"] if has_curves else []),
            "| data | rows | columns | weight |\n|---|---|---|---|\n" + "\n".join(rows) + "\n",
            "| hyperparameter | value |\n|---|---|\n" + "\n".join(values) + "\n",
        ]
        if scores:
            parts.append("| step | score | value |\n|---|---|---|\n" + "\n".join(scores) + "\n")
        return "\n" + "\n".join(parts)

    def _write(self, name: str, text: str) -> None:
        with replaced(self.path / name) as part:
            part.write_text(text, encoding="utf-8")


def _plot(history: History, path: Path) -> bool:
    """Draw the loss, and the scores below it; return whether matplotlib is there to do it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = list(history.evaluations[0]["scores"]) if history.evaluations else []
    figure = Figure(figsize=(7, 5 if names else 3), layout="constrained")
    axes = figure.subplots(2 if names else 1, 1, sharex=True, squeeze=False)[:, 0]
    axes[0].plot([line["step"] for line in history.steps], history.losses, linewidth=0.8)
    axes[0].set_ylabel("loss")
    for name in names:
        points = [(line["step"], line["scores"][name]) for line in history.evaluations if name in line["scores"]]
        axes[1].plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    if names:
        axes[1].set_ylabel("held-out score")
        axes[1].legend()
    axes[-1].set_xlabel("step")
    with replaced(path) as part:
        figure.savefig(part, dpi=120, format="png", metadata={"Software": None})
    return True
