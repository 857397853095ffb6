"""Encoder: texts in, embeddings out. Which op set computes, in what pieces, on which threads."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import model, ops
from minilm_np.checkpoint import release_pages
from minilm_np.threads import available_cpus
from minilm_np.tokenizer import Text, Tokenizer, Tokens
from minilm_np.weights import DEFAULT_MODEL, load

Array = npt.NDArray[Any]

# Texts tokenised at once: the tokenizers library keeps about 100 times a text's size while it works. NumPy's batches
# gain from equal lengths, which are sought among so many; the Numba op set pads nothing, and starts sooner with fewer.
TEXTS_AT_ONCE = {"numpy": 1024, "numba": 256}
AHEAD = 24  # chunks a thread, computed or waiting: more than a slice of texts, so that no thread waits for words


class InputError(TypeError, ValueError):
    """A text that is none; both kinds of error, because what sentence-transformers raises depends on what it meets."""


class Encoder:
    """A sentence encoder on the CPU, without PyTorch; SentenceTransformer adds the interface that people know.

    model_name_or_path: the default model, or the folder of another BERT sentence encoder.
    backend: "numpy", "numba", or "auto": Numba where it works and the model's sizes suit it, else NumPy.
    threads: threads of the Numba op set, default all that the process may use; NumPy's BLAS manages its own.
    dtype: "float32", or "float64" for the oracle (NumPy only, about five times slower).
    local_files_only: never use the network.
    cache_folder, revision: the Hugging Face cache to look in, and the commit or branch wanted of it.

    `weights` maps the checkpoint's parameter names to read-only arrays, dense weights as (outputs, inputs).
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
        cache_folder: str | os.PathLike[str] | None = None,
        revision: str | None = None,
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
        self.place, self.config, params = load(
            model_name_or_path,
            dtype=dtype,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
            revision=revision,
        )
        self.weights: Mapping[str, Array] = MappingProxyType(params)
        self._read_tokenizer(self.config.max_seq_length)
        kernels, self.backend_reason = _kernels(backend, self.dtype, self.config)
        if kernels:
            try:
                self._bert = model.prepare(params, self.config, kernels)
                release_pages(params)
                self._warm_up()
            except Exception as error:  # Numba is there but cannot compile, or run, on this machine
                kernels, self.backend_reason = None, _broken(backend, error)
        if not kernels:
            self._bert = model.prepare(params, self.config, ops)
        self.backend = "numba" if kernels else "numpy"

    def _read_tokenizer(self, max_seq_length: int) -> None:
        self.tokenizer = Tokenizer(self.place.folder / "tokenizer.json", max_seq_length, self.config.vocab_size)

    @property
    def max_seq_length(self) -> int:
        """The most word pieces of a text that are read, [CLS] and [SEP] included; the rest is cut off."""
        return self.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        most = self.config.max_position_embeddings
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 3 <= value <= most:
            raise ValueError(f"max_seq_length: found {value!r}, wanted 3 to {most} ([CLS], a word piece, [SEP], ...)")
        self._read_tokenizer(int(value))

    def embed(
        self,
        texts: list[Text],
        batch_size: int = 32,
        on_cut: Callable[[dict[int, int]], None] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Array:
        """Embeddings (n, H) of n texts, in the order given.

        batch_size is how many texts the NumPy op set computes at once. The Numba op set cuts by tokens itself; there a
        text's embedding is bit for bit the same in any batch, order and number of threads.
        on_cut is told, slice by slice, of the rows that are too long: {row: word pieces that are not read}; what it
        raises ends the computation. progress is told how many texts were computed.
        """
        embeddings = np.empty((len(texts), self.config.hidden_size), self.dtype)

        def compute(chunk: tuple[Array, Tokens], team: model.Ops | None = None) -> int:
            rows, tokens = chunk
            embeddings[rows] = self._forward(tokens, team=team)
            return len(rows)

        for done in self._map(compute, self._chunks(texts, batch_size, on_cut)) if texts else ():
            if progress:
                progress(done)
        return embeddings

    def _chunks(
        self, texts: list[Text], batch_size: int, on_cut: Callable[[dict[int, int]], None] | None
    ) -> Iterator[tuple[Array, Tokens]]:
        """What is computed at once: (rows of `texts`, their tokens), tokenised a slice at a time, when asked for."""
        at_once = TEXTS_AT_ONCE[self.backend]
        for start in range(0, len(texts), at_once):
            tokens, cut = self._tokenize(texts[start : start + at_once], start)
            if cut and on_cut:
                on_cut(cut)
            lengths = np.diff(tokens.offsets)
            order = np.argsort(-lengths, kind="stable")  # equal lengths together, longest first
            if self.backend == "numba":
                cuts = _cut_by_tokens(lengths[order], self._bert.ops.TOKENS_PER_CHUNK, self.threads)  # type: ignore[attr-defined]
            else:
                cuts = np.arange(batch_size, len(order), batch_size)
            for rows in np.split(order, cuts):
                yield start + rows, tokens.take(rows)

    def _map(self, compute: Callable[..., int], chunks: Iterator[Any]) -> Iterator[int]:
        """compute(chunk) for all chunks. On the Numba op set by threads, which share nothing but the list of chunks;
        a lone chunk is computed by all of them together.

        The pool ends with the call; what a team keeps is safe across a fork. An exception, Ctrl-C too, drops what has
        not begun.
        """
        if self.backend == "numpy" or self.threads == 1:
            yield from map(compute, chunks)
            return
        first = next(chunks)
        second = next(chunks, None)
        if second is None:
            yield self._together(compute, first)
            return
        waiting: deque[Future[int]] = deque()
        with ThreadPoolExecutor(self.threads, "minilm_np") as pool:
            try:
                for chunk in chain((first, second), chunks):  # tokenises what is next while the threads compute
                    waiting.append(pool.submit(compute, chunk))
                    while waiting and (waiting[0].done() or len(waiting) > AHEAD * self.threads):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _together(self, compute: Callable[..., int], chunk: Any) -> int:
        """One chunk on all threads."""
        from minilm_np.kernels.team import team

        with team(self.threads) as members:
            return compute(chunk, members)

    def _warm_up(self) -> None:
        """Run every kernel once: Numba compiles at the first call, or reads what it compiled earlier."""
        from minilm_np.kernels.simd import WITHOUT_JIT
        from minilm_np.kernels.team import Team, worker_loop

        if WITHOUT_JIT:
            return
        tokens = self.tokenizer(["compile"])
        with _said_if_slow("compiling the Numba kernels, once on this machine"):
            self._forward(tokens)
            together = Team(2)
            worker_loop(together._box, 1, 0)  # compiled here, because an error in a worker thread would be lost
            self._forward(tokens, team=together)

    def tokens(self, sentences: str | Iterable[Text]) -> Tokens:
        """Packed word pieces: token_ids (T,), token_type_ids (T,), offsets (n + 1,). Errors as in `encode`."""
        texts, at_once = as_texts(sentences), TEXTS_AT_ONCE["numpy"]
        starts = range(0, len(texts), at_once)
        return Tokens.concatenate([self._tokenize(texts[start : start + at_once], start)[0] for start in starts])

    def _tokenize(self, texts: list[Text], first_row: int) -> tuple[Tokens, dict[int, int]]:
        """Their word pieces, and {row: word pieces that are not read} of those that are too long."""
        try:
            tokens, cut = self.tokenizer.pack(texts)
        except TypeError:  # the library does not say which text: find it
            for row, text in enumerate(texts, first_row):
                _check_unicode(row, text)
            raise
        return tokens, {first_row + i: dropped for i, dropped in cut.items()}

    def token_embeddings(self, tokens: Tokens) -> Array:
        """The last layer's hidden_states (T, H): token t of text b is row offsets[b] + t.

        Raises ValueError for ids or lengths that the model has no embeddings for.
        """
        lengths = np.diff(tokens.offsets)
        for name, values, most in (  # the kernels check nothing
            ("token_ids", tokens.token_ids, self.config.vocab_size - 1),
            ("token_type_ids", tokens.token_type_ids, self.config.type_vocab_size - 1),
            ("lengths", lengths, self.config.max_position_embeddings),
        ):
            for i in np.flatnonzero((values < 0) | (values > most))[:1]:
                raise ValueError(f"tokens: {name}[{i}]: found {values[i]}, wanted 0 to {most}")
        return model.encoder(self._bert, *tokens)

    def stages(self, sentences: str | Iterable[Text], *, detail: bool = False) -> dict[str, Any]:
        """Compute one packed batch and return every stage of the forward pass by name, in order.

        `minilm_np.model.stage_names(model.config)` lists the names and documents the shapes. With detail=True the
        result also has what each step needs to be recomputed by hand, as `minilm_np.tape.detailed_stage_names` lists
        it, and first "tokens": a list of str for each text. Errors as in `encode`.
        """
        tokens = self.tokens(sentences)
        stages: dict[str, Any] = {}
        if not detail:
            self._forward(tokens, stages.__setitem__)
            return stages
        from minilm_np.tape import detailed_stages

        strings = self.tokenizer.strings(tokens.token_ids)
        stages["tokens"] = [strings[start:stop] for start, stop in pairwise(tokens.offsets)]
        return stages | detailed_stages(self._bert, *tokens)

    def _forward(self, tokens: Tokens, observe: model.Observer = None, team: model.Ops | None = None) -> Array:
        bert = self._bert._replace(ops=team) if team else self._bert
        return model.forward(bert, *tokens, observe)


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
        return None, _broken(backend, error)
    return kernels, "asked for" if backend == "numba" else "the fastest that works here"


def _broken(backend: str, error: Exception) -> str:
    """The reason for NumPy, after one warning; ImportError if Numba was asked for."""
    found = " ".join(str(error).split())[:300]  # Numba's errors can be pages
    if backend == "numba":
        raise ImportError(f"backend: found 'numba', but Numba does not work here: {found}") from error
    warnings.warn(f"minilm_np: Numba does not work here, NumPy computes: {found}", RuntimeWarning, stacklevel())
    return f"Numba does not work: {found}"


def stacklevel() -> int:
    """For warnings.warn: the caller's first frame outside this package, so that the warning names the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("minilm_np."):
        frame, level = frame.f_back, level + 1
    return level


def _cut_by_tokens(lengths: Array, limit: int, threads: int) -> Array:
    """Where to cut texts of these lengths into chunks of about equally many tokens, about `limit` at most.

    As many chunks for every thread, if there are more than one: nobody waits for the last.
    """
    ends = np.cumsum(lengths)
    chunks = -(-int(ends[-1]) // limit)
    if chunks > 1:
        chunks = -(-chunks // threads) * threads
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, chunks) / chunks)
    return np.unique(cuts[cuts > 0])


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


def as_texts(sentences: Any) -> list[Text]:
    """The rows as str or (str, str). Raises InputError naming the argument or the row."""
    if isinstance(sentences, str):
        return [str(sentences)]
    wanted = "a str or an iterable of str"
    if isinstance(sentences, bytes | bytearray | dict | set | frozenset) or not hasattr(sentences, "__iter__"):
        raise InputError(f"sentences: found {type(sentences).__name__}, wanted {wanted}")
    if getattr(sentences, "ndim", 1) != 1:  # a table's rows are not texts, nor are its column names
        raise InputError(f"sentences: found a {type(sentences).__name__} of shape {sentences.shape}, wanted {wanted}")
    texts: list[Text] = []
    for row, text in enumerate(sentences):
        if isinstance(text, dict) and list(text) == ["text"] and isinstance(text["text"], str):
            text = text["text"]
        if isinstance(text, str):
            texts.append(str(text))
        elif isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text):
            texts.append((str(text[0]), str(text[1])))
        else:
            raise InputError(f"sentences[{row}]: found {_describe(text)}, wanted a str or a pair of str")
    return texts


def _describe(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def _check_unicode(row: int, text: Text) -> None:
    for part in (text,) if isinstance(text, str) else text:
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"sentences[{row}]: character {error.start} is {part[error.start]!r}, half of a surrogate pair; "
                "wanted valid Unicode"
            ) from None
