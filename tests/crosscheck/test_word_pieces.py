"""The mistakes of tokenizers: each differs from the others on the probe texts, and the search names it."""

from __future__ import annotations

import numpy as np
import pytest
from support.ports import port_with

from minilm_np.crosscheck import crosscheck, probe_texts
from minilm_np.crosscheck.causes import Evidence, Search
from minilm_np.crosscheck.mistakes import WORD_PIECES, catalogue
from minilm_np.crosscheck.truth import batches, simulator, truth
from minilm_np.crosscheck.word_pieces import RULES, Rule, RuleTokenizer, Vocabulary

RIGHT = [[ids.tolist()] for ids in truth().token_ids]


def test_right_steps_give_the_word_pieces_of_tokenizer_json() -> None:
    tokenizer = RuleTokenizer(Vocabulary.read(truth().checkpoint.folder / "tokenizer.json"), Rule())
    assert [[tokenizer.token_ids(text)] for text in probe_texts()] == RIGHT


def test_each_mistake_of_the_tokenizer_has_word_pieces_of_its_own() -> None:
    seen = {str(RIGHT): "the right tokenizer"}
    for mistake in catalogue():
        if mistake.concerns_word_pieces and mistake.name != "chunks-averaged-by-length":  # has those of chunks-averaged
            key = str(simulator().token_ids(mistake.apply()))
            assert key not in seen, f"{mistake.name} has the word pieces of {seen[key]}"
            seen[key] = mistake.name


@pytest.mark.parametrize("name", [*RULES, "chunks-averaged", "chunks-averaged-by-length", "truncation-258"])
def test_names_a_rule(name: str) -> None:
    report = crosscheck(port_with(name))
    assert [cause.name for cause in report.causes if cause.fits] == [name], report


def test_word_piece_mistakes_that_change_a_right_text_are_not_tried() -> None:
    got = truth().embeddings.copy()
    wrong = [row for row, text in enumerate(probe_texts()) if "-" in text]
    got[wrong] += np.random.default_rng(3).standard_normal((len(wrong), 384)) * 0.01
    one = Evidence("sentence_embedding", range(40), batches(), list(got), list(truth().embeddings), 1e-6)
    search = Search(simulator(), truth().token_ids, [one], only=lambda m: m.concerns_word_pieces, pairs=False)
    assert search.causes() == []
    left = {mistake.name for mistake in search.mistakes}
    assert "hyphens-kept" in left and not left & {"whole-words", "digits-split", "cls-twice", "truncation-128"}


def test_rules_clash_with_other_decisions_of_the_tokenizer() -> None:
    by_name = {mistake.name: mistake for mistake in catalogue()}
    assert all(rule.clashes_with(by_name["truncation-128"]) for rule in WORD_PIECES)
    assert not by_name["cls-twice"].clashes_with(by_name["gelu-tanh"])


@pytest.mark.parametrize("instead", [(), ("[UNK]",), ("food", "food")])
def test_shows_the_word_pieces_that_explain_the_smallest_wrong_text(instead: tuple[str, ...]) -> None:
    """Texts with a hyphen are wrong by noise; "Yes." has the vector of other word pieces, near or far."""
    got, texts = truth().embeddings.copy(), probe_texts()
    wrong = [row for row, text in enumerate(texts) if "-" in text or text == "Yes."]
    got[wrong] += np.random.default_rng(3).standard_normal((len(wrong), 384)) * 0.01
    ids = Vocabulary.read(truth().checkpoint.folder / "tokenizer.json").ids
    changed = ["[CLS]", *instead, ".", "[SEP]"]
    (got[texts.index("Yes.")],) = simulator().embed_pieces([[ids[piece] for piece in changed]])
    report = crosscheck(got)
    explained = f"its vector is that of the word pieces {' '.join(changed)}; right: [CLS] yes . [SEP]"
    assert report.part == "tokenizer" and (explained in report.known) is ("food" not in instead), report
