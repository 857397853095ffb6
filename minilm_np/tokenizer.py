"""Text -> packed word pieces. The `tokenizers` library does the pieces; this file packs them.

Packed: token_ids of all texts one after another, no padding; text b is token_ids[offsets[b]:offsets[b+1]].
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

Text = str | tuple[str, str]  # one text, or a pair: [CLS] a [SEP] b [SEP]


class Tokens(NamedTuple):
    """A batch of B texts, T word pieces in all."""

    token_ids: npt.NDArray[np.int32]  # (T,)
    token_type_ids: npt.NDArray[np.int32]  # (T,) 0; 1 for the second text of a pair and its [SEP]
    offsets: npt.NDArray[np.int64]  # (B + 1,) text b is tokens offsets[b]:offsets[b+1]

    def take(self, rows: npt.ArrayLike) -> Tokens:
        """The texts `rows`, in that order."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in np.asarray(rows)]
        offsets = np.cumsum([0, *(span.stop - span.start for span in spans)])
        token_ids, token_type_ids = (np.concatenate([ids[span] for span in spans]) for ids in self[:2])
        return Tokens(token_ids, token_type_ids, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """The texts of all the parts, one part after another."""
        token_ids, token_type_ids = (
            np.concatenate([part[i] for part in parts] or [np.empty(0, np.int32)]) for i in range(2)
        )
        lengths = [length for part in parts for length in np.diff(part.offsets)]
        return cls(token_ids, token_type_ids, np.cumsum([0, *lengths], dtype=np.int64))


class Tokenizer:
    """tokenizer.json, set up once for `max_seq_length` word pieces ([CLS] and [SEP] included) and no padding.

    Never changed afterwards, so any number of threads may share it. (The file of all-MiniLM-L6-v2 itself asks
    for 128 pieces and for padding; sentence-transformers uses 256, from sentence_bert_config.json.)
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
            raise WeightsError(f"{path}: found word piece {largest}, wanted ids below vocab_size {vocab_size}")
        if not self._tokenizer.encode("").ids:
            raise WeightsError(f"{path}: adds no special tokens; wanted [CLS] and [SEP] around a text")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_seq_length)
        self.max_seq_length = max_seq_length
        self._whole: Any = None  # the same without truncation, once a pair is too long
        unknown: int | None = self._tokenizer.token_to_id("[UNK]")
        self.unknown_id = -1 if unknown is None else unknown

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """The library's own result for each text: ids, type_ids, tokens, offsets (characters), overflowing ..."""
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        return encodings

    def __call__(self, texts: Sequence[Text]) -> Tokens:
        """Packed word pieces of `texts`."""
        return self.pack(texts)[0]

    def pack(self, texts: Sequence[Text]) -> tuple[Tokens, dict[int, int]]:
        """Packed word pieces of `texts`, and {row: word pieces that were cut off} for those that are too long."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
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
        return Tokens(token_ids, token_type_ids, offsets), cut

    def strings(self, token_ids: Iterable[int]) -> list[str]:
        """The word pieces as strings: "[CLS]", "bread", "##s" ..."""
        return [self._tokenizer.id_to_token(int(token_id)) for token_id in token_ids]

    def cut_off(self, text: Text, encoding: Encoding) -> int:
        """How many word pieces of the text were cut off."""
        if not isinstance(text, str) and encoding.overflowing:  # there the parts repeat the text that fits
            if self._whole is None:
                self._whole = type(self._tokenizer).from_str(self._tokenizer.to_str())
                self._whole.no_truncation()
            return len(self._whole.encode(*text).ids) - len(encoding.ids)
        return sum(part.special_tokens_mask.count(0) for part in encoding.overflowing)
