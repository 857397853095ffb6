"""A small call of every public function, method, property and exception, which returns whether its result is right.

The keys are the qualified names of tests/reference/public_api.json. A call gets the `Context`; a method or property
also gets an instance of its class, which INSTANCES makes.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.evaluation import STS_TSV, encode, write_files

import minilm_np
from minilm_np import (
    SentenceTransformer,
    Tokens,
    checkpoint,
    crosscheck,
    encoder,
    evaluate,
    model,
    ops,
    tokenizer,
    util,
)
from minilm_np import weights as w
from minilm_np.crosscheck import goldens, plot
from minilm_np.evaluate import all_tasks

TEXTS = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]
LABELLED = (TEXTS[:2], TEXTS[1:], [1, 0])
QUERY = {"query": TEXTS[0], "positive": [TEXTS[1]], "negative": [TEXTS[2]]}
NAME = "encoder.layer.0"
ROWS = [[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]]
Call = Callable[..., Any]


class Context:
    """The NumPy model, its files, an empty folder, pytest's fixtures, and values that several calls need."""

    def __init__(self, model: SentenceTransformer, folder: Path, request: pytest.FixtureRequest):
        self.model, self.files, self.folder, self.fixture = model, model.place.folder, folder, request.getfixturevalue
        self.config, self.offsets, self.ids = model.config, np.array([0, 2, 5]), np.array([1, 0])
        self.x = np.random.default_rng(0).standard_normal((5, 384), np.float32)
        self.qkv = np.random.default_rng(1).standard_normal((5, 3 * 384), np.float32)
        self.dense, self.norm = ops.Dense(np.eye(384), np.ones(384)), (np.ones(384), np.zeros(384))

    @cached_property
    def tokens(self) -> Tokens:
        return self.model.tokens(TEXTS)

    @cached_property
    def vectors(self) -> Any:
        return self.model.encode(TEXTS)

    @cached_property
    def params(self) -> Any:
        return checkpoint.read_params(self.files / "model.safetensors", self.config)

    @cached_property
    def bert(self) -> model.Bert:
        return model.prepare(self.params, self.config, ops)

    @cached_property
    def hidden_states(self) -> Any:
        return model.encoder(self.bert, *self.tokens)

    @cached_property
    def report(self) -> crosscheck.Report:
        vectors = self.model.encode(crosscheck.probe_texts(), truncation="ignore")
        return crosscheck.crosscheck(vectors, {"embeddings": self.model.stages(crosscheck.stage_texts())["embeddings"]})

    @cached_property
    def goldens(self) -> goldens.Goldens:
        return goldens.read_goldens(self.fixture("bundle"))


def shape(value: Any, *expected: int) -> bool:
    return bool(np.shape(value) == expected)


def close(value: Any, expected: Any) -> bool:
    return np.shape(value) == np.shape(expected) and bool(np.allclose(value, expected, atol=1e-6))


def returns_none(call: Callable[[], object]) -> bool:
    return call() is None


def fails(error: type[Exception], call: Callable[[], Any]) -> bool:
    with pytest.raises(error) as raised:
        call()
    return bool(raised.type is error)


def warns(warning: type[Warning], model: SentenceTransformer) -> bool:
    with pytest.warns(warning):
        pickle.loads(pickle.dumps(model)).encode("a " * 300)  # a copy, because a model warns once
    return True


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def offline() -> bool:
    with environment(HF_HUB_OFFLINE="0", MINILM_NP_OFFLINE="1"):
        return w.is_offline()


def stops_after_the_first_mistake() -> bool:
    class StoppedError(Exception):
        pass

    def stop(name: str) -> None:
        raise StoppedError(name)

    return fails(StoppedError, lambda: goldens.detection_power(stop))


def within(model: SentenceTransformer, name: str) -> bool:
    with getattr(model, name)(9):
        return shape(model.encode(TEXTS[0]), 9) and model.truncate_dim == 9


def saved(model: SentenceTransformer, name: str, folder: Path) -> bool:
    getattr(model, name)(folder)
    return not w.missing_files(folder) and (folder / "config_sentence_transformers.json").is_file()


def sts(folder: Path) -> Path:
    return write_files(folder, {"STS12.tsv": STS_TSV})


def integration(name: str) -> Any:
    return import_module(f"minilm_np.integrations.{name}")


def haystack_documents() -> Any:
    return [import_module("haystack").Document(content=text) for text in TEXTS]


RESULT = evaluate.Result(all_tasks()["STS12"], {"cos_sim_spearman": 72.369})

INSTANCES: dict[str, Call] = {
    "minilm_np.SentenceTransformer": lambda c: c.model,
    "minilm_np.TextInfo": lambda c: c.model.encode(TEXTS, return_info=True)[1][0],
    "minilm_np.Tokens": lambda c: c.tokens,
    "minilm_np.checkpoint.Tensor": lambda c: checkpoint.read_safetensors(c.files / "model.safetensors").popitem()[1],
    "minilm_np.crosscheck.Cause": lambda c: crosscheck.Cause("gelu-tanh", 1.0, "GELU by tanh", 0.5),
    "minilm_np.crosscheck.Equivalence": lambda c: crosscheck.equivalence(c.vectors, c.vectors[:, :9], k=1),
    "minilm_np.crosscheck.Report": lambda c: c.report,
    "minilm_np.crosscheck.goldens.Goldens": lambda c: c.goldens,
    "minilm_np.encoder.Encoder": lambda c: encoder.Encoder(c.files, backend="numpy"),
    "minilm_np.evaluate.BinaryClassificationEvaluator": lambda c: evaluate.BinaryClassificationEvaluator(
        *LABELLED, similarity_fn_names=["cosine"]
    ),
    "minilm_np.evaluate.EmbeddingSimilarityEvaluator": lambda c: evaluate.EmbeddingSimilarityEvaluator(*LABELLED),
    "minilm_np.evaluate.InformationRetrievalEvaluator": lambda c: evaluate.InformationRetrievalEvaluator(
        {"q": TEXTS[0]}, {"a": TEXTS[1], "b": TEXTS[2]}, {"q": {"a"}}
    ),
    "minilm_np.evaluate.RerankingEvaluator": lambda c: evaluate.RerankingEvaluator([QUERY]),
    "minilm_np.evaluate.TripletEvaluator": lambda c: evaluate.TripletEvaluator(TEXTS[:1], TEXTS[1:2], TEXTS[2:]),
    "minilm_np.evaluate.Result": lambda c: RESULT,
    "minilm_np.evaluate.Task": lambda c: all_tasks()["STS12"],
    "minilm_np.integrations.bertopic.MiniLMBackend": lambda c: integration("bertopic").MiniLMBackend(c.model),
    "minilm_np.integrations.chroma.MiniLMEmbeddingFunction": lambda c: integration("chroma").MiniLMEmbeddingFunction(
        str(c.files), backend="numpy"
    ),
    "minilm_np.integrations.haystack.MiniLMDocumentEmbedder": lambda c: integration("haystack").MiniLMDocumentEmbedder(
        str(c.files), backend="numpy"
    ),
    "minilm_np.integrations.haystack.MiniLMTextEmbedder": lambda c: integration("haystack").MiniLMTextEmbedder(
        str(c.files), backend="numpy"
    ),
    "minilm_np.integrations.keybert.MiniLMBackend": lambda c: integration("keybert").MiniLMBackend(c.model),
    "minilm_np.integrations.langchain.MiniLMEmbeddings": lambda c: integration("langchain").MiniLMEmbeddings(
        str(c.files), backend="numpy"
    ),
    "minilm_np.integrations.llama_index.MiniLMEmbedding": lambda c: integration("llama_index").MiniLMEmbedding(c.model),
    "minilm_np.integrations.mteb.MiniLMEncoder": lambda c: integration("mteb").MiniLMEncoder(c.model),
    "minilm_np.integrations.sklearn.SentenceEncoder": lambda c: (
        integration("sklearn").SentenceEncoder(str(c.files), backend="numpy").fit(TEXTS)
    ),
    "minilm_np.model.Bert": lambda c: c.bert,
    "minilm_np.model.BertConfig": lambda c: c.config,
    "minilm_np.model.Ops": lambda c: ops,  # a Protocol: a module that has the functions
    "minilm_np.ops.Dense": lambda c: c.dense,
    "minilm_np.ops.prepare_dense": lambda c: ops.prepare_dense(*c.dense),
    "minilm_np.tokenizer.Tokenizer": lambda c: tokenizer.Tokenizer(c.files / "tokenizer.json", 9),
    "minilm_np.tokenizer.Tokens": lambda c: c.tokens,
    "minilm_np.weights.Place": lambda c: w.find(c.files),
}

ENCODER: dict[str, Call] = {
    "embed": lambda m, c: close(m.embed(TEXTS), c.vectors),
    "max_seq_length": lambda m, c: m.max_seq_length == 256,
    "stages": lambda m, c: list(m.stages(TEXTS)) == model.stage_names(c.config),
    "token_embeddings": lambda m, c: close(m.token_embeddings(c.tokens), c.hidden_states),
    "tokens": lambda m, c: m.tokens(TEXTS).token_ids.tolist() == c.tokens.token_ids.tolist(),
}
BACKEND: dict[str, Call] = {"embed": lambda b, c: close(b.embed(TEXTS), c.vectors)}
TOKENS: dict[str, Call] = {
    "take": lambda t, c: t.take([1]).token_ids.tolist() == c.model.tokens(TEXTS[1:2]).token_ids.tolist(),
    "concatenate": lambda t, c: Tokens.concatenate([t, t]).offsets[-1] == 2 * t.offsets[-1],
}
# fmt: off
MEMBERS: dict[str, dict[str, Call]] = {
    "minilm_np.SentenceTransformer": {
        **ENCODER,
        "cpu": lambda m, c: m.cpu() is m,
        "device": lambda m, c: m.device == "cpu",
        "encode": lambda m, c: shape(m.encode(TEXTS), 3, 384) and shape(m.encode(TEXTS[0]), 384),
        "encode_document": lambda m, c: close(m.encode_document(TEXTS), c.vectors),
        "encode_multi_process": lambda m, c: close(
            m.encode_multi_process(TEXTS, m.start_multi_process_pool()), c.vectors
        ),
        "encode_query": lambda m, c: close(m.encode_query(TEXTS), c.vectors),
        "eval": lambda m, c: m.eval() is m,
        "evaluate": lambda m, c: m.evaluate(lambda model, path: {"score": model is m}, "path") == {"score": True},
        "get_backend": lambda m, c: m.get_backend() == m.backend == "numpy",
        "get_embedding_dimension": lambda m, c: m.get_embedding_dimension() == 384,
        "get_max_seq_length": lambda m, c: m.get_max_seq_length() == 256,
        "get_sentence_embedding_dimension": lambda m, c: m.get_sentence_embedding_dimension() == 384,
        "is_singular_input": lambda m, c: m.is_singular_input("a") and not m.is_singular_input(["a"]),
        "modalities": lambda m, c: m.modalities == ["text"],
        "preprocess": lambda m, c: m.preprocess(["a", "a a"])["attention_mask"].tolist() == [[1, 1, 1, 0], [1] * 4],
        "save": lambda m, c: saved(m, "save", c.folder / "save"),
        "save_pretrained": lambda m, c: saved(m, "save_pretrained", c.folder / "save_pretrained"),
        "similarity": lambda m, c: close(np.diag(m.similarity(c.vectors, c.vectors)), np.ones(3)),
        "similarity_fn_name": lambda m, c: m.similarity_fn_name == "cosine",
        "similarity_pairwise": lambda m, c: close(m.similarity_pairwise(c.vectors, c.vectors), np.ones(3)),
        "start_multi_process_pool": lambda m, c: m.start_multi_process_pool(["cpu"])["processes"] == [],
        "stop_multi_process_pool": lambda m, c: m.stop_multi_process_pool(m.start_multi_process_pool()) is None,
        "supports": lambda m, c: m.supports("text") and not m.supports("image"),
        "to": lambda m, c: m.to("cpu") is m,
        "token_count": lambda m, c: m.token_count(TEXTS).tolist() == np.diff(c.tokens.offsets).tolist(),
        "tokenize": lambda m, c: shape(m.tokenize(TEXTS)["input_ids"], 3, 8),
        "truncate_dim": lambda m, c: m.truncate_dim is None,
        "truncate_embeddings": lambda m, c: within(m, "truncate_embeddings"),
        "truncate_sentence_embeddings": lambda m, c: within(m, "truncate_sentence_embeddings"),
    },
    "minilm_np.encoder.Encoder": ENCODER,
    "minilm_np.Tokens": TOKENS,
    "minilm_np.tokenizer.Tokens": TOKENS,
    "minilm_np.util.SimilarityFunction": {
        "COSINE": lambda s, c: util.SimilarityFunction("cosine") is s.COSINE,
        "DOT": lambda s, c: util.SimilarityFunction("dot") is s.DOT,
        "DOT_PRODUCT": lambda s, c: s.DOT_PRODUCT is s.DOT,
        "EUCLIDEAN": lambda s, c: util.SimilarityFunction("euclidean") is s.EUCLIDEAN,
        "MANHATTAN": lambda s, c: util.SimilarityFunction("manhattan") is s.MANHATTAN,
        "possible_values": lambda s, c: s.possible_values() == ["cosine", "dot", "euclidean", "manhattan"],
        "to_similarity_fn": lambda s, c: s.to_similarity_fn("dot") is util.dot_score,
        "to_similarity_pairwise_fn": lambda s, c: s.to_similarity_pairwise_fn("dot") is util.pairwise_dot_score,
    },
    "minilm_np.crosscheck.Cause": {"fits": lambda cause, c: cause.fits is True},
    "minilm_np.crosscheck.Equivalence": {
        "go": lambda e, c: e.go is False,
        "to_dict": lambda e, c: e.to_dict()["texts"] == 3,
        "__str__": lambda e, c: str(e).startswith("NO-GO  3 texts"),
    },
    "minilm_np.crosscheck.Report": {
        "first_divergence": lambda r, c: r.first_divergence is None,
        "last": lambda r, c: r.last.stage == "sentence_embedding",
        "max_error": lambda r, c: 0 < r.max_error < r.tolerance,
        "ok": lambda r, c: r.ok is True,
        "sparkline": lambda r, c: len(r.sparkline()) == 2,
        "to_dict": lambda r, c: [stage["stage"] for stage in r.to_dict()["stages"]] == ["embeddings", r.last.stage],
        "to_json": lambda r, c: '"ok": true' in r.to_json(),
        "to_junit": lambda r, c: 'failures="0"' in r.to_junit(),
        "tolerance": lambda r, c: r.tolerance == r.last.tolerance > 0,
        "__str__": lambda r, c: str(r).startswith("PASS  sentence_embedding"),
    },
    "minilm_np.crosscheck.goldens.Goldens": {"texts": lambda g, c: g.texts == crosscheck.probe_texts()},
    "minilm_np.evaluate.BinaryClassificationEvaluator": {
        "__call__": lambda e, c: e(c.model)["cosine_ap"] == 1,
        "compute_metrics": lambda e, c: e.compute_metrics(c.model)["cosine"]["f1"] == 1,
        "find_best_acc_and_threshold": lambda e, c: e.find_best_acc_and_threshold([3, 1], [1, 0], True) == (1, 2),
        "find_best_f1_and_threshold": lambda e, c: e.find_best_f1_and_threshold([3, 1], [1, 0], True) == (1, 1, 1, 2),
    },
    "minilm_np.evaluate.EmbeddingSimilarityEvaluator": {
        "__call__": lambda e, c: close(e(c.model)["spearman_cosine"], 1),
    },
    "minilm_np.evaluate.InformationRetrievalEvaluator": {"__call__": lambda e, c: e(c.model)["cosine_ndcg@10"] == 1},
    "minilm_np.evaluate.RerankingEvaluator": {
        "__call__": lambda e, c: e(c.model) == {"map": 1, "mrr@10": 1, "ndcg@10": 1},
        "compute_metrics": lambda e, c: e.compute_metrics(c.model)["map"] == 1,
    },
    "minilm_np.evaluate.TripletEvaluator": {"__call__": lambda e, c: e(c.model) == {"cosine_accuracy": 1}},
    "minilm_np.evaluate.Result": {
        "difference": lambda r, c: abs(r.difference()) < 1e-3,
        "main_score": lambda r, c: r.main_score == 72.369,
        "to_dict": lambda r, c: r.to_dict()["task"] == "STS12",
        "verdict": lambda r, c: r.verdict() == "exact",
    },
    "minilm_np.evaluate.Task": {"main": lambda t, c: t.main == "cos_sim_spearman"},
    "minilm_np.integrations.bertopic.MiniLMBackend": BACKEND,
    "minilm_np.integrations.chroma.MiniLMEmbeddingFunction": {
        "__call__": lambda f, c: close(f(TEXTS), c.vectors),
        "build_from_config": lambda f, c: type(f.build_from_config(f.get_config())) is type(f),
        "default_space": lambda f, c: f.default_space() == "cosine",
        "embed_query": lambda f, c: close(f.embed_query(TEXTS), c.vectors),
        "get_config": lambda f, c: f.get_config() == {"model_name": str(c.files), "backend": "numpy"},
        "name": lambda f, c: f.name() == "minilm_np",
        "supported_spaces": lambda f, c: f.supported_spaces() == ["cosine", "l2", "ip"],
    },
    "minilm_np.integrations.haystack.MiniLMDocumentEmbedder": {
        "run": lambda e, c: close(e.run(haystack_documents())["documents"][0].embedding, c.vectors[0]),
        "to_dict": lambda e, c: e.to_dict()["init_parameters"]["model"] == str(c.files),
        "warm_up": lambda e, c: returns_none(e.warm_up),
    },
    "minilm_np.integrations.haystack.MiniLMTextEmbedder": {
        "run": lambda e, c: close(e.run(TEXTS[0])["embedding"], c.vectors[0]),
        "to_dict": lambda e, c: e.to_dict()["init_parameters"]["model"] == str(c.files),
        "warm_up": lambda e, c: returns_none(e.warm_up),
    },
    "minilm_np.integrations.keybert.MiniLMBackend": BACKEND,
    "minilm_np.integrations.langchain.MiniLMEmbeddings": {
        "embed_documents": lambda e, c: close(e.embed_documents(TEXTS), c.vectors),
        "embed_query": lambda e, c: close(e.embed_query(TEXTS[0]), c.vectors[0]),
    },
    "minilm_np.integrations.llama_index.MiniLMEmbedding": {
        "aget_text_embedding_batch": lambda e, c: close(
            asyncio.run(e.aget_text_embedding_batch(TEXTS)), c.vectors
        ),
        "class_name": lambda e, c: e.class_name() == "MiniLMEmbedding",
        "get_text_embedding_batch": lambda e, c: close(e.get_text_embedding_batch(TEXTS), c.vectors),
    },
    "minilm_np.integrations.mteb.MiniLMEncoder": {
        "encode": lambda e, c: close(e.encode([{"text": TEXTS}]), c.vectors),
        "mteb_model_meta": lambda e, c: e.mteb_model_meta.name == "minilm_np/all-MiniLM-L6-v2",
        "similarity": lambda e, c: shape(e.similarity(c.vectors, c.vectors).numpy(), 3, 3),
        "similarity_pairwise": lambda e, c: close(e.similarity_pairwise(c.vectors, c.vectors).numpy(), np.ones(3)),
    },
    "minilm_np.integrations.sklearn.SentenceEncoder": {
        "fit": lambda e, c: e.fit(TEXTS) is e,
        "get_feature_names_out": lambda e, c: list(e.get_feature_names_out()[:2]) == ["minilm0", "minilm1"],
        "transform": lambda e, c: close(e.transform(TEXTS), c.vectors),
    },
    "minilm_np.tokenizer.Tokenizer": {
        "__call__": lambda t, c: t(["a a"]).offsets.tolist() == [0, 4],
        "cut_off": lambda t, c: t.cut_off("a " * 10, t.encode(["a " * 10])[0]) == 3,
        "encode": lambda t, c: t.encode(["food"])[0].tokens == ["[CLS]", "food", "[SEP]"],
        "pack": lambda t, c: t.pack(["a", "a " * 10])[1] == {1: 3},
    },
}
# fmt: on

OPS: dict[str, Call] = {
    "add_layer_norm": lambda c: close(ops.add_layer_norm(c.x, c.x, c.norm, 1e-12), ops.layer_norm(2 * c.x, c.norm, 0)),
    "attention": lambda c: shape(ops.attention(c.qkv, c.offsets, 12), 5, 384),
    "attention_probs": lambda c: (
        [p.shape for p in ops.attention_probs(c.qkv, c.offsets, 12)] == [(12, 2, 2), (12, 3, 3)]
    ),
    "embed": lambda c: shape(ops.embed(c.ids, c.ids, c.ids, (c.x, c.x, c.x), c.norm, 1e-12), 2, 384),
    "l2_normalize": lambda c: close(ops.l2_normalize(np.array([[3.0, 4.0]])), [[0.6, 0.8]]),
    "linear": lambda c: close(ops.linear(c.x, c.dense, "relu"), np.maximum(c.x + 1, 0)),
    "pool": lambda c: close(ops.pool(c.x, c.offsets, "cls"), c.x[[0, 2]]),
}
CALLS: dict[str, Call] = {
    "minilm_np.InputError": lambda c: fails(minilm_np.InputError, lambda: c.model.encode([1])),
    "minilm_np.TruncationWarning": lambda c: warns(minilm_np.TruncationWarning, c.model),
    "minilm_np.WeightsError": lambda c: fails(minilm_np.WeightsError, lambda: checkpoint.read_config(c.folder)),
    "minilm_np.WeightsNotFoundError": lambda c: fails(minilm_np.WeightsNotFoundError, lambda: w.find(c.folder)),
    "minilm_np.l2_normalize": lambda c: minilm_np.l2_normalize is ops.l2_normalize and OPS["l2_normalize"](c),
    "minilm_np.mean_pool": lambda c: close(minilm_np.mean_pool(c.x, c.offsets)[1], c.x[2:].mean(axis=0)),
    "minilm_np.util.community_detection": lambda c: util.community_detection(ROWS, 0.7, 2) == [[1, 2]],
    "minilm_np.util.cos_sim": lambda c: close(util.cos_sim(ROWS, ROWS[:1]), [[1], [0.6], [0]]),
    "minilm_np.util.dot_score": lambda c: close(util.dot_score(ROWS, ROWS[2:]), [[0], [1.6], [4]]),
    "minilm_np.util.euclidean_sim": lambda c: close(util.euclidean_sim([[0, 0]], [[3, 4]]), [[-5]]),
    "minilm_np.util.manhattan_sim": lambda c: close(util.manhattan_sim([[0, 0]], [[3, 4]]), [[-7]]),
    "minilm_np.util.normalize_embeddings": lambda c: close(util.normalize_embeddings([[3, 4]]), [[0.6, 0.8]]),
    "minilm_np.util.pairwise_angle_sim": lambda c: shape(util.pairwise_angle_sim(ROWS, ROWS), 3),
    "minilm_np.util.pairwise_cos_sim": lambda c: close(util.pairwise_cos_sim(ROWS, ROWS), [1, 1, 1]),
    "minilm_np.util.pairwise_dot_score": lambda c: close(util.pairwise_dot_score(ROWS, ROWS), [1, 1, 4]),
    "minilm_np.util.pairwise_euclidean_sim": lambda c: close(util.pairwise_euclidean_sim([[0, 0]], [[3, 4]]), [-5]),
    "minilm_np.util.pairwise_manhattan_sim": lambda c: close(util.pairwise_manhattan_sim([[0, 0]], [[3, 4]]), [-7]),
    "minilm_np.util.paraphrase_mining": lambda c: util.paraphrase_mining(c.model, TEXTS)[0][1:] == [0, 1],
    "minilm_np.util.paraphrase_mining_embeddings": lambda c: util.paraphrase_mining_embeddings(ROWS)[0][1:] == [1, 2],
    "minilm_np.util.pytorch_cos_sim": lambda c: close(util.pytorch_cos_sim([1, 0], [3, 4]), [[0.6]]),
    "minilm_np.util.quantize_embeddings": lambda c: (
        util.quantize_embeddings(c.vectors, "ubinary").tolist() == np.packbits(c.vectors > 0, axis=1).tolist()
    ),
    "minilm_np.util.semantic_search": lambda c: (
        [hit["corpus_id"] for hit in util.semantic_search([0, 1], ROWS, top_k=2)[0]] == [2, 1]
    ),
    "minilm_np.util.semantic_search_quantized": lambda c: (
        util.semantic_search_quantized(c.vectors, util.quantize_embeddings(c.vectors, "ubinary"), top_k=1)[2][0][
            "corpus_id"
        ]
        == 2
    ),
    "minilm_np.util.truncate_embeddings": lambda c: close(util.truncate_embeddings(ROWS, 1), [[1], [0.6], [0]]),
    "minilm_np.crosscheck.CannotCompareError": lambda c: fails(
        crosscheck.CannotCompareError, lambda: crosscheck.crosscheck()
    ),
    "minilm_np.crosscheck.assert_matches_minilm": lambda c: fails(
        AssertionError, lambda: crosscheck.assert_matches_minilm(np.ones((40, 384)), causes=False)
    ),
    "minilm_np.crosscheck.crosscheck": lambda c: c.report.ok is True,
    "minilm_np.crosscheck.equivalence": lambda c: crosscheck.equivalence(c.vectors, c.vectors * 2).go is True,
    "minilm_np.crosscheck.probe_batches": lambda c: (
        [text for batch in crosscheck.probe_batches() for text in batch] == crosscheck.probe_texts()
    ),
    "minilm_np.crosscheck.probe_texts": lambda c: len(set(crosscheck.probe_texts())) > 30,
    "minilm_np.crosscheck.stage_texts": lambda c: set(crosscheck.stage_texts()) < set(crosscheck.probe_texts()),
    "minilm_np.crosscheck.goldens.GoldensError": lambda c: fails(
        goldens.GoldensError, lambda: goldens.read_goldens(c.folder / "nothing")
    ),
    "minilm_np.crosscheck.goldens.detection_power": lambda c: stops_after_the_first_mistake(),
    "minilm_np.crosscheck.goldens.read_goldens": lambda c: shape(c.goldens.embeddings, 40, 384),
    "minilm_np.crosscheck.goldens.write_goldens": lambda c: c.goldens.manifest["format"] == 1,  # the fixture calls it
    "minilm_np.crosscheck.plot.plot": lambda c: (
        returns_none(lambda: plot.plot(c.report, c.folder / "plot.html"))
        and "<svg" in (c.folder / "plot.html").read_text()
    ),
    "minilm_np.integrations.mteb.load_registered": lambda c: close(
        integration("mteb").load_registered("minilm_np/all-MiniLM-L6-v2").model.encode(TEXTS), c.vectors
    ),
    "minilm_np.crosscheck.plugin.assert_matches_minilm": lambda c: (
        c.fixture("assert_matches_minilm")(lambda t: c.model.encode(t, truncation="ignore")) is None
    ),
    "minilm_np.crosscheck.plugin.minilm_goldens": lambda c: shape(c.fixture("minilm_goldens").embeddings, 40, 384),
    "minilm_np.evaluate.all_tasks": lambda c: len(evaluate.all_tasks()) == 95,
    "minilm_np.evaluate.cached": lambda c: close(
        evaluate.cached(encode, c.folder / "cache", "fingerprint")(["a", "b"]), encode(["a", "b"])
    ),
    "minilm_np.evaluate.evaluate": lambda c: evaluate.evaluate(encode, "STS12", sts(c.folder / "data")).texts == 6,
    "minilm_np.evaluate.fingerprint": lambda c: len(bytes.fromhex(evaluate.fingerprint(c.model))) == 32,
    "minilm_np.evaluate.table": lambda c: evaluate.table([RESULT]).splitlines()[1].endswith("exact"),
    "minilm_np.checkpoint.WeightsError": lambda c: CALLS["minilm_np.WeightsError"](c),
    "minilm_np.checkpoint.parameter_shapes": lambda c: (
        {key: value.shape for key, value in c.params.items()} == checkpoint.parameter_shapes(c.config)
    ),
    "minilm_np.checkpoint.read_config": lambda c: checkpoint.read_config(c.files) == model.BertConfig(),
    "minilm_np.checkpoint.read_json": lambda c: checkpoint.read_json(c.files / "config.json")["hidden_size"] == 384,
    "minilm_np.checkpoint.read_params": lambda c: len(c.params) == 101,
    "minilm_np.checkpoint.read_safetensors": lambda c: (
        len(checkpoint.read_safetensors(c.files / "model.safetensors")) == 104
    ),
    "minilm_np.checkpoint.release_pages": lambda c: returns_none(lambda: checkpoint.release_pages(c.params)),
    "minilm_np.encoder.InputError": lambda c: CALLS["minilm_np.InputError"](c),
    "minilm_np.encoder.as_texts": lambda c: encoder.as_texts(["a", ["b", "c"]]) == ["a", ("b", "c")],
    "minilm_np.encoder.stacklevel": lambda c: encoder.stacklevel() == 1,
    "minilm_np.model.embeddings": lambda c: shape(model.embeddings(c.bert, *c.tokens), len(c.tokens.token_ids), 384),
    "minilm_np.model.encoder": lambda c: shape(c.hidden_states, len(c.tokens.token_ids), 384),
    "minilm_np.model.encoder_layer": lambda c: shape(model.encoder_layer(c.bert, NAME, c.x, c.offsets, None), 5, 384),
    "minilm_np.model.feed_forward": lambda c: shape(model.feed_forward(c.bert, NAME, c.x, None), 5, 384),
    "minilm_np.model.forward": lambda c: close(model.forward(c.bert, *c.tokens), c.vectors),
    "minilm_np.model.prepare": lambda c: shape(c.bert.weights[f"{NAME}.attention.self"].weight, 3 * 384, 384),
    "minilm_np.model.self_attention": lambda c: shape(
        model.self_attention(c.bert, f"{NAME}.attention", c.x, c.offsets, None), 5, 384
    ),
    "minilm_np.model.sentence_embeddings": lambda c: close(
        model.sentence_embeddings(c.bert, c.hidden_states, c.tokens.offsets), c.vectors
    ),
    "minilm_np.model.stage_names": lambda c: len(model.stage_names(c.config)) == 1 + 6 * 8 + 2,
    **{f"minilm_np.ops.{name}": call for name, call in OPS.items()},
    "minilm_np.ops.attention_weights": lambda c: close(ops.attention_weights(c.x, c.x).sum(axis=1), np.ones(5)),
    "minilm_np.ops.equal_length_runs": lambda c: (
        list(ops.equal_length_runs(np.array([0, 2, 4, 5]))) == [(0, 2), (2, 3)]
    ),
    "minilm_np.ops.gelu": lambda c: close(ops.gelu(np.array([0.0, 1.0])), [0, 0.841344746]),
    "minilm_np.ops.gelu_new": lambda c: close(ops.gelu_new(np.array([0.0, 1.0])), [0, 0.841191990]),
    "minilm_np.ops.layer_norm": lambda c: close(ops.layer_norm(c.x, c.norm, 0).std(axis=1), np.ones(5)),
    "minilm_np.ops.mean_pool": lambda c: CALLS["minilm_np.mean_pool"](c),
    "minilm_np.ops.relu": lambda c: close(ops.relu(np.array([-1.0, 2.0])), [0, 2]),
    "minilm_np.ops.softmax": lambda c: close(ops.softmax(np.zeros((2, 4))), np.full((2, 4), 0.25)),
    "minilm_np.ops.split_heads": lambda c: shape(ops.split_heads(c.qkv[:4], 2, 12), 3, 2, 12, 2, 32),
    "minilm_np.weights.WeightsNotFoundError": lambda c: CALLS["minilm_np.WeightsNotFoundError"](c),
    "minilm_np.weights.cache_folder": lambda c: w.cache_folder().name == "minilm_np",
    "minilm_np.weights.checkout_folder": lambda c: getattr(w.checkout_folder(), "name", "weights") == "weights",
    "minilm_np.weights.fetch": lambda c: w.fetch(c.files) == c.files,  # every file is there already
    "minilm_np.weights.find": lambda c: w.find(c.files) == ("explicit path", c.files),
    "minilm_np.weights.find_or_fetch": lambda c: w.find_or_fetch(c.files, local_files_only=True).folder == c.files,
    "minilm_np.weights.hub_name": lambda c: w.hub_name("all-MiniLM-L6-v2") == w.DEFAULT_MODEL,
    "minilm_np.weights.hugging_face_snapshots": lambda c: (
        w.hugging_face_snapshots("a/b", c.folder) == [c.folder / "models--a--b"]
    ),
    "minilm_np.weights.is_offline": lambda c: offline(),
    "minilm_np.weights.load": lambda c: w.load(c.files)[:2] == (w.find(c.files), c.config),
    "minilm_np.weights.missing_files": lambda c: w.missing_files(c.folder) == list(w.SHA256),
    "minilm_np.weights.places": lambda c: str(c.folder) in os.fspath(list(w.places(cache=c.folder))[-1].folder),
    "minilm_np.weights.sha256_of": lambda c: w.sha256_of(c.files / "config.json") == w.SHA256["config.json"],
    "minilm_np.weights.verify": lambda c: returns_none(lambda: w.verify(c.files)),
}
