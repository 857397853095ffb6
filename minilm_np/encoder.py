"""Run the model on texts: choose the op set, tokenize, split the texts into chunks and compute them on threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from minilm_np import model, ops
from minilm_np.checkpoint import release_pages
from minilm_np.layout import find_layout
from minilm_np.threads import available_cpus
from minilm_np.tokenizer import Text, TextInfo, Tokenizer, Tokens
from minilm_np.weights import DEFAULT_MODEL, load

if TYPE_CHECKING:
    from concurrent.futures import Future

Array = npt.NDArray[Any]

# Texts per call of the tokenizer, whose library needs about 100 times a text's size while it works. The NumPy op set
# computes texts of equal length together and finds more of them among many texts; the Numba op set pads nothing, and a
# smaller number lets it start sooner.
TEXTS_AT_ONCE = {"numpy": 1024, "numba": 256}
# Chunks that may be submitted but not yet collected. One slice of texts makes fewer, so no thread waits for the
# tokenizer.
CHUNKS_AHEAD_PER_THREAD = 24


LOW_PRECISION = ("bfloat16", "int8")  # computed by the Numba op set only


class InputError(TypeError, ValueError):
    """Raised when an input is not a text; the message names the argument or the row.

    It subclasses TypeError and ValueError because sentence-transformers raises either, depending on the input.
    """


class Encoder:
    """Tokenize texts and run the model on them, on the CPU.

    This is the base class of SentenceTransformer, which documents the parameters and adds the interface of
    sentence-transformers.
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
        token: bool | str | None = None,
    ):
        if backend not in ("auto", "numba", "numpy"):
            raise ValueError(f"backend: expected 'auto', 'numba' or 'numpy', got {backend!r}")
        if threads is not None and backend == "numpy":
            raise ValueError(f"threads: expected None, because NumPy's BLAS manages its own threads, got {threads!r}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads: expected a positive integer, got {threads!r}")
        self.dtype, self.compute_dtype = _dtypes(dtype)
        self.threads = threads or available_cpus()
        self.place, self.config, params = load(
            model_name_or_path,
            dtype=self.dtype,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
            revision=revision,
            token=token,
        )
        self.weights: Mapping[str, Array] = MappingProxyType(params)
        self.has_own_weights = False  # whether they are others than those of the folder
        self._read_tokenizer(self.config.max_seq_length)
        kernels, self.backend_reason = _choose_kernels(backend, self.compute_dtype, self.config)
        if kernels:
            try:
                from minilm_np.kernels.warm_up import warm_up

                self._use(model.prepare(params, self.config, kernels))
                release_pages(params)
                warm_up(self._bert)
            except Exception as error:  # Numba is installed but cannot compile, or run, on this machine
                kernels, self.backend_reason = None, _without_numba(backend, self.compute_dtype, error)
        if not kernels:
            self._use(model.prepare(params, self.config, ops))
        self.backend = "numba" if kernels else "numpy"

    def replace_weights(self, params: Mapping[str, Array]) -> None:
        """Use copies of other parameters, as after training; `weights` and the op set's layout change together.

        Raises
        ------
        ValueError
            If a name or a shape is not that of the model's own parameters; the message names it.
        """
        for name in sorted(self.weights.keys() | params.keys()):
            shapes = [np.shape(of[name]) if name in of else "none" for of in (self.weights, params)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"params: {name}: expected shape {shapes[0]}, got {shapes[1]}")
        copies = {name: np.array(params[name], self.dtype) for name in self.weights}
        for value in copies.values():
            value.flags.writeable = False
        self._use(model.prepare(copies, self.config, self._bert.ops))
        self.weights = MappingProxyType(copies)
        self.has_own_weights = True

    def _use(self, bert: model.Bert) -> None:
        self._bert = bert
        self._programs: Any = None  # made when they are needed, by threads that hold the team

    def _read_tokenizer(self, max_seq_length: int) -> None:
        path, config = find_layout(self.place.folder).tokenizer, self.config
        self.tokenizer = Tokenizer(path, max_seq_length, config.vocab_size, config.type_vocab_size)

    @property
    def max_seq_length(self) -> int:
        """The number of word pieces that the model reads of a text, [CLS] and [SEP] included; the rest is cut off.

        It can be set to 3 up to `config.max_position_embeddings`; any other value raises ValueError.
        """
        return self.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        largest = self.config.max_position_embeddings
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 3 <= value <= largest:
            raise ValueError(f"max_seq_length: expected 3 ([CLS], a word piece, [SEP]) to {largest}, got {value!r}")
        self._read_tokenizer(int(value))

    # --- texts -> outputs ----------------------------------------------------------------------

    def encode_texts(
        self,
        texts: list[Text],
        batch_size: int = 32,
        on_cut: Callable[[dict[int, int]], None] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Array:
        """Return the embeddings (n, H) of n texts, in their order and in the model's dtype.

        Parameters
        ----------
        texts
            A list of str and pairs of str, as `as_texts` returns it.
        batch_size
            Texts that the NumPy op set computes together. The Numba op set forms chunks by number of tokens; its
            embedding of a text has the same bits in every batch, in every order and on any number of threads.
        on_cut
            Called for each slice of texts that has texts of more than `max_seq_length` word pieces, with
            {row: word pieces cut off}. An exception that it raises stops the computation.
        progress
            Called after each chunk with its number of texts.
        """
        embeddings: Array = self._encode(texts, "sentence_embedding", batch_size, on_cut, progress)
        return embeddings

    embed = encode_texts  # the earlier name; everywhere else "embed" means only the op

    def _encode(
        self,
        texts: list[Text],
        output_value: str | None,
        batch_size: int,
        on_cut: Callable[[dict[int, int]], None] | None = None,
        progress: Callable[[int], Any] | None = None,
        infos: list[TextInfo] | None = None,
    ) -> Any:
        """Return each text's output, in order: an array (n, H) of sentence embeddings, or a list (see _token_outputs).

        If `infos` is given, a TextInfo per text is appended to it. Other parameters as in `encode_texts`.
        """
        as_array = output_value == "sentence_embedding"
        n = len(texts)
        outputs: Any = np.empty((n, self.config.hidden_size), self.dtype) if as_array else [None] * n

        def compute(chunk: tuple[Array, Tokens], team: model.Ops | None = None) -> int:
            rows, tokens = chunk
            if as_array:
                outputs[rows] = self._forward(tokens, team=team)
            else:
                for row, output in zip(rows, self._token_outputs(tokens, output_value, team), strict=True):
                    outputs[row] = output
            return len(rows)

        for done in self._map(compute, self._chunks(texts, batch_size, on_cut, infos)) if texts else ():
            if progress:
                progress(done)
        return outputs

    def _token_outputs(self, tokens: Tokens, output_value: str | None, team: model.Ops | None) -> list[Any]:
        """Return each text's token embeddings (S, H), or a dict with them and more if `output_value` is None."""
        bert = self._bert._replace(ops=team) if team else self._bert
        hidden_states = model.encoder(bert, *tokens)
        spans = [slice(start, stop) for start, stop in pairwise(tokens.offsets)]
        if output_value == "token_embeddings":
            return [hidden_states[span] for span in spans]
        embeddings = model.sentence_embeddings(bert, hidden_states, tokens.offsets)
        return [
            {
                "input_ids": tokens.token_ids[span].astype(np.int64),
                "token_type_ids": tokens.token_type_ids[span].astype(np.int64),
                "attention_mask": np.ones(span.stop - span.start, np.int64),
                "modality": "text",
                "token_embeddings": hidden_states[span],
                "sentence_embedding": embedding,
            }
            for span, embedding in zip(spans, embeddings, strict=True)
        ]

    def _chunks(
        self,
        texts: list[Text],
        batch_size: int,
        on_cut: Callable[[dict[int, int]], None] | None,
        infos: list[TextInfo] | None,
    ) -> Iterator[tuple[Array, Tokens]]:
        """Yield the texts that are computed together: (rows of `texts`, their tokens). Tokenizes slice by slice."""
        for start, tokens, cut in self._tokenized_slices(texts, infos):
            if cut and on_cut:
                on_cut(cut)
            lengths = np.diff(tokens.offsets)
            order = np.argsort(-lengths, kind="stable")  # equal lengths together, longest first
            if self.backend == "numba":
                cuts = cut_by_tokens(lengths[order], self._bert.ops.TOKENS_PER_CHUNK, self.threads)  # type: ignore[attr-defined]
            else:
                cuts = np.arange(batch_size, len(order), batch_size)
            for rows in np.split(order, cuts):
                yield start + rows, tokens.take(rows)

    def _map(self, compute: Callable[..., int], chunks: Iterator[Any]) -> Iterator[int]:
        """Yield compute(chunk) for every chunk.

        With the Numba op set, threads take whole chunks from one queue; a single chunk is computed by all threads
        together. The thread pool ends with the call, and the threads that share a chunk are safe across a fork. An
        exception, Ctrl-C included, drops the chunks that have not begun. Where no thread can be started, this
        one computes.
        """
        if self.backend == "numpy":
            yield from map(compute, chunks)
            return
        first = next(chunks)
        second = next(chunks, None)
        if second is None:
            yield self._together(compute, first)
            return
        chunks = chain((first, second), chunks)
        if self.threads == 1:
            yield from map(compute, chunks)
            return
        try:
            from concurrent.futures import ThreadPoolExecutor
        except RuntimeError:  # at its first import, in an atexit handler
            yield from map(compute, chunks)
            return
        waiting: deque[Future[int]] = deque()
        with ThreadPoolExecutor(self.threads, "minilm_np") as pool:
            try:
                for chunk in chunks:  # tokenizes the next slice while the threads compute
                    try:
                        waiting.append(pool.submit(compute, chunk))
                    except RuntimeError:  # no thread can be started, or the interpreter is shutting down
                        yield from map(compute, chain((chunk,), chunks))
                    while waiting and (waiting[0].done() or len(waiting) > CHUNKS_AHEAD_PER_THREAD * self.threads):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _together(self, compute: Callable[..., int], chunk: Any) -> int:
        """Compute one chunk on all threads."""
        from minilm_np.kernels.team import team

        with team(self.threads) as members:
            return compute(chunk, members)

    # --- word pieces, hidden states, stages -----------------------------------------------------

    def tokens(self, sentences: str | Iterable[Text]) -> Tokens:
        """Return the packed word pieces of texts.

        Parameters
        ----------
        sentences
            One text or an iterable of texts, as in `encode`.

        Returns
        -------
        Tokens
            token_ids (T,) and token_type_ids (T,), int32, of T word pieces in total; offsets (n + 1,), int64: text b
            is tokens offsets[b]:offsets[b+1].

        Raises
        ------
        InputError
            If an input is not a text; the message names the row.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> tokens = SentenceTransformer().tokens(["Hello world!", "Hi"])
        >>> tokens.token_ids
        array([ 101, 7592, 2088,  999,  102,  101, 7632,  102], dtype=int32)
        >>> tokens.offsets
        array([0, 5, 8])
        """
        return Tokens.concatenate([tokens for _, tokens, _ in self._tokenized_slices(as_texts(sentences))])

    def _tokenized_slices(
        self, texts: list[Text], infos: list[TextInfo] | None = None
    ) -> Iterator[tuple[int, Tokens, dict[int, int]]]:
        """Tokenize TEXTS_AT_ONCE texts at a time; yield (first row, tokens, {row: word pieces cut off}).

        If `infos` is given, a TextInfo per text is appended to it.
        """
        step = TEXTS_AT_ONCE[self.backend]
        for start in range(0, len(texts), step):
            yield start, *self._tokenize(texts[start : start + step], start, infos)

    def _tokenize(
        self, texts: list[Text], first_row: int, infos: list[TextInfo] | None
    ) -> tuple[Tokens, dict[int, int]]:
        try:
            tokens, cut = self.tokenizer.pack(texts, infos, first_row)
        except TypeError:  # the library does not name the text, so find it
            for row, text in enumerate(texts, first_row):
                _check_unicode(row, text)
            raise
        return tokens, {first_row + i: dropped for i, dropped in cut.items()}

    def token_embeddings(self, tokens: Tokens) -> Array:
        """Return the last layer's hidden states of packed word pieces.

        Parameters
        ----------
        tokens
            T word pieces, as `tokens` returns them.

        Returns
        -------
        ndarray
            Hidden states (T, H) in the model's dtype: token t of text b is row offsets[b] + t.

        Raises
        ------
        TypeError, ValueError
            If the argument is not Tokens, or an id or a length is outside the model's embedding tables.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> model = SentenceTransformer()
        >>> model.token_embeddings(model.tokens(["Hello world!", "Hi"])).shape
        (8, 384)
        """
        if not isinstance(tokens, tuple) or len(tokens) != 3:
            raise TypeError(f"tokens: expected Tokens, as `tokens` returns them, got {type(tokens).__name__}")
        return model.encoder(self._bert, *Tokens(*map(np.asarray, tokens)))

    def stages(self, sentences: str | Iterable[Text], *, detail: bool = False) -> dict[str, Any]:
        """Return every named intermediate result of the forward pass, computed in one packed batch.

        Parameters
        ----------
        sentences
            One text or an iterable of n texts, as in `encode`, with T word pieces in total.
        detail
            Also return the values needed to recompute each step by hand: attention scores, dense outputs before the
            residual, the input, mean and variance of each LayerNorm, the activation's input, ids and positions, and
            "tokens", a list of str for each text. `minilm_np.tape.detailed_stage_names` lists the names and shapes.

        Returns
        -------
        dict
            The values by name, in the order of computation. `minilm_np.model.stage_names(model.config)` lists the
            names and documents the shapes: (T, H) for most, (n, H) for "pooled" and "sentence_embedding", and a list
            of n arrays (N, S, S) for the attention probabilities of N heads in a text of S word pieces.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> stages = SentenceTransformer().stages("Hello world!")
        >>> list(stages)[:3]
        ['embeddings', 'encoder.layer.0.attention.self.query', 'encoder.layer.0.attention.self.key']
        >>> stages["embeddings"].shape, stages["sentence_embedding"].shape
        ((5, 384), (1, 384))
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

    def _forward(self, tokens: Tokens, observe: model.Observer = None, team: Any = None) -> Array:
        if team is None:
            return model.forward(self._bert, *tokens, observe)
        if self._programs is None:
            from minilm_np.kernels.program import Programs

            self._programs = Programs(self._bert)
        program = self._programs.program(tokens.offsets)
        if program is None:
            return model.forward(self._bert._replace(ops=team), *tokens)
        model.check_tokens(self.config, *tokens)
        embeddings: Array = team.run(program, tokens.token_ids, tokens.token_type_ids)
        return embeddings


def _dtypes(dtype: npt.DTypeLike) -> tuple[np.dtype[Any], str]:
    """Return the dtype of a model's arrays, and the name of the dtype that its dense layers compute in."""
    if isinstance(dtype, str) and dtype in LOW_PRECISION:
        return np.dtype(np.float32), dtype
    message = f"dtype: expected 'float32', 'float64', 'bfloat16' or 'int8', got {dtype!r}"
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise TypeError(message) from None
    if result not in (np.float32, np.float64):
        raise ValueError(message)
    return result, result.name


def _choose_kernels(backend: str, compute_dtype: str, config: model.BertConfig) -> tuple[Any, str]:
    """Return the Numba op set, or None for NumPy, and the reason for the choice."""
    if backend == "numpy":
        if compute_dtype in LOW_PRECISION:
            raise ValueError(f"dtype: expected 'float32' or 'float64' with backend='numpy', got {compute_dtype!r}")
        return None, "requested"
    try:
        if compute_dtype == "float64":
            raise ValueError("dtype float64: the Numba kernels compute in float32")
        from minilm_np import kernels

        sizes = config.hidden_size, config.num_attention_heads, config.intermediate_size
        problem = kernels.unsupported(*sizes, compute_dtype)
        if problem:
            raise ValueError(problem)
    except ValueError as error:
        if compute_dtype in LOW_PRECISION:
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {compute_dtype!r}: {error}") from None
        if backend == "numba":
            raise ValueError(f"backend: expected 'auto' or 'numpy', got 'numba': {error}") from None
        return None, str(error)
    except Exception as error:  # Numba is missing, or its installation is broken
        return None, _without_numba(backend, compute_dtype, error)
    return kernels.op_set(compute_dtype), "requested" if backend == "numba" else "the fastest that works here"


def _without_numba(backend: str, compute_dtype: str, error: Exception) -> str:
    """Warn that NumPy computes instead of Numba and return the reason; raise ImportError if only Numba would do."""
    cause = " ".join(str(error).split())[:300]  # Numba's messages can fill pages
    if compute_dtype in LOW_PRECISION:
        message = f"dtype: expected 'float32' or 'float64', got {compute_dtype!r}: Numba does not work here: {cause}"
        raise ImportError(message) from error
    if backend == "numba":
        message = f"backend: expected 'auto' or 'numpy', got 'numba': Numba does not work here: {cause}"
        raise ImportError(message) from error
    warnings.warn(f"minilm_np: Numba does not work here, using NumPy: {cause}", RuntimeWarning, stacklevel())
    return f"Numba does not work: {cause}"


def stacklevel() -> int:
    """Return the stacklevel with which warnings.warn names the user's line: the first frame outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("minilm_np."):
        frame, level = frame.f_back, level + 1
    return level


def cut_by_tokens(lengths: Array, limit: int, threads: int) -> Array:
    """Return where to split texts of these lengths into chunks of about equal size, of about `limit` tokens at most.

    If there is more than one chunk, their number is a multiple of `threads`, so that all threads finish together.
    """
    ends = np.cumsum(lengths)
    chunks = -(-int(ends[-1]) // limit)
    if chunks > 1:
        chunks = -(-chunks // threads) * threads
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, chunks) / chunks)
    return np.unique(cuts[cuts > 0])


def as_texts(sentences: Any, name: str = "sentences", *, allow_one: bool = True) -> list[Text]:
    """Return inputs as a list of str and (str, str).

    Parameters
    ----------
    sentences
        One text or an iterable of texts, as in `SentenceTransformer.encode`.
    name
        What errors call the argument.
    allow_one
        Whether a str is accepted, as one text. Else it is refused, because its letters are not meant as texts.

    Raises
    ------
    InputError
        If an input is not a text; the message names the argument or the row.
    """
    expected = "expected a str or an iterable of str" if allow_one else "expected an iterable of str"
    if isinstance(sentences, str):
        if allow_one:
            return [str(sentences)]
        raise InputError(f"{name}: {expected}, got {_describe(str(sentences))}")
    if isinstance(sentences, bytes | bytearray | Mapping | set | frozenset) or not hasattr(sentences, "__iter__"):
        raise InputError(f"{name}: {expected}, got {type(sentences).__name__}")
    if isinstance(sentences, np.ndarray) and sentences.shape[1:] == (2,):  # pairs, as in a list of lists
        sentences = sentences.tolist()
    if getattr(sentences, "ndim", 1) != 1:  # iterating over a table gives rows or column names, not texts
        raise InputError(f"{name}: {expected}, got {type(sentences).__name__} of shape {sentences.shape}")
    if hasattr(sentences, "to_pylist"):  # a pyarrow array, whose elements are scalars of its own
        sentences = sentences.to_pylist()
    texts: list[Text] = []
    for row, text in enumerate(sentences):
        if isinstance(text, dict) and list(text) == ["text"] and isinstance(text["text"], str):
            text = text["text"]
        if isinstance(text, str):
            texts.append(str(text))
        elif isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text):
            texts.append((str(text[0]), str(text[1])))
        else:
            raise InputError(f"{name}[{row}]: expected a str or a pair of str, got {_describe(text)}")
    return texts


def _describe(value: Any) -> str:
    shown = repr(value)
    described = f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"
    # pandas has three missing values: None, NaN and pandas.NA.
    is_missing = value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)
    return f"a missing value ({described})" if is_missing else described


def _check_unicode(row: int, text: Text) -> None:
    for part in (text,) if isinstance(text, str) else text:
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"sentences[{row}]: expected valid Unicode, got {part[error.start]!r}, half of a surrogate pair, "
                f"as character {error.start}"
            ) from None
