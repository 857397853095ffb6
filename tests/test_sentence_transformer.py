"""SentenceTransformer: additions to the interface of sentence-transformers, and deliberate differences from it."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import HANG_SECONDS
from support.tiny import write_tiny
from support.tolerances import BATCH, FLOAT32, assert_close

from minilm_np import InputError, SentenceTransformer, TextInfo, TruncationWarning, WeightsNotFoundError
from minilm_np.kernels.simd import WITHOUT_JIT

LONG = "word " * 300


@pytest.fixture
def fresh(weights_folder: Path) -> SentenceTransformer:
    """Return a model that has not issued a warning yet."""
    return SentenceTransformer(weights_folder, backend="numpy")


# --- truncation


def test_warns_once_about_texts_that_are_too_long(fresh: SentenceTransformer) -> None:
    message = r"^sentences\[1\]: 46 word pieces beyond max_seq_length 256 are ignored"
    with pytest.warns(TruncationWarning, match=message) as warned:
        fresh.encode(["short", LONG, LONG])
    assert len(warned) == 1 and warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode(LONG)


@pytest.mark.parametrize("output_value", ["sentence_embedding", "token_embeddings", None])
def test_truncation_is_ignored_or_an_error(fresh: SentenceTransformer, output_value: str | None) -> None:
    texts = ["short"] * 1500 + [LONG] if output_value == "sentence_embedding" else ["short"] * 40 + [LONG]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode(texts[-3:], truncation="ignore", output_value=output_value)
        fresh.encode([" ".join(["word"] * 254)], truncation="error", output_value=output_value)  # exactly 256
    with pytest.raises(ValueError, match=rf"sentences\[{len(texts) - 1}\]: 46 word pieces beyond max_seq_length 256"):
        fresh.encode(texts, truncation="error", output_value=output_value)
    with pytest.raises(ValueError, match=r"truncation: expected one of .*, got 'cut'"):
        fresh.encode("x", truncation="cut")


def test_info_reports_how_much_of_a_text_is_read(model: SentenceTransformer) -> None:
    texts: list[Any] = ["A man \u2603 eats.", "", LONG, ("two words", LONG), "\u6f22\u5b57"]
    embeddings, info = model.encode(texts, truncation="ignore", return_info=True)
    assert embeddings.shape == (5, 384)
    assert info[0] == TextInfo(tokens=7, kept=7, dropped=0, span=(0, 13), unknown=1)
    assert info[1] == TextInfo(2, 2, 0, (0, 0), 0)
    assert info[2][:3] == (302, 256, 46) and LONG[slice(*info[2].span)] == ("word " * 254).rstrip()
    assert info[3].kept == 256 and info[3].tokens == 305 and info[3].span[0] == (0, 9)
    assert LONG[slice(*info[3].span[1])].count("word") == 256 - 2 - 3
    vector, alone = model.encode(texts[0], return_info=True)
    assert vector.shape == (384,) and alone == info[0]
    prompted = model.encode(texts[:1], prompt="query: ", return_info=True)[1][0]
    assert prompted.span == (0, 13) and prompted.tokens == 9
    assert model.token_count(texts).tolist() == [text_info.tokens for text_info in info]
    assert model.token_count(LONG) == 302
    with pytest.raises(TypeError, match=r"sentences\[1\]: expected valid Unicode"):
        model.token_count(["a", "\ud800"])


class CountingTokenizer:
    """A tokenizer of the `tokenizers` library that counts the texts it tokenizes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.texts = 0

    def encode_batch(self, texts: list[Any]) -> Any:
        self.texts += len(texts)
        return self.tokenizer.encode_batch(texts)

    def encode_batch_fast(self, texts: list[Any]) -> Any:
        self.texts += len(texts)
        return self.tokenizer.encode_batch_fast(texts)


@pytest.mark.parametrize("return_info", [False, True])
@pytest.mark.parametrize("output_value", ["sentence_embedding", "token_embeddings", None])
def test_tokenizes_each_text_once(fresh: SentenceTransformer, output_value: str | None, return_info: bool) -> None:
    counter = CountingTokenizer(fresh.tokenizer._tokenizer)
    fresh.tokenizer._tokenizer = counter
    texts = ["a short text", LONG, ("a", "pair"), ""] * 5
    fresh.encode(texts, output_value=output_value, return_info=return_info, batch_size=3, truncation="ignore")
    assert counter.texts == len(texts)


@pytest.mark.parametrize("op_set", ["model", "numba_model"])
def test_all_outputs_agree_and_keep_the_order_of_the_texts(op_set: str, request: pytest.FixtureRequest) -> None:
    if op_set == "numba_model" and WITHOUT_JIT:
        pytest.skip("slow without the JIT")
    model: SentenceTransformer = request.getfixturevalue(op_set)
    texts = [f"text number {i} " * (1 + i % 7) for i in range(70)]
    embeddings = model.encode(texts)
    token_embeddings = model.encode(texts, output_value="token_embeddings")
    atol = 0 if op_set == "numba_model" else BATCH  # the NumPy op set depends on the batch, within this tolerance
    for row, features in enumerate(model.encode(texts, output_value=None)):
        tokens = model.tokens([texts[row]])
        assert np.array_equal(features["input_ids"], tokens.token_ids)
        assert features["input_ids"].dtype == features["token_type_ids"].dtype == np.int64
        assert features["attention_mask"].tolist() == [1] * len(tokens.token_ids)
        assert_close(features["sentence_embedding"], embeddings[row], atol, f"sentence embedding {row}")
        for hidden_states in (features["token_embeddings"], token_embeddings[row]):
            atol_tokens = 0 if op_set == "numba_model" else FLOAT32["encoder.layer.5.output"]
            assert_close(hidden_states, model.token_embeddings(tokens), atol_tokens, f"token embeddings {row}")


def test_progress_bar_counts_texts_for_every_output(
    model: SentenceTransformer, capfd: pytest.CaptureFixture[str]
) -> None:
    for output_value in ("sentence_embedding", "token_embeddings", None):
        model.encode(["a", "b", "c"], output_value=output_value, show_progress_bar=True)
        assert "3/3" in capfd.readouterr().err


def test_encode_texts_has_its_earlier_name_embed(model: SentenceTransformer) -> None:
    assert np.array_equal(model.embed(["a", "b"]), model.encode_texts(["a", "b"]))


# --- texts


def test_accepts_any_iterable_of_str(model: SentenceTransformer) -> None:
    class Series:  # has the attributes of a pandas Series that matter here
        ndim = 1

        def __iter__(self) -> Any:
            return iter(["a", "b"])

    expected = model.encode(["a", "b"])
    for texts in (
        Series(),
        (t for t in "ab"),
        {"a": 1, "b": 2}.keys(),
        np.array(["a", "b"], object),
        [{"text": "a"}, "b"],
    ):
        assert np.array_equal(model.encode(texts), expected)


# --- arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("device", "cuda"),
        ("trust_remote_code", True),
        ("modules", [1]),
        ("model_kwargs", {"torch_dtype": "float16"}),
        ("similarity_fn_name", "maxsim"),
        ("truncate_dim", 0),
        ("truncate_dim", -5),
        ("truncate_dim", True),
        ("default_prompt_name", "nonsense"),
        ("backend", "onnx"),
    ],
)
def test_constructor_rejects_unsupported_values(weights_folder: Path, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got "):
        SentenceTransformer(weights_folder, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("device", "cuda:0"),
        ("device", ["cpu", "mps"]),
        ("truncate_dim", 0),
        ("truncate_dim", -1),
        ("chunk_size", 0),
        ("prompt", 3),
        ("precision", "float16"),
    ],
)
def test_encode_names_the_unsupported_argument(model: SentenceTransformer, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got "):
        model.encode(["x", "y"], **{argument: value})


def test_rejects_precision_with_output_value_none(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="precision: expected 'float32' with output_value=None, got 'int8'"):
        model.encode(["x"], output_value=None, precision="int8")


def test_rejects_processing_kwargs(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="encode: unexpected arguments processing_kwargs"):
        model.encode(["x"], processing_kwargs={"text": {"max_length": 5}})
    model.encode(["x"], processing_kwargs=None, task="query")


@pytest.mark.parametrize("value", [2, 0, -1, 513, None, 10.0, True, "256"])
def test_rejects_max_seq_length_outside_3_to_512(fresh: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match=r"max_seq_length: expected 3 .* to 512, got"):
        fresh.max_seq_length = value
    assert fresh.max_seq_length == 256


def test_rejects_devices_other_than_the_cpu(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="device: expected 'cpu', got 'cuda'"):
        model.to("cuda")
    with pytest.raises(ValueError, match="device: expected 'cpu', got 'cuda:1'"):
        model.start_multi_process_pool(["cpu", "cuda:1"])


def test_convert_to_tensor_needs_pytorch(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="convert_to_tensor: PyTorch is not installed"):
        model.encode(["x"], convert_to_tensor=True)


def test_all_results_are_numpy_arrays_without_pytorch(model: SentenceTransformer) -> None:
    vectors = model.encode(["a", "b"], convert_to_numpy=False)
    assert isinstance(vectors, list) and all(isinstance(vector, np.ndarray) for vector in vectors)
    assert isinstance(model.similarity(vectors, vectors), np.ndarray)
    tokens = model.encode(["a", "b c"], output_value="token_embeddings")
    assert [t.shape for t in tokens] == [(3, 384), (4, 384)]


def test_pickle_keeps_the_options(weights_folder: Path) -> None:
    model = SentenceTransformer(
        weights_folder, backend="numpy", prompts={"query": "find: "}, truncate_dim=9, similarity_fn_name="dot"
    )
    model.max_seq_length = 7
    data = pickle.dumps(model)
    assert len(data) < 1000
    copied = pickle.loads(data)
    assert (copied.prompts, copied.truncate_dim, copied.max_seq_length) == (model.prompts, 9, 7)
    assert copied.similarity_fn_name == "dot"
    assert np.array_equal(copied.encode_query(LONG, truncation="ignore"), model.encode_query(LONG, truncation="ignore"))


@pytest.mark.parametrize("name", ["model", "./model", "link", "~/model"])
@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
def test_a_copy_is_found_from_another_folder(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "model", weights_folder)
    (tmp_path / "link").symlink_to("model")
    model = SentenceTransformer(name, backend="numpy", cache_folder="cache")
    data = pickle.dumps(model)
    monkeypatch.chdir(weights_folder)
    copied = pickle.loads(data) if how == "pickle" else getattr(copy, how)(model)
    np.testing.assert_array_equal(copied.encode("a"), model.encode("a"))
    (tmp_path / "model").rename(tmp_path / "moved")
    folder = tmp_path / name.removeprefix("~/").removeprefix("./")
    with pytest.raises(WeightsNotFoundError, match=f"got {folder}: no such folder"):
        pickle.loads(data)


def test_save_pretrained_keeps_the_options(weights_folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(
        weights_folder, backend="numpy", prompts={"query": "find: "}, default_prompt_name="query"
    )
    model.max_seq_length = 30
    model.save_pretrained(tmp_path / "new" / "folder")
    copy = SentenceTransformer(tmp_path / "new" / "folder", backend="numpy")
    assert (copy.max_seq_length, copy.default_prompt_name, copy.prompts["query"]) == (30, "query", "find: ")
    assert np.array_equal(copy.encode("x"), model.encode("x"))
    assert not list((tmp_path / "new" / "folder").glob(".*"))
    with pytest.raises(ValueError, match="path: expected a folder that this model was not loaded from, got"):
        copy.save_pretrained(tmp_path / "new" / "folder")


def test_failed_save_leaves_the_folder_unchanged(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("before")

    def disk_is_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "before"


def test_an_error_while_a_file_is_copied_names_the_file_that_it_is_about(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, new = write_tiny(tmp_path / "own", weights_folder), tmp_path / "new"
    model = SentenceTransformer(own)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(OSError) as error:
            model.save_pretrained(new)
    assert (error.value.errno, Path(error.value.filename).parent) == (errno.ENOSPC, new)
    absent = own / "absent.json"
    monkeypatch.setattr("minilm_np.sentence_transformer.files_to_save", lambda *_: {"config.json": absent})
    with pytest.raises(FileNotFoundError) as missing:
        model.save_pretrained(new)
    assert missing.value.filename == str(absent)


def test_save_stays_in_its_folder_and_keeps_what_is_not_its_own(
    model: SentenceTransformer, weights_folder: Path, tmp_path: Path
) -> None:
    killed = "import os; os.replace = lambda *_: os._exit(9)"
    code = f"{killed}; from minilm_np import SentenceTransformer as S; S({str(weights_folder)!r}, backend='numpy')"
    folder = tmp_path / "saved"
    process = subprocess.run([sys.executable, "-c", f"{code}.save_pretrained({str(folder)!r})"], timeout=HANG_SECONDS)
    assert process.returncode == 9 and [path.is_dir() for path in folder.iterdir()] == [True]
    (folder / ".save-mine").mkdir()
    (folder / "config.json").touch(mode=0o640)
    mode = (folder / "config.json").stat().st_mode
    model.save_pretrained(folder)
    assert [path.name for path in folder.glob(".*")] == [".save-mine"]
    assert (folder / "config.json").stat().st_mode == mode
    assert SentenceTransformer(folder, backend="numpy").encode("a").shape == (384,)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege")
def test_save_does_not_follow_a_link_out_of_its_folder(model: SentenceTransformer, tmp_path: Path) -> None:
    for name in ("outside", "saved"):
        (tmp_path / name).mkdir()
    (tmp_path / "saved" / "1_Pooling").symlink_to("../outside")
    with pytest.raises(ValueError, match=r"path: .*1_Pooling: expected a folder, got a symbolic link"):
        model.save_pretrained(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["1_Pooling"]
    assert not list((tmp_path / "outside").iterdir())


def test_encode_document_uses_the_first_defined_prompt(weights_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompts = {"corpus": "c ", "passage": "p ", "document": "d "}
    model = SentenceTransformer(weights_folder, backend="numpy", prompts=prompts)
    for name in ("document", "passage", "corpus"):
        assert np.array_equal(model.encode_document("x"), model.encode("x", prompt=prompts[name])), name
        del model.prompts[name]
    assert np.array_equal(model.encode_document("x"), model.encode("x"))
    assert not caplog.records
    model.encode("x", prompt_name="query", prompt="p ")
    assert [record.getMessage() for record in caplog.records] == [
        "encode: got both prompt and prompt_name; using prompt"
    ]


def test_truncate_dim_with_output_value_none_truncates_sentence_embeddings_only(model: SentenceTransformer) -> None:
    outputs = model.encode(["a", "b"], output_value=None, truncate_dim=5)
    assert [output["sentence_embedding"].shape for output in outputs] == [(5,), (5,)]
    assert outputs[0]["token_embeddings"].shape == (3, 384)


def test_loads_a_revision_from_a_cache_folder(weights_folder: Path, tmp_path: Path) -> None:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(weights_folder)
    model = SentenceTransformer(name, backend="numpy", cache_folder=tmp_path, revision="abc", local_files_only=True)
    assert model.place.folder == snapshot
    with pytest.raises(FileNotFoundError, match=r"revision: expected .*, got 'def'"):
        SentenceTransformer(name, backend="numpy", cache_folder=tmp_path, revision="def")


def test_outputs_are_unpadded_arrays(model: SentenceTransformer) -> None:
    tokens = model.encode(["a b", "c"], output_value="token_embeddings")
    assert [type(rows) for rows in tokens] == [np.ndarray, np.ndarray]
    outputs = model.encode(["a b", "c"], output_value=None)
    for features, length in zip(outputs, (4, 3), strict=True):
        arrays = {name: value for name, value in features.items() if name != "modality"}
        assert {type(value) for value in arrays.values()} == {np.ndarray}, features
        assert len(features["input_ids"]) == len(features["token_embeddings"]) == length  # not padded
    assert {type(value) for value in model.preprocess(["a"]).values()} == {np.ndarray}


@pytest.mark.parametrize("value", [0, -5, True, 1.5])
def test_rejects_truncate_dim_that_is_not_a_positive_integer(model: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match="truncate_dim: expected a positive integer or None, got"):
        model.truncate_dim = value
    with pytest.raises(ValueError, match="truncate_dim"), model.truncate_embeddings(value):
        pass
    assert model.truncate_dim is None


@pytest.mark.parametrize("name", ["model_kwargs", "processor_kwargs", "config_kwargs", "model_card_data"])
def test_rejects_options_of_pytorch(name: str) -> None:
    options: dict[str, Any] = {name: {"a": 1}}
    with pytest.raises(ValueError, match=f"{name}: expected the default, because PyTorch is not used, got"):
        SentenceTransformer(**options)


def test_preprocess_rejects_options(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"max_length: expected no value .*, got 5"):
        model.preprocess(["one"], max_length=5)


def test_earlier_names_do_not_warn(model: SentenceTransformer) -> None:
    assert model.get_sentence_embedding_dimension() == 384  # a warning would be an error here
    with model.truncate_sentence_embeddings(5):
        assert model.encode("a").shape == (5,)


def test_pool_starts_no_process(model: SentenceTransformer) -> None:
    import multiprocessing

    pool = model.start_multi_process_pool(["cpu"] * 2)
    assert not multiprocessing.active_children()
    model.stop_multi_process_pool(pool)


def test_max_seq_length_can_be_a_numpy_integer(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, backend="numpy")
    model.max_seq_length = np.int64(8)  # type: ignore[assignment]
    assert len(model.tokens(["word " * 20]).token_ids) == 8


def test_evaluate_creates_its_folder_and_save_of_none_does_nothing(model: SentenceTransformer, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert model.evaluate(lambda _, path: Path(path).is_dir(), str(folder)) is True
    model.save(None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("task", ["query", "document"])
def test_encode_query_and_document_call_a_subclass_by_keyword(weights_folder: Path, task: str) -> None:
    class Subclass(SentenceTransformer):
        def encode(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            return inputs, kwargs

    encode = getattr(Subclass(weights_folder, backend="numpy"), f"encode_{task}")
    inputs, options = encode(["a"], None, None, 7)
    assert (inputs, options["task"], options["prompt_name"], options["batch_size"]) == (["a"], task, task, 7)


def test_a_table_of_two_columns_is_pairs(model: SentenceTransformer) -> None:
    pairs = [("a", "b"), ("c", "d")]
    assert np.array_equal(model.encode(np.array(pairs)), model.encode(pairs))
    assert np.array_equal(model.encode(np.array(pairs, object)), model.encode(pairs))
    with pytest.raises(InputError, match=r"got ndarray of shape \(2, 3\)"):
        model.encode(np.array([["a", "b", "c"]] * 2))


def test_all_outputs_have_the_length_of_the_prompt(model: SentenceTransformer) -> None:
    assert model.encode(["a", "b"], prompt="query: ", output_value=None)[1]["prompt_length"] == 3
    assert "prompt_length" not in model.encode("a", output_value=None)


def test_save_pretrained_writes_a_model_card(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntags:\n- sentence-transformers\n") and "a text to 384 numbers" in card
    assert "Maximum sequence length: 256 word pieces" in card


@pytest.mark.parametrize("name", ["train", "parameters", "half", "fit", "push_to_hub"])
def test_attributes_of_pytorch_modules_say_what_to_use(model: SentenceTransformer, name: str) -> None:
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=rf"'SentenceTransformer' object has no attribute '{name}'; \w+"):
        getattr(model, name)
    with pytest.raises(AttributeError, match=r"no attribute 'x'$"):
        getattr(model, "x")  # noqa: B009
