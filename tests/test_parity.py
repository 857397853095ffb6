"""Live comparison with PyTorch, transformers and sentence-transformers; needs the parity extra."""

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

with warnings.catch_warnings():  # what PyTorch's and transformers' own imports warn of is not ours to mend
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the parity extra")

import fidelity
from corpus import NASTY, TEXTS
from tolerances import FLOAT32, FLOAT64, VECTORS, assert_close

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SLACK = 2.5  # our float32 error may be this many times PyTorch's; measured 1.8 (query, SkylakeX kernels)


@pytest.fixture(scope="module")
def table(weights_folder: Path) -> dict[str, dict[str, float]]:
    return fidelity.measure(weights_folder)


@pytest.fixture(scope="module")
def st(weights_folder: Path) -> Any:
    return sentence_transformers.SentenceTransformer(str(weights_folder), device="cpu")


# --- the stages


def test_the_oracle_is_pytorch_float64(table: dict[str, dict[str, float]]) -> None:
    for kind, row in table.items():
        assert row["PyTorch float64"] <= FLOAT64, kind


def test_float32_is_as_near_the_truth_as_pytorch(table: dict[str, dict[str, float]]) -> None:
    print("\n" + fidelity.markdown(table))
    assert set(table) == set(FLOAT32)
    for kind, row in table.items():
        assert row["minilm_np float32"] <= FLOAT32[kind].atol, kind
        assert row["minilm_np float32"] <= SLACK * row["PyTorch float32"], kind
        assert row["minilm_np float32"] > 0, kind  # a comparison of a thing with itself would be 0


# --- final vectors


@pytest.mark.parametrize("name", NASTY)
def test_word_pieces_and_vector_of(model: SentenceTransformer, st: Any, name: str) -> None:
    text = NASTY[name]
    theirs, ours = st.preprocess([text]), model.tokenize([text])
    assert ours.token_ids.tolist() == theirs["input_ids"][0].tolist()
    assert ours.token_type_ids.tolist() == theirs["token_type_ids"][0].tolist()
    assert_close(model.encode([text]), st.encode([text]), VECTORS, name)


def test_vectors_in_one_batch(model: SentenceTransformer, st: Any) -> None:
    texts = [text for text in NASTY.values() if isinstance(text, str)]
    assert_close(model.encode(texts), st.encode(texts), VECTORS, "NASTY")
    pairs = [text for text in NASTY.values() if not isinstance(text, str)]
    assert_close(model.encode(pairs), st.encode(pairs), VECTORS, "NASTY pairs")


def test_nothing_is_what_sentence_transformers_gives(model: SentenceTransformer, st: Any) -> None:
    ours, theirs = model.encode([]), st.encode([])
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


# --- the model card


def test_model_card_sentence_transformers_example(weights_folder: Path, st: Any) -> None:
    card = """
from sentence_transformers import SentenceTransformer
sentences = ["This is an example sentence", "Each sentence is converted"]

model = SentenceTransformer('sentence-transformers/all-MiniLM-L6-v2')
embeddings = model.encode(sentences)
"""
    ours: dict[str, Any] = {}
    exec(card.replace("from sentence_transformers import", "from minilm_np import"), ours)
    assert_close(ours["embeddings"], st.encode(ours["sentences"]), VECTORS, "model card")


def test_model_card_hugging_face_example(weights_folder: Path) -> None:
    sentences = ["This is an example sentence", "Each sentence is converted"]

    # The card's code.
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_folder)
    bert = transformers.AutoModel.from_pretrained(weights_folder)
    encoded_input = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        token_embeddings = bert(**encoded_input)[0]
    mask = encoded_input["attention_mask"].unsqueeze(-1).expand(token_embeddings.size()).float()
    pooled = torch.sum(token_embeddings * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
    wanted = torch.nn.functional.normalize(pooled, p=2, dim=1)

    # The same steps under our names.
    model = SentenceTransformer(weights_folder)
    tokens = model.tokenize(sentences)
    hidden_states = model.token_embeddings(tokens)
    embeddings = minilm_np.l2_normalize(minilm_np.mean_pool(hidden_states, tokens.offsets))

    padded = token_embeddings.numpy()[encoded_input["attention_mask"].numpy() == 1]
    assert_close(hidden_states, padded, FLOAT32["output"].atol, "token embeddings")
    assert_close(embeddings, wanted.numpy(), VECTORS, "sentence embeddings")


# --- other BERT sentence encoders: small, random, of odd and unequal sizes


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "cat", "dog", "sat", "on", "the", "mat", "ran", "far", "away", "and", "slept", "##s"]
SENTENCES = ["the cat sat on the mat", "", "dogs ran far away and slept", "a", "unknown cat " * 30]


def write_checkpoint(
    folder: Path, *, act: str, pooling: dict[str, Any], normalize: bool, dtype: str = "float32", prefix: str = ""
) -> Any:
    """A random BertModel (torch, float64) whose files are in `folder`."""
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
    *product(["gelu", "relu", "gelu_new"], ["mean"], [True], ["float32"], [""]),
    *product(["gelu"], ["cls", "max", "mean_sqrt_len_tokens"], [False, True], ["float32"], [""]),
    *product(["gelu"], ["mean"], [False], ["float16", "bfloat16", "float64"], ["bert."]),
]


@pytest.mark.parametrize(("act", "mode", "normalize", "dtype", "prefix"), CASES)
def test_another_checkpoint(tmp_path: Path, act: str, mode: str, normalize: bool, dtype: str, prefix: str) -> None:
    flags = {flag: m == mode for m, flag in OLD_FLAGS.items()}
    pooling: dict[str, Any] = {"word_embedding_dimension": 60, **flags}
    if prefix:  # and the newer format in the same cases
        pooling = {"embedding_dimension": 60, "pooling_mode": mode, "include_prompt": True}
    bert = write_checkpoint(tmp_path, act=act, pooling=pooling, normalize=normalize, dtype=dtype, prefix=prefix)
    model = SentenceTransformer(tmp_path, backend="numpy", dtype="float64")
    tokens = model.tokenize(SENTENCES)
    hidden_states, embeddings = model.token_embeddings(tokens), model.encode(SENTENCES)
    assert np.diff(tokens.offsets).max() == 24
    for b, (start, stop) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        with torch.no_grad():
            rows = bert(torch.tensor(tokens.token_ids[None, start:stop].astype("int64"))).last_hidden_state[0]
            vector = POOLINGS[mode](rows)
            if normalize:
                vector = torch.nn.functional.normalize(vector, dim=0)
        assert_close(hidden_states[start:stop], rows.numpy(), FLOAT64, "hidden_states")
        assert_close(embeddings[b], vector.numpy(), FLOAT64, "embedding")
    float32 = SentenceTransformer(tmp_path, backend="numpy").encode(SENTENCES)
    assert_close(float32, embeddings, 2e-5, "float32")  # values near 4; measured 4e-6


def test_a_checkpoint_saved_by_sentence_transformers(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    pooling = {"pooling_mode_cls_token": True, "word_embedding_dimension": 60}
    write_checkpoint(made, act="gelu", pooling=pooling, normalize=True)
    theirs = sentence_transformers.SentenceTransformer(str(made), device="cpu")
    theirs.save_pretrained(str(tmp_path / "saved"))
    ours = SentenceTransformer(tmp_path / "saved", backend="numpy")
    assert ours.config == SentenceTransformer(made).config
    assert_close(ours.encode(SENTENCES), theirs.encode(SENTENCES), VECTORS, "saved by sentence-transformers")


def test_the_goldens_cover_the_texts_of_the_live_test() -> None:
    assert set(TEXTS) <= set(NASTY)
