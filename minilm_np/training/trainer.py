"""The training loop: batches, steps, held-out scores, checkpoints, and the folder that is left at the end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np import ops
from minilm_np.checkpoint import release_pages
from minilm_np.evaluate import BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, TripletEvaluator
from minilm_np.layout import find_layout, read_json
from minilm_np.model import Array, Bert, forward, prepare
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.tokenizer import Tokenizer
from minilm_np.training import data as training_data
from minilm_np.training import run_folder
from minilm_np.training.dropout import Dropout
from minilm_np.training.gradients import TOKENS_PER_PART, add_gradients, add_up
from minilm_np.training.losses import Loss, default_loss
from minilm_np.training.optimizer import AdamW, clip_in_place, learning_rate_at
from minilm_np.training.parameters import empty_like
from minilm_np.training.workers import Workers, blas

logger = logging.getLogger(__name__)


class TrainingError(ValueError):
    """Raised when a loss or a gradient is not a number; the message names the step and the examples."""


@dataclass
class History:
    """What happened in a run.

    steps: a dict for each step with step (from 1), loss, learning_rate and grad_norm (before clipping). evaluations: a
    dict for each evaluation with step (0: before training) and the scores.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [line["loss"] for line in self.steps]


def train(
    model: SentenceTransformer,
    data: Any,
    *,
    steps: int,
    batch_size: int = 1024,
    learning_rate: float = 2e-5,
    warmup_steps: int = 500,
    max_seq_length: int = 128,
    loss: Loss | None = None,
    scale: float = 20.0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    dropout: float | None = None,
    datasets_per_batch: int = 1,
    mini_batch_size: int | None = None,
    seed: int = 42,
    evaluate: Any = None,
    eval_steps: int | None = None,
    output: str | os.PathLike[str] | None = None,
    save_steps: int = 500,
    resume: bool = False,
    threads: int | None = None,
    show_progress_bar: bool = False,
) -> History:
    """Train a model in place. The defaults are the values on the model card of all-MiniLM-L6-v2.

    Arguments that HuggingFace's TrainingArguments has are named as there.

    Parameters
    ----------
    model
        The model. At the end it has the new parameters; after an exception, those from before.
    data
        A .jsonl or .jsonl.gz file, a folder of them, a data_config.json with weights, a list of files, or a list of
        examples. docs/training.md describes the lines.
    steps
        Number of steps; each has its own batch.
    batch_size
        Examples in a batch. More make the contrastive loss harder; `mini_batch_size` keeps the memory small.
    learning_rate, warmup_steps
        The rate rises from 0 for `warmup_steps` steps, then falls to 0 at the last step.
    max_seq_length
        Word pieces read of each text in training. The model's own limit stays as it is.
    loss
        Default: MultipleNegativesRankingLoss, symmetric for pairs, as the model was trained; CoSENTLoss for pairs with
        a label. Both multiply the cosines by `scale`.
    weight_decay, max_grad_norm, adam_beta1, adam_beta2, adam_epsilon
        For AdamW and gradient clipping. The model was trained without decay.
    dropout
        The probability of dropping an element; None: as config.json says (0.1). 0 turns it off.
    datasets_per_batch
        How many draws of a data set fill a batch. The model was trained with 2.
    mini_batch_size
        As in `loss_and_gradients`.
    seed
        Decides the batches and the dropout masks. A batch is a function of seed and step.
    evaluate
        Held-out examples, as a file or a list: accuracy@1 and mrr@10 of finding the second text of each among all
        second texts, and TripletEvaluator's accuracy if all have a third text. For pairs with scores:
        BinaryClassificationEvaluator's metrics if each score is 0 or 1, else EmbeddingSimilarityEvaluator's. Or a
        function that takes the model and returns a number or a dict, such as an evaluator. It is called before the
        first step, after every `eval_steps` steps, and after the last.
    output
        A new or empty folder for train.jsonl (a line for each step), training.json (the run's record), a checkpoint
        every `save_steps` steps, and at the end the model, its card and curves.png.
    resume
        Continue from the checkpoint in `output`. On the same machine with the same number of threads the run ends with
        the same bytes as one that was not interrupted.
    threads
        Default: the number of CPUs that the process may use. More than 1 needs threadpoolctl (the train extra).

    Raises
    ------
    ValueError
        If an argument has an unsupported value, `output` is not empty, or a run is resumed with other arguments.
        DataError, a subclass, if a line of the data is not valid. TrainingError, a subclass, if the loss or a gradient
        is not finite; the last checkpoint is kept.
    OSError
        If a file cannot be written; the last checkpoint is kept.
    ImportError
        If `evaluate` has pairs with scores, and scipy or scikit-learn is not installed.

    Examples
    --------
    >>> from minilm_np import SentenceTransformer
    >>> from minilm_np.training import train
    >>> model = SentenceTransformer(backend="numpy")
    >>> pairs = [["How far is the moon?", "384,400 km."], ["Who wrote Hamlet?", "Shakespeare wrote it."]]
    >>> history = train(model, pairs, steps=2, batch_size=2, warmup_steps=1)
    >>> len(history.losses)
    2
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("save_steps", save_steps)):
        training_data.whole(name, value, 1)
    for name, optional in (("mini_batch_size", mini_batch_size), ("eval_steps", eval_steps), ("threads", threads)):
        if optional is not None:
            training_data.whole(name, optional, 1)
    training_data.whole("warmup_steps", warmup_steps, 0)
    training_data.whole("seed", seed, 0)
    _check_number("learning_rate", learning_rate, 0, 1)
    _check_number("scale", scale, 0, math.inf)
    _check_number("weight_decay", weight_decay, 0, 1)
    _check_number("max_grad_norm", max_grad_norm, 0, math.inf)
    _check_number("adam_beta1", adam_beta1, 0, 1)
    _check_number("adam_beta2", adam_beta2, 0, 1)
    _check_number("adam_epsilon", adam_epsilon, 0, 1)
    if resume and output is None:
        raise ValueError("resume: expected an output folder that has a checkpoint, got no output")
    if warmup_steps >= steps > 1:
        logger.warning(
            "warmup_steps=%d is not below steps=%d, so the learning rate never reaches its value", warmup_steps, steps
        )
    tokenizer = _tokenizer(model, max_seq_length)
    probabilities = _dropout_probabilities(model, dropout)
    evaluator = _evaluator(evaluate)
    with training_data.load(data, seed=seed, datasets_per_batch=datasets_per_batch) as batches, Workers(threads) as w:
        batches.batch(0, batch_size)  # so that a batch that cannot be filled fails before anything is written
        arguments = {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "max_seq_length": tokenizer.max_seq_length,
            "loss": "default" if loss is None else _description(loss),
            "scale": scale,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "adam_beta1": adam_beta1,
            "adam_beta2": adam_beta2,
            "adam_epsilon": adam_epsilon,
            "dropout": probabilities,
            "datasets_per_batch": datasets_per_batch,
            "mini_batch_size": mini_batch_size,
            "seed": seed,
            "evaluate": _evaluation_name(evaluate),
            "eval_steps": eval_steps,
        }
        record = {
            "arguments": arguments,
            "data": batches.describe(),
            "start": run_folder.digest_of(model.weights),
            "environment": {"threads": w.count, "dtype": str(model.dtype), "numpy": np.__version__, **blas()},
        }
        adam = AdamW(model.weights, betas=(adam_beta1, adam_beta2), eps=adam_epsilon, weight_decay=weight_decay)
        release_pages(model.weights)  # 91 MB that are in `adam`, too
        history = History()
        folder = None if output is None else run_folder.open_folder(output, model.place.folder, record, resume)
        if folder is not None and folder.finished():
            history.steps, history.evaluations = folder.lines(steps)
            model.replace_weights(SentenceTransformer(folder.path, backend="numpy", dtype=model.dtype).weights)
            return history
        if folder is not None and resume:
            adam.steps = folder.restore(adam.parameters.flat, adam.means.flat, adam.squares.flat)
            if adam.steps:
                history.steps, history.evaluations = folder.lines(adam.steps)
        if folder is not None:
            folder.begin_log(history.steps, history.evaluations)
        before = dict(model.weights)
        run = Run(model, tokenizer, batches, loss, scale, adam, w, mini_batch_size, probabilities, seed, batch_size)

        def score() -> None:
            if evaluator is None:
                return
            line = {"step": adam.steps, "scores": evaluator(run)}
            history.evaluations.append(line)
            if folder:
                folder.log(line)

        try:
            with _progress(steps, adam.steps, show_progress_bar) as shown:
                if adam.steps == 0:
                    score()
                while adam.steps < steps:
                    started = time.perf_counter()
                    rate = learning_rate_at(adam.steps, learning_rate, warmup_steps, steps)
                    line = run.step(rate, max_grad_norm)
                    history.steps.append(line)
                    if folder:
                        folder.log(line)
                    if adam.steps == steps or (eval_steps and adam.steps % eval_steps == 0):
                        score()
                    if folder and (adam.steps % save_steps == 0 or adam.steps == steps):
                        folder.save(adam.parameters.flat, adam.means.flat, adam.squares.flat, adam.steps)
                    shown(line["loss"], run.texts / (time.perf_counter() - started))
            model.replace_weights(adam.params)
            if folder:
                folder.finish(model, history)
        except BaseException:
            if model.has_own_weights:
                model.replace_weights(before)
            raise
    return history


# --- one step ----------------------------------------------------------------------------------


@dataclass
class Run:
    """What the steps of a run share."""

    model: SentenceTransformer
    tokenizer: Tokenizer
    batches: training_data.Batches
    loss: Loss | None
    scale: float
    adam: AdamW
    workers: Workers
    mini_batch_size: int | None
    dropout: tuple[float, float]
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        self.texts = 0  # in the last batch
        self.gradients = [empty_like(self.model.weights) for _ in range(self.workers.count)]

    def bert(self) -> Bert:
        """The model with the current parameters."""
        return prepare(self.adam.params, self.model.config, ops)

    def step(self, rate: float, max_grad_norm: float) -> dict[str, Any]:
        """Change the parameters by one step and return its line of the log."""
        number = self.adam.steps
        batch = self.batches.batch(number, self.batch_size)
        columns = len(batch.examples[0])
        texts = [row[column] for column in range(columns) for row in batch.examples]
        self.texts = len(texts)
        tokens, _ = self.tokenizer.pack(texts)
        labels = None if batch.labels is None else np.asarray(batch.labels, self.model.dtype)
        dropout = Dropout(*self.dropout, self.seed, number) if any(self.dropout) else None
        self.workers.each(lambda _, gradients: gradients.flat.fill(0), self.gradients)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # _raise_for names what is not finite
            value = add_gradients(
                self.bert(),
                tokens,
                columns,
                self.loss or default_loss(columns, labels is not None, self.scale),
                labels,
                self.gradients,
                self.workers,
                self.mini_batch_size,
                dropout,
            )
            add_up(self.gradients, self.workers)
            norm = clip_in_place(self.gradients[0].flat, max_grad_norm or math.inf, self.workers)
        if not math.isfinite(value) or not math.isfinite(norm):
            self._raise_for(
                number, "loss" if not math.isfinite(value) else "gradient", value, norm, texts, batch.sources
            )
        self.adam.step(self.gradients[0].views, rate, self.workers)
        return {"step": number + 1, "loss": value, "learning_rate": rate, "grad_norm": norm}

    def _raise_for(
        self, number: int, what: str, value: float, norm: float, texts: list[str], sources: Sequence[str]
    ) -> None:
        """Raise TrainingError with the examples whose embeddings are not finite, or with all of the batch."""
        with np.errstate(all="ignore"):
            embeddings = self.embed(texts).reshape(-1, len(sources), self.model.config.hidden_size)
            finite = np.isfinite(embeddings.sum(axis=(0, 2)))
        causes = [source for source, ok in zip(sources, finite.tolist(), strict=True) if not ok] or list(sources)
        shown = ", ".join(causes[:10]) + (f" and {len(causes) - 10} more" if len(causes) > 10 else "")
        got = value if what == "loss" else norm
        raise TrainingError(
            f"step {number + 1}: expected a finite {what}, got {got}, from {shown}; a smaller learning_rate may help"
        )

    def embed(self, texts: Sequence[str]) -> Array:
        """Return the embeddings (n, H) of texts with the current parameters, without dropout."""
        bert, tokens = self.bert(), self.tokenizer.pack(list(texts))[0]
        lengths = np.diff(tokens.offsets)
        order = np.argsort(lengths, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(np.cumsum(lengths[order]) // TOKENS_PER_PART)) + 1)
        embeddings = np.empty((len(texts), bert.config.hidden_size), self.model.dtype)

        def compute(_: int, part: Array) -> None:
            embeddings[part] = forward(bert, *tokens.take(part))

        self.workers.each(compute, parts)
        return embeddings


# --- held-out scores ---------------------------------------------------------------------------


def retrieval_scores(anchors: Array, positives: Array) -> dict[str, float]:
    """Return accuracy@1 and mrr@10 of finding each anchor's own positive among all positives, by cosine.

    anchors, positives: (n, H). A positive's rank is 1 + the number of positives with a higher similarity; equal texts
    share their rank. (MRR: Craswell 2009; the mean of 1 / rank, or 0 beyond rank 10.)
    """
    similarities = ops.l2_normalize(anchors) @ ops.l2_normalize(positives).T
    ranks = 1 + np.sum(similarities > np.diagonal(similarities)[:, None] + 1e-6, axis=1)
    return {
        "accuracy@1": float(np.mean(ranks == 1)),
        "mrr@10": float(np.mean(np.where(ranks <= 10, 1 / ranks, 0))),
    }


def _evaluator(evaluate: Any) -> Callable[[Run], dict[str, float]] | None:
    if evaluate is None:
        return None
    if callable(evaluate):
        return partial(_scores_of_model, evaluate)
    rows, expected = training_data.held_out(evaluate)
    first, second = [row[0] for row in rows], [row[1] for row in rows]
    if expected is not None:
        for module in ("scipy", "sklearn"):
            if find_spec(module) is None:
                raise ImportError(
                    f"evaluate: {module} is needed for pairs with scores and not installed; install minilm-np[eval]"
                )
        if set(expected) <= {0, 1}:
            labels = [int(score) for score in expected]
            return partial(_scores_of_model, BinaryClassificationEvaluator(first, second, labels))
        return partial(_scores_of_model, EmbeddingSimilarityEvaluator(first, second, expected))
    triplets = TripletEvaluator(first, second, [row[2] for row in rows]) if min(map(len, rows)) > 2 else None

    def retrieve(run: Run) -> dict[str, float]:
        scores = retrieval_scores(run.embed(first), run.embed(second))
        return scores | (_scores_of_model(triplets, run) if triplets else {})

    return retrieve


def _scores_of_model(evaluator: Callable[[SentenceTransformer], Any], run: Run) -> dict[str, float]:
    run.model.replace_weights(run.adam.params)
    scores = evaluator(run.model)
    scores = scores if isinstance(scores, dict) else {"score": scores}
    return {str(name): float(score) for name, score in scores.items()}


def _evaluation_name(evaluate: Any) -> str | None:
    if evaluate is None:
        return None
    if isinstance(evaluate, str | os.PathLike):
        return Path(evaluate).name
    return type(evaluate).__name__ if callable(evaluate) else f"{len(evaluate)} pairs"


# --- arguments ---------------------------------------------------------------------------------


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name}: expected a number {limits}, got {value!r}")


def _tokenizer(model: SentenceTransformer, max_seq_length: int) -> Tokenizer:
    training_data.whole("max_seq_length", max_seq_length, 3)
    config = model.config
    length = min(max_seq_length, config.max_position_embeddings)
    path = find_layout(model.place.folder).tokenizer
    return Tokenizer(path, length, config.vocab_size, config.type_vocab_size)


def _dropout_probabilities(model: SentenceTransformer, dropout: float | None) -> tuple[float, float]:
    if dropout is not None:
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number from 0 to below 1, got {dropout!r}")
        return float(dropout), float(dropout)
    path = find_layout(model.place.folder).transformer / "config.json"
    config = read_json(path)
    values = [config.get(f"{name}_dropout_prob", 0.1) for name in ("hidden", "attention_probs")]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{path}: dropout_prob: expected a number from 0 to below 1, got {value!r}")
    return float(values[0]), float(values[1])


def _description(loss: Any) -> str:
    return repr(loss) if hasattr(loss, "__dataclass_fields__") else type(loss).__name__


# --- progress ----------------------------------------------------------------------------------


@contextmanager
def _progress(total: int, done: int, show: bool) -> Iterator[Callable[[float, float], None]]:
    """Yield a function that moves a progress bar, with the loss and the number of texts in a second."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, disable=not show, desc="train", unit="step") as bar:

        def update(loss: float, texts_per_second: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}, {texts_per_second:.0f} texts/s")
            bar.update()

        yield update
