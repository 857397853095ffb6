"""BERT's tokenizer in plain Python, each step of which a port can get wrong.

The steps, in order: find special pieces written in the text, clean the text, put spaces around Chinese characters,
lowercase, strip accents, split into words and punctuation marks, look up the longest pieces of each word, truncate, and
add [CLS] and [SEP]. `RULES` names the mistakes: each replaces one step. Without a mistake the result equals that of
tokenizer.json on all probe texts. (The steps: google-research/bert, tokenization.py.)
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

Words = Callable[[str], list[str]]
ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
SPECIAL_PIECES = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
CHINESE = (  # code points that tokenizer.json treats as words of their own
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


# --- the right steps ---------------------------------------------------------------------------


def _same(text: str) -> str:
    return text


def _is_control(character: str) -> bool:
    return character not in "\t\n\r" and unicodedata.category(character).startswith("C")


def _clean(text: str) -> str:
    kept = (c for c in text if c not in "\0\ufffd" and not _is_control(c))
    return "".join(" " if c.isspace() else c for c in kept)


def _is_chinese(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in CHINESE)


def _strip_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _is_punctuation(character: str) -> bool:
    return character in ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def _split_at(separates: Callable[[str], bool], is_space: Callable[[str], bool] = str.isspace) -> Words:
    """Return a function that splits at spaces, and makes each character for which `separates` holds a word."""

    def split(text: str) -> list[str]:
        return "".join(f" {c} " if separates(c) else " " if is_space(c) else c for c in text).split(" ")

    return lambda text: [word for word in split(text) if word]


_words = _split_at(_is_punctuation)


def _longest_first(vocabulary: Vocabulary, word: str) -> list[int]:
    """The longest piece that starts the word, then the longest that continues it, and so on; [UNK] if none does."""
    pieces, rest = _known_start(vocabulary, word)
    return [vocabulary.unk_id] if rest else pieces


def _truncated(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return [vocabulary.cls_id, *pieces[: max(0, length - 2)], vocabulary.sep_id]


class Vocabulary(NamedTuple):
    ids: dict[str, int]  # word piece -> id
    unk_id: int
    cls_id: int
    sep_id: int

    @classmethod
    def read(cls, tokenizer_json: Path) -> Vocabulary:
        """Return the vocabulary of a tokenizer.json with a WordPiece model."""
        ids = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]["vocab"]
        return cls(ids, ids["[UNK]"], ids["[CLS]"], ids["[SEP]"])


@dataclass(frozen=True)
class Rule:
    """How a port makes word pieces of a text. The defaults are right."""

    description: str = ""
    before: Callable[[str], str] = _same  # what happens to a text before it is tokenized
    special_pieces: bool = True  # whether [SEP] and the like, written in a text, are special pieces
    clean: Callable[[str], str] = _clean
    is_chinese: Callable[[str], bool] = _is_chinese
    strip_accents: Callable[[str], str] = _strip_accents
    lowercase: Callable[[str], str] = str.lower
    words: Words = _words
    max_word: int | None = 100  # characters; longer words are [UNK]
    pieces: Callable[[Vocabulary, str], list[int]] = _longest_first
    finish: Callable[[Vocabulary, list[int], int], list[int]] = _truncated


class RuleTokenizer:
    """Tokenize as a port with this rule does."""

    def __init__(self, vocabulary: Vocabulary, rule: Rule, max_seq_length: int = 256):
        self.vocabulary, self.rule, self.max_seq_length = vocabulary, rule, max_seq_length

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of a text's word pieces, [CLS] and [SEP] included."""
        rule, pieces = self.rule, list[int]()
        for part in SPECIAL_PIECES.split(rule.before(text)) if rule.special_pieces else [rule.before(text)]:
            if rule.special_pieces and SPECIAL_PIECES.fullmatch(part):
                pieces.append(self.vocabulary.ids[part])
            else:
                for word in rule.words(self._normalized(part)):
                    too_long = rule.max_word is not None and len(word) > rule.max_word
                    pieces += [self.vocabulary.unk_id] if too_long else rule.pieces(self.vocabulary, word)
        return rule.finish(self.vocabulary, pieces, self.max_seq_length)

    def _normalized(self, text: str) -> str:
        text = "".join(f" {c} " if self.rule.is_chinese(c) else c for c in self.rule.clean(text))
        return self.rule.strip_accents(self.rule.lowercase(text))


# --- wrong steps -------------------------------------------------------------------------------


def _longest_at(vocabulary: Vocabulary, word: str, start: int, prefix: str = "##") -> tuple[int | None, int]:
    """Return the id of the longest piece at this place in a word and where it ends; None if there is no piece."""
    for end in range(len(word), start, -1):
        piece = vocabulary.ids.get((prefix if start else "") + word[start:end])
        if piece is not None:
            return piece, end
    return None, start


def _known_start(vocabulary: Vocabulary, word: str, prefix: str = "##") -> tuple[list[int], str]:
    """Return the pieces of a word up to a place where none fits, and the rest of the word."""
    pieces, start = list[int](), 0
    while start < len(word):
        piece, start = _longest_at(vocabulary, word, start, prefix)
        if piece is None:
            return pieces, word[start:]
        pieces.append(piece)
    return pieces, ""


def _unknown_left_out(vocabulary: Vocabulary, word: str) -> list[int]:
    pieces, rest = _known_start(vocabulary, word)
    return [] if rest else pieces


def _known_start_kept(vocabulary: Vocabulary, word: str) -> list[int]:
    pieces, rest = _known_start(vocabulary, word)
    return [*pieces, vocabulary.unk_id] if rest else pieces


def _known_start_only(vocabulary: Vocabulary, word: str) -> list[int]:
    return _known_start(vocabulary, word)[0]


def _unknown_characters(vocabulary: Vocabulary, word: str) -> list[int]:
    pieces, start = list[int](), 0
    while start < len(word):
        piece, end = _longest_at(vocabulary, word, start)
        pieces.append(vocabulary.unk_id if piece is None else piece)
        start = max(end, start + 1)
    return pieces


def _without_prefix(vocabulary: Vocabulary, word: str) -> list[int]:
    pieces, rest = _known_start(vocabulary, word, prefix="")
    return [vocabulary.unk_id] if rest else pieces


def _whole_words(vocabulary: Vocabulary, word: str) -> list[int]:
    return [vocabulary.ids.get(word, vocabulary.unk_id)]


def _characters(vocabulary: Vocabulary, word: str) -> list[int]:
    names = [word[:1], *(f"##{c}" for c in word[1:])]
    return [vocabulary.ids.get(name, vocabulary.unk_id) for name in names]


def _longest_last(vocabulary: Vocabulary, word: str) -> list[int]:
    """The longest piece that ends the word, then the longest that ends the rest."""
    pieces, end = list[int](), len(word)
    while end:
        for start in range(end):
            piece = vocabulary.ids.get(("##" if start else "") + word[start:end])
            if piece is not None:
                break
        else:
            return [vocabulary.unk_id]
        pieces.insert(0, piece)
        end = start
    return pieces


def _category(*prefixes: str) -> Callable[[str], bool]:
    return lambda c: unicodedata.category(c).startswith(prefixes)


def _replaced(pattern: str, by: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, by, text)


def _without(drops: Callable[[str], bool], by: str = "") -> Callable[[str], str]:
    return lambda text: "".join(by if drops(c) else c for c in text)


def _cleaned_by(test: Callable[[str], bool], by: str) -> Callable[[str], str]:
    """Return a cleaning step that replaces characters for which `test` holds; spaces stay as they are."""
    return lambda text: "".join(by if test(c) else " " if c.isspace() else c for c in text)


def _is_accented(character: str) -> bool:
    return len(unicodedata.normalize("NFD", character)) > 1 and not "\uac00" <= character < "\ud7a4"


def _latin_1_accents(text: str) -> str:
    return "".join(_strip_accents(c) if ord(c) < 256 else c for c in text)


def _found(pattern: str) -> Words:
    return lambda text: re.findall(pattern, text)


def _separate_digits(text: str) -> list[str]:
    return _split_at(lambda c: _is_punctuation(c) or c.isdecimal())(text)


def _numbers_and_letters(text: str) -> list[str]:
    return [part for word in _split_at(_is_punctuation)(text) for part in re.findall(r"\d+|\D+", word)]


def _except(kept: str) -> Words:
    return _split_at(lambda c: _is_punctuation(c) and c not in kept)


def _without_punctuation(text: str) -> list[str]:
    return _without(_is_punctuation, " ")(text).split()


def _runs_of_punctuation(text: str) -> list[str]:
    return [run for word in text.split() for run in _runs(word)]


def _runs(word: str) -> list[str]:
    runs = [word[:1]]
    for before, character in pairwise(word):
        if _is_punctuation(before) == _is_punctuation(character):
            runs[-1] += character
        else:
            runs.append(character)
    return runs


def _specials(*order: str) -> Callable[[Vocabulary, list[int], int], list[int]]:
    """Return a last step with other special pieces; "..." stands for the text's pieces."""

    def finish(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
        ids = {"[CLS]": vocabulary.cls_id, "[SEP]": vocabulary.sep_id}
        kept = pieces[: length - len(order) + 1]
        return [piece for name in order for piece in (kept if name == "..." else [ids[name]])]

    return finish


def _unknown_dropped(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return _truncated(vocabulary, [piece for piece in pieces if piece != vocabulary.unk_id], length)


def _sep_cut_off(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return [vocabulary.cls_id, *pieces, vocabulary.sep_id][:length]


def _start_cut_off(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return [vocabulary.cls_id, *pieces[max(0, len(pieces) - length + 2) :], vocabulary.sep_id]


def _start_cut_off_with_cls(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return [vocabulary.cls_id, *pieces, vocabulary.sep_id][-length:]


def _middle_cut_out(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    room = length - 2
    kept = pieces if len(pieces) <= room else pieces[: room // 2] + pieces[len(pieces) - (room - room // 2) :]
    return [vocabulary.cls_id, *kept, vocabulary.sep_id]


def _unknown_for_empty(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return _truncated(vocabulary, pieces or [vocabulary.unk_id], length)


def _repeats_dropped(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return _truncated(vocabulary, list(dict.fromkeys(pieces)), length)


def _backwards(vocabulary: Vocabulary, pieces: list[int], length: int) -> list[int]:
    return _truncated(vocabulary, pieces[::-1], length)


# fmt: off
STOP_WORDS = frozenset((
    *("a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "for", "from", "had", "has", "have", "he", "her"),
    *("his", "i", "if", "in", "into", "is", "it", "its", "me", "my", "no", "not", "of", "on", "or", "our", "she", "so"),
    *("such", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "was", "we"),
    *("were", "what", "when", "which", "who", "will", "with", "you", "your"),
))
RULES: dict[str, Rule] = {
    # the text
    "encoding-latin-1": Rule("UTF-8 is read as Latin-1", before=lambda t: t.encode().decode("latin-1")),
    "encoding-ascii-question-marks": Rule(
        "characters outside ASCII become question marks", before=lambda t: t.encode("ascii", "replace").decode()),
    "characters-outside-ascii-dropped": Rule(
        "characters outside ASCII are dropped", before=lambda t: t.encode("ascii", "ignore").decode()),
    "accents-and-characters-outside-ascii-dropped": Rule(
        "texts are decomposed, then characters outside ASCII are dropped",
        before=lambda t: unicodedata.normalize("NFKD", t).encode("ascii", "ignore").decode()),
    "normalized-nfkc": Rule("texts are normalized with NFKC", before=lambda t: unicodedata.normalize("NFKC", t)),
    "text-ends-at-null": Rule("a text ends at its first null character", before=lambda t: t.split("\0")[0]),
    "first-line-only": Rule("a text ends at its first line break", before=lambda t: re.split(r"[\r\n]", t)[0]),
    "digits-dropped": Rule("digits are dropped", before=_replaced(r"\d", "")),
    "numbers-to-zeros": Rule("each digit becomes 0", before=_replaced(r"\d", "0")),
    "emoji-dropped": Rule("emoji are dropped", before=_replaced("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]", "")),
    "addresses-dropped": Rule("web addresses are dropped", before=_replaced(r"https?://\S+", "")),
    "stop-words-dropped": Rule(
        "stop words are dropped", before=lambda t: " ".join(w for w in t.split() if w.lower() not in STOP_WORDS)),
    "cut-after-256-characters": Rule("texts are cut after 256 characters", before=lambda t: t[:256]),
    "cut-after-512-characters": Rule("texts are cut after 512 characters", before=lambda t: t[:512]),
    "cut-after-128-words": Rule("texts are cut after 128 words", before=lambda t: " ".join(t.split()[:128])),
    "special-pieces-not-recognized": Rule(
        "[SEP] and the like, written in a text, are split like other text", special_pieces=False),
    # cleaning and spaces
    "control-characters-to-spaces": Rule(
        "control and format characters separate words",
        clean=_cleaned_by(lambda c: c in "\0\ufffd" or _is_control(c), " ")),
    "format-characters-kept": Rule(
        "format characters such as U+200B are kept",
        clean=_cleaned_by(lambda c: c in "\0\ufffd" or (_is_control(c) and unicodedata.category(c) != "Cf"), "")),
    "private-characters-kept": Rule(
        "private and unassigned characters are kept", clean=_cleaned_by(
            lambda c: c in "\0\ufffd" or (_is_control(c) and unicodedata.category(c) not in ("Co", "Cn")), "")),
    "replacement-character-kept": Rule(
        "U+FFFD is kept", clean=_cleaned_by(_is_control, "")),
    "spaces-ascii": Rule(
        "only ASCII spaces separate words", clean=_without(lambda c: c == "\ufffd" or _is_control(c)),
        words=_split_at(_is_punctuation, lambda c: c in " \t\n\r")),
    "spaces-only-u0020": Rule(
        "only the space character separates words",
        clean=_without(lambda c: c == "\ufffd" or _is_control(c)),
        words=_split_at(_is_punctuation, lambda c: c == " ")),
    "line-breaks-dropped": Rule(
        "tabs and line breaks are dropped as control characters",
        clean=lambda t: _clean(re.sub(r"[\t\n\r]", "", t))),
    # Chinese, accents, case
    "kana-split": Rule(
        "Japanese kana are split into separate words, like Chinese",
        is_chinese=lambda c: _is_chinese(c) or "\u3040" <= c <= "\u30ff"),
    "cjk-all-split": Rule(
        "kana and Korean syllables are split into separate words, like Chinese",
        is_chinese=lambda c: _is_chinese(c) or "\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7a3"),
    "hangul-split": Rule(
        "Korean syllables are split into separate words, like Chinese",
        is_chinese=lambda c: _is_chinese(c) or "\uac00" <= c <= "\ud7a3"),
    "outside-ascii-split": Rule(
        "each character outside ASCII becomes a word", is_chinese=lambda c: ord(c) > 127 and not c.isspace()),
    "accents-not-decomposed": Rule(
        "only combining accents are stripped; texts are not decomposed first",
        strip_accents=_without(_category("Mn"))),
    "accents-composed": Rule(
        "texts are composed (NFC) before accents are stripped",
        strip_accents=lambda t: _without(_category("Mn"))(unicodedata.normalize("NFC", t))),
    "accents-decomposed-only": Rule(
        "texts are decomposed, but accents are kept", strip_accents=lambda t: unicodedata.normalize("NFD", t)),
    "accents-latin-1": Rule("accents are stripped from Latin-1 letters only", strip_accents=_latin_1_accents),
    "accents-u0300-u036f": Rule(
        "only U+0300 to U+036F count as accents",
        strip_accents=lambda t: re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", t))),
    "accents-all-marks": Rule(
        "spacing and enclosing marks are stripped like accents",
        strip_accents=lambda t: _without(_category("M"))(unicodedata.normalize("NFD", t))),
    "accented-letters-dropped": Rule(
        "letters with accents are dropped", strip_accents=lambda t: _strip_accents(_without(_is_accented)(t))),
    "latin-letters-dropped": Rule(
        "Latin letters outside ASCII (U+00C0 to U+024F) are dropped",
        strip_accents=lambda t: _strip_accents(re.sub("[\u00c0-\u024f]", "", t))),
    "lowercase-ascii": Rule(
        "only ASCII letters are lowercased", lowercase=lambda t: re.sub("[A-Z]+", lambda m: m[0].lower(), t)),
    "lowercase-turkish": Rule(
        "letters are lowercased by Turkish rules: I becomes \u0131",
        before=lambda t: t.replace("I", "\u0131").replace("\u0130", "i")),
    "case-folded": Rule("texts are case-folded: \u00df becomes ss", lowercase=str.casefold),
    # words
    "punctuation-not-split": Rule("punctuation stays with its word", words=str.split),
    "punctuation-dropped": Rule("punctuation is dropped", words=_without_punctuation),
    "punctuation-ascii": Rule(
        "only ASCII punctuation is split off", words=_split_at(lambda c: c in ASCII_PUNCTUATION)),
    "punctuation-by-category": Rule(
        "only the Unicode category P is split off, so that $ + < = > ^ ` | ~ stay with their words",
        words=_split_at(_category("P"))),
    "non-letters-split": Rule(
        "every character but letters and digits is split off",
        words=_found(r"[^\W_]+|[^\w\s]|_")),
    "punctuation-runs": Rule("neighboring punctuation marks stay together", words=_runs_of_punctuation),
    "symbols-split": Rule(
        "symbols outside ASCII are split off like punctuation",
        words=_split_at(lambda c: _is_punctuation(c) or unicodedata.category(c).startswith("S"))),
    "symbols-dropped": Rule(
        "words are \\w+ or one punctuation mark; other characters are dropped",
        words=lambda t: [w for w in _found(r"\w+|[^\w\s]")(t) if w.isalnum() or "_" in w or _is_punctuation(w)]),
    "hyphens-kept": Rule("hyphens stay with their words", words=_except("-")),
    "apostrophes-kept": Rule("apostrophes stay with their words", words=_except("'\u2019")),
    "points-kept": Rule("points and commas inside numbers stay with them", words=lambda t: [
        w.replace("\0", ".").replace("\1", ",") for w in _split_at(_is_punctuation)(
            re.sub(r"(?<=\d),(?=\d)", "\1", re.sub(r"(?<=\d)\.(?=\d)", "\0", t)))]),
    "digits-split": Rule("each digit becomes a word", words=_separate_digits),
    "numbers-split": Rule("numbers are split off letters", words=_numbers_and_letters),
    # pieces
    "word-limit-none": Rule("words of more than 100 characters are split, too", max_word=None),
    "word-limit-50": Rule("words of more than 50 characters become [UNK], instead of 100", max_word=50),
    "word-limit-20": Rule("words of more than 20 characters become [UNK], instead of 100", max_word=20),
    "unknown-words-left-out": Rule("words without pieces are left out, unless too long", pieces=_unknown_left_out),
    "unknown-left-out": Rule("[UNK] is left out", finish=_unknown_dropped),
    "unknown-start-kept": Rule("the known start of a word is kept before its [UNK]", pieces=_known_start_kept),
    "unknown-start-only": Rule("a word without pieces keeps its known start, without [UNK]", pieces=_known_start_only),
    "unknown-characters": Rule(
        "each unknown character of a word becomes [UNK], and the rest is split", pieces=_unknown_characters),
    "pieces-without-prefix": Rule("pieces inside a word are looked up without ##", pieces=_without_prefix),
    "whole-words": Rule("words are not split into pieces: other words become [UNK]", pieces=_whole_words),
    "characters": Rule("words are split into characters", pieces=_characters),
    "longest-piece-from-the-end": Rule("the longest pieces are taken from the end of a word", pieces=_longest_last),
    # special pieces and truncation
    "sep-cut-off": Rule("[SEP] is cut off with the end of a long text", finish=_sep_cut_off),
    "start-cut-off": Rule("the start of a long text is cut off, instead of its end", finish=_start_cut_off),
    "start-cut-off-with-cls": Rule("the start of a long text is cut off, with [CLS]", finish=_start_cut_off_with_cls),
    "middle-cut-out": Rule("the middle of a long text is cut out, instead of its end", finish=_middle_cut_out),
    "cls-twice": Rule("[CLS] is added twice", finish=_specials("[CLS]", "[CLS]", "...", "[SEP]")),
    "sep-twice": Rule("[SEP] is added twice", finish=_specials("[CLS]", "...", "[SEP]", "[SEP]")),
    "specials-twice": Rule(
        "[CLS] and [SEP] are added twice", finish=_specials("[CLS]", "[CLS]", "...", "[SEP]", "[SEP]")),
    "specials-swapped": Rule("[SEP] is in front, [CLS] at the end", finish=_specials("[SEP]", "...", "[CLS]")),
    "cls-at-the-end": Rule("[CLS] is at the end, as well", finish=_specials("[CLS]", "...", "[CLS]")),
    "sep-in-front": Rule("[SEP] is in front, as well", finish=_specials("[SEP]", "...", "[SEP]")),
    "empty-as-unknown": Rule("a text without word pieces becomes [UNK]", finish=_unknown_for_empty),
    "repeated-pieces-dropped": Rule("a word piece that occurs again is dropped", finish=_repeats_dropped),
    "backwards": Rule("the word pieces are in reverse order", finish=_backwards),
}
# fmt: on
