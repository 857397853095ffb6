"""SentenceTransformer: the interface of sentence-transformers 6.2 without PyTorch.

Parameters, their order, shapes, dtypes and types of errors are those of sentence-transformers; NumPy arrays replace
Tensors. docs/differences.md lists the differences, and tests compare the two libraries.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from minilm_np import ops
from minilm_np.checkpoint import quantized_files, read_options, trained_files
from minilm_np.encoder import Encoder, as_texts, stacklevel
from minilm_np.files import in_the_way, replaced
from minilm_np.layout import OPTIONS, files_to_save, find_layout, read_json
from minilm_np.long_texts import is_long
from minilm_np.tokenizer import Text
from minilm_np.tokenizer import TextInfo as TextInfo
from minilm_np.weights import DEFAULT_MODEL, absolute

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)

AFTER_PROMPT = (  # the parameters of `encode` after `prompt`, in their order
    *("batch_size", "show_progress_bar", "output_value", "precision", "convert_to_numpy", "convert_to_tensor"),
    *("device", "normalize_embeddings", "truncate_dim", "pool", "chunk_size"),
)
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
OUTPUTS = ("sentence_embedding", "token_embeddings", None)
TRUNCATION = ("ignore", "warn", "error")


class ModelCardData:
    """Keeps what evaluators of sentence-transformers report: `evaluation_metrics` has a dict for each evaluator."""

    def __init__(self) -> None:
        self.evaluation_metrics: dict[Any, dict[str, Any]] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Keep the metrics of an evaluator; its later ones replace them."""
        self.evaluation_metrics[evaluator] = metrics


class Device(str):
    """The name of a device that equals the torch.device of that name and has its attributes; PyTorch accepts it."""

    __slots__ = ()
    index = None  # type: ignore[assignment]  # a method of str that nobody calls on a device

    @property
    def type(self) -> str:
        """The name."""
        return str(self)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, str(other) if type(other).__name__ == "device" else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class TruncationWarning(UserWarning):
    """Issued when a text has more word pieces than the model reads."""


class SentenceTransformer(Encoder):
    """Encode texts into embeddings; a drop-in for sentence_transformers.SentenceTransformer on the CPU.

    Parameters
    ----------
    model_name_or_path
        The default model, all-MiniLM-L6-v2, or another BERT sentence encoder: its folder, or its name if it is in the
        Hugging Face cache.
    device
        None or "cpu".
    prompts
        Texts that `encode` can put before its inputs, by name.
    default_prompt_name
        The name of the prompt that `encode` uses if no other is given.
    cache_folder
        The folder to look for the model in, and to fetch it into. Default: the Hugging Face cache and then this
        package's cache folder.
    revision
        The commit or branch to look for in the Hugging Face cache.
    local_files_only
        Whether to stay off the network.
    token
        The hub's access token, in case the default model's files are missing and $HF_ENDPOINT is a private mirror.
    similarity_fn_name
        "cosine" (default), "dot", "euclidean" or "manhattan".
    truncate_dim
        Number of dimensions to keep of every embedding; None keeps all.
    backend
        The op set: "numpy", "numba", or "auto" for Numba if it works here and supports the model's sizes and dtype,
        else NumPy.
    threads
        Number of threads of the Numba op set. Default: the number of CPUs that the process may use. Not allowed with
        backend="numpy", because NumPy's BLAS manages its own threads.
    dtype
        What the dense layers compute in. "float32" (default); "float64" for the float64 reference (NumPy op set only,
        about five times slower); "bfloat16" or "int8" for less memory and, on CPUs with instructions for them, more
        speed (Numba op set only; docs/precision.md has their errors). The embeddings of the last two are float32.
    modules, trust_remote_code, model_kwargs, processor_kwargs, config_kwargs, model_card_data
        Parameters of sentence-transformers that configure PyTorch; anything but the default raises ValueError.

    Attributes
    ----------
    backend : str
        The op set in use, "numba" or "numpy".
    backend_reason : str
        Why it was chosen.
    dtype : numpy.dtype
        The dtype of the embeddings and weights, float32 or float64.
    compute_dtype : str
        What the dense layers compute in: "float32", "float64", "bfloat16" or "int8".
    config : minilm_np.model.BertConfig
        The model's hyperparameters.
    weights : Mapping[str, ndarray]
        The checkpoint's parameters by name, read-only; the weight of a dense layer is (outputs, inputs).
    place : minilm_np.weights.Place
        The folder of the model's files and how it was found.

    Raises
    ------
    WeightsNotFoundError
        If the model's files are not found and cannot be fetched.
    WeightsError
        If a file is damaged or describes a model that is not supported.
    ValueError
        If an argument has an unsupported value.
    ImportError
        If backend is "numba" and Numba does not work.

    Examples
    --------
    >>> from minilm_np import SentenceTransformer
    >>> model = SentenceTransformer("all-MiniLM-L6-v2")
    >>> embeddings = model.encode(["A man is eating food.", "Someone has a meal.", "The stock market fell."])
    >>> embeddings.shape, embeddings.dtype
    ((3, 384), dtype('float32'))
    >>> model.similarity(embeddings[0], embeddings).round(2)
    array([[ 1.  ,  0.68, -0.04]], dtype=float32)
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
                raise ValueError(f"{name}: expected the default, because PyTorch is not used, got {value!r}")
        if not isinstance(prompts, Mapping | None):
            raise TypeError(f"prompts: expected a mapping from names to str, got {prompts!r}")
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
            token=token,
        )
        self._arguments = {  # without the token, which is a secret and is needed only to download
            "model_name_or_path": absolute(name_or_path),
            "cache_folder": cache_folder and str(Path(cache_folder).absolute()),
            "revision": revision,
            "local_files_only": local_files_only,
            "backend": backend,
            "threads": threads,
            "dtype": self.compute_dtype,
        }
        saved = read_options(self.place.folder, ("query", "document", *(prompts or {})))
        all_prompts = {"query": "", "document": "", **saved.prompts, **(prompts or {})}
        self.prompts: dict[str, str] = {name: prompt or "" for name, prompt in all_prompts.items()}
        self.default_prompt_name = default_prompt_name or saved.default_prompt_name
        if self.default_prompt_name is not None:
            self._prompt(None, self.default_prompt_name, "default_prompt_name")
        if similarity_fn_name is None:
            self.similarity_fn_name = saved.similarity_fn_name
        if truncate_dim is None:
            self.truncate_dim = saved.truncate_dim
        self._warned_of_truncation = False
        self.model_card_data = ModelCardData()

    def __reduce__(self) -> Any:
        """Pickle the path and the options instead of 90 MB of parameters, unless these are not those of the files."""
        options = {
            **self._arguments,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
            "truncate_dim": self.truncate_dim,
        }
        return _make, (options, self.max_seq_length, dict(self.weights) if self.has_own_weights else None)

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
        """Encode texts into embeddings.

        Parameters
        ----------
        inputs
            One text or an iterable of n texts. A text is a str, a dict {"text": str}, or a pair of str, which is read
            as [CLS] a [SEP] b [SEP]. A tuple of two str is two texts; put a pair into a list.
        prompt_name
            The name of a prompt in `self.prompts` to put before every text. Default: `self.default_prompt_name`.
        prompt
            A prompt to put before every text; takes precedence over `prompt_name`.
        batch_size
            Number of texts that the NumPy op set computes together. With the Numba op set, a text's embedding has the
            same bits in every batch, in every order and on any number of threads.
        show_progress_bar
            True shows a progress bar, False does not. None shows one if the logger "minilm_np.sentence_transformer" is
            at level INFO or DEBUG.
        output_value
            "sentence_embedding" (default), "token_embeddings", or None for everything; see Returns.
        precision
            "float32" does not convert; "int8" and "uint8" scale to the ranges of these embeddings, so they need several
            texts; "binary" and "ubinary" keep one bit per dimension, eight packed into a byte.
        convert_to_numpy
            False returns a list of n arrays (H,). Sentence embeddings only.
        convert_to_tensor
            True returns a torch.Tensor, whatever `convert_to_numpy` is; needs PyTorch. Sentence embeddings only.
        truncate_dim
            Number of dimensions to keep of the sentence embeddings. Default: `self.truncate_dim`.
        normalize_embeddings
            L2-normalize the sentence embeddings after truncation. The default model normalizes before truncation.
        device, pool, chunk_size
            Accepted for compatibility and not used: the model runs on the CPU, in its own threads. `device` must be
            None or "cpu".
        truncation
            What to do with texts of more than `max_seq_length` word pieces: "ignore", "warn" (a TruncationWarning,
            once per model) or "error". The model reads their first `max_seq_length` word pieces.
        return_info
            True returns (embeddings, info) with a TextInfo for each text: how many word pieces it has, how many are
            read and which characters these are.
        **kwargs
            `sentences`, the earlier name of `inputs`, and `task`, which is not used.

        Returns
        -------
        ndarray, Tensor or list
            Sentence embeddings of H numbers (384 for the default model): (H,) for one text, (n, H) for n texts in
            their order, in the model's dtype or in `precision`. No texts give an empty float64 array (0,).

            With output_value="token_embeddings", an array (S, H) for one text, or a list of n such arrays for n
            texts, where S is the text's number of word pieces, [CLS] and [SEP] included.

            With output_value=None, a dict for one text, or a list of n dicts for n texts, with input_ids,
            token_type_ids and attention_mask (S,), int64, token_embeddings (S, H), sentence_embedding (H,) and
            modality "text".

        Raises
        ------
        InputError
            If an input is not a text; the message names the row. InputError is both a TypeError and a ValueError.
        ValueError
            If an argument has an unsupported value, or a text is too long and truncation is "error".
        KeyError
            If output_value is unknown, as in sentence-transformers.
        ImportError
            If convert_to_tensor is True and PyTorch is not installed.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> model = SentenceTransformer()
        >>> model.encode("A man is eating food.").shape
        (384,)
        >>> model.encode(["A man is eating food.", "Hi"], precision="ubinary").shape
        (2, 48)
        >>> model.encode(["A man is eating food.", "Hi"], return_info=True)[1][1]
        TextInfo(tokens=3, kept=3, dropped=0, span=(0, 2), unknown=0)
        """
        if "sentences" in kwargs and inputs is None:  # the argument's name before sentence-transformers 5.2
            inputs = kwargs.pop("sentences")
        _check_encode_arguments(batch_size, chunk_size, precision, output_value, truncation, device, kwargs)
        dimension = _check_dimension("truncate_dim", truncate_dim) or self.truncate_dim
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        is_single = self.is_singular_input(inputs)
        texts = as_texts([inputs] if is_single else inputs)
        prompt = self._prompt(prompt, prompt_name)
        if prompt:
            texts = [_prepend(prompt, text) for text in texts]
        if len(texts) == 1 and output_value == "sentence_embedding" and precision in ("int8", "uint8"):
            raise ValueError(f"precision: expected several texts to compute the ranges of {precision!r}, got one")

        infos: list[TextInfo] | None = [] if return_info else None
        with _progress_bar(len(texts), show_progress_bar) as progress:
            on_cut = partial(self._on_cut, truncation, texts)
            outputs = self._encode(texts, output_value, batch_size, on_cut, progress, infos)

        if output_value == "sentence_embedding":
            outputs = outputs[:, :dimension]  # first truncate, then normalize, then quantize, as sentence-transformers
            if normalize_embeddings:
                outputs = ops.l2_normalize(outputs)
            outputs = _convert(_quantize(outputs, precision), convert_to_numpy, convert_to_tensor)
        elif output_value == "token_embeddings":
            outputs = _quantize(outputs, precision)
        else:
            for output in outputs:
                output["sentence_embedding"] = output["sentence_embedding"][:dimension]
                if prompt:
                    output["prompt_length"] = self._prompt_length(prompt)
        if infos is None:
            return outputs[0] if is_single else outputs
        if prompt:
            infos = [_without_prompt(info, len(prompt)) for info in infos]
        return (outputs[0], infos[0]) if is_single else (outputs, infos)

    def encode_query(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Encode queries: call `encode` with the prompt named "query" unless another prompt is given."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        options = {"task": "query", **dict(zip(AFTER_PROMPT, args, strict=False)), **kwargs}
        return self.encode(inputs=inputs, prompt_name=prompt_name, prompt=prompt, **options)

    def encode_document(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Encode documents: call `encode` with the prompt "document", "passage" or "corpus" unless one is given.

        The first of these names that `self.prompts` has is used.
        """
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        options = {"task": "document", **dict(zip(AFTER_PROMPT, args, strict=False)), **kwargs}
        return self.encode(inputs=inputs, prompt_name=prompt_name, prompt=prompt, **options)

    def _prompt_length(self, prompt: str) -> int:
        """Return the number of word pieces of a prompt, with [CLS] and without [SEP]."""
        return len(self.tokenizer([prompt]).token_ids) - 1

    def _prompt(self, prompt: str | None, prompt_name: str | None, argument: str = "prompt_name") -> str | None:
        """Return the prompt to use; `argument` is the name that an error gives to `prompt_name`."""
        if prompt is not None:
            if prompt_name is not None:
                logger.warning("encode: got both prompt and prompt_name; using prompt")
            if not isinstance(prompt, str):
                raise ValueError(f"prompt: expected a str, got {prompt!r}")
            return prompt
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if name is None:
            return None
        if name not in self.prompts:
            raise ValueError(f"{argument}: expected one of {list(self.prompts)}, got {name!r}")
        return self.prompts[name]

    def _on_cut(self, truncation: str, texts: list[Text], cut: dict[int, int]) -> None:
        """Ignore, warn about or refuse texts that are too long: {row: word pieces cut off}."""
        row, dropped = next(iter(cut.items()))
        at_least = "at least " if is_long(texts[row]) else ""
        message = f"sentences[{row}]: {at_least}{dropped} word pieces beyond max_seq_length {self.max_seq_length}"
        if truncation == "error":
            raise ValueError(f"{message}, and truncation is 'error'")
        if truncation == "warn" and not self._warned_of_truncation:
            self._warned_of_truncation = True
            message += " are ignored; later texts are cut off without a warning (set truncation='ignore' or 'error')"
            warnings.warn(message, TruncationWarning, stacklevel())

    # --- texts and word pieces -----------------------------------------------------------------

    def is_singular_input(self, inputs: Any) -> bool:
        """Return whether `encode` takes `inputs` as one text (a str or a dict), not as an iterable of texts."""
        return isinstance(inputs, str | dict)

    def token_count(self, sentences: Any) -> Any:
        """Return each text's number of word pieces, [CLS] and [SEP] included and nothing cut off.

        Parameters
        ----------
        sentences
            One text or an iterable of n texts, as in `encode`.

        Returns
        -------
        int or ndarray
            An int for one str, else an int64 array (n,).

        Raises
        ------
        InputError
            If an input is not a text; the message names the row.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> SentenceTransformer().token_count(["Hello world!", "Hi"])
        array([5, 3])
        """
        if isinstance(sentences, str):
            return int(self.token_count([sentences])[0])
        infos: list[TextInfo] = []
        for _ in self._tokenized_slices(as_texts(sentences), infos):
            pass
        return np.array([info.tokens for info in infos], np.int64)

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Array]:
        """Return input_ids, token_type_ids and attention_mask of texts, padded with 0.

        Parameters
        ----------
        inputs
            One text or an iterable of n texts, as in `encode`.
        prompt
            A text to put before every input.
        **kwargs
            The preprocessing options of sentence-transformers, which must be empty.

        Returns
        -------
        dict
            Three int64 arrays (n, S) by name, where S is the largest number of word pieces; {} for no texts.

        Raises
        ------
        InputError
            If an input is not a text; the message names the row.
        ValueError
            If a preprocessing option has a value.
        """
        for name, value in kwargs.items():
            if value:
                raise ValueError(f"{name}: expected no value (set max_seq_length instead), got {value!r}")
        texts = [_prepend(prompt, text) for text in as_texts(inputs)] if prompt else as_texts(inputs)
        if not texts:
            return {}
        names = ("input_ids", "token_type_ids", "attention_mask")
        return dict(zip(names, self.tokens(texts).padded(), strict=True))

    tokenize = preprocess

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`."""
        return self.max_seq_length

    # --- similarity and dimensions -------------------------------------------------------------

    @property
    def similarity_fn_name(self) -> str:
        """The function that `similarity` uses: "cosine" (default), "dot", "euclidean" or "manhattan".

        The last two are negative distances. Setting another name raises ValueError.
        """
        return self._similarity_fn_name or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        name = getattr(value, "value", value)
        if name not in (None, "cosine", "dot", "euclidean", "manhattan"):
            raise ValueError(f"similarity_fn_name: expected cosine, dot, euclidean or manhattan, got {name!r}")
        self._similarity_fn_name = name

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Return the similarity of every embedding of one set to every embedding of another.

        Parameters
        ----------
        embeddings1, embeddings2
            Embeddings (n, H) and (m, H) as arrays, lists of vectors or Tensors; a single vector (H,) counts as (1, H).

        Returns
        -------
        ndarray
            Similarities (n, m), computed by the function that `similarity_fn_name` names.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> model = SentenceTransformer()
        >>> queries, documents = model.encode(["food"]), model.encode(["a meal", "the stock market"])
        >>> model.similarity(queries, documents).round(2)
        array([[0.75, 0.24]], dtype=float32)
        """
        from minilm_np.util import SimilarityFunction

        result: Array = SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(embeddings1, embeddings2)
        return result

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Return the similarities (n,) of row i of one set (n, H) to row i of another (n, H).

        Parameters
        ----------
        embeddings1, embeddings2
            Embeddings (n, H), as in `similarity`.
        """
        from minilm_np.util import SimilarityFunction

        result: Array = SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)(embeddings1, embeddings2)
        return result

    @property
    def truncate_dim(self) -> int | None:
        """The number of dimensions that `encode` keeps of every embedding; None keeps all.

        Setting it to anything but None or a positive integer raises ValueError.
        """
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = _check_dimension("truncate_dim", value)

    def get_embedding_dimension(self) -> int:
        """Return the number of dimensions of the sentence embeddings that `encode` returns."""
        return min(self.config.hidden_size, self.truncate_dim or self.config.hidden_size)

    get_sentence_embedding_dimension = get_embedding_dimension

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Set `truncate_dim` within a `with` block."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    # --- members that callers of a PyTorch module use ------------------------------------------

    @property
    def device(self) -> Device:
        """Always "cpu": a str with the `type` and `index` of a torch.device, which equals torch.device("cpu")."""
        return Device("cpu")

    def to(self, device: Any = "cpu", *_: Any, **__: Any) -> SentenceTransformer:
        """Return self. Raises ValueError for devices other than "cpu"."""
        _check_device(device)
        return self

    def cpu(self) -> SentenceTransformer:
        """Return self."""
        return self

    def eval(self) -> SentenceTransformer:
        """Return self."""
        return self

    def get_backend(self) -> str:
        """Return `backend`."""
        return self.backend

    @property
    def modalities(self) -> list[str]:
        """The kinds of input that the model encodes: ["text"]."""
        return ["text"]

    def supports(self, modality: str) -> bool:
        """Return whether `modality` is "text"."""
        return modality == "text"

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """Create the folder output_path, if given, and return evaluator(self, output_path)."""
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    if not TYPE_CHECKING:  # type checkers shall report unknown names

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError; for what sentence-transformers' model has, it says what to use instead."""
            from minilm_np.absent import MODEL

            reason = f"; {MODEL[name]}" if name in MODEL else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{reason}")

    def start_multi_process_pool(self, target_devices: Iterable[Any] | None = None) -> dict[str, Any]:
        """Return a pool for `encode(pool=...)`. It has no processes, because the model uses its own threads."""
        for device in target_devices or ():
            _check_device(device)
        return {"input": None, "output": None, "processes": []}

    @staticmethod
    def stop_multi_process_pool(pool: Mapping[str, Any]) -> None:
        """Do nothing, because a pool has no processes."""

    def encode_multi_process(self, sentences: Any, pool: Mapping[str, Any], *args: Any, **kwargs: Any) -> Array:
        """Call `encode`, with arguments in the order of this method in sentence-transformers."""
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

    def save_pretrained(self, path: str | os.PathLike[str], *_: Any, dtype: str | None = None, **__: Any) -> None:
        """Save the model and its current options to a folder; sentence-transformers can load it, too.

        The options are max_seq_length, prompts, default_prompt_name, similarity_fn_name and truncate_dim. Each file
        is replaced atomically, so an error leaves no half-written file. Trained parameters are saved in float32; others
        are copied as they are. So a model that computes in bfloat16 or int8 saves its unrounded parameters; pass the
        model's `dtype` again when you load the folder.

        Parameters
        ----------
        path
            The folder, which is created if needed.
        dtype
            "int8" stores the weights of the dense layers in int8, with a scale for each output: a quarter of their
            size. Only this package can load that. A model that is loaded from it with dtype="int8" has the same
            embeddings, bit for bit, as one that is loaded from the original with dtype="int8".

        Raises
        ------
        ValueError
            If `dtype` is anything else, or `path` is the folder that the model was loaded from, or holds a symbolic
            link, a file or a folder where a folder or a file of the model belongs.
        OSError
            If a file cannot be written.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> from minilm_np import SentenceTransformer
        >>> with TemporaryDirectory() as folder:
        ...     SentenceTransformer(prompts={"query": "query: "}).save_pretrained(folder)
        ...     SentenceTransformer(folder).prompts
        {'query': 'query: ', 'document': ''}
        """
        if not os.fspath(path):
            raise ValueError("path: expected a folder, got ''")
        if dtype not in (None, "int8"):
            raise ValueError(f"dtype: expected None or 'int8', got {dtype!r}")
        folder, own = Path(path), self.place.folder
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() == own.resolve():
            raise ValueError(f"path: expected a folder that this model was not loaded from, got {str(path)!r}")
        files: dict[str, Path | str | bytes] = {**files_to_save(own, self.config.hidden_size)}
        sentence_config = find_layout(own).sentence_config
        sentence_bert = {
            **(read_json(sentence_config) if sentence_config else {}),
            "max_seq_length": self.max_seq_length,
        }
        files["sentence_bert_config.json"] = json.dumps(sentence_bert, indent=2) + "\n"
        options = {
            **(read_json(own / OPTIONS) if (own / OPTIONS).is_file() else {}),
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
            "truncate_dim": self.truncate_dim,
        }
        files[OPTIONS] = json.dumps(options, indent=2) + "\n"
        files["README.md"] = _model_card(self)
        if dtype == "int8" or self.has_own_weights:
            files = {name: file for name, file in files.items() if not name.startswith("model")}
            files |= (quantized_files if dtype == "int8" else trained_files)(own, self.weights)
        problem = in_the_way(folder, files)
        if problem:
            raise ValueError(f"path: {problem}")
        for file, source in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            content = source.encode() if isinstance(source, str) else source
            with (
                content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as reader,
                replaced(folder / file) as part,
                part.open("wb") as writer,
            ):
                shutil.copyfileobj(reader, writer)

    def save(self, path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> None:
        """Call `save_pretrained`; do nothing if path is None, as in sentence-transformers."""
        if path is not None:
            self.save_pretrained(path, *args, **kwargs)


def _model_card(model: SentenceTransformer) -> str:
    """Return a model card: what the model is, and how to use it. Nothing is known of its training or its scores."""
    config = model.config
    return f"""---
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
pipeline_tag: sentence-similarity
library_name: sentence-transformers
---

# Sentence embeddings

A BERT encoder of {config.num_hidden_layers} layers that maps a text to {config.hidden_size} numbers.
It was saved by minilm_np.

- Maximum sequence length: {model.max_seq_length} word pieces
- Pooling: {config.pooling_mode}{", then L2 normalization" if config.normalize else ""}
- Similarity function: {model.similarity_fn_name}

```python
from minilm_np import SentenceTransformer  # or from sentence_transformers

model = SentenceTransformer("this folder")
embeddings = model.encode(["The weather is lovely today.", "It's so sunny outside!"])
print(model.similarity(embeddings, embeddings))
```
"""


def _make(
    options: dict[str, Any], max_seq_length: int, params: Mapping[str, Array] | None = None
) -> SentenceTransformer:
    model = SentenceTransformer(**options)
    if params is not None:
        model.replace_weights(params)
    if max_seq_length != model.max_seq_length:
        model.max_seq_length = max_seq_length
    return model


def _check_device(device: Any) -> None:
    for name in device if isinstance(device, list | tuple) else [device]:
        if name is not None and str(name) != "cpu":
            raise ValueError(f"device: expected 'cpu', got {str(name)!r}")


def _check_dimension(name: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
        raise ValueError(f"{name}: expected a positive integer or None, got {value!r}")
    return value


def _check_encode_arguments(
    batch_size: Any,
    chunk_size: Any,
    precision: str | None,
    output_value: str | None,
    truncation: str,
    device: Any,
    kwargs: Mapping[str, Any],
) -> None:
    """Raise an error that names the argument if `encode` does not support its value."""
    unknown = [name for name, value in kwargs.items() if name != "task" and (value or name != "processing_kwargs")]
    if unknown:
        raise ValueError(f"encode: unexpected arguments {', '.join(unknown)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: expected a positive integer, got {chunk_size!r}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {PRECISIONS}, got {precision!r}")
    if output_value is None and precision not in (None, "float32"):
        raise ValueError(f"precision: expected 'float32' with output_value=None, got {precision!r}")
    if truncation not in TRUNCATION:
        raise ValueError(f"truncation: expected one of {TRUNCATION}, got {truncation!r}")
    if output_value not in OUTPUTS:
        raise KeyError(f"output_value: expected one of {OUTPUTS}, got {output_value!r}")
    _check_device(device)


def _quantize(embeddings: Any, precision: str | None) -> Any:
    """Return embeddings, an array (n, D) or a list of arrays, in `precision`; an empty array or list is unchanged."""
    if precision in (None, "float32") or not len(embeddings):
        return embeddings
    from minilm_np.util import quantize_embeddings

    return quantize_embeddings(embeddings, precision)


def _convert(embeddings: Array, to_numpy: bool, to_tensor: bool) -> Any:
    """Return the embeddings as a Tensor, a list of arrays, or an array; `to_tensor` takes precedence."""
    if to_tensor:
        try:
            import torch
        except ImportError as error:
            raise ImportError("convert_to_tensor: PyTorch is not installed") from error
        return torch.from_numpy(np.ascontiguousarray(embeddings)) if len(embeddings) else torch.tensor([])
    if not to_numpy:
        return list(embeddings)
    return np.ascontiguousarray(embeddings) if len(embeddings) else np.array([])


def _prepend(prompt: str, text: Text) -> Text:
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])


def _without_prompt(info: TextInfo, length: int) -> TextInfo:
    """Return `info` with its span relative to the text after the prompt, which has `length` characters."""

    def shift(span: tuple[int, int]) -> tuple[int, int]:
        return max(span[0] - length, 0), max(span[1] - length, 0)

    is_pair = isinstance(info.span[0], tuple)
    return info._replace(span=(shift(info.span[0]), info.span[1]) if is_pair else shift(info.span))


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[int], Any] | None]:
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="text", desc="Texts") as bar:
        yield bar.update
