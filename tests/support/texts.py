"""Difficult texts for the comparison with PyTorch, by name.

This list tests minilm_np itself: its tokenizer's input and its forward pass. `TEXTS` are short, because the PyTorch
reference (tests/reference) stores every stage for each of them; `NASTY` adds long and unusual texts for the tests that
run PyTorch. The package has the only other list, the probe texts of minilm_np/crosscheck/probes.py: users run them
through their ports, golden bundles contain them, and each is there because a mistake in a port shows in it.
"""

from __future__ import annotations

Text = str | tuple[str, str]

TEXTS: dict[str, Text] = {
    "empty": "",
    "one word": "hello",
    "model card 1": "This is an example sentence",
    "model card 2": "Each sentence is converted",
    "food": "A man is eating food.",
    "accents": "Caf\u00e9 d\u00e9j\u00e0 vu, na\u00efve r\u00e9sum\u00e9, \u00c5ngstr\u00f6m",
    "accents decomposed": "Cafe\u0301 nai\u0308ve",
    "german": "Die Stra\u00dfe ist n\u00e4mlich gr\u00f6\u00dfer.",
    "chinese": "\u4f60\u597d\u4e16\u754c\uff0c\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "japanese": "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059",
    "korean": "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "emoji with joiners": "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and \u2764\ufe0f ok",
    "mixed case": "NASA Launched The iPhone; McDonald's said WOW",
    "mask as text": "The capital of France is [MASK]. [SEP] [CLS] [PAD] [UNK]",
    "digits": "On 2023-01-05 at 12:30, $1,234.56 (+7.8%) -- 3x10^8 m/s",
    "white space": "  line one\n\tline two\r\n\n  line   three  ",
    "punctuation": "?!... \u2014 \u00ab\u00bb \u201cquoted\u201d & <b>bold</b>",
    "rare words": "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "code": "def f(x): return {k: v**2 for k, v in x.items()}  # squares",
    "pair": ("How many people live in Berlin?", "Berlin has a population of 3,520,031."),
    "pair with empty": ("only the first", ""),
    "sixty tokens": (
        "The quick brown fox jumps over the lazy dog while the cat watches from the window, thinking about dinner; "
        "meanwhile, in a quiet laboratory far away, two researchers argue about whether the results of their latest "
        "experiment, which took eleven months, can possibly be right."
    ),
}

NASTY: dict[str, Text] = {
    **TEXTS,
    "256 word pieces": "hello " * 254,
    "257 word pieces": "hello " * 255,
    "320 word pieces": "The rain in Spain stays mainly in the plain. " * 29,
    "pair too long": ("alpha beta gamma " * 100, "delta epsilon " * 100),
    "100 letters": "a" * 100,
    "101 letters": "a" * 101,  # longer words than 100 letters are one [UNK]
    "1000 letters": "xyz" * 333 + "x",
    "control characters": "be\x01ll\x07 and esc\x1b[31m red \x7f del",
    "NUL": "a\x00b\x00 c",
    "zero width": "zero\u200bwidth\u200c no\u2060join \ufeffbom",
    "right to left marks": "\u202eabc\u202c \u200fdef\u200e",
    "combining pile": "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324 algo",
    "white space only": " \t\n\u00a0\u2003\u3000 ",
    "punctuation only": "!!!???...,,,;;;",
    "replacement characters": "\ufffd\ufffd \ufffd",
    "unknown repeated": "\U00012000 " * 40,
    "private use": "\ue000\uf8ff \U000f0000",
    "surrogate-range neighbours": "\ud7ff\ue000 \uffff \U0010ffff",
    "full width": "\uff28\uff25\uff2c\uff2c\uff2f \uff11\uff12\uff13",
    "turkish dotted I": "\u0130stanbul \u0131\u015f\u0131k I i",
    "sharp s and ligatures": "\u1e9e \ufb01nance \ufb03 \u01c6",
    "line separators": "one\u2028two\u2029three\x85four\x0bfive\x0csix",
    "flags and skin": "\U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "thai without spaces": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "word piece marks": "##ing ## #ing un##able",
    "one megabyte": "All work and no play makes Jack a dull boy. " * 23832,
    "one megabyte without a space": "abcdefghij" * 104858,
}

# The sentences of https://www.sbert.net/docs/quickstart.html, and their cosine similarities as that page prints them
WEATHER = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
WEATHER_SIMILARITIES = [["1.0000", "0.6660", "0.1046"], ["0.6660", "1.0000", "0.1411"], ["0.1046", "0.1411", "1.0000"]]
