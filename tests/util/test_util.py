"""util against slow, obvious loops in float64; ties, chunks, edge cases and errors."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm_np import util

Array = npt.NDArray[Any]
SIMILARITIES: dict[str, Callable[[Array, Array], Any]] = {
    "cosine": lambda a, b: a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b)) if a.any() and b.any() else 0.0,
    "dot": lambda a, b: a @ b,
    "euclidean": lambda a, b: -math.sqrt(((a - b) ** 2).sum()),
    "manhattan": lambda a, b: -np.abs(a - b).sum(),
}


def rng(seed: int = 20260801) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, dtype: Any = np.float32, seed: int = 20260801) -> Array:
    return rng(seed).standard_normal(shape).astype(dtype)


def check(found: Array, wanted: Any, size: float, d: int) -> None:
    """Within the bound of a sum of d + 4 products of this size, each way of rounding once."""
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max(initial=0) <= (d + 4) * np.finfo(found.dtype).eps * size


def oracle(name: str, a: Array, b: Array) -> Array:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.array([[SIMILARITIES[name](x, y) for y in b] for x in a]).reshape(len(a), len(b))


def small_integers(n: int, d: int) -> st.SearchStrategy[Array]:
    """Rows of small whole numbers: dot products are exact, and many are equal."""
    return hnp.arrays(np.float32, (n, d), elements=st.integers(-2, 2))


def ranking(scores: Array, k: int) -> list[int]:
    """Ids by falling score, then rising id, NaN last; the definition."""
    return sorted(range(len(scores)), key=lambda i: (math.isnan(scores[i]), -scores[i], i))[:k]


def ids(results: util.Results) -> list[list[Any]]:
    return [[hit["corpus_id"] for hit in hits] for hits in results]


def scores(results: util.Results) -> list[list[float]]:
    return [[hit["score"] for hit in hits] for hits in results]


class Tensor:
    """What util touches of a tensor of PyTorch."""

    def __init__(self, array: Array, dtype: str = "torch.float32", is_sparse: bool = False, steps: str = ""):
        self.array, self.dtype, self.is_sparse, self.steps = array, dtype, is_sparse, steps
        self.shape, self.ndim = array.shape, array.ndim

    def _then(self, step: str) -> Tensor:
        dtype = "torch.float32" if step == "float" else self.dtype
        return Tensor(self.array, dtype, self.is_sparse and step != "to_dense", f"{self.steps} {step}")

    def detach(self) -> Tensor:
        return self._then("detach")

    def to_dense(self) -> Tensor:
        return self._then("to_dense")

    def float(self) -> Tensor:
        return self._then("float")

    def cpu(self) -> Tensor:
        return self._then("cpu")

    def numpy(self) -> Array:
        assert "detach" in self.steps and "cpu" in self.steps and not self.is_sparse
        assert self.dtype != "torch.bfloat16"
        return self.array

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise AssertionError("a tensor that needs its gradient cannot be read")


# --- similarity


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_is_its_definition(name: str, dtype: Any) -> None:
    a, b = normal(7, 37, dtype=dtype), normal(11, 37, dtype=dtype, seed=1)
    a[2] = b[3]  # equal rows, and nearly equal ones
    b[4] = a[5] + dtype(1e-5)
    a[1] = b[0] = 0
    size = {"cosine": 1.0, "dot": 100.0, "euclidean": 15.0, "manhattan": 80.0}[name]
    found = util.SimilarityFunction.to_similarity_fn(name)(a, b)
    assert found.dtype == dtype
    check(found, oracle(name, a, b), size, 37)
    pairwise = util.SimilarityFunction.to_similarity_pairwise_fn(name)(a, b[:7])
    assert pairwise.dtype == dtype
    check(pairwise, np.diag(oracle(name, a, b[:7])), size, 37)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_over_many_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(45, 20), normal(70, 20, seed=1)
    wanted = util.SimilarityFunction.to_similarity_fn(name)(a, b)
    monkeypatch.setattr(util, "BLOCK_BYTES", 1)
    check(util.SimilarityFunction.to_similarity_fn(name)(a, b), wanted, 60.0, 20)


def test_euclidean_sim_of_near_rows_is_not_cancelled_away() -> None:
    a = normal(50, 384) + 3
    b = a + normal(50, 384, seed=1) * np.float32(1e-4)
    truth = -np.sqrt(((a.astype(np.float64) - b.astype(np.float64)) ** 2).sum(axis=1))
    assert np.abs(np.diag(util.euclidean_sim(a, b)) / truth - 1).max() < 1e-6
    assert not np.diag(util.euclidean_sim(a, a)).any()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_single_vectors(name: str) -> None:
    a, b = normal(5), normal(5, seed=1)
    wanted = SIMILARITIES[name](a.astype(np.float64), b.astype(np.float64))
    check(util.SimilarityFunction.to_similarity_fn(name)(a, b), [[wanted]], 10.0, 5)
    found = util.SimilarityFunction.to_similarity_pairwise_fn(name)(a, b)
    assert isinstance(found, np.ndarray) and found.shape == ()
    check(found, wanted, 10.0, 5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_no_rows(name: str) -> None:
    similarity = util.SimilarityFunction.to_similarity_fn(name)
    nothing = np.array([])  # what encode([]) returns
    assert similarity(nothing, normal(3, 4)).shape == (0, 3)
    assert similarity(normal(3, 4), nothing).shape == (3, 0)
    assert similarity(nothing, nothing).shape == (0, 0)
    assert similarity(np.empty((0, 4), np.float32), normal(3, 4)).shape == (0, 3)


@pytest.mark.parametrize("d", [1, 2, 7, 8])
def test_pairwise_angle_sim_is_its_definition(d: int) -> None:
    x, y = normal(6, d), normal(6, d, seed=1)
    x[3] = 0
    wanted = []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        a, b = (np.append(v, [0] * (d % 2)) / (math.sqrt(v @ v) or 1) for v in (a, b))
        real, half = a @ b, len(a) // 2
        wanted.append(abs(real + a[half:] @ b[:half] - a[:half] @ b[half:]))
    check(util.pairwise_angle_sim(x, y), wanted, 2.0, d)
    check(util.pairwise_angle_sim(x[0], y[0]), wanted[0], 2.0, d)


def test_one_row_goes_with_all_in_pairwise() -> None:
    a, b = normal(4, 6), normal(6, seed=1)
    check(util.pairwise_dot_score(a, b), a.astype(np.float64) @ b, 10.0, 6)


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int64", "bool"])
def test_narrow_types_are_computed_in_float32(dtype: str) -> None:
    a = np.asarray(normal(5, 6) * 3).astype(dtype)
    found = util.cos_sim(a, a)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, util.cos_sim(a.astype(np.float32), a.astype(np.float32)))
    assert util.normalize_embeddings(a).dtype == util.pairwise_euclidean_sim(a, a).dtype == np.float32
    assert util.manhattan_sim(a, a)[0, 0] == 0  # uint8 would wrap round


def test_the_wider_of_two_types() -> None:
    assert util.dot_score(normal(2, 3), normal(2, 3, dtype=np.float64)).dtype == np.float64


def test_lists_and_tensors_are_read() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    assert util.dot_score(rows, rows).dtype == np.float32
    assert util.dot_score(rows, rows).tolist() == [[5, 11], [11, 25]]
    array = np.array(rows)
    assert util.dot_score(list(array), list(array)).dtype == np.float64
    for tensor in (
        Tensor(array),
        [Tensor(array[0]), Tensor(array[1])],
        Tensor(array, is_sparse=True),
        Tensor(array, "torch.bfloat16"),
    ):
        assert util.dot_score(tensor, rows).tolist() == [[5, 11], [11, 25]]
        assert ids(util.semantic_search(tensor, tensor, top_k=1)) == [[0], [1]]
    assert util.quantize_embeddings(Tensor(array), "ubinary").tolist() == [[192], [192]]


def test_norms_that_overflow_or_vanish_give_what_float32_gives() -> None:
    a = np.array([[1e30, 0], [1e-30, 0], [np.inf, 0]], np.float32)
    found = util.cos_sim(a, np.array([[1, 0]], np.float32))[:, 0]
    assert found[0] == 0  # the norm is infinite
    assert found[1] == np.float32(1e-30) / np.float32(1e-12)
    assert np.isnan(found[2])


def test_similarity_functions_by_name() -> None:
    assert util.SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    assert util.SimilarityFunction("dot") is util.SimilarityFunction["DOT"] is util.SimilarityFunction["DOT_PRODUCT"]
    assert util.SimilarityFunction.to_similarity_fn(util.SimilarityFunction.COSINE) is util.cos_sim
    for convert in (
        util.SimilarityFunction.to_similarity_fn,
        util.SimilarityFunction.to_similarity_pairwise_fn,
        util.SimilarityFunction,
    ):
        with pytest.raises(ValueError, match="similarity_function: found 'maxsim', wanted one of 'cosine', 'dot'"):
            convert("maxsim")


def test_pytorch_cos_sim_is_cos_sim() -> None:
    a = normal(3, 4)
    np.testing.assert_array_equal(util.pytorch_cos_sim(a, a), util.cos_sim(a, a))


# --- vectors


def test_normalize_embeddings() -> None:
    a = normal(2, 3, 5)
    a[1, 2] = 0
    before = a.copy()
    found = util.normalize_embeddings(a)
    check(np.linalg.norm(found, axis=-1), [[1, 1, 1], [1, 1, 0]], 1.0, 5)
    np.testing.assert_array_equal(a, before)
    assert util.normalize_embeddings(normal(5, dtype=np.float64)).dtype == np.float64


def test_truncate_embeddings() -> None:
    a = normal(3, 5)
    assert np.shares_memory(util.truncate_embeddings(a, 2), a)
    np.testing.assert_array_equal(util.truncate_embeddings(a, 2), a[:, :2])
    assert util.truncate_embeddings(a, None).shape == util.truncate_embeddings(a, 9).shape == (3, 5)
    assert util.truncate_embeddings(a[0], 2).shape == (2,)


# --- search


@given(st.data())
def test_search_is_a_sort_of_all_scores(data: st.DataObject) -> None:
    """Many equal scores, any chunks: the ids are those of the definition."""
    queries, corpus = data.draw(small_integers(3, 4)), data.draw(small_integers(data.draw(st.integers(1, 40)), 4))
    k = data.draw(st.integers(1, 45))
    chunks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 45))
    found = util.semantic_search(queries, corpus, *chunks, k, util.dot_score)
    assert ids(found) == [ranking(row, k) for row in queries @ corpus.T]
    # a score function of one's own is sorted as it is
    own = util.semantic_search(queries, corpus, *chunks, k, lambda a, b: a @ b.T)
    assert own == found


@pytest.mark.parametrize("score_function", [util.cos_sim, util.dot_score])
@pytest.mark.parametrize("n", [1000, 3001])
def test_equal_rows_score_equally_wherever_they_stand(score_function: Any, n: int) -> None:
    """BLAS alone does not: it rounds by the row's place."""
    corpus = np.repeat(normal(7, 384), n // 7 + 1, axis=0)[:n]
    corpus = corpus[rng().permutation(n)]
    queries = normal(20, 384, seed=1)
    found = util.semantic_search(queries, corpus, top_k=300, score_function=score_function)
    truth = oracle("cosine" if score_function is util.cos_sim else "dot", queries, corpus)
    for hits, wanted in zip(found, truth, strict=True):
        assert len({hit["score"] for hit in hits}) <= 3
        assert [hit["corpus_id"] for hit in hits] == ranking(wanted.round(9), 300)


@pytest.mark.parametrize("score_function", [util.cos_sim, util.dot_score])
def test_chunks_change_nothing_bit_for_bit(score_function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, queries = normal(3000, 48), normal(17, 48, seed=1)
    corpus[1000:2000] = corpus[:1000] * (1 + normal(1000, 48, seed=2) * np.float32(1e-7))  # almost equal
    wanted = util.semantic_search(queries, corpus, top_k=25, score_function=score_function)
    for sizes in ((1, 3000), (17, 1), (5, 7), (100, 999)):
        assert util.semantic_search(queries, corpus, *sizes, 25, score_function) == wanted
    monkeypatch.setattr(util, "SCORES_AT_ONCE", 100)
    monkeypatch.setattr(util, "BLOCK_BYTES", 1)
    assert util.semantic_search(queries, corpus, top_k=25, score_function=score_function) == wanted
    assert [util.semantic_search(q, corpus, top_k=25, score_function=score_function)[0] for q in queries] == wanted


@pytest.mark.parametrize("k", [1, 2, 10, 100, 1000, 4999, 5000, 6000])
def test_candidates_are_complete(k: int) -> None:
    """Both ways to the k-th highest score, with NaN, infinities and equal scores among them."""
    row = rng().integers(0, 900, 5000).astype(np.float32)
    for scores in (row, np.where(row < 700, np.nan, row), np.where(row < 5, np.inf, -np.inf), np.full(5000, np.nan)):
        found = util._candidates(scores.astype(np.float32), k)
        assert np.all(np.diff(found) > 0)
        assert set(ranking(scores, k)) <= set(found.tolist())
    assert len(util._candidates(np.arange(5000, dtype=np.float32), 10)) == 10  # and no more than there need be
    assert len(util._candidates(np.arange(5000, dtype=np.float32), 10, slack=5.0)) == 15


def test_nan_is_last() -> None:
    corpus = np.array([[np.nan, 1], [0, 1], [1, 0], [np.nan, np.nan], [-1, 0]], np.float32)
    for function in (util.cos_sim, util.dot_score, util.euclidean_sim):
        found = util.semantic_search([1.0, 0.0], corpus, top_k=5, score_function=function)
        assert ids(found) == [[2, 1, 4, 0, 3]]
        assert ids(util.semantic_search([1.0, 0.0], corpus, 1, 1, 3, function)) == [[2, 1, 4]]
    many = np.full((3000, 2), np.nan, np.float32)
    many[[5, 2999]] = 1
    assert ids(util.semantic_search([1.0, 0.0], many, top_k=4)) == [[5, 2999, 0, 1]]


def test_search_edges() -> None:
    queries, corpus = normal(2, 4), normal(3, 4, seed=1)
    nothing = np.array([])
    assert util.semantic_search(queries, nothing) == util.semantic_search(queries, corpus[:0]) == [[], []]
    assert util.semantic_search(nothing, corpus) == []
    assert util.semantic_search(queries[0], corpus) == util.semantic_search(queries[:1], corpus)
    assert len(util.semantic_search(queries, corpus, top_k=99)[0]) == 3
    assert ids(util.semantic_search(queries, corpus[0])) == [[0], [0]]
    hit = util.semantic_search(queries, corpus)[0][0]
    assert type(hit["corpus_id"]) is int and type(hit["score"]) is float
    zero = util.semantic_search(np.zeros(4, np.float32), corpus)
    assert ids(zero) == [[0, 1, 2]] and scores(zero) == [[0, 0, 0]]
    assert ids(util.semantic_search(queries, np.asfortranarray(corpus))) == ids(util.semantic_search(queries, corpus))


def test_search_does_not_copy_the_corpus() -> None:
    corpus = normal(40_000, 128).astype(np.float16)  # as float32 20 MB, the scores 160 KB
    tracemalloc.start()
    util.semantic_search(corpus[7], corpus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_the_memory_for_scores_is_bounded_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def score(queries: Array, corpus: Array) -> Array:
        shapes.append((len(queries), len(corpus)))
        return queries @ corpus.T

    monkeypatch.setattr(util, "SCORES_AT_ONCE", 1000)
    util.semantic_search(normal(40, 3), normal(300, 3, seed=1), 10**6, 10**6, 5, score)
    assert shapes and max(q * c for q, c in shapes) <= 1000


# --- quantised search


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_search_of_bits(precision: str, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hamming distance, then float queries against the bits; by np.bitwise_count and by table."""
    if counted and not util.HAS_BITWISE_COUNT:
        pytest.skip("NumPy 1")
    monkeypatch.setattr(util, "HAS_BITWISE_COUNT", counted)
    for d in (5, 64, 72):
        queries, corpus = normal(4, d), normal(500, d, seed=1)
        codes = util.quantize_embeddings(corpus, precision)
        bits, wanted_bits = corpus > 0, queries > 0
        hamming = (bits[None] != wanted_bits[:, None]).sum(axis=2)
        plain = util.semantic_search_quantized(queries, codes, precision, top_k=9, rescore=False)
        assert ids(plain) == [ranking(-row, 9) for row in hamming]
        assert scores(plain) == [sorted(row.tolist())[:9] for row in hamming]
        as_codes = util.quantize_embeddings(queries, precision)
        assert util.semantic_search_quantized(as_codes, codes, precision, top_k=9) == plain
        found = util.semantic_search_quantized(queries, codes, precision, top_k=9, rescore_multiplier=3)
        for query, row, hits in zip(queries.astype(np.float64), hamming, found, strict=True):
            candidates = ranking(-row, 27)
            values = bits @ query
            wanted = sorted(candidates, key=lambda i: (-values[i].round(9), i))[:9]
            assert [hit["corpus_id"] for hit in hits] == wanted
            check(np.array([hit["score"] for hit in hits]), values[wanted], 10.0, d)


@pytest.mark.parametrize("d", [33, 384])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_search_of_steps(precision: str, d: int) -> None:
    queries, corpus = normal(4, d), normal(500, d, seed=1)
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = util.quantize_embeddings(corpus, precision)
    as_codes = util.quantize_embeddings(queries, precision, ranges)
    dots = as_codes.astype(np.int64) @ codes.astype(np.int64).T
    plain = util.semantic_search_quantized(queries, codes, precision, ranges=ranges, rescore=False)
    assert ids(plain) == [ranking(row, 10) for row in dots]
    assert scores(plain) == [[int(row[i]) for i in ranking(row, 10)] for row in dots]  # exact
    assert util.semantic_search_quantized(as_codes, codes, precision) == plain
    found = util.semantic_search_quantized(queries, codes, precision, ranges=ranges)
    assert found == util.semantic_search_quantized(queries, codes, precision, calibration_embeddings=corpus)
    values = (codes.astype(np.float64) + (128 if precision == "int8" else 0)) * ((ranges[1] - ranges[0]) / 255)
    rescored = queries.astype(np.float64) @ (values + ranges[0]).T
    for row, dot, hits in zip(rescored, dots, found, strict=True):
        wanted = sorted(ranking(dot, 20), key=lambda i: -row[i])[:10]
        assert [hit["corpus_id"] for hit in hits] == wanted
        check(np.array([hit["score"] for hit in hits]), row[wanted], 1e4 * d, d)


def test_rescoring_all_of_an_int8_corpus_finds_the_float_neighbours() -> None:
    corpus = util.normalize_embeddings(normal(300, 64))
    codes = util.quantize_embeddings(corpus, "int8")
    found = util.semantic_search_quantized(
        corpus, codes, "int8", top_k=1, calibration_embeddings=corpus, rescore_multiplier=300
    )
    assert ids(found) == [[i] for i in range(300)]


def test_a_float32_corpus_is_searched_by_dot_product() -> None:
    queries, corpus = normal(2, 8), normal(20, 8, seed=1)
    found = util.semantic_search_quantized(queries, corpus, "float32", top_k=5)
    assert found == util.semantic_search(queries, corpus, top_k=5, score_function=util.dot_score)


def test_quantised_search_edges() -> None:
    queries, corpus = normal(2, 16), normal(3, 16, seed=1)
    codes = util.quantize_embeddings(corpus, "ubinary")
    assert util.semantic_search_quantized(queries, codes[:0]) == [[], []]
    assert len(util.semantic_search_quantized(queries, codes)[0]) == 3
    assert util.semantic_search_quantized(queries[0], codes) == util.semantic_search_quantized(queries[:1], codes)
    same = np.zeros((50, 2), np.uint8)
    assert ids(util.semantic_search_quantized(queries, same, top_k=3)) == [[0, 1, 2]] * 2


def test_dot_products_of_uint8_are_exact_beyond_24_bits() -> None:
    codes = np.full((3, 400), 255, np.uint8)
    codes[0, 0], codes[2, 1] = 254, 253
    found = util.semantic_search_quantized(codes[1], codes, "uint8")
    full = 400 * 255 * 255  # 26 million: odd sums do not fit float32
    assert found[0] == [
        {"corpus_id": 1, "score": full},
        {"corpus_id": 0, "score": full - 255},
        {"corpus_id": 2, "score": full - 2 * 255},
    ]


def test_equal_rescored_candidates_are_in_order_of_id() -> None:
    """A dimension where the query is 0 parts them by Hamming distance, later row first, but not by score."""
    query = np.array([1, 1, 1, 0, -1, -1, -1, -1], np.float32)
    codes = np.array([[0b11110000], [0b11100000], [0b11110000], [0b11100000]], np.uint8)
    assert ids(util.semantic_search_quantized(query, codes, rescore=False)) == [[1, 3, 0, 2]]
    assert ids(util.semantic_search_quantized(query, codes)) == [[0, 1, 2, 3]]


# --- mining


def mined(table: Array, top_k: int, max_pairs: int) -> list[list[float | int]]:
    """The definition: a pair is in if one is among the other's top_k, oneself left out."""
    best: dict[tuple[int, int], float] = {}
    for i, row in enumerate(table):
        for j in [j for j in ranking(row, top_k + 1) if j != i][:top_k]:
            best[min(i, j), max(i, j)] = float(row[j])
    pairs = sorted(best, key=lambda pair: (-best[pair], pair))
    return [[best[pair], *pair] for pair in pairs[:max_pairs]]


@given(st.data())
def test_mining_is_a_sort_of_all_pairs(data: st.DataObject) -> None:
    rows = data.draw(small_integers(data.draw(st.integers(0, 20)), 3))
    top_k, max_pairs = data.draw(st.integers(1, 22)), data.draw(st.integers(1, 60))
    chunks = data.draw(st.integers(1, 22)), data.draw(st.integers(1, 22))
    found = util.paraphrase_mining_embeddings(rows, *chunks, 10**6, top_k, util.dot_score)
    assert found == mined(rows @ rows.T, top_k, 10**6)
    found = util.paraphrase_mining_embeddings(rows, 100, 100, max_pairs, top_k, util.dot_score)
    assert found == mined(rows @ rows.T, top_k, max_pairs)


def test_the_best_pairs_survive_the_chunks() -> None:
    rows = normal(60, 5)
    everything = util.paraphrase_mining_embeddings(rows)
    assert [pair[1:] for pair in everything[:9]] == [
        pair[1:] for pair in util.paraphrase_mining_embeddings(rows, 7, 11, 9)
    ]
    assert len(everything) == 60 * 59 / 2
    assert all(type(value) is kind for value, kind in zip(everything[0], (float, int, int), strict=True))


def test_paraphrase_mining_encodes_first() -> None:
    calls = []

    def encode(sentences: list[str], **options: Any) -> Array:
        calls.append((sentences, options))
        return np.array([[1, 0], [0, 1], [1, 0.1]], np.float32)

    found = util.paraphrase_mining(SimpleNamespace(encode=encode), ["a", "b", "c"], batch_size=7, top_k=1)
    assert [pair[1:] for pair in found] == [[0, 2], [1, 2]]
    util.paraphrase_mining(SimpleNamespace(encode=encode), ["a"], True, truncate_dim=2, prompt="p")
    assert calls == [
        (["a", "b", "c"], {"show_progress_bar": False, "batch_size": 7}),
        (["a"], {"show_progress_bar": True, "batch_size": 32, "truncate_dim": 2, "prompt": "p"}),
    ]


# --- communities


def communities(table: Array, threshold: float, min_size: int) -> list[list[int]]:
    """The definition, on a table of all cosines."""
    neighbours = [[j for j in ranking(row, len(row)) if row[j] >= threshold] for row in table]
    order = sorted(range(len(table)), key=lambda i: -len(neighbours[i]))
    used: set[int] = set()
    found = []
    for centre in order:
        left = [j for j in neighbours[centre] if j not in used]
        if centre not in used and len(neighbours[centre]) >= min_size and len(left) >= min_size:
            found.append([centre, *(j for j in left if j != centre)])
            used |= set(found[-1])
    return sorted(found, key=len, reverse=True)


@given(st.data())
def test_communities_are_those_of_the_definition(data: st.DataObject) -> None:
    """On the points of a cross and its diagonals in 4 dimensions cosines are exact, on the threshold too."""
    signs = data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 40)), 4), elements=st.sampled_from([-1, 1])))
    axes = data.draw(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 3)), max_size=20))
    for row, axis in axes:
        if row < len(signs):
            signs[row] = np.eye(4, dtype=np.float32)[axis]
    table = util.cos_sim(signs, signs)
    assert not (4 * table % 1).any()
    threshold = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 1, np.float64(0.25)]))
    min_size, batch_size = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 50))
    found = util.community_detection(signs, threshold, min_size, batch_size)
    assert found == communities(table, float(threshold), min_size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clustered_communities(dtype: Any) -> None:
    """Many tiles and rounds: the table's rows are all far from the threshold."""
    centres = normal(60, 100, dtype=dtype)
    label = rng().integers(0, 60, 5000)
    rows = centres[label] + dtype(0.3) * normal(5000, 100, dtype=dtype, seed=1)
    found = util.community_detection(rows, 0.6, 40, 700)
    assert sorted(map(sorted, found)) == [
        np.flatnonzero(label == i).tolist() for i in np.argsort([np.flatnonzero(label == i)[0] for i in range(60)])
    ]
    assert [len(c) for c in found] == sorted((len(c) for c in found), reverse=True)
    unit = util.normalize_embeddings(rows).astype(np.float64)
    for community in found:
        near = unit[community[1:]] @ unit[community[0]]
        assert np.all(np.diff(near) <= 1e-6)


def test_overlapping_communities_over_many_rounds() -> None:
    """Points along a circle: every neighbourhood overlaps the next, and many centres come too late."""
    angles = np.arange(2000) * (2 * np.pi / 2000)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # 31.8 steps to 0.1 rad: no cosine is near the threshold
    found = util.community_detection(rows, math.cos(0.1), 20, 300)
    wanted = communities(util.cos_sim(rows, rows), math.cos(0.1), 20)
    assert [(c[0], sorted(c)) for c in found] == [(c[0], sorted(c)) for c in wanted]
    assert len({len(c) for c in found}) > 1


def test_a_used_row_is_no_centre_even_if_it_was_in_line() -> None:
    """Rejected centres make the rounds longer; then one that an earlier one of its round took comes up."""
    limit = np.float32(0.5)
    axes = np.eye(8, dtype=np.float32)
    # 0 to 3 have neighbours 0..3 only; 4 and 5 share 6 and 7
    vectors = np.stack([axes[0]] * 4 + [axes[1]] * 4)
    assert util._take_communities(vectors, limit, 5, np.arange(8)) == []
    vectors = np.stack([axes[0], axes[1], axes[1], axes[1]])
    # round 1: row 0 alone is rejected; round 2: rows 1 and 2, of which 1 takes 2
    assert util._take_communities(vectors, limit, 2, np.arange(4)) == [[1, 2, 3]]
    chain_ = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0, 1], [0, 0, 1]], np.float32)
    # row 1 takes 2, whose own neighbours 3 and 4 are still free: 2 must not be their centre
    assert util._take_communities(chain_, limit, 2, np.arange(5)) == [[1, 2], [3, 4]]


def test_community_edges(capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.eye(3, dtype=np.float32)
    assert util.community_detection(np.array([]), min_community_size=1) == []
    assert util.community_detection([], min_community_size=1) == []
    assert util.community_detection(rows) == []
    assert util.community_detection(rows, min_community_size=1) == [[0], [1], [2]]
    assert util.community_detection(rows[0], min_community_size=1) == [[0]]
    assert util.community_detection(rows, threshold=2, min_community_size=1) == []
    zeros = np.zeros((4, 3), np.float32)
    assert util.community_detection(zeros, min_community_size=1) == []
    assert util.community_detection(zeros, threshold=0, min_community_size=4) == [[0, 1, 2, 3]]
    nan = np.array([[np.nan, 1], [0, 1], [0, 1]], np.float32)
    assert util.community_detection(nan, min_community_size=2) == [[1, 2]]
    assert util.community_detection(rows, min_community_size=1, show_progress_bar=True) == [[0], [1], [2]]
    assert capsys.readouterr() == ("", "")  # not a terminal


def test_communities_never_need_all_pairs() -> None:
    """Everybody near everybody, the worst case: 3000 x 3000 booleans alone would be 9 MB, ids 36."""
    rows = np.ones((3000, 4), np.float32)
    tracemalloc.start()
    assert util.community_detection(rows, batch_size=8) == [list(range(3000))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


# --- quantisation


@given(hnp.arrays(np.float32, (6, 11), elements=st.floats(-3, 3, width=32)))
def test_quantisation_is_its_definition(array: Array) -> None:
    low, high = array.min(axis=0), array.max(axis=0)
    for precision, offset in (("uint8", 0), ("int8", 128)):
        found = util.quantize_embeddings(array, precision)
        assert found.dtype == precision and found.shape == array.shape
        for (i, j), code in np.ndenumerate(found):
            step = (high[j] - low[j]) / np.float32(255) or np.float32(1)
            assert int(code) + offset == min(255, max(0, math.floor((array[i, j] - low[j]) / step)))
    for precision, offset in (("ubinary", 0), ("binary", 128)):
        found = util.quantize_embeddings(array, precision)
        assert found.dtype == ("uint8" if precision == "ubinary" else "int8") and found.shape == (6, 2)
        for row, codes in zip(array, found, strict=True):
            bits = "".join("1" if value > 0 else "0" for value in row).ljust(16, "0")
            assert [int(code) + offset for code in codes] == [int(bits[:8], 2), int(bits[8:], 2)]


def test_quantisation_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    array = normal(100, 20)
    wanted = {precision: util.quantize_embeddings(array, precision) for precision in util.PRECISIONS}
    monkeypatch.setattr(util, "BLOCK_BYTES", 1)
    for precision, codes in wanted.items():
        np.testing.assert_array_equal(util.quantize_embeddings(array, precision), codes)


def test_ranges_and_calibration() -> None:
    ranges = np.array([[0, 0, 5], [255, 510, 5]])
    array = np.array([[-1.0, 3, 5], [1.5, 1000, 4], [254.999, 2, 7]])
    assert util.quantize_embeddings(array, "uint8", ranges).tolist() == [[0, 1, 0], [1, 255, 0], [254, 1, 2]]
    assert util.quantize_embeddings(array, "int8", ranges.tolist()).tolist() == [
        [-128, -127, -128],
        [-127, 127, -128],
        [126, -127, -126],
    ]
    one = util.quantize_embeddings(array[0], "uint8", ranges)
    assert one.tolist() == [0, 1, 0]
    by_calibration = util.quantize_embeddings(array[:1], "uint8", calibration_embeddings=ranges)
    assert by_calibration.tolist() == [[0, 1, 0]]
    assert util.quantize_embeddings(array, "uint8", ranges, array).tolist()[0] == [0, 1, 0]  # ranges win


def test_few_embeddings_are_said_to_be_few(caplog: pytest.LogCaptureFixture) -> None:
    util.quantize_embeddings(normal(100, 3), "int8")
    assert not caplog.records
    util.quantize_embeddings(normal(99, 3), "int8")
    assert "ranges of only 99 embeddings" in caplog.text


def test_quantisation_edges() -> None:
    assert util.quantize_embeddings([], "int8") == []
    for precision, shape, dtype in (
        ("int8", (0, 12), "int8"),
        ("uint8", (0, 12), "uint8"),
        ("binary", (0, 2), "int8"),
        ("ubinary", (0, 2), "uint8"),
        ("float32", (0, 12), "float32"),
    ):
        found = util.quantize_embeddings(np.empty((0, 12)), precision)
        assert found.shape == shape and found.dtype == dtype
    assert util.quantize_embeddings(normal(12), "ubinary").shape == (2,)
    array = normal(3, 4)
    assert not np.shares_memory(util.quantize_embeddings(array, "float32"), array)
    assert util.quantize_embeddings([[1.0, -1.0], [0.0, 2.0]], "ubinary").tolist() == [[128], [64]]


def test_a_list_of_matrices_shares_its_ranges() -> None:
    whole = normal(9, 5)
    parts = [whole[:2], whole[2:2], whole[2:3], whole[3:]]
    for precision in util.PRECISIONS:
        found = util.quantize_embeddings(parts, precision)
        assert [len(part) for part in found] == [2, 0, 1, 6]
        np.testing.assert_array_equal(np.concatenate(found), util.quantize_embeddings(whole, precision))


# --- errors

A, B = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
CODES = np.zeros((2, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: util.cos_sim(A, B), ValueError, "b: found 4 dimensions, wanted 3 as a has"),
        (lambda: util.dot_score(A[None], A), ValueError, r"a: found shape \(1, 2, 3\), wanted \(n, d\)"),
        (lambda: util.cos_sim(1.5, A), ValueError, "a: found a single number"),
        (lambda: util.cos_sim(None, A), TypeError, "a: found NoneType, wanted an array of real numbers"),
        (lambda: util.cos_sim("text", A), TypeError, "a: found str, wanted"),
        (lambda: util.cos_sim(A, ["x"]), TypeError, "b: found list of <U1, wanted"),
        (lambda: util.cos_sim(A.astype(complex), A), TypeError, "a: found ndarray of complex128, wanted"),
        (lambda: util.cos_sim([[1.0], [1.0, 2.0]], A), ValueError, "a: found rows of different lengths"),
        (lambda: util.pairwise_dot_score(A, B), ValueError, r"b: found shape \(2, 4\), wanted \(2, 3\) as a has"),
        (lambda: util.pairwise_cos_sim(A, A[[0, 0, 0]]), ValueError, r"b: found shape \(3, 3\), wanted \(2, 3\)"),
        (lambda: util.pairwise_manhattan_sim(A, A[:, :1]), ValueError, r"b: found shape \(2, 1\)"),
        (lambda: util.pairwise_angle_sim(A, B), ValueError, r"y: found shape \(2, 4\), wanted \(2, 3\) as x has"),
        (lambda: util.truncate_embeddings(A, 0), ValueError, "truncate_dim: found 0, wanted a positive integer"),
        (lambda: util.truncate_embeddings(A, -1), ValueError, "truncate_dim: found -1"),
        (lambda: util.semantic_search(A, B), ValueError, "corpus_embeddings: found 4 dimensions, wanted 3 as query_em"),
        (lambda: util.semantic_search(A, A, top_k=0), ValueError, "top_k: found 0, wanted a positive integer"),
        (lambda: util.semantic_search(A, A, top_k=True), ValueError, "top_k: found True"),
        (lambda: util.semantic_search(A, A, top_k=2.0), ValueError, r"top_k: found 2\.0"),  # type: ignore[arg-type]
        (lambda: util.semantic_search(A, A, 0), ValueError, "query_chunk_size: found 0"),
        (lambda: util.semantic_search(A, A, 1, 0), ValueError, "corpus_chunk_size: found 0"),
        (
            lambda: util.semantic_search(A, A, score_function="dot"),  # type: ignore[arg-type]
            TypeError,
            "score_function: found 'dot', wanted a function",
        ),
        (
            lambda: util.semantic_search(A, A, score_function=lambda q, c: c),
            ValueError,
            r"score_function: found a result of shape \(2, 3\), wanted \(2, 2\)",
        ),
        (lambda: util.paraphrase_mining_embeddings(A, max_pairs=0), ValueError, "max_pairs: found 0"),
        (lambda: util.paraphrase_mining_embeddings(A, top_k=0), ValueError, "top_k: found 0"),
        (lambda: util.paraphrase_mining_embeddings(A, 0), ValueError, "query_chunk_size: found 0"),
        (lambda: util.paraphrase_mining_embeddings(A, 1, -1), ValueError, "corpus_chunk_size: found -1"),
        (lambda: util.community_detection(A, "0.7"), ValueError, "threshold: found '0.7', wanted a number"),  # type: ignore[arg-type]
        (lambda: util.community_detection(A, math.nan), ValueError, "threshold: found nan"),
        (lambda: util.community_detection(A, True), ValueError, "threshold: found True"),
        (lambda: util.community_detection(A, 0.5, 0), ValueError, "min_community_size: found 0"),
        (lambda: util.community_detection(A, 0.5, 1, 0), ValueError, "batch_size: found 0"),
        (lambda: util.community_detection(A[None]), ValueError, r"embeddings: found shape \(1, 2, 3\)"),
        (
            lambda: util.quantize_embeddings(A, "int4"),
            ValueError,
            "precision: found 'int4', wanted one of float32, int8",
        ),
        (lambda: util.quantize_embeddings(A, "xint8"), ValueError, "precision: found 'xint8'"),
        (lambda: util.quantize_embeddings(CODES, "binary"), TypeError, "embeddings: found uint8, wanted floats"),
        (lambda: util.quantize_embeddings(A[0], "int8"), ValueError, "ranges: found None, wanted .*a single embedding"),
        (lambda: util.quantize_embeddings(A[:1], "int8"), ValueError, "a single embedding has no int8 ranges"),
        (lambda: util.quantize_embeddings(A, "int8", B), ValueError, r"ranges: found shape \(2, 4\), wanted \(2, 3\)"),
        (lambda: util.quantize_embeddings(A, "int8", A + np.inf), ValueError, "ranges: found NaN or infinity"),
        (
            lambda: util.quantize_embeddings(A, "int8", None, B),
            ValueError,
            r"calibration_embeddings: found shape \(2, 4\), wanted \(m, 3\)",
        ),
        (lambda: util.quantize_embeddings(A + np.nan, "int8", A), ValueError, "embeddings: found NaN"),
        (lambda: util.semantic_search_quantized(A, CODES, "int4"), ValueError, "corpus_precision: found 'int4'"),
        (lambda: util.semantic_search_quantized(A, CODES, top_k=0), ValueError, "top_k: found 0"),
        (
            lambda: util.semantic_search_quantized(A, CODES, rescore_multiplier=0),
            ValueError,
            "rescore_multiplier: found 0",
        ),
        (
            lambda: util.semantic_search_quantized(A, CODES, "binary"),
            TypeError,
            "corpus_embeddings: found uint8, wanted int8, which 'binary' is",
        ),
        (
            lambda: util.semantic_search_quantized(CODES.view(np.int8), CODES),
            TypeError,
            "query_embeddings: found int8, wanted floats or uint8",
        ),
        (
            lambda: util.semantic_search_quantized(A, np.zeros((2, 3), np.int8), "int8"),
            ValueError,
            "ranges: found None, wanted those that the int8 corpus was quantised with",
        ),
        (
            lambda: util.semantic_search_quantized(np.zeros((1, 9)), CODES),
            ValueError,
            "corpus_embeddings: found 1 dimensions, wanted 2 as query_embeddings, quantised, has",
        ),
    ],
)
def test_errors_name_the_argument(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
