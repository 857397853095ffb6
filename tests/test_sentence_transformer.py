"""What SentenceTransformer adds to sentence-transformers' interface, and where it differs on purpose (README.md)."""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.sentence_transformer import TextInfo, TruncationWarning

LONG = "word " * 300


@pytest.fixture
def fresh(weights_folder: Path) -> SentenceTransformer:
    """A model that has warned of nothing yet."""
    return SentenceTransformer(weights_folder, backend="numpy")


# --- truncation


def test_one_warning_on_the_first_long_text(fresh: SentenceTransformer) -> None:
    with pytest.warns(TruncationWarning, match=r"^sentences\[1\]: 46 word pieces beyond max_seq_length 256") as seen:
        fresh.encode(["short", LONG, LONG])
    assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode(LONG)


@pytest.mark.parametrize("output_value", ["sentence_embedding", "token_embeddings", None])
def test_truncation_ignored_or_refused(fresh: SentenceTransformer, output_value: str | None) -> None:
    texts = ["short"] * 1500 + [LONG] if output_value == "sentence_embedding" else ["short"] * 40 + [LONG]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode(texts[-3:], truncation="ignore", output_value=output_value)
        fresh.encode([" ".join(["word"] * 254)], truncation="error", output_value=output_value)  # exactly 256
    with pytest.raises(ValueError, match=rf"sentences\[{len(texts) - 1}\]: 46 word pieces beyond max_seq_length 256"):
        fresh.encode(texts, truncation="error", output_value=output_value)
    with pytest.raises(ValueError, match="truncation: found 'cut'"):
        fresh.encode("x", truncation="cut")


def test_info_says_what_was_read(model: SentenceTransformer) -> None:
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
    assert model.token_count(texts).tolist() == [one.tokens for one in info]
    assert model.token_count(LONG) == 302


# --- texts


def test_any_iterable_of_str(model: SentenceTransformer) -> None:
    class Series:  # like pandas
        ndim = 1

        def __iter__(self) -> Any:
            return iter(["a", "b"])

    wanted = model.encode(["a", "b"])
    for texts in (
        Series(),
        (t for t in "ab"),
        {"a": 1, "b": 2}.keys(),
        np.array(["a", "b"], object),
        [{"text": "a"}, "b"],
    ):
        assert np.array_equal(model.encode(texts), wanted)


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
def test_constructor_arguments_that_make_no_sense_here(weights_folder: Path, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: found "):
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
def test_encode_arguments_are_named(model: SentenceTransformer, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: found "):
        model.encode(["x", "y"], **{argument: value})


def test_what_has_no_fewer_bits_says_so(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="precision: found 'int8', wanted 'float32' with output_value=None"):
        model.encode(["x"], output_value=None, precision="int8")


def test_processing_kwargs_are_refused_by_name(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"processing_kwargs|max_length"):
        model.encode(["x"], processing_kwargs={"text": {"max_length": 5}})
    model.encode(["x"], processing_kwargs=None, task="query")


@pytest.mark.parametrize("value", [2, 0, -1, 513, None, 10.0, True, "256"])
def test_max_seq_length_is_checked(fresh: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match=r"max_seq_length: found .*, wanted 3 to 512"):
        fresh.max_seq_length = value
    assert fresh.max_seq_length == 256


def test_moving_elsewhere_is_refused(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="device: found 'cuda', wanted 'cpu'"):
        model.to("cuda")
    with pytest.raises(ValueError, match="device: found 'cuda:1'"):
        model.start_multi_process_pool(["cpu", "cuda:1"])


def test_a_tensor_needs_pytorch(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="convert_to_tensor: found True, but PyTorch is not installed"):
        model.encode(["x"], convert_to_tensor=True)


def test_everything_is_numpy_without_pytorch(model: SentenceTransformer) -> None:
    vectors = model.encode(["a", "b"], convert_to_numpy=False)
    assert isinstance(vectors, list) and all(isinstance(vector, np.ndarray) for vector in vectors)
    assert isinstance(model.similarity(vectors, vectors), np.ndarray)
    tokens = model.encode(["a", "b c"], output_value="token_embeddings")
    assert [t.shape for t in tokens] == [(3, 384), (4, 384)]


def test_pickled_with_its_options(weights_folder: Path) -> None:
    model = SentenceTransformer(
        weights_folder, backend="numpy", prompts={"query": "find: "}, truncate_dim=9, similarity_fn_name="dot"
    )
    model.max_seq_length = 7
    data = pickle.dumps(model)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (again.prompts, again.truncate_dim, again.max_seq_length) == (model.prompts, 9, 7)
    assert again.similarity_fn_name == "dot"
    assert np.array_equal(again.encode_query(LONG, truncation="ignore"), model.encode_query(LONG, truncation="ignore"))


def test_saved_and_loaded(weights_folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(
        weights_folder, backend="numpy", prompts={"query": "find: "}, default_prompt_name="query"
    )
    model.max_seq_length = 30
    model.save_pretrained(tmp_path / "new" / "folder")
    again = SentenceTransformer(tmp_path / "new" / "folder", backend="numpy")
    assert (again.max_seq_length, again.default_prompt_name, again.prompts["query"]) == (30, "query", "find: ")
    assert np.array_equal(again.encode("x"), model.encode("x"))
    assert not list((tmp_path / "new" / "folder").glob(".*"))
    with pytest.raises(ValueError, match="the folder that this model was loaded from"):
        again.save_pretrained(tmp_path / "new" / "folder")


def test_a_save_that_fails_leaves_what_was_there(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "before"


def test_prompts(weights_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompts = {"corpus": "c ", "passage": "p ", "document": "d "}
    model = SentenceTransformer(weights_folder, backend="numpy", prompts=prompts)
    for name in ("document", "passage", "corpus"):  # the first there is
        assert np.array_equal(model.encode_document("x"), model.encode("x", prompt=prompts[name])), name
        del model.prompts[name]
    assert np.array_equal(model.encode_document("x"), model.encode("x"))
    assert not caplog.records
    model.encode("x", prompt_name="query", prompt="p ")
    assert [record.getMessage() for record in caplog.records] == [
        "encode: both prompt and prompt_name are given; prompt is used"
    ]


def test_truncated_in_every_output(model: SentenceTransformer) -> None:
    found = model.encode(["a", "b"], output_value=None, truncate_dim=5)
    assert [row["sentence_embedding"].shape for row in found] == [(5,), (5,)]
    assert found[0]["token_embeddings"].shape == (3, 384)


def test_cache_folder_and_revision(weights_folder: Path, tmp_path: Path) -> None:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(weights_folder)
    found = SentenceTransformer(name, backend="numpy", cache_folder=tmp_path, revision="abc", local_files_only=True)
    assert found.place.folder == snapshot
    with pytest.raises(FileNotFoundError, match="revision: found 'def'"):
        SentenceTransformer(name, backend="numpy", cache_folder=tmp_path, revision="def")


def test_arrays_and_not_tensors(model: SentenceTransformer) -> None:
    tokens = model.encode(["a b", "c"], output_value="token_embeddings")
    assert [type(rows) for rows in tokens] == [np.ndarray, np.ndarray]
    everything = model.encode(["a b", "c"], output_value=None)
    for features, length in zip(everything, (4, 3), strict=True):
        arrays = {name: value for name, value in features.items() if name != "modality"}
        assert {type(value) for value in arrays.values()} == {np.ndarray}, features
        assert len(features["input_ids"]) == len(features["token_embeddings"]) == length  # not padded
    assert {type(value) for value in model.preprocess(["a"]).values()} == {np.ndarray}


@pytest.mark.parametrize("value", [0, -5, True, 1.5])
def test_a_dimension_that_is_none_is_refused_also_when_assigned(model: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match=r"truncate_dim: found .*, wanted a positive integer or None"):
        model.truncate_dim = value
    with pytest.raises(ValueError, match="truncate_dim"), model.truncate_embeddings(value):
        pass
    assert model.truncate_dim is None


@pytest.mark.parametrize("name", ["model_kwargs", "processor_kwargs", "config_kwargs", "model_card_data"])
def test_options_of_pytorch_are_refused(name: str) -> None:
    options: dict[str, Any] = {name: {"a": 1}}
    with pytest.raises(ValueError, match=f"{name}: found .*, wanted none"):
        SentenceTransformer(**options)


def test_options_of_preprocess_are_refused(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="max_length: found 5, wanted none"):
        model.preprocess(["one"], max_length=5)


def test_older_names_do_not_warn(model: SentenceTransformer) -> None:
    assert model.get_sentence_embedding_dimension() == 384  # a warning would be an error here
    with model.truncate_sentence_embeddings(5):
        assert model.encode("a").shape == (5,)


def test_pools_start_no_process(model: SentenceTransformer) -> None:
    import multiprocessing

    pool = model.start_multi_process_pool(["cpu"] * 2)
    assert not multiprocessing.active_children()
    model.stop_multi_process_pool(pool)


def test_a_length_may_be_numpys(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, backend="numpy")
    model.max_seq_length = np.int64(8)  # type: ignore[assignment]
    assert len(model.tokens(["word " * 20]).token_ids) == 8
