"""SentenceTransformer: texts in, embeddings out; a subset of the sentence-transformers interface."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import model, ops
from minilm_np.checkpoint import release_pages
from minilm_np.threads import available_cpus
from minilm_np.tokenizer import Text, Tokenizer, Tokens
from minilm_np.weights import DEFAULT_MODEL, load

Array = npt.NDArray[Any]

TOKENIZE_AT_ONCE = 1024  # texts; the tokenizers library keeps about 100 times a text's size while it works


class SentenceTransformer:
    """A sentence encoder on the CPU, without PyTorch.

    model_name_or_path: the default model, or the folder of another BERT sentence encoder.
    backend: "numpy", "numba", or "auto": Numba where it works and the model's sizes suit it, else NumPy.
    threads: threads of the Numba op set, default all that the process may use; NumPy's BLAS manages its own.
    dtype: "float32", or "float64" for the oracle (NumPy only, about five times slower).
    local_files_only: never use the network.

    Afterwards `backend` says which op set computes and `backend_reason` why.
    Raises WeightsNotFoundError, WeightsError (both say what was found and what was wanted), ValueError; ImportError
    if backend="numba" and Numba does not work.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        threads: int | None = None,
        dtype: npt.DTypeLike = "float32",
        local_files_only: bool = False,
    ):
        if backend not in ("auto", "numba", "numpy"):
            raise ValueError(f"backend: found {backend!r}, wanted 'auto', 'numba' or 'numpy'")
        if threads is not None and backend == "numpy":
            raise ValueError(f"threads: found {threads!r}, wanted None: the BLAS of the numpy backend manages its own")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads: found {threads!r}, wanted a positive integer")
        if np.dtype(dtype) not in (np.dtype("float32"), np.dtype("float64")):
            raise ValueError(f"dtype: found {dtype!r}, wanted 'float32' or 'float64'")
        self.dtype = np.dtype(dtype)
        self.threads = threads or available_cpus()
        self.place, self.config, params = load(model_name_or_path, dtype=dtype, local_files_only=local_files_only)
        self.tokenizer = Tokenizer(
            self.place.folder / "tokenizer.json", self.config.max_seq_length, self.config.vocab_size
        )
        kernels, self.backend_reason = _kernels(backend, self.dtype, self.config)
        self.backend = "numba" if kernels else "numpy"
        self._chunk: int | None = kernels.CHUNK if kernels else None
        self._bert = model.prepare(params, self.config, kernels or ops)
        self._arguments = (model_name_or_path, backend, threads, str(self.dtype), local_files_only)
        if kernels:
            release_pages(params)
            with _said_if_slow("compiling the Numba kernels, once on this machine"):
                self._forward(self.tokenizer(["compile"]))

    def __reduce__(self) -> Any:
        """Pickled as what it was made of: a path and options, not 90 MB of arrays."""
        return _make, self._arguments

    @property
    def max_seq_length(self) -> int:
        """The most word pieces of a text that are read, [CLS] and [SEP] included; the rest is cut off."""
        return self.config.max_seq_length

    def encode(
        self, sentences: str | Iterable[Text], *, batch_size: int = 32, show_progress_bar: bool = False
    ) -> Array:
        """Embeddings: (H,) for one str, (n, H) for an iterable of n texts, in the model's dtype, in the order given.

        batch_size is how many texts the NumPy op set computes at once. The Numba op set cuts by tokens itself; there a
        text's embedding is bit for bit the same in any batch, order and number of threads.
        A text is a str, or a pair of str that is read as one ([CLS] a [SEP] b [SEP]). No texts give an empty
        float64 array of shape (0,), as in sentence-transformers.
        Raises TypeError or ValueError naming the argument and the row.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"batch_size: found {batch_size!r}, wanted a positive integer")
        if isinstance(sentences, str):
            result: Array = self.encode([sentences], batch_size=batch_size)[0]
            return result
        tokens = self.tokenize(sentences)
        n = len(tokens.offsets) - 1
        if n == 0:
            return np.array([])
        embeddings = np.empty((n, self.config.hidden_size), self.dtype)

        def compute(rows: Array) -> int:
            embeddings[rows] = self._forward(tokens.take(rows))
            return len(rows)

        lengths = np.diff(tokens.offsets)
        order = np.argsort(-lengths, kind="stable")  # equal lengths together, longest first
        chunks = _cut(order, lengths, batch_size, self._chunk)
        with _progress_bar(n, show_progress_bar) as bar:
            for done in self._map(compute, chunks):
                bar.update(done)
        return embeddings

    def _map(self, compute: Callable[[Array], int], chunks: list[Array]) -> Iterator[int]:
        """compute(chunk) for all chunks: on the Numba op set by threads, which share nothing but the list.

        The threads end with the call, so that a fork after it is safe. An exception, Ctrl-C too, drops what has not
        begun.
        """
        threads = min(self.threads, len(chunks)) if self._chunk else 1
        if threads == 1:
            yield from map(compute, chunks)
            return
        with ThreadPoolExecutor(threads, "minilm_np") as pool:
            try:
                yield from pool.map(compute, chunks)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def tokenize(self, sentences: str | Iterable[Text]) -> Tokens:
        """Packed word pieces: token_ids (T,), token_type_ids (T,), offsets (n + 1,). Errors as in `encode`."""
        texts = _as_texts(sentences)
        parts = []
        for start in range(0, len(texts), TOKENIZE_AT_ONCE):
            some = texts[start : start + TOKENIZE_AT_ONCE]
            try:
                parts.append(self.tokenizer(some))
            except TypeError:  # the library does not say which text: find it
                for row, text in enumerate(some, start):
                    _check_unicode(row, text)
                raise
        return Tokens.concatenate(parts)

    def token_embeddings(self, tokens: Tokens) -> Array:
        """The last layer's hidden_states (T, H): token t of text b is row offsets[b] + t."""
        return model.encoder(self._bert, *tokens)

    def stages(self, sentences: str | Iterable[Text]) -> dict[str, Any]:
        """Every named stage of the forward pass of one packed batch, in order; shapes: `model.stage_names`."""
        seen: dict[str, Any] = {}
        self._forward(self.tokenize(sentences), seen.__setitem__)
        return seen

    def _forward(self, tokens: Tokens, observe: model.Observer | None = None) -> Array:
        return model.forward(self._bert, *tokens, observe)


def _make(name: str, backend: str, threads: int | None, dtype: str, local_files_only: bool) -> SentenceTransformer:
    return SentenceTransformer(name, backend=backend, threads=threads, dtype=dtype, local_files_only=local_files_only)


def _kernels(backend: str, dtype: np.dtype[Any], config: model.BertConfig) -> tuple[Any, str]:
    """The Numba op set, or None for NumPy; and why."""
    if backend == "numpy":
        return None, "asked for"
    try:
        if dtype != np.float32:
            raise ValueError(f"dtype {dtype}: the Numba kernels compute in float32")
        from minilm_np import kernels

        problem = kernels.unsupported(config.hidden_size, config.num_attention_heads, config.intermediate_size)
        if problem:
            raise ValueError(problem)
    except ValueError as error:
        if backend == "numba":
            raise ValueError(f"backend: found 'numba', wanted 'auto' or 'numpy': {error}") from None
        return None, str(error)
    except Exception as error:  # missing, or broken in whatever way an installation can be
        if backend == "numba":
            raise ImportError(f"backend: found 'numba', but Numba does not work here: {error}") from error
        warnings.warn(f"minilm_np: Numba does not work here, NumPy computes: {error}", RuntimeWarning, stacklevel=3)
        return None, f"Numba does not work: {error}"
    return kernels, "asked for" if backend == "numba" else "the fastest that works here"


def _cut(order: Array, lengths: Array, batch_size: int, chunk: int | None) -> list[Array]:
    """Rows to compute together: `batch_size` at a time or, if there is a limit of tokens, as many as it holds."""
    if chunk is None:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    starts, tokens = [0], 0
    for i, length in enumerate(lengths[order].tolist()):
        if tokens + length > chunk and i > starts[-1]:
            starts.append(i)
            tokens = 0
        tokens += length
    return np.split(order, starts[1:])


@contextmanager
def _said_if_slow(what: str) -> Iterator[None]:
    """A line on stderr if the block takes more than a second."""
    timer = threading.Timer(1.0, lambda: print(f"minilm_np: {what}", file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _progress_bar(total: int, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="text", disable=None if show else True)  # None: only on a terminal


def _as_texts(sentences: Any) -> list[Text]:
    """The rows as str or (str, str); TypeError names the argument or the row."""
    if isinstance(sentences, str):
        return [sentences]
    wanted = "a str or an iterable of str"
    if isinstance(sentences, bytes | bytearray | dict | set | frozenset) or not hasattr(sentences, "__iter__"):
        raise TypeError(f"sentences: found {type(sentences).__name__}, wanted {wanted}")
    if getattr(sentences, "ndim", 1) != 1:  # a table's rows are not texts, nor are its column names
        raise TypeError(f"sentences: found a {type(sentences).__name__} of shape {sentences.shape}, wanted {wanted}")
    texts: list[Text] = []
    for row, text in enumerate(sentences):
        if isinstance(text, str):
            texts.append(str(text))
        elif isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text):
            texts.append((str(text[0]), str(text[1])))
        else:
            raise TypeError(f"sentences[{row}]: found {_describe(text)}, wanted a str or a pair of str")
    return texts


def _describe(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def _check_unicode(row: int, text: Text) -> None:
    for part in (text,) if isinstance(text, str) else text:
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"sentences[{row}]: character {error.start} is {part[error.start]!r}, half of a surrogate pair; "
                "wanted valid Unicode"
            ) from None
