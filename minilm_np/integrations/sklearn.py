"""A transformer for scikit-learn pipelines; needs scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from minilm_np.integrations._common import several
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


class SentenceEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform n texts into embeddings (n, H); H is 384 for the default model.

    `fit` loads the model and learns nothing from the texts. Pickling stores the model's path and options.

    Parameters
    ----------
    model_name_or_path, backend, threads, truncate_dim, dtype
        As in SentenceTransformer.
    batch_size
        As in `SentenceTransformer.encode`.

    Attributes
    ----------
    model_ : SentenceTransformer
        The model, after `fit`.

    Examples
    --------
    >>> from minilm_np.integrations.sklearn import SentenceEncoder
    >>> SentenceEncoder(truncate_dim=64).fit_transform(["A man is eating food.", "Someone has a meal."]).shape
    (2, 64)
    """

    def __init__(
        self,
        model_name_or_path: str = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        batch_size: int = 32,
        dtype: str = "float32",
    ):
        self.model_name_or_path = model_name_or_path
        self.backend = backend
        self.threads = threads
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None) -> SentenceEncoder:
        """Load the model and return self; X and y are ignored."""
        names = ("backend", "threads", "truncate_dim", "dtype")
        options = {name: getattr(self, name) for name in names}
        self.model_ = SentenceTransformer(self.model_name_or_path, **options)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the embeddings (n, H) of X, an iterable of n str.

        Raises NotFittedError before `fit`, and InputError for anything but an iterable of str.
        """
        check_is_fitted(self)
        result: npt.NDArray[np.float32] = self.model_.encode(several(X, "X"), batch_size=self.batch_size)
        return result.reshape(len(result), self.model_.get_embedding_dimension())

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the dimensions, "minilm0", "minilm1" ...; `input_features` is ignored."""
        check_is_fitted(self)
        return np.array([f"minilm{i}" for i in range(self.model_.get_embedding_dimension())], object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        return tags
