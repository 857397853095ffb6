"""Compare stages and vectors with PyTorch, transformers and sentence-transformers, live; needs the parity extra."""

from __future__ import annotations

import json
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minilm_np
from minilm_np import SentenceTransformer
from minilm_np.crosscheck import stage_texts

with warnings.catch_warnings():  # importing PyTorch and transformers raises warnings of their own
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the parity extra")

import fidelity
from support.texts import NASTY, TEXTS, Text
from support.tolerances import BATCH, FLOAT32, FLOAT32_BY_KIND, FLOAT64, RANDOM_CHECKPOINTS, VECTORS, assert_close

pytestmark = pytest.mark.parity
NUMPY_SLACK = 2.5  # NumPy's float32 error / PyTorch's, at most; measured 2.2 (query, SkylakeX kernels of OpenBLAS)
NUMBA_SLACK = 1.2  # the same for Numba; measured at most 1.0


@pytest.fixture(scope="module")
def table(weights_folder: Path) -> dict[str, dict[str, float]]:
    """The errors over the texts that FLOAT32_BY_KIND was measured on (tests/support/tolerances.py)."""
    return fidelity.measure(weights_folder, [*stage_texts(), *TEXTS.values(), NASTY["320 word pieces"]])


@pytest.fixture(scope="module")
def st(weights_folder: Path) -> Any:
    return sentence_transformers.SentenceTransformer(str(weights_folder), device="cpu")


# --- the stages


def test_float64_reference_matches_pytorch_float64(table: dict[str, dict[str, float]]) -> None:
    for kind, row in table.items():
        assert_close(row["PyTorch float64"], 0.0, FLOAT64, kind)


def test_float32_errors_are_as_small_as_those_of_pytorch(table: dict[str, dict[str, float]]) -> None:
    print("\n" + fidelity.markdown(table))
    assert set(table) == set(FLOAT32_BY_KIND)
    for kind, row in table.items():
        assert_close(row["NumPy float32"], 0.0, FLOAT32_BY_KIND[kind], kind)
        assert row["NumPy float32"] <= NUMPY_SLACK * row["PyTorch float32"], kind
        assert row["Numba float32"] <= NUMBA_SLACK * row["PyTorch float32"], kind
        assert row["NumPy float32"] > 0, kind  # 0 would mean that a run was compared with itself


# --- final vectors


@pytest.fixture(scope="module")
def their_tokenizer(weights_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(weights_folder)


@pytest.mark.parametrize("name", NASTY)
def test_token_ids_and_vector_match(model: SentenceTransformer, st: Any, their_tokenizer: Any, name: str) -> None:
    text = NASTY[name]
    ours, through_st = model.tokens([text]), st.preprocess([text])
    theirs = their_tokenizer([text], truncation=True, max_length=256)  # in a list: ("a", "") alone is read as "a"
    for key, ids in (("input_ids", ours.token_ids), ("token_type_ids", ours.token_type_ids)):
        assert ids.tolist() == theirs[key][0] == through_st[key][0].tolist()
    assert_close(model.encode([text]), st.encode([text]), VECTORS, name)


def test_vectors_of_one_batch_match(model: SentenceTransformer, st: Any) -> None:
    texts = [text for text in NASTY.values() if isinstance(text, str)]
    assert_close(model.encode(texts), st.encode(texts), VECTORS, "NASTY")
    pairs = [text for text in NASTY.values() if not isinstance(text, str)]
    assert_close(model.encode(pairs), st.encode(pairs), VECTORS, "NASTY pairs")
    one_by_one = np.concatenate([model.encode([text]) for text in NASTY.values()])
    assert_close(model.encode(list(NASTY.values())), one_by_one, BATCH, "NASTY, texts and pairs together")


def test_empty_list_gives_the_same_shape_and_dtype(model: SentenceTransformer, st: Any) -> None:
    ours, theirs = model.encode([]), st.encode([])
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


# --- the model card


def test_model_card_example_for_sentence_transformers(weights_folder: Path, st: Any) -> None:
    card = """
from sentence_transformers import SentenceTransformer
sentences = ["This is an example sentence", "Each sentence is converted"]

model = SentenceTransformer('sentence-transformers/all-MiniLM-L6-v2')
embeddings = model.encode(sentences)
"""
    ours: dict[str, Any] = {}
    exec(card.replace("from sentence_transformers import", "from minilm_np import"), ours)
    assert_close(ours["embeddings"], st.encode(ours["sentences"]), VECTORS, "model card")


def test_model_card_example_for_hugging_face_transformers(weights_folder: Path) -> None:
    sentences = ["This is an example sentence", "Each sentence is converted"]

    # The model card's code.
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_folder)
    bert = transformers.AutoModel.from_pretrained(weights_folder)
    encoded_input = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        token_embeddings = bert(**encoded_input)[0]
    mask = encoded_input["attention_mask"].unsqueeze(-1).expand(token_embeddings.size()).float()
    pooled = torch.sum(token_embeddings * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
    expected = torch.nn.functional.normalize(pooled, p=2, dim=1)

    # The same steps with minilm_np's functions.
    model = SentenceTransformer(weights_folder)
    tokens = model.tokens(sentences)
    hidden_states = model.token_embeddings(tokens)
    embeddings = minilm_np.l2_normalize(minilm_np.mean_pool(hidden_states, tokens.offsets))

    padded = token_embeddings.numpy()[encoded_input["attention_mask"].numpy() == 1]
    assert_close(hidden_states, padded, FLOAT32["encoder.layer.5.output"], "token embeddings")
    assert_close(embeddings, expected.numpy(), VECTORS, "sentence embeddings")


# --- other BERT sentence encoders: small and random, with odd sizes that all differ


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "cat", "dog", "sat", "on", "the", "mat", "ran", "far", "away", "and", "slept", "##s"]
SENTENCES: list[Text] = ["the cat sat on the mat", "", "dogs ran far away and slept", "a", "unknown cat " * 30]
PAIRS: list[Text] = [("the cat sat", "on the mats"), ("a dog", ""), ("far away " * 30, "the mat " * 30)]


def write_checkpoint(
    folder: Path, *, act: str, pooling: dict[str, Any], normalize: bool, dtype: str = "float32", prefix: str = ""
) -> Any:
    """Write the files of a random BertModel to `folder`; return the model in float64."""
    torch.manual_seed(20260801)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=60, num_hidden_layers=3, num_attention_heads=5, intermediate_size=37,
        max_position_embeddings=40, type_vocab_size=3, layer_norm_eps=1e-5, hidden_act=act,
        initializer_range=0.3, attn_implementation="eager",
    )  # fmt: skip
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in bert.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):  # transformers starts these at 1 and 0
                parameter.add_(0.3 * torch.randn_like(parameter))
    bert = bert.to(getattr(torch, dtype))
    from safetensors.torch import save_file

    save_file({prefix + key: value for key, value in bert.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "bert"}))
    modules = {"Transformer": "", "Pooling": "1_Pooling", **({"Normalize": "2_Normalize"} if normalize else {})}
    entries = [{"path": path, "type": f"sentence_transformers.models.{name}"} for name, path in modules.items()]
    numbered = [{"idx": i, "name": str(i), **entry} for i, entry in enumerate(entries)]
    (folder / "modules.json").write_text(json.dumps(numbered))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=dict(zip(WORDS, range(len(WORDS)), strict=True))).save_pretrained(folder)
    return bert.double()


POOLINGS = {
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
    "max": lambda rows: rows.max(0).values,
    "mean_sqrt_len_tokens": lambda rows: rows.sum(0) / len(rows) ** 0.5,
}
OLD_FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
}
CASES = [
    *product(["gelu"], POOLINGS, [False, True], ["float32"], [""], ["flags", "name"]),
    *product(["relu", "gelu_new"], ["mean"], [True], ["float32"], [""], ["flags"]),
    *product(["gelu"], ["mean"], [False], ["float32", "float16", "bfloat16", "float64"], ["", "bert."], ["name"]),
]


@pytest.mark.parametrize(("act", "mode", "normalize", "dtype", "prefix", "form"), CASES)
def test_other_bert_checkpoint_matches(
    tmp_path: Path, act: str, mode: str, normalize: bool, dtype: str, prefix: str, form: str
) -> None:
    if form == "flags":
        pooling: dict[str, Any] = {"word_embedding_dimension": 60, **{flag: m == mode for m, flag in OLD_FLAGS.items()}}
    else:  # what sentence-transformers 6 writes
        pooling = {"embedding_dimension": 60, "pooling_mode": mode, "include_prompt": True}
    bert = write_checkpoint(tmp_path, act=act, pooling=pooling, normalize=normalize, dtype=dtype, prefix=prefix)
    model = SentenceTransformer(tmp_path, backend="numpy", dtype="float64")
    texts = [*SENTENCES, *PAIRS]
    tokens = model.tokens(texts)
    hidden_states, embeddings = model.token_embeddings(tokens), model.encode(texts)
    assert np.diff(tokens.offsets).max() == 24
    assert set(tokens.token_type_ids.tolist()) == {0, 1}
    for b, (start, stop) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        ids, types = (torch.tensor(part[None, start:stop].astype("int64")) for part in tokens[:2])
        with torch.no_grad():
            rows = bert(input_ids=ids, token_type_ids=types).last_hidden_state[0]
            vector = POOLINGS[mode](rows)
            if normalize:
                vector = torch.nn.functional.normalize(vector, dim=0)
        assert_close(hidden_states[start:stop], rows.numpy(), FLOAT64, "hidden_states")
        assert_close(embeddings[b], vector.numpy(), FLOAT64, "embedding")
    float32 = SentenceTransformer(tmp_path, backend="numpy").encode(texts)
    assert_close(float32, embeddings, RANDOM_CHECKPOINTS, "float32")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mode", POOLINGS)
def test_reads_checkpoint_saved_by_sentence_transformers(tmp_path: Path, mode: str, normalize: bool) -> None:
    from sentence_transformers.sentence_transformer import modules

    made, saved = tmp_path / "made", tmp_path / "saved"
    made.mkdir()
    write_checkpoint(made, act="gelu", pooling={"pooling_mode": mode}, normalize=normalize)
    parts = [modules.Transformer(str(made), max_seq_length=24), modules.Pooling(60, pooling_mode=mode)]
    theirs = sentence_transformers.SentenceTransformer(
        modules=[*parts, modules.Normalize()] if normalize else parts, device="cpu"
    )
    theirs.save_pretrained(str(saved))

    # Version 6 writes these files differently from older versions; the reader must accept both.
    assert json.loads((saved / "1_Pooling" / "config.json").read_text())["pooling_mode"] == mode
    assert "max_seq_length" not in json.loads((saved / "sentence_bert_config.json").read_text())
    types = [module["type"] for module in json.loads((saved / "modules.json").read_text())]
    assert not any(name.startswith("sentence_transformers.models.") for name in types)

    ours = SentenceTransformer(saved, backend="numpy")
    assert ours.config == SentenceTransformer(made, backend="numpy").config
    for texts in (SENTENCES, PAIRS):
        actual, expected = ours.encode(texts), theirs.encode(texts)
        assert_close(actual, expected, VECTORS if normalize else RANDOM_CHECKPOINTS, "saved by sentence-transformers")


def test_live_comparison_covers_the_texts_of_the_pytorch_reference() -> None:
    assert set(TEXTS) <= set(NASTY)
