"""SentenceTransformer: the interface of sentence-transformers 6.2 on the Encoder, without PyTorch.

Arguments, their order, shapes, dtypes and errors are those of sentence-transformers; where it returns Tensors, this
returns NumPy arrays. README.md has the table of all differences, and tests hold both.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np import model, ops
from minilm_np.checkpoint import read_json
from minilm_np.encoder import Encoder, as_texts, stacklevel
from minilm_np.tokenizer import Text
from minilm_np.weights import DEFAULT_MODEL, SHA256

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
OUTPUTS = ("sentence_embedding", "token_embeddings", None)
TRUNCATION = ("ignore", "warn", "error")


class TruncationWarning(UserWarning):
    """A text has more word pieces than the model reads."""


class TextInfo(NamedTuple):
    """What became of one text."""

    tokens: int  # word pieces of the whole text, [CLS] and [SEP] included
    kept: int  # of them, how many were read
    dropped: int  # tokens - kept
    span: Any  # (start, end): the characters of the text that were read; for a pair, one such for each
    unknown: int  # [UNK] among the kept


class SentenceTransformer(Encoder):
    """Texts to embeddings (n, 384); a drop-in for sentence_transformers.SentenceTransformer on the CPU.

    model_name_or_path: the default model, or the folder of another BERT sentence encoder.
    device: None or "cpu".
    prompts, default_prompt_name: what `encode(prompt_name=...)` puts before each text.
    cache_folder, revision, local_files_only: where to look, which commit, and whether the network may be used.
    token: accepted; the default model is public.
    similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan".
    truncate_dim: keep so many dimensions of every embedding.
    backend: "numpy", "numba", or "auto": Numba where it works and the model's sizes suit it, else NumPy.
    threads: threads of the Numba op set, default all that the process may use; NumPy's BLAS manages its own.
    dtype: "float32", or "float64" for the oracle (NumPy only, about five times slower).

    Afterwards `backend` says which op set computes and `backend_reason` why.
    Raises WeightsNotFoundError, WeightsError (both say what was found and what was wanted), ValueError; ImportError
    if backend="numba" and Numba does not work.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = DEFAULT_MODEL,
        *,
        modules: None = None,
        device: Any = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "auto",
        similarity_fn_name: Any = None,
        truncate_dim: int | None = None,
        threads: int | None = None,
        dtype: npt.DTypeLike = "float32",
    ):
        _check_device(device)
        for name, value in (
            ("modules", modules),
            ("trust_remote_code", trust_remote_code),
            ("model_kwargs", model_kwargs),
            ("processor_kwargs", processor_kwargs),
            ("config_kwargs", config_kwargs),
            ("model_card_data", model_card_data),
        ):
            if value:
                raise ValueError(f"{name}: found {value!r}, wanted none: it configures PyTorch, which is not used")
        self.similarity_fn_name = similarity_fn_name
        self.truncate_dim = truncate_dim
        name_or_path = DEFAULT_MODEL if model_name_or_path is None else model_name_or_path
        super().__init__(
            name_or_path,
            backend=backend,
            threads=threads,
            dtype=dtype,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
            revision=revision,
        )
        self._arguments = {
            "model_name_or_path": name_or_path,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
            "backend": backend,
            "threads": threads,
            "dtype": str(self.dtype),
        }
        saved = _read_saved_config(self.place.folder)
        found = {"query": "", "document": "", **(saved.get("prompts") or {}), **(prompts or {})}
        self.prompts: dict[str, str] = {key: prompt or "" for key, prompt in found.items()}
        self.default_prompt_name = default_prompt_name or saved.get("default_prompt_name")
        if self.default_prompt_name is not None:
            self._prompt(None, self.default_prompt_name, "default_prompt_name")
        if similarity_fn_name is None:
            self.similarity_fn_name = saved.get("similarity_fn_name")
        if truncate_dim is None:
            self.truncate_dim = saved.get("truncate_dim")
        self._warned_of_truncation = False

    def __reduce__(self) -> Any:
        """Pickled as what it was made of, a path and options, and not as 90 MB of arrays."""
        options = {
            **self._arguments,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
            "truncate_dim": self.truncate_dim,
        }
        return _make, (options, self.max_seq_length)

    # --- encode --------------------------------------------------------------------------------

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
        *,
        truncation: str = "warn",
        return_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Embeddings: (H,) for one str, (n, H) for any iterable of n texts, in the model's dtype, in the order given.

        A text is a str, {"text": str}, or a pair of str that is read as one ([CLS] a [SEP] b [SEP]). No texts give
        an empty float64 array of shape (0,).
        prompt, prompt_name: put before every text; `prompt` wins; else the prompt of `default_prompt_name`.
        batch_size: how many texts the NumPy op set computes at once. On Numba a text's embedding is bit for bit the
        same in any batch, order and number of threads.
        show_progress_bar: None shows it if this module's logger is at INFO or DEBUG.
        output_value: "token_embeddings" gives a list of (S, H), [CLS] and [SEP] included; None gives a list of dicts
        with input_ids, token_type_ids, attention_mask, token_embeddings and sentence_embedding.
        precision: "int8", "uint8" (ranges of these embeddings), "binary" or "ubinary" (eight dimensions a byte).
        convert_to_tensor: a torch.Tensor; needs PyTorch. convert_to_numpy=False: a list of arrays (H,).
        truncate_dim, then normalize_embeddings: the first dimensions only; L2-normalised.
        pool, chunk_size, a list as device: accepted; threads do the work.
        truncation: what to do with texts of more than `max_seq_length` word pieces: "ignore", "warn" (once per
        model, a TruncationWarning) or "error".
        return_info: give (embeddings, info), with a TextInfo for each text.

        Raises InputError (a TypeError and a ValueError) naming the row, ValueError naming the argument, KeyError for
        an unknown output_value, ImportError for convert_to_tensor without PyTorch.
        """
        if "sentences" in kwargs and inputs is None:  # the argument's name before sentence-transformers 5.2
            inputs = kwargs.pop("sentences")
        if unused := set(kwargs) - {"task", "processing_kwargs"} or kwargs.get("processing_kwargs"):
            raise ValueError(f"encode: found the arguments {unused}, which this model does not use")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"batch_size: found {batch_size!r}, wanted a positive integer")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size: found {chunk_size!r}, wanted a positive integer")
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"precision: found {precision!r}, wanted one of {PRECISIONS}")
        if output_value is None and precision not in (None, "float32"):
            raise ValueError(f"precision: found {precision!r}, wanted 'float32' with output_value=None")
        if truncation not in TRUNCATION:
            raise ValueError(f"truncation: found {truncation!r}, wanted one of {TRUNCATION}")
        if output_value not in OUTPUTS:
            raise KeyError(f"output_value: found {output_value!r}, wanted one of {OUTPUTS}")
        _check_device(device)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        dimension = _check_dimension("truncate_dim", truncate_dim) or self.truncate_dim
        singular = self.is_singular_input(inputs)
        given = as_texts([inputs] if singular else inputs)
        before = self._prompt(prompt, prompt_name)
        texts = [_prepend(before, text) for text in given] if before else given

        def on_cut(cut: dict[int, int]) -> None:
            self._too_long(cut, truncation)

        result: Any
        if output_value == "sentence_embedding":
            with _progress_bar(len(texts), show_progress_bar) as progress:
                result = self.embed(texts, batch_size, on_cut, progress)
            result = self._finish(result[:, :dimension], normalize_embeddings, precision or "float32")
            result = _convert(result, convert_to_numpy, convert_to_tensor)
        else:
            result = []
            for start in range(0, len(texts), batch_size):
                some = texts[start : start + batch_size]
                result += self._whole_outputs(some, start, output_value, dimension, on_cut)
            if output_value == "token_embeddings":
                result = _quantize(result, precision or "float32")
        if return_info:
            info = self._info(texts, len(before or ""))
            return (result[0], info[0]) if singular else (result, info)
        return result[0] if singular else result

    def _finish(self, embeddings: Array, normalize: bool, precision: str) -> Array:
        """Normalise what is left after truncation, then quantise: the order of sentence-transformers."""
        if normalize:
            embeddings = ops.l2_normalize(embeddings)
        quantized: Array = _quantize(embeddings, precision)
        return quantized

    def _whole_outputs(
        self,
        texts: list[Text],
        first_row: int,
        output_value: str | None,
        dimension: int | None,
        on_cut: Callable[[dict[int, int]], None],
    ) -> list[Any]:
        """For each text its token embeddings (S, H) or, if output_value is None, a dict of all that is known."""
        tokens, cut = self._tokenize(texts, first_row)
        if cut:
            on_cut(cut)
        hidden_states = self.token_embeddings(tokens)
        spans = [slice(a, b) for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
        if output_value == "token_embeddings":
            return [hidden_states[span] for span in spans]
        embeddings = model.sentence_embeddings(self._bert, hidden_states, tokens.offsets)
        return [
            {
                "input_ids": tokens.token_ids[span].astype(np.int64),
                "token_type_ids": tokens.token_type_ids[span].astype(np.int64),
                "attention_mask": np.ones(span.stop - span.start, np.int64),
                "modality": "text",
                "token_embeddings": hidden_states[span],
                "sentence_embedding": embedding[:dimension],
            }
            for span, embedding in zip(spans, embeddings, strict=True)
        ]

    def encode_query(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """`encode` with the prompt called "query", if no other is given."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, *args, **kwargs)

    def encode_document(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """`encode` with the first prompt there is of "document", "passage", "corpus", if no other is given."""
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, *args, **kwargs)

    def _prompt(self, prompt: str | None, prompt_name: str | None, argument: str = "prompt_name") -> str | None:
        if prompt is not None:
            if prompt_name is not None:
                logger.warning("encode: both prompt and prompt_name are given; prompt is used")
            if not isinstance(prompt, str):
                raise ValueError(f"prompt: found {prompt!r}, wanted a str")
            return prompt
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if name is None:
            return None
        if name not in self.prompts:
            raise ValueError(f"{argument}: found {name!r}, wanted one of {list(self.prompts)}")
        return self.prompts[name]

    def _too_long(self, cut: dict[int, int], truncation: str) -> None:
        row, dropped = next(iter(cut.items()))
        message = f"sentences[{row}]: {dropped} word pieces beyond max_seq_length {self.max_seq_length} are not read"
        if truncation == "error":
            raise ValueError(f"{message}; wanted none (truncation='error')")
        if truncation == "warn" and not self._warned_of_truncation:
            self._warned_of_truncation = True
            message += "; further texts are cut without a word (truncation='ignore' or 'error' to choose)"
            warnings.warn(message, TruncationWarning, stacklevel())

    # --- what a text is made of ----------------------------------------------------------------

    def is_singular_input(self, inputs: Any) -> bool:
        """Whether `encode` takes this as one text (a str or {"text": str}) and not as several."""
        return isinstance(inputs, str | dict)

    def token_count(self, sentences: Any) -> Any:
        """Word pieces of each text with [CLS] and [SEP], nothing cut off: int for a str, else an array (n,)."""
        if isinstance(sentences, str):
            return int(self.token_count([sentences])[0])
        return np.array([info.tokens for info in self._info(as_texts(sentences), 0)], np.int64)

    def _info(self, texts: list[Text], prompt_length: int) -> list[TextInfo]:
        unknown = self.tokenizer.unknown_id
        result = []
        for start in range(0, len(texts), 256):
            some = texts[start : start + 256]
            for text, encoding in zip(some, self.tokenizer.encode(some), strict=True):
                spans = []
                for sequence in range(1 if isinstance(text, str) else 2):
                    of = [o for o, s in zip(encoding.offsets, encoding.sequence_ids, strict=True) if s == sequence]
                    before = prompt_length if sequence == 0 else 0
                    spans.append((max(of[0][0] - before, 0), max(of[-1][1] - before, 0)) if of else (0, 0))
                kept, dropped = len(encoding.ids), self.tokenizer.cut_off(text, encoding)
                span = spans[0] if isinstance(text, str) else tuple(spans)
                result.append(TextInfo(kept + dropped, kept, dropped, span, encoding.ids.count(unknown)))
        return result

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Array]:
        """input_ids, token_type_ids, attention_mask: int64 arrays (n, longest), padded with 0; {} for no texts.

        Raises ValueError for options of sentence-transformers' preprocessing, which there is none of here.
        """
        for name, value in kwargs.items():
            if value:
                raise ValueError(f"{name}: found {value!r}, wanted none: set max_seq_length instead")
        texts = [_prepend(prompt, text) for text in as_texts(inputs)] if prompt else as_texts(inputs)
        if not texts:
            return {}
        tokens = self.tokens(texts)
        lengths = np.diff(tokens.offsets)
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.zeros((2, *mask.shape), np.int64)
        padded[:, mask] = tokens.token_ids, tokens.token_type_ids
        return {"input_ids": padded[0], "token_type_ids": padded[1], "attention_mask": mask.astype(np.int64)}

    tokenize = preprocess

    def get_max_seq_length(self) -> int:
        return self.max_seq_length

    # --- similarity and dimensions -------------------------------------------------------------

    @property
    def similarity_fn_name(self) -> str:
        """ "cosine" unless set to "dot", "euclidean" or "manhattan" (the last two: minus the distance)."""
        return self._similarity_fn_name or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        name = getattr(value, "value", value)
        if name not in (None, "cosine", "dot", "euclidean", "manhattan"):
            raise ValueError(f"similarity_fn_name: found {name!r}, wanted 'cosine', 'dot', 'euclidean' or 'manhattan'")
        self._similarity_fn_name = name

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Array:
        """(n, H), (m, H) -> (n, m): similarities by `similarity_fn_name`; a single vector counts as (1, H)."""
        from minilm_np.util import SimilarityFunction

        result: Array = SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(embeddings1, embeddings2)
        return result

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Array:
        """(n, H), (n, H) -> (n,): the similarity of row i of one with row i of the other."""
        from minilm_np.util import SimilarityFunction

        result: Array = SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)(embeddings1, embeddings2)
        return result

    @property
    def truncate_dim(self) -> int | None:
        """How many dimensions of every embedding are kept; None: all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = _check_dimension("truncate_dim", value)

    def get_embedding_dimension(self) -> int:
        return min(self.config.hidden_size, self.truncate_dim or self.config.hidden_size)

    get_sentence_embedding_dimension = get_embedding_dimension

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within the context `encode` keeps so many dimensions."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    # --- what callers of a PyTorch module expect to find ---------------------------------------

    @property
    def device(self) -> str:
        return "cpu"

    def to(self, device: Any = "cpu", *_: Any, **__: Any) -> SentenceTransformer:
        _check_device(device)
        return self

    def cpu(self) -> SentenceTransformer:
        return self

    def eval(self) -> SentenceTransformer:
        return self

    def get_backend(self) -> str:
        return self.backend

    @property
    def modalities(self) -> list[str]:
        return ["text"]

    def supports(self, modality: str) -> bool:
        return modality == "text"

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """evaluator(self, output_path)"""
        return evaluator(self, output_path)

    def start_multi_process_pool(self, target_devices: Iterable[Any] | None = None) -> dict[str, Any]:
        """A pool for `encode(pool=...)`, in which the model's own threads work: nothing is started."""
        for device in target_devices or ():
            _check_device(device)
        return {"input": None, "output": None, "processes": []}

    @staticmethod
    def stop_multi_process_pool(pool: Mapping[str, Any]) -> None:
        """Nothing is left running."""

    def encode_multi_process(self, sentences: Any, pool: Mapping[str, Any], *args: Any, **kwargs: Any) -> Array:
        """`encode`, with its arguments in the order that this method had."""
        names = (
            "prompt_name",
            "prompt",
            "batch_size",
            "chunk_size",
            "show_progress_bar",
            "precision",
            "normalize_embeddings",
            "truncate_dim",
        )
        result: Array = self.encode(sentences, pool=pool, **dict(zip(names, args, strict=False)), **kwargs)
        return result

    def save_pretrained(self, path: str | os.PathLike[str], *_: Any, **__: Any) -> None:
        """A folder that this class and sentence-transformers load: the model's files and the options set since.

        Each file is written whole or not at all. Raises OSError, or ValueError if the folder is the model's own.
        """
        folder, own = Path(path), self.place.folder
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() == own.resolve():
            raise ValueError(f"path: found {str(path)!r}, the folder that this model was loaded from; wanted another")
        sentence_bert = {**read_json(own / "sentence_bert_config.json"), "max_seq_length": self.max_seq_length}
        options = {
            **_read_saved_config(own),
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
            "truncate_dim": self.truncate_dim,
        }
        written = {"sentence_bert_config.json": sentence_bert, "config_sentence_transformers.json": options}
        with tempfile.TemporaryDirectory(prefix=".save-", dir=folder) as name:
            for file in [*SHA256, "config_sentence_transformers.json"]:
                part = Path(name) / Path(file).name
                if file in written:
                    part.write_text(json.dumps(written[file], indent=2) + "\n", encoding="utf-8")
                else:
                    shutil.copyfile(own / file, part)
                (folder / file).parent.mkdir(exist_ok=True)
                os.replace(part, folder / file)

    save = save_pretrained


def _make(options: dict[str, Any], max_seq_length: int) -> SentenceTransformer:
    model = SentenceTransformer(**options)
    if max_seq_length != model.max_seq_length:
        model.max_seq_length = max_seq_length
    return model


def _read_saved_config(folder: Path) -> dict[str, Any]:
    path = folder / "config_sentence_transformers.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _check_device(device: Any) -> None:
    for one in device if isinstance(device, list | tuple) else [device]:
        if one is not None and str(one) != "cpu":
            raise ValueError(f"device: found {str(one)!r}, wanted 'cpu': this runs on the CPU only")


def _check_dimension(name: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
        raise ValueError(f"{name}: found {value!r}, wanted a positive integer or None")
    return value


def _quantize(embeddings: Any, precision: str) -> Any:
    """An array (n, D), or a list of them, in fewer bits; no rows have none."""
    if precision == "float32" or not len(embeddings):
        return embeddings
    from minilm_np.util import quantize_embeddings

    return quantize_embeddings(embeddings, precision)


def _convert(embeddings: Array, to_numpy: bool, to_tensor: bool) -> Any:
    """As encode's convert_to_tensor and convert_to_numpy say; the first wins."""
    if to_tensor:
        try:
            import torch
        except ImportError as error:
            raise ImportError("convert_to_tensor: found True, but PyTorch is not installed") from error
        return torch.from_numpy(np.ascontiguousarray(embeddings)) if len(embeddings) else torch.tensor([])
    if not to_numpy:
        return list(embeddings)
    return np.ascontiguousarray(embeddings) if len(embeddings) else np.array([])


def _prepend(prompt: str, text: Text) -> Text:
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[int], Any] | None]:
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="text", desc="Texts") as bar:
        yield bar.update
