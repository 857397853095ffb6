"""Shorten a long text before it is tokenized, without changing the word pieces that the model reads.

The tokenizers library tokenizes a whole text before it cuts off what the model does not read. While it works it needs
about 150 times the text's size: 20 MB of words take 1.8 GB and 12 s, for 256 word pieces. `LongTexts` instead
tokenizes a long text in parts, until there are enough word pieces.

A text may be cut where the word pieces on one side do not depend on the other side. That is before white space, before
a Chinese character and before punctuation, if the normalizer and the pre-tokenizer are BERT's. With any other the text
is not shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

PART = 8192  # characters: about 1,600 word pieces of English
LONG = 2 * PART  # characters of the longest text that is tokenized in one piece
# White space and punctuation that every version of Unicode has. str.isspace accepts control characters, too, which
# BERT's normalizer removes.
SPACES = " \t\r\n\u3000"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u2019\u201c\u201d"
CHINESE = "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff"  # separated by `handle_chinese_chars`


def is_long(text: str | tuple[str, str]) -> bool:
    """Return whether a text, or a text of a pair, has more than LONG characters."""
    return len(text) > LONG if isinstance(text, str) else max(map(len, text)) > LONG


class LongTexts:
    """Count and cut word pieces of long texts, part by part.

    Parameters
    ----------
    tokenizer
        A tokenizer of the tokenizers library that truncates.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        normalizer, pre_tokenizer, model = tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self.supported = (
            type(normalizer).__name__ == "BertNormalizer"
            and type(pre_tokenizer).__name__ == "BertPreTokenizer"
            and all(re.fullmatch(r"[!-~]*", content) for content in added)  # no white space inside
        )
        if not self.supported:
            return
        punctuation = "".join(c for c in PUNCTUATION if not any(c in content for content in added))
        chinese = CHINESE if normalizer.handle_chinese_chars else ""
        self._boundary = re.compile(f"[{SPACES}{re.escape(punctuation)}{chinese}]")
        # A word of more than max_input_chars_per_word (100) characters is [UNK], however long it is.
        self._long_word = None
        if (
            type(model).__name__ == "WordPiece"
            and model.max_input_chars_per_word < PART
            and not any(content[:1].isalnum() or content[-1:].isalnum() for content in added)
        ):
            letter = rf"[^\W_{CHINESE}]"
            self._long_word = re.compile(f"(?<!{letter})({letter}{{{PART}}}){letter}+")

    def parts(self, text: str) -> Iterator[str]:
        """Yield a text in parts of at least PART characters that can be tokenized separately."""
        start = 0
        while start < len(text):
            boundary = self._boundary.search(text, start + PART)
            stop = boundary.start() if boundary else len(text)
            yield text[start:stop]
            start = stop

    def count(self, text: str) -> int:
        """Return the number of word pieces of a text, without special tokens."""
        return sum(self._count(self._squeezed(part)) for part in self.parts(text))

    def start(self, text: str, pieces: int, same_offsets: bool) -> tuple[str, int]:
        """Return a text with the same first word pieces, at least `pieces` of them, and their number.

        With `same_offsets` it is text[:n] for some n. Else parts without word pieces are left out.
        """
        kept, count = [], 0
        for part in self.parts(text):
            squeezed = self._squeezed(part)
            n = self._count(squeezed)
            if same_offsets:
                kept.append(part)
            elif n:
                kept.append(squeezed)
            count += n
            if count >= pieces:
                break
        return "".join(kept), count

    def _count(self, part: str) -> int:
        if part.isspace():
            return 0
        encoding = self._tokenizer.encode(part)
        return sum(e.special_tokens_mask.count(0) for e in (encoding, *encoding.overflowing))

    def _squeezed(self, part: str) -> str:
        """Cut off words that are [UNK] because of their length."""
        if len(part) <= LONG or self._long_word is None:
            return part
        return self._long_word.sub(r"\1", part)
