"""The probe texts that a port has to encode. Each is included because some mistake shows in it.

A port is called with one batch at a time. Padding, and mistakes in it, depend on the other texts of a batch, so the
batches mix texts of different lengths.
"""

from __future__ import annotations

from typing import NamedTuple


class Probe(NamedTuple):
    """A text that a port encodes."""

    name: str  # name in reports
    text: str  # the text itself
    stages: bool = False  # whether its stages are compared, and stored in golden bundles


_LONG = (
    "The committee met again in the spring to discuss the new bridge. Some members thought that the river would rise "
    "before the work was done; others said that money, not water, was what they lacked. "
)
_LIST = (
    "alpha, beta, gamma, delta, epsilon, zeta, eta, theta, iota, kappa, lambda, mu, nu, xi, omicron, pi, rho, sigma. "
)

BATCHES: tuple[tuple[Probe, ...], ...] = (
    (  # ordinary texts: every mistake of arithmetic shows in them
        Probe("sentence", "A man is eating a piece of bread.", True),
        Probe("word", "bread", True),
        Probe("question", "how do i reset my password if the e-mail never arrives"),
        Probe("empty", "", True),
        Probe("long words", "Internationalization of electroencephalographic instrumentation.", True),
        Probe("numbers", "In 1969, 600 million people watched 2 men walk 384,400 km away."),
        Probe("short", "Yes.", True),
        Probe("news", "Shares of the carmaker fell 4.2% after it recalled vehicles sold since March."),
    ),
    (  # texts that a wrong normalizer changes
        Probe("accents", "Caf\u00e9 d\u00e9j\u00e0 vu, na\u00efve r\u00e9sum\u00e9, \u00c5ngstr\u00f6m", True),
        Probe("decomposed accents", "Cafe\u0301 nai\u0308ve re\u0301sume\u0301"),
        Probe("capitals", "NASA And The FBI Met In WASHINGTON", True),
        Probe("chinese", "\u4f60\u597d\u4e16\u754c\uff0c\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002", True),
        Probe("chinese and latin", "Python\u662f\u4e00\u79cd\u7f16\u7a0b\u8bed\u8a00 since 1991"),
        Probe("control characters", "zero\u200bwidth, soft\u00adhyphen, bell\u0007 and null\u0000 inside", True),
        Probe("odd spaces", "tab\there,\u00a0no-break,\u3000ideographic,\nline,\r\nand\u2003em  space"),
        Probe("replacement", "a broken \ufffd character and a private \ue000 one"),
    ),
    (  # other scripts and characters without a word piece
        Probe("german", "Die Stra\u00dfe ist n\u00e4mlich gr\u00f6\u00dfer, \u00fcberpr\u00fcfte J\u00f6rg."),
        Probe(
            "russian",
            "\u041a\u043e\u0440\u043e\u043b\u0435\u0432\u0430 \u0438 \u0419\u043e\u0433 \u0401\u043b\u043a\u0438",
        ),
        Probe("japanese", "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u30d1"),
        Probe("korean", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4"),
        Probe("hindi", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e"),
        Probe("arabic", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645"),
        Probe("emoji", "so happy \U0001f600\U0001f680\u2764\ufe0f today"),
        Probe("turkish", "\u0130stanbul I\u015f\u0131kl\u0131 DI\u015eARI", True),
    ),
    (  # code, addresses, punctuation, special tokens written in a text, long words
        Probe("code", "def f(x): return {k: v for k, v in x.items() if v != None}  # O(n)"),
        Probe("address", "https://www.example.org/a/b?id=42&lang=en#top or mail to joe.bloggs@example.com"),
        Probe("punctuation", "?!... -- (([[{{]])) \u00ab\u00bb \u201cquoted\u201d \u2019s $5 \u20ac7 50%", True),
        Probe("written special pieces", "[CLS] is not [SEP] and [MASK] is not [PAD]"),
        Probe("one endless word", "a" * 101 + " and " + "b" * 100),
        Probe("repetition", "again " * 40),
        Probe("maths", "\u2211 x\u00b2 \u2264 \u221e, \u03b1 \u2208 \u211d, \u00bd \u00d7 \u00be"),
        Probe("full width", "\uff26\uff35\uff2c\uff2c \uff37\uff29\uff24\uff34\uff28 \ufb01ne"),
    ),
    (  # similar texts with different meanings, and long texts
        Probe("near 1", "The cat chased the mouse."),
        Probe("near 2", "The mouse chased the cat."),
        Probe("not", "This film is not good, it is great."),
        Probe("paragraph", _LONG, True),
        Probe("120 pieces", _LONG * 3),
        Probe("200 pieces", _LONG * 5),
        Probe("enumeration", _LIST * 6),
        Probe("400 pieces", _LONG * 10),
    ),
)
PROBES: tuple[Probe, ...] = tuple(probe for batch in BATCHES for probe in batch)
TEXTS: tuple[str, ...] = tuple(probe.text for probe in PROBES)
