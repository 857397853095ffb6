"""Folders of other models: every layout gives the same vectors, and what cannot be read says what is there."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.texts import TEXTS
from support.tiny import split_weights, tiny_params, use_vocabulary, write_json, write_plain, write_tiny

from minilm_np import SentenceTransformer, WeightsError, WeightsNotFoundError
from minilm_np.tokenizer import Tokenizer

texts = list(TEXTS.values())


def encode(folder: Path) -> Any:
    return SentenceTransformer(folder, backend="numpy").encode(texts)


@pytest.fixture(scope="module")
def expected(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The vectors of the small checkpoint in today's layout."""
    return encode(write_tiny(tmp_path_factory.mktemp("tiny"), weights_folder))


def old_names(folder: Path) -> None:
    """Rename parameters as in checkpoints that were converted from TensorFlow, with the heads of pre-training."""
    from safetensors.numpy import save_file

    renames = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    params = {"cls.predictions.bias": np.zeros(5, np.float32)}
    for key, value in tiny_params().items():
        for new, old in renames.items():
            key = key.replace(new, old)
        params[f"bert.{key}"] = value
    save_file(params, folder / "model.safetensors", metadata={"format": "pt"})


def lower_case(folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30, "do_lower_case": True})


def lower_case_with_vocabulary(folder: Path) -> None:
    lower_case(folder)
    use_vocabulary(folder)


def no_sentence_config(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    write_json(folder / "tokenizer_config.json", {"model_max_length": 30})


CHANGES: dict[str, Callable[[Path], None]] = {
    "vocab.txt": use_vocabulary,
    "vocab.txt with settings": lambda folder: use_vocabulary(
        folder, {"do_lower_case": True, "strip_accents": None, "unk_token": {"content": "[UNK]", "lstrip": False}}
    ),
    "shards": split_weights,
    "old names": old_names,
    "do_lower_case": lower_case,
    "no sentence_bert_config.json": no_sentence_config,
    "vocab.txt, do_lower_case": lower_case_with_vocabulary,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_layout_gives_the_same_vectors_also_after_saving(
    weights_folder: Path, tmp_path: Path, expected: Any, change: str
) -> None:
    folder = write_tiny(tmp_path / "model", weights_folder)
    CHANGES[change](folder)
    np.testing.assert_array_equal(encode(folder), expected)
    SentenceTransformer(folder, backend="numpy").save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(encode(tmp_path / "saved"), expected)


def test_reads_a_transformer_in_a_folder_of_its_own(weights_folder: Path, tmp_path: Path, expected: Any) -> None:
    folder = write_tiny(tmp_path / "model", weights_folder, transformer="0_Transformer")
    assert not (folder / "config.json").exists()
    np.testing.assert_array_equal(encode(folder), expected)
    SentenceTransformer(folder, backend="numpy").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").is_file()
    np.testing.assert_array_equal(encode(tmp_path / "saved"), expected)


def test_without_modules_json_takes_the_mean_and_says_so(
    weights_folder: Path, tmp_path: Path, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_plain(tmp_path / "model", weights_folder, architectures=["BertForMaskedLM"])
    write_json(folder / "tokenizer_config.json", {"model_max_length": 30})
    with caplog.at_level(logging.WARNING, "minilm_np"):
        model = SentenceTransformer(folder, backend="numpy")
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: no modules.json; an embedding is the mean of the token embeddings, not normalized"
    ]
    assert (model.config.pooling_mode, model.config.normalize, model.max_seq_length) == ("mean", False, 30)
    vectors = model.encode(texts)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.ptp(norms) > 0.1
    np.testing.assert_allclose(vectors / norms, expected, rtol=0, atol=2e-7)  # measured: 6e-8
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(encode(tmp_path / "saved"), vectors)


def test_vocab_txt_gives_the_word_pieces_of_tokenizer_json(weights_folder: Path, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    first = Tokenizer(folder / "tokenizer.json").encode([*texts, ("a caf\u00e9", "[SEP] \u4f60b")])
    use_vocabulary(folder)
    second = Tokenizer(folder / "vocab.txt").encode([*texts, ("a caf\u00e9", "[SEP] \u4f60b")])
    for a, b in zip(first, second, strict=True):
        assert (a.tokens, a.ids, a.type_ids, a.offsets) == (b.tokens, b.ids, b.type_ids, b.offsets)


def test_vocab_txt_follows_tokenizer_config_json(weights_folder: Path, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    use_vocabulary(folder, {"do_lower_case": False, "tokenize_chinese_chars": False})
    (encoding,) = Tokenizer(folder / "vocab.txt").encode(["hello Hello \u4e16\u754c"])
    assert encoding.tokens == ["[CLS]", "hello", "[UNK]", "[UNK]", "[SEP]"]
    (folder / "tokenizer_config.json").unlink()
    (encoding,) = Tokenizer(folder / "vocab.txt").encode(["hello Hello \u4e16\u754c"])
    assert encoding.tokens == ["[CLS]", "hello", "hello", "\u4e16", "[UNK]", "[SEP]"]


# --- what cannot be read -----------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 90868376\n"


def only(name: str, content: bytes = b"x") -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def written(name: str, content: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            write_json(folder / name, content)

    return change


REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (only("pytorch_model.bin"), r"model.safetensors: no such file; there is pytorch_model.bin .*save_pretrained"),
    (only("pytorch_model-00001-of-00002.bin"), r"there is pytorch_model-00001-of-00002.bin"),
    (only("onnx/model.onnx"), r"there is onnx/model.onnx .*download model.safetensors"),
    (only("model.onnx"), r"there is model.onnx .*crosscheck"),
    (only("openvino/openvino_model.xml"), r"there is openvino/openvino_model.xml"),
    (only("tf_model.h5"), r"there is tf_model.h5 \(TensorFlow"),
    (only("flax_model.msgpack"), r"there is flax_model.msgpack"),
    (only("model.gguf"), r"there is model.gguf"),
    (only("adapter_model.safetensors"), r"there is adapter_model.safetensors \(an adapter\): merge"),
    (only("bert.safetensors"), r"there is bert.safetensors .*rename"),
    (only("training_args.bin"), r"model.safetensors: no such file$"),
    (written("model.safetensors", LFS), r"model.safetensors: a Git LFS pointer, .*`git lfs pull`"),
    (written("tokenizer.json", LFS), r"tokenizer.json: a Git LFS pointer"),
    (written("config.json", LFS), r"config.json: a Git LFS pointer"),
    (written("sentence_bert_config.json", LFS), r"sentence_bert_config.json: a Git LFS pointer"),
    (written("config_sentence_transformers.json", {"model_type": "CrossEncoder"}), r"model_type: .*got 'CrossEncoder'"),
    (written("config_sentence_transformers.json", {"model_type": "SparseEncoder"}), r"model_type: .*got 'SparseEnc"),
    (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer.json: no such file, and no vocab.txt"),
    (lambda folder: (folder / "config.json").unlink(), r"config.json: no such file"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refuses_with_what_is_there_and_what_to_do(
    weights_folder: Path, tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    change(folder)
    with pytest.raises((WeightsError, WeightsNotFoundError), match=message) as caught:
        SentenceTransformer(folder, backend="numpy")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_refuses_a_cross_encoder(weights_folder: Path, tmp_path: Path, architecture: str) -> None:
    folder = write_plain(tmp_path, weights_folder, architectures=[architecture])
    with pytest.raises(WeightsError, match=rf"config.json: architectures: .* got {architecture}, a cross-encoder"):
        SentenceTransformer(folder)


@pytest.mark.parametrize(
    ("normalizer", "lowercases"),
    [
        ({"type": "Lowercase"}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, False),
        ({"type": "NFC"}, False),
        (None, False),
    ],
)
def test_do_lower_case_needs_a_normalizer_that_lowercases(
    weights_folder: Path, tmp_path: Path, normalizer: Any, lowercases: bool
) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    lower_case(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    write_json(folder / "tokenizer.json", saved | {"normalizer": normalizer})
    if lowercases:
        SentenceTransformer(folder, backend="numpy")
    else:
        with pytest.raises(WeightsError, match=r"sentence_bert_config\.json: do_lower_case: expected false, or"):
            SentenceTransformer(folder, backend="numpy")


BAD_VOCABULARY: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "vocab.txt").write_bytes(b"[UNK]\n[CLS]\n"), r"vocab.txt: expected a line '\[SEP\]'"),
    (lambda folder: (folder / "vocab.txt").write_bytes(b"[UNK]\n\xff\n"), r"vocab.txt: not UTF-8"),
    (
        written("tokenizer_config.json", {"do_lower_case": "yes"}),
        r"tokenizer_config.json: do_lower_case: expected true",
    ),
    (written("tokenizer_config.json", {"cls_token": 3}), r"tokenizer_config.json: cls_token: expected a string, got 3"),
    (written("tokenizer_config.json", []), r"tokenizer_config.json: expected a JSON object, got list"),
    (written("added_tokens.json", {"new": 30522}), r"added_tokens.json: expected no added tokens"),
]


@pytest.mark.parametrize(("change", "message"), BAD_VOCABULARY, ids=[message[:40] for _, message in BAD_VOCABULARY])
def test_refuses_a_bad_vocab_txt(
    weights_folder: Path, tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    use_vocabulary(folder)
    change(folder)
    with pytest.raises(WeightsError, match=message):
        SentenceTransformer(folder, backend="numpy")


BAD_INDEX: list[tuple[Any, str]] = [
    ({}, "weight_map: expected an object"),
    ({"weight_map": []}, "weight_map: expected an object"),
    ([], "weight_map: expected an object"),
    ({"weight_map": {"a": "../model-00001-of-00003.safetensors"}}, "weight_map: a: expected a file in"),
    ({"weight_map": {"a": "missing.safetensors"}}, "weight_map: a: expected a file in"),
    ({"weight_map": {"a": 3}}, "weight_map: a: expected a file in"),
    ({"weight_map": {"a": "model-00001-of-00003.safetensors"}}, "embeddings.*: expected shape .*, got no such key"),
]


@pytest.mark.parametrize(("index", "message"), BAD_INDEX)
def test_refuses_a_bad_index_of_shards(weights_folder: Path, tmp_path: Path, index: Any, message: str) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    split_weights(folder)
    write_json(folder / "model.safetensors.index.json", index)
    with pytest.raises(WeightsError, match=f"model.safetensors.index.json: {message}"):
        SentenceTransformer(folder, backend="numpy")


def test_refuses_a_parameter_that_is_in_two_shards(weights_folder: Path, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, weights_folder)
    split_weights(folder)
    shutil.copyfile(folder / "model-00001-of-00003.safetensors", folder / "model-00002-of-00003.safetensors")
    with pytest.raises(WeightsError, match=r"00002-of-00003.safetensors: .*: also in another file of model\."):
        SentenceTransformer(folder, backend="numpy")
