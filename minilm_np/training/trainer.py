"""The training loop: batches, steps, held-out scores, checkpoints, and the folder that is left at the end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from minilm_np import ops
from minilm_np.checkpoint import release_pages
from minilm_np.encoder import cut_by_tokens
from minilm_np.evaluate import BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator
from minilm_np.layout import find_layout, read_json
from minilm_np.model import Array, Bert, Ops, forward, prepare
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
from minilm_np.util import pairwise_cos_sim

logger = logging.getLogger(__name__)

ROWS_AT_A_TIME = 1024  # of a matrix of similarities


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
        The model. At the end it has the new parameters; after an exception, those from before. A model that computes in
        bfloat16 or int8 is trained in float32, and its new parameters are rounded again.
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
        second texts, and if all have a third text, cosine_accuracy, how often it is less similar than the second. For
        pairs with scores: BinaryClassificationEvaluator's metrics if each score is 0 or 1, else
        EmbeddingSimilarityEvaluator's. Or a function that takes the model and returns a number or a dict, such as an
        evaluator. It is called before the first step, after every `eval_steps` steps, and after the last.
    output
        A new or empty folder for train.jsonl (a line for each step), training.json (the run's record), a checkpoint
        every `save_steps` steps, and at the end the model in float32, its card and curves.png.
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
    whole = training_data.whole
    steps, batch_size = whole("steps", steps, 1), whole("batch_size", batch_size, 1)
    save_steps, warmup_steps = whole("save_steps", save_steps, 1), whole("warmup_steps", warmup_steps, 0)
    mini_batch_size = None if mini_batch_size is None else whole("mini_batch_size", mini_batch_size, 1)
    eval_steps = None if eval_steps is None else whole("eval_steps", eval_steps, 1)
    threads = None if threads is None else whole("threads", threads, 1)
    datasets_per_batch, seed = whole("datasets_per_batch", datasets_per_batch, 1), whole("seed", seed, 0)
    learning_rate = _number("learning_rate", learning_rate, 0, 1)
    scale = _number("scale", scale, 0, np.finfo(model.dtype).max)
    weight_decay = _number("weight_decay", weight_decay, 0, 1)
    max_grad_norm = _number("max_grad_norm", max_grad_norm, 0, math.inf)
    adam_beta1 = _number("adam_beta1", adam_beta1, 0, 1, below=True)
    adam_beta2 = _number("adam_beta2", adam_beta2, 0, 1, below=True)
    # A parameter without a gradient, such as the row of a word that does not occur, is divided by epsilon alone.
    adam_epsilon = _number("adam_epsilon", adam_epsilon, float(np.finfo(model.dtype).tiny), 1)
    if resume and output is None:
        raise ValueError("resume: expected an output folder that has a checkpoint, got no output")
    if warmup_steps >= steps:
        logger.warning(
            "warmup_steps=%d is not below steps=%d, so the learning rate never reaches its value", warmup_steps, steps
        )
    tokenizer = _tokenizer(model, max_seq_length)
    probabilities = _dropout_probabilities(model, dropout)
    evaluator, evaluated = _evaluator(evaluate)
    with training_data.load(data, seed=seed, datasets_per_batch=datasets_per_batch) as batches, Workers(threads) as w:
        # A batch that cannot be filled and a loss that does not fit fail before anything is written.
        batches.batch(0, batch_size)
        _check_loss(loss, scale, batches.describe(), model.config.hidden_size)
        arguments = {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "max_seq_length": tokenizer.max_seq_length,
            "loss": "default" if loss is None else _description(loss),
            **({"scale": scale} if loss is None else {}),
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "adam_beta1": adam_beta1,
            "adam_beta2": adam_beta2,
            "adam_epsilon": adam_epsilon,
            "dropout": probabilities,
            "datasets_per_batch": datasets_per_batch,
            "mini_batch_size": mini_batch_size,
            "seed": seed,
            "evaluate": evaluated,
            "eval_steps": eval_steps,
        }
        record = {
            "arguments": arguments,
            "data": batches.describe(),
            "start": run_folder.digest_of(model.weights),
            "environment": {
                "threads": w.count,
                "dtype": str(model.dtype),
                "op_set": model.backend,
                "numpy": np.__version__,
                **blas(),
            },
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
                    is_last = adam.steps == steps
                    if is_last or adam.steps % save_steps == 0:
                        run.check_params()
                    if is_last or (eval_steps and adam.steps % eval_steps == 0):
                        score()
                    if folder and (is_last or adam.steps % save_steps == 0):
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


def op_set_of(model: SentenceTransformer) -> Ops:
    """Return the op set that trains a model: with kernels if the model computes with them, else NumPy alone."""
    if model.backend == "numpy":
        return ops
    from minilm_np.kernels import training

    return training


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
        return prepare(self.adam.params, self.model.config, op_set_of(self.model))

    def step(self, rate: float, max_grad_norm: float) -> dict[str, Any]:
        """Change the parameters by one step and return its line of the log."""
        number = self.adam.steps
        batch = self.batches.batch(number, self.batch_size)
        columns = len(batch.examples[0])
        texts = [row[column] for column in range(columns) for row in batch.examples]
        self.texts = len(texts)
        tokens, _ = self.tokenizer.pack(texts)
        labels = None if batch.labels is None else np.asarray(batch.labels, np.float64)
        dropout = Dropout(*self.dropout, self.seed, number) if any(self.dropout) else None
        self.workers.each(lambda _, gradients: gradients.flat.fill(0), self.gradients)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is found below
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
                what = "gradient" if math.isfinite(value) else "loss"
                self._raise_for(number, what, value, norm, texts, batch.sources)
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

    def check_params(self) -> None:
        """Raise TrainingError unless all parameters are finite: the last step may have made them too large."""
        for name, value in self.adam.params.items():
            if not np.isfinite(value).all():
                raise TrainingError(
                    f"step {self.adam.steps}: expected finite parameters, got others in {name}; "
                    "a smaller learning_rate may help"
                )

    def embed(self, texts: Sequence[str]) -> Array:
        """Return the embeddings (n, H) of texts with the current parameters, without dropout."""
        bert, tokens = self.bert(), self.tokenizer.pack(list(texts))[0]
        lengths = np.diff(tokens.offsets)
        order = np.argsort(lengths, kind="stable")
        parts = np.split(order, cut_by_tokens(lengths[order], TOKENS_PER_PART, self.workers.count))
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
    anchors, positives = ops.l2_normalize(anchors), ops.l2_normalize(positives)
    own = np.sum(anchors * positives, axis=1)
    ranks = np.empty(len(anchors), np.int64)
    for start in range(0, len(anchors), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        # A similarity that is not a number counts as higher, so that a broken model has no good score.
        ranks[rows] = 1 + np.sum(~(anchors[rows] @ positives.T <= own[rows, None] + 1e-6), axis=1)
    return {
        "accuracy@1": float(np.mean(ranks == 1)),
        "mrr@10": float(np.mean(np.where(ranks <= 10, 1 / ranks, 0))),
    }


def _evaluator(evaluate: Any) -> tuple[Callable[[Run], dict[str, float]] | None, str | None]:
    """Return what scores a run, and what the run's record says of it."""
    if evaluate is None:
        return None, None
    if callable(evaluate):
        return partial(_scores_of_model, evaluate), type(evaluate).__name__
    rows, expected, description = training_data.held_out(evaluate)
    first, second, *others = ([row[i] for row in rows] for i in range(min(3, *map(len, rows))))
    if expected is None:
        return partial(_scores_of_texts, [first, second, *others]), description
    for module in ("scipy", "sklearn"):
        if find_spec(module) is None:
            raise ImportError(
                f"evaluate: {module} is needed for pairs with scores and not installed; install minilm-np[eval]"
            )
    if set(expected) <= {0, 1}:
        labels = [int(score) for score in expected]
        return partial(_scores_of_model, BinaryClassificationEvaluator(first, second, labels)), description
    return partial(_scores_of_model, EmbeddingSimilarityEvaluator(first, second, expected)), description


def _scores_of_texts(columns: Sequence[Sequence[str]], run: Run) -> dict[str, float]:
    anchors, positives, *negatives = (run.embed(column) for column in columns)
    scores = retrieval_scores(anchors, positives)
    for column in negatives:
        is_closer = pairwise_cos_sim(anchors, positives) > pairwise_cos_sim(anchors, column)
        scores["cosine_accuracy"] = float(np.mean(is_closer))  # TripletEvaluator's name
    return scores


def _scores_of_model(evaluator: Callable[[SentenceTransformer], Any], run: Run) -> dict[str, float]:
    run.model.replace_weights(run.adam.params)
    scores = evaluator(run.model)
    scores = scores if isinstance(scores, dict) else {"score": scores}
    return {str(name): float(score) for name, score in scores.items()}


# --- arguments ---------------------------------------------------------------------------------


def _number(name: str, value: Any, least: float, most: float, *, below: bool = False) -> float:
    """Return an argument as a float; with `below`, `most` itself is refused."""
    is_number = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (below and value == most):
        limits = f"from {least:g} to {'below ' if below else ''}{most:g}"
        limits = f"of at least {least:g}" if most == math.inf else limits
        raise ValueError(f"{name}: expected a number {limits}, got {value!r}")
    return float(value)


def _tokenizer(model: SentenceTransformer, max_seq_length: int) -> Tokenizer:
    training_data.whole("max_seq_length", max_seq_length, 3)
    config = model.config
    length = min(max_seq_length, config.max_position_embeddings)
    path = find_layout(model.place.folder).tokenizer
    return Tokenizer(path, length, config.vocab_size, config.type_vocab_size)


def _dropout_probabilities(model: SentenceTransformer, dropout: float | None) -> tuple[float, float]:
    if dropout is not None:
        probability = _number("dropout", dropout, 0, 1, below=True)
        return probability, probability
    path = find_layout(model.place.folder).transformer / "config.json"
    config = read_json(path)
    names = "hidden_dropout_prob", "attention_probs_dropout_prob"
    hidden, attention_probs = (_number(f"{path}: {name}", config.get(name, 0.1), 0, 1, below=True) for name in names)
    return hidden, attention_probs


def _check_loss(loss: Any, scale: float, files: Sequence[dict[str, Any]], hidden_size: int) -> None:
    """Raise ValueError unless the loss takes the examples of all files."""
    if loss is not None and not hasattr(loss, "value_and_gradients"):
        raise ValueError(f"loss: expected an object with value_and_gradients, got {type(loss).__name__}")
    for columns, has_scores in {(file["columns"], file["has_scores"]) for file in files}:
        embeddings = [np.eye(2, hidden_size, k=column) + 0.1 for column in range(columns)]
        chosen = loss or default_loss(columns, has_scores, scale)
        chosen.value_and_gradients(embeddings, np.array([0.0, 1.0]) if has_scores else None)


def _description(value: Any) -> str:
    """Return what the run's record says of a loss: the same in each process, so without addresses."""
    if is_dataclass(value):
        settings = (f"{field.name}={_description(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({', '.join(settings)})"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_description, value))})"
    return type(value).__name__


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
