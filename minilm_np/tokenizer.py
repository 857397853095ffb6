"""Tokenize texts into packed word pieces.

The `tokenizers` library splits texts into word pieces. This module packs them: the token_ids of all texts follow one
another without padding, and text b is token_ids[offsets[b]:offsets[b+1]].
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np.checkpoint import WeightsError

if TYPE_CHECKING:
    from tokenizers import Encoding

Text = str | tuple[str, str]  # a single text, or a pair that is read as [CLS] a [SEP] b [SEP]


class Tokens(NamedTuple):
    """A batch of B texts with T word pieces in total."""

    token_ids: npt.NDArray[np.int32]  # (T,): word pieces, by their id in the vocabulary
    token_type_ids: npt.NDArray[np.int32]  # (T,): 1 for the second text of a pair and the [SEP] after it, else 0
    offsets: npt.NDArray[np.int64]  # (B + 1,): text b is tokens offsets[b]:offsets[b+1]

    def take(self, rows: npt.ArrayLike) -> Tokens:
        """Return the texts whose numbers are `rows`, in that order."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in np.asarray(rows)]
        offsets = np.cumsum([0, *(span.stop - span.start for span in spans)])
        token_ids, token_type_ids = (np.concatenate([ids[span] for span in spans]) for ids in self[:2])
        return Tokens(token_ids, token_type_ids, offsets)

    def padded(
        self, length: int | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (token_ids, token_type_ids, attention_mask), each int64 of shape (B, length), padded with 0.

        Parameters
        ----------
        length
            Default: the number of word pieces of the longest text.

        Returns
        -------
        tuple of ndarray
            attention_mask is 1 for word pieces and 0 for padding.

        Raises
        ------
        ValueError
            If a text is longer than `length`.

        Examples
        --------
        >>> from minilm_np import SentenceTransformer
        >>> token_ids, token_type_ids, attention_mask = SentenceTransformer().tokens(["Hello world!", "Hi"]).padded()
        >>> token_ids
        array([[ 101, 7592, 2088,  999,  102],
               [ 101, 7632,  102,    0,    0]])
        >>> attention_mask
        array([[1, 1, 1, 1, 1],
               [1, 1, 1, 0, 0]])
        """
        lengths = np.diff(self.offsets)
        longest = int(lengths.max(initial=0))
        if length is None:
            length = longest
        if length < longest:
            raise ValueError(f"length: expected at least {longest}, the longest text's, got {length}")
        mask = np.arange(length) < lengths[:, None]
        ids = np.zeros((2, *mask.shape), np.int64)
        ids[:, mask] = self.token_ids, self.token_type_ids
        return ids[0], ids[1], mask.astype(np.int64)

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """Join batches: the texts of all parts, one part after another."""
        token_ids, token_type_ids = (
            np.concatenate([part[i] for part in parts] or [np.empty(0, np.int32)]) for i in range(2)
        )
        lengths = [length for part in parts for length in np.diff(part.offsets)]
        return cls(token_ids, token_type_ids, np.cumsum([0, *lengths], dtype=np.int64))


class TextInfo(NamedTuple):
    """How much of a text the model reads."""

    tokens: int  # number of word pieces of the whole text, [CLS] and [SEP] included
    kept: int  # number of word pieces that the model reads, at most max_seq_length
    dropped: int  # number of word pieces that are cut off: tokens - kept
    span: Any  # (start, end): the model reads text[start:end]; for a pair, one such span for each text
    unknown: int  # number of [UNK] among the word pieces that the model reads


class Tokenizer:
    """The tokenizer of a tokenizer.json, set to cut off at `max_seq_length` word pieces and not to pad.

    The tokenizer.json of all-MiniLM-L6-v2 sets 128 and padding, but sentence-transformers uses 256, from
    sentence_bert_config.json. A Tokenizer does not change after construction, so threads may share it.

    Parameters
    ----------
    path
        A tokenizer.json.
    max_seq_length
        Number of word pieces to keep, [CLS] and [SEP] included.
    vocab_size
        If given, the ids must be below it.

    Attributes
    ----------
    max_seq_length : int
        As given.
    unknown_id : int
        The id of [UNK], or -1 if the vocabulary has none.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    WeightsError
        If the file is invalid, has an id of `vocab_size` or above, or adds no special tokens.
    """

    def __init__(self, path: str | os.PathLike[str], max_seq_length: int = 256, vocab_size: int | None = None):
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        try:
            self._tokenizer: Any = HuggingFaceTokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise WeightsError(f"{path}: not a valid tokenizer.json: {error}") from None
        largest = max(self._tokenizer.get_vocab().values(), default=0)
        if vocab_size is not None and largest >= vocab_size:
            raise WeightsError(f"{path}: expected ids below vocab_size {vocab_size}, got word piece {largest}")
        if not self._tokenizer.encode("").ids:
            raise WeightsError(f"{path}: expected [CLS] and [SEP] around a text, got no special tokens")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_seq_length)
        self.max_seq_length = max_seq_length
        self._without_truncation: Any = None  # a second tokenizer, made when a pair is too long
        unknown: int | None = self._tokenizer.token_to_id("[UNK]")
        self.unknown_id = -1 if unknown is None else unknown

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Return the library's Encoding of each text, with ids, type_ids, tokens, offsets (characters) and more."""
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        return encodings

    def __call__(self, texts: Sequence[Text]) -> Tokens:
        """Return the packed word pieces of `texts`."""
        return self.pack(texts)[0]

    def pack(self, texts: Sequence[Text], infos: list[TextInfo] | None = None) -> tuple[Tokens, dict[int, int]]:
        """Return the packed word pieces of texts, and {row: word pieces cut off} for the texts that are too long.

        Parameters
        ----------
        texts
            Each a str or a pair of str.
        infos
            If given, a TextInfo for each text is appended to it. The library is then slower, because it tracks
            characters.
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts)) if infos is None else self.encode(texts)
        ids = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(row) for row in ids], out=offsets[1:])
        T = int(offsets[-1])
        token_ids = np.fromiter(chain.from_iterable(ids), np.int32, T)
        token_type_ids = np.zeros(T, np.int32)
        if any(not isinstance(text, str) for text in texts):
            token_type_ids[:] = np.fromiter(chain.from_iterable(e.type_ids for e in encodings), np.int32, T)
        full = (i for i, row in enumerate(ids) if len(row) == self.max_seq_length)
        cut = {i: dropped for i in full if (dropped := self.cut_off(texts[i], encodings[i]))}
        if infos is not None:
            infos.extend(
                self._info(text, encoding, cut.get(i, 0))
                for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
            )
        return Tokens(token_ids, token_type_ids, offsets), cut

    def strings(self, token_ids: Iterable[int]) -> list[str]:
        """Return word pieces as strings, such as "[CLS]", "bread" and "##s"."""
        return [self._tokenizer.id_to_token(int(token_id)) for token_id in token_ids]

    def cut_off(self, text: Text, encoding: Encoding) -> int:
        """Return how many word pieces of a text were cut off, from the library's Encoding of it."""
        if not isinstance(text, str) and encoding.overflowing:  # a pair's overflow repeats word pieces that were kept
            if self._without_truncation is None:
                self._without_truncation = type(self._tokenizer).from_str(self._tokenizer.to_str())
                self._without_truncation.no_truncation()
            return len(self._without_truncation.encode(*text).ids) - len(encoding.ids)
        return sum(part.special_tokens_mask.count(0) for part in encoding.overflowing)

    def _info(self, text: Text, encoding: Encoding, dropped: int) -> TextInfo:
        spans = []
        for sequence in range(1 if isinstance(text, str) else 2):
            pieces = [o for o, s in zip(encoding.offsets, encoding.sequence_ids, strict=True) if s == sequence]
            spans.append((pieces[0][0], pieces[-1][1]) if pieces else (0, 0))
        kept = len(encoding.ids)
        span = spans[0] if isinstance(text, str) else tuple(spans)
        return TextInfo(kept + dropped, kept, dropped, span, encoding.ids.count(self.unknown_id))
