"""Tokenize texts into packed word pieces.

The `tokenizers` library splits texts into word pieces. This module packs them: the token_ids of all texts follow one
another without padding, and text b is token_ids[offsets[b]:offsets[b+1]].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np.layout import WeightsError, check_is_not_lfs_pointer
from minilm_np.long_texts import LongTexts, is_long
from minilm_np.wordpiece import check_special_tokens, read_vocabulary

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


MAX_PAIRS_OF_RESTS = 1000  # of max_seq_length word pieces of about 100 bytes each


class Tokenizer:
    """The tokenizer of a tokenizer.json, set to cut off at `max_seq_length` word pieces and not to pad.

    The tokenizer.json of all-MiniLM-L6-v2 sets 128 and padding, but sentence-transformers uses 256, from
    sentence_bert_config.json. A Tokenizer does not change after construction, so threads may share it.

    Parameters
    ----------
    path
        A tokenizer.json, or a vocab.txt of BERT. Its BPE dropout, if any, is switched off, because it makes the word
        pieces random.
    max_seq_length
        Number of word pieces to keep, [CLS] and [SEP] included.
    vocab_size, type_vocab_size
        If given, the ids and token type ids must be below them.

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
        If the file is invalid, has an id outside the tables, or adds no special tokens.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_seq_length: int = 256,
        vocab_size: int | None = None,
        type_vocab_size: int | None = None,
    ):
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        self._path = path
        self.max_seq_length = max_seq_length
        self._vocab_size = 2**31 if vocab_size is None else vocab_size  # token_ids are int32
        self._type_vocab_size = 2**31 if type_vocab_size is None else type_vocab_size
        try:
            if Path(path).name == "vocab.txt":
                self._tokenizer: Any = read_vocabulary(Path(path))
                self._json = self._tokenizer.to_str()
            else:
                self._json = Path(path).read_text(encoding="utf-8-sig")
                self._tokenizer = HuggingFaceTokenizer.from_str(self._json)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_seq_length)
            if getattr(self._tokenizer.model, "dropout", None):
                self._tokenizer.model.dropout = None
            self._check_vocabulary()
            self._check_post_processor()
            if Path(path).name != "vocab.txt":
                check_special_tokens(Path(path), self._tokenizer)
        except FileNotFoundError:
            raise
        except WeightsError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and not _is_from_library(error):
                raise
            check_is_not_lfs_pointer(Path(path))
            raise WeightsError(f"{path}: not a valid {Path(path).name}: {_one_line(error)}") from None
        self._untruncated: Any = None
        self._long_texts = LongTexts(self._tokenizer)
        unknown: int | None = self._tokenizer.token_to_id("[UNK]")
        self.unknown_id = -1 if unknown is None else unknown

    def _check_vocabulary(self) -> None:
        token, largest = max(self._tokenizer.get_vocab().items(), key=itemgetter(1), default=("", -1))
        if largest >= self._vocab_size:
            expected = f"ids below vocab_size {self._vocab_size}"
            raise WeightsError(f"{self._path}: expected {expected}, got word piece {largest}, {token!r}")

    def _check_post_processor(self) -> None:
        """Check what the post-processor adds to a text or a pair: the same word pieces to every one."""
        where = f"{self._path}: post_processor"
        for what, n in ("a single text", 1), ("a pair", 2):
            special_tokens = self._tokenizer.encode(*[""] * n)
            if not special_tokens.ids:
                raise WeightsError(f"{where}: expected [CLS] and [SEP] around {what}, got no special tokens")
            if len(special_tokens.ids) > self.max_seq_length:
                expected = f"at most {self.max_seq_length} special tokens (max_seq_length) around {what}"
                raise WeightsError(f"{where}: expected {expected}, got {len(special_tokens.ids)}")
            # A text that is one added token has one word piece with every model, so its token type id shows, too.
            added = (token.content for token in self._tokenizer.get_added_tokens_decoder().values())
            for encoding in special_tokens, self._tokenizer.encode(*[next(added, "")] * n):
                for token, token_id, type_id in zip(encoding.tokens, encoding.ids, encoding.type_ids, strict=True):
                    if token_id >= self._vocab_size:
                        expected = f"ids below vocab_size {self._vocab_size}"
                        raise WeightsError(f"{where}: expected {expected}, got {token_id} for {token!r}")
                    only_single_texts = n == 2 and type_id == 1  # a model with one type; pairs are refused later
                    if type_id >= self._type_vocab_size and not only_single_texts:
                        raise WeightsError(f"{where}: {self._wrong_type(type_id)} for {token!r}")

    def _wrong_type(self, type_id: int) -> str:
        return f"expected token type ids below type_vocab_size {self._type_vocab_size}, got {type_id}"

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Return the library's Encoding of each text, with ids, type_ids, tokens, offsets (characters) and more.

        Raises
        ------
        TypeError
            If a text is not valid Unicode.
        WeightsError
            If the tokenizer cannot tokenize a text, for example because it has no token for unknown words.
        """
        return self._encode(self._tokenizer.encode_batch, texts)

    def _encode(
        self, encode_batch: Callable[[list[Text]], list[Encoding]], texts: Sequence[Text], first_row: int = 0
    ) -> list[Encoding]:
        try:
            return encode_batch(list(texts))
        except BaseException as error:
            if not _is_from_library(error):
                raise
        encodings = []
        for row, text in enumerate(texts, first_row):  # to name the text; and without threads, if none can be started
            try:
                encodings.append(self._tokenizer.encode(*([text] if isinstance(text, str) else text)))
            except BaseException as error:
                if not _is_from_library(error):
                    raise
                raise WeightsError(f"{self._path}: cannot tokenize sentences[{row}]: {_one_line(error)}") from None
        return encodings

    def __call__(self, texts: Sequence[Text]) -> Tokens:
        """Return the packed word pieces of `texts`."""
        return self.pack(texts)[0]

    def pack(
        self, texts: Sequence[Text], infos: list[TextInfo] | None = None, first_row: int = 0
    ) -> tuple[Tokens, dict[int, int]]:
        """Return the packed word pieces of texts, and {row: word pieces cut off} for the texts that are too long.

        Parameters
        ----------
        texts
            Each a str or a pair of str.
        infos
            If given, a TextInfo for each text is appended to it. The library is then slower, because it tracks
            characters. Without, a long text (`long_texts.is_long`) is tokenized only as far as the model reads it, and
            the dict says how many word pieces are cut off at least.
        first_row
            The number of the first text in error messages.

        Raises
        ------
        TypeError
            If a text is not valid Unicode.
        WeightsError
            If the tokenizer cannot tokenize a text, or adds word pieces to it that the model does not have.
        """
        short = [self._shortened(text, infos is not None) for text in texts]
        for i, text in enumerate(short):
            if not (isinstance(text, str) or self._long_texts.supported):
                self._check_pair(text, first_row + i)
        encode_batch = self._tokenizer.encode_batch_fast if infos is None else self._tokenizer.encode_batch
        encodings = self._encode(encode_batch, short, first_row)
        ids = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(row) for row in ids], out=offsets[1:])
        token_ids = np.fromiter(chain.from_iterable(ids), np.int32, int(offsets[-1]))
        token_type_ids = np.zeros(len(token_ids), np.int32)
        cut = {}
        for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            if not isinstance(text, str):
                type_ids = encoding.type_ids
                if max(type_ids) >= self._type_vocab_size:
                    where = f"{self._path}: post_processor: sentences[{first_row + i}], a pair"
                    raise WeightsError(f"{where}: {self._wrong_type(max(type_ids))}")
                token_type_ids[offsets[i] : offsets[i + 1]] = type_ids
            if len(ids[i]) > self.max_seq_length:
                raise WeightsError(
                    f"{self._path}: post_processor: expected at most {self.max_seq_length} word pieces for "
                    f"sentences[{first_row + i}], got {len(ids[i])}"
                )
            if len(ids[i]) == self.max_seq_length and (dropped := self.cut_off(short[i], encoding)):
                cut[i] = dropped
        if infos is not None:
            for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
                if i in cut and short[i] is not text:
                    parts = [text] if isinstance(text, str) else text
                    cut[i] = sum(map(self._long_texts.count, parts)) - encoding.special_tokens_mask.count(0)
                infos.append(self._info(text, encoding, cut.get(i, 0)))
        return Tokens(token_ids, token_type_ids, offsets), cut

    def _shortened(self, text: Text, same_offsets: bool) -> Text:
        """Return a text with the same first `max_seq_length` word pieces: the text itself, unless it is long."""
        if not is_long(text) or not self._long_texts.supported:
            return text
        if isinstance(text, str):
            return self._long_texts.start(text, self.max_seq_length, same_offsets)[0]
        parts = [*text]
        # The library keeps more of the longer text, or of the second if they are equally long. So the longer must stay
        # the longer.
        counts = [self._long_texts.count(part) for part in parts]
        shorter, longer = (0, 1) if counts[0] <= counts[1] else (1, 0)
        parts[shorter], kept = self._long_texts.start(parts[shorter], self.max_seq_length, same_offsets)
        parts[longer], _ = self._long_texts.start(parts[longer], max(kept + 1, self.max_seq_length), same_offsets)
        return parts[0], parts[1]

    def strings(self, token_ids: Iterable[int]) -> list[str]:
        """Return word pieces as strings, such as "[CLS]", "bread" and "##s"."""
        return [self._tokenizer.id_to_token(int(token_id)) for token_id in token_ids]

    def cut_off(self, text: Text, encoding: Encoding) -> int:
        """Return how many word pieces of a text were cut off, from the library's Encoding of it."""
        if not isinstance(text, str) and encoding.overflowing:  # a pair's overflow repeats word pieces that were kept
            return len(self._without_truncation().encode(*text).ids) - len(encoding.ids)
        return sum(part.special_tokens_mask.count(0) for part in encoding.overflowing)

    def _without_truncation(self) -> Any:
        """Return the library's tokenizer without truncation, made when a pair first needs it."""
        if self._untruncated is None:
            # Not from to_str: the library may write what it does not read, if two word pieces have the same id.
            untruncated = type(self._tokenizer).from_str(self._json)
            untruncated.no_padding()
            untruncated.no_truncation()
            if getattr(untruncated.model, "dropout", None):
                untruncated.model.dropout = None
            self._untruncated = untruncated
        return self._untruncated

    def _check_pair(self, pair: tuple[str, str], row: int) -> None:
        """Raise WeightsError if the library would fill the memory with all pairs of rests that it cuts off."""
        encode = self._without_truncation().encode
        try:
            first, second = (len(encode(part, add_special_tokens=False)) for part in pair)
        except BaseException as error:
            if _is_from_library(error):
                return  # it is raised again, and named, when the pair is encoded
            raise
        if first * second > MAX_PAIRS_OF_RESTS * self.max_seq_length**2:
            expected = f"the product of its texts' word pieces at most {MAX_PAIRS_OF_RESTS} * {self.max_seq_length}^2"
            got = f"got {first} * {second}; only BERT's tokenizer reads longer pairs"
            raise WeightsError(f"{self._path}: sentences[{row}], a pair: expected {expected}, {got}")

    def _info(self, text: Text, encoding: Encoding, dropped: int) -> TextInfo:
        spans = []
        for sequence in range(1 if isinstance(text, str) else 2):
            pieces = [o for o, s in zip(encoding.offsets, encoding.sequence_ids, strict=True) if s == sequence]
            spans.append((pieces[0][0], pieces[-1][1]) if pieces else (0, 0))
        kept = len(encoding.ids)
        span = spans[0] if isinstance(text, str) else tuple(spans)
        return TextInfo(kept + dropped, kept, dropped, span, encoding.ids.count(self.unknown_id))


def _is_from_library(error: BaseException) -> bool:
    """Return whether the tokenizers library cannot tokenize: it raises bare Exception, or PanicException if it panics.

    PanicException is a BaseException, and no module has it as a name.
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
