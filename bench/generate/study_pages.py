"""Write what is measured in docs/questions.md and docs/bert_for_gpt.md: `python bench/generate/study_pages.py`.

The questions come from minilm_np/study/questions.py; their code is run. The table of differences between BERT and GPT
has the lines of the package's source, and what the model computes if the line is written GPT's way.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import minilm_np
from minilm_np import SentenceTransformer, ops
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.variant import Checkpoint, Simulator
from minilm_np.model import Array, Bert, forward, prepare
from minilm_np.study.questions import QUESTIONS, SETUP, Question

sys.path.insert(0, str(Path(__file__).parents[1]))
from generate.tables import write_block

PACKAGE = Path(minilm_np.__file__).parent
FOOD, BREAD, BABY = "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."


# --- questions ---------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What the code of a question computes."""

    values: dict[str, float]  # by choice; the largest belongs to the answer
    printed: str


def measure_questions() -> list[Measured]:
    """Run the code of all questions, in order."""
    names: dict[str, Any] = {}
    exec(SETUP, names)
    measured = []
    for question in QUESTIONS:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(question.code, names)
        values = {choice: float(value) for choice, value in names["values"].items()}
        measured.append(Measured(values, printed.getvalue()))
    return measured


def questions_block(measured: list[Measured]) -> str:
    """Return the table of questions, the questions, and the answers with their code and what it prints."""
    pages = [f"[{question.page}]({question.page}.md)" for question in QUESTIONS]
    rows = [
        f"| [{i}](#question-{i}) | {question.name.replace('-', ' ')} | {page} |"
        for i, (question, page) in enumerate(zip(QUESTIONS, pages, strict=True), 1)
    ]
    asked = [question_text(i, question) for i, question in enumerate(QUESTIONS, 1)]
    answers = [
        answer_text(i, question, values.printed)
        for i, (question, values) in enumerate(zip(QUESTIONS, measured, strict=True), 1)
    ]
    table = "| | about | asked in |\n|---|---|---|\n" + "\n".join(rows)
    setup = f"## Answers\n\nThe code of each answer runs after this:\n\n```python\n{SETUP}```"
    return "\n\n".join(("", table, "## Questions", *asked, setup, *answers)) + "\n\n"


def question_text(number: int, question: Question) -> str:
    """Return a question with its choices, in Markdown."""
    choices = "\n".join(f"- {choice}" for choice in question.choices)
    return f"### Question {number}\n\n{question.question}\n\n{choices}\n\n[Answer {number}](#answer-{number})"


def answer_text(number: int, question: Question, printed: str) -> str:
    """Return an answer with its code and what it prints, in Markdown."""
    answer = question.choices[question.answer]
    code = f"```python\n{question.code}```\n\n```text\n{printed}```"
    back = f"[Question {number}](#question-{number})"
    return f"### Answer {number}\n\n**{answer}.** {question.explanation}\n\n{code}\n\n{back}"


# --- BERT for people who know GPT ---------------------------------------------------------------


class Difference(NamedTuple):
    """A decision of BERT that GPT makes differently."""

    what: str
    bert: str
    gpt: str
    file: str  # of the package
    line: str  # the line of code that decides it, without indentation
    wrong: str | Callable[[Bert], Bert]  # a mistake of the catalogue, or what changes the model


def causal(bert: Bert) -> Bert:
    """Return the model with a causal mask: a token attends only to itself and to tokens on its left."""

    def attention(qkv: Array, offsets: Array, num_heads: int) -> Array:
        context = np.empty((len(qkv), qkv.shape[1] // 3), qkv.dtype)
        for start, stop in pairwise(offsets):
            query, key, value = ops.split_heads(qkv[start:stop], 1, num_heads)[:, 0]  # each (N, S, D)
            hidden = np.triu(np.full((stop - start, stop - start), -np.inf), 1)  # (S, S)
            probs = ops.softmax(ops.attention_scores(query, key) + hidden)
            context[start:stop] = (probs @ value).swapaxes(0, 1).reshape(stop - start, -1)
        return context

    return with_ops(bert, attention=attention)


def rotary(bert: Bert) -> Bert:
    """Return the model without learned positions, and with query and key rotated by their position instead."""

    def embed(ids: Array, types: Array, positions: Array, tables: Any, norm: Any, eps: float) -> Array:
        word, token_type, _ = tables
        return ops.layer_norm(word[ids] + token_type[types], norm, eps)

    def attention(qkv: Array, offsets: Array, num_heads: int) -> Array:
        T, H = len(qkv), qkv.shape[1] // 3
        half = H // num_heads // 2
        positions = np.arange(T) - np.repeat(offsets[:-1], np.diff(offsets))
        angles = (positions[:, None] / 10000 ** (np.arange(half) / half))[:, None]  # (T, 1, D / 2)
        cos, sin = np.cos(angles), np.sin(angles)
        parts = qkv.reshape(T, 3, num_heads, 2, half).copy()
        for part in (0, 1):  # query and key
            a, b = parts[:, part, :, 0].copy(), parts[:, part, :, 1].copy()  # each (T, N, D / 2)
            parts[:, part, :, 0], parts[:, part, :, 1] = a * cos - b * sin, a * sin + b * cos
        return ops.attention(parts.reshape(T, -1), offsets, num_heads)

    return with_ops(bert, embed=embed, attention=attention)


def last_token(bert: Bert) -> Bert:
    """Return the model with the last token's row as the vector of a text."""
    return with_ops(bert, pool=lambda hidden_states, offsets, mode: hidden_states[offsets[1:] - 1])


def with_ops(bert: Bert, **changed: Callable[..., Array]) -> Bert:
    """Return the model with other functions in place of some of its op set's."""
    return bert._replace(ops=SimpleNamespace(**{**vars(ops), **changed}))


# fmt: off
DIFFERENCES = (
    Difference("LayerNorm", "after each residual sum (post-norm)", "before each sublayer (pre-norm)",
               "ops.py", "return layer_norm(x + residual, norm, eps)", "pre-norm"),
    Difference("LayerNorm of the embeddings", "yes", "none",
               "ops.py", "return layer_norm(word[token_ids] + token_type[token_type_ids] + position[position_ids], "
               "norm, eps)", "embeddings-layer-norm-missing"),
    Difference("mask", "none: a token sees its whole text", "causal: a token sees what is on its left",
               "ops.py", "return softmax(attention_scores(query, key))", causal),
    Difference("token types", "row 0 or 1 is added, row 0 also for a single text", "none",
               "ops.py", "word, token_type, position = tables", "token-types-missing"),
    Difference("positions", "learned, added to the embeddings", "learned in GPT-2; rotary in most newer decoders",
               "model.py", "position_ids = np.arange(len(token_ids)) - np.repeat(offsets[:-1], np.diff(offsets))",
               rotary),
    Difference("special tokens", "[CLS] before and [SEP] after every text", "none around a text",
               "wordpiece.py", 'single=f"{cls}:0 $A:0 {sep}:0",', "no-special-tokens"),
    Difference("letters", "lower case, no accents", "as written",
               "wordpiece.py", "tokenizer.normalizer = normalizers.BertNormalizer(", "cased"),
    Difference("vector of a text", "the mean of all rows", "the row of the last token",
               "ops.py", "return np.stack([rows.mean(axis=0) for rows in sentences])", last_token),
    Difference("GELU", "exact, with erf", "tanh approximation",
               "model.py", 'hidden_act: str = "gelu"', "gelu-tanh"),
    Difference("eps of LayerNorm", "1e-12", "1e-5",
               "model.py", "layer_norm_eps: float = 1e-12", "layer-norm-eps-1e-05"),
    Difference("stored weights", "(outputs, inputs)", "(inputs, outputs) in GPT-2",
               "ops.py", "y = x @ dense.weight.T", "weight-transposed-all"),
)
# fmt: on


class Effect(NamedTuple):
    """What becomes of two cosines and of the vectors if one thing is done GPT's way."""

    bread: float  # cosine of FOOD and BREAD
    baby: float  # cosine of FOOD and BABY
    error: float  # largest error of an element of the three vectors


def measure_differences() -> tuple[Effect, list[Effect]]:
    """Return the cosines of the right model, and what each difference does to them."""
    texts = [FOOD, BREAD, BABY]
    model = SentenceTransformer(backend="numpy", dtype="float64")
    right = model.encode(texts)
    tokens = model.tokens(texts)
    bert = prepare(model.weights, model.config, ops)
    simulator = Simulator(Checkpoint.load("float64"))
    mistakes = {mistake.name: mistake.apply() for mistake in catalogue()}

    def effect(vectors: Array) -> Effect:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return Effect(float(unit[0] @ unit[1]), float(unit[0] @ unit[2]), float(np.abs(vectors - right).max()))

    def wrong(change: str | Callable[[Bert], Bert]) -> Array:
        if isinstance(change, str):
            return simulator.run(mistakes[change], texts, [range(len(texts))]).embeddings.astype(np.float64)
        return forward(change(bert), *tokens)

    return effect(right), [effect(wrong(difference.wrong)) for difference in DIFFERENCES]


def line_number(file: str, line: str) -> int:
    """Return the number of the one line of a file that begins with `line`; raise ValueError unless there is one."""
    lines = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
    found = [number for number, text in enumerate(lines, 1) if text.strip().startswith(line)]
    if len(found) != 1:
        raise ValueError(f"{file}: expected one line that begins with {line!r}, got {len(found)}")
    return found[0]


def differences_block(right: Effect, effects: list[Effect]) -> str:
    """Return two tables: the line of code for each difference, and what it does."""
    rows = ["| | BERT | GPT | line of code |", "|---|---|---|---|"]
    for difference in DIFFERENCES:
        number = line_number(difference.file, difference.line)
        place = f"[{difference.file}:{number}](../minilm_np/{difference.file}#L{number})"
        rows.append(f"| {difference.what} | {difference.bert} | {difference.gpt} | {place} `{difference.line}` |")
    rows += ["", "| done GPT's way | food and bread | food and baby | largest error | in the catalogue |"]
    rows += ["|---|---|---|---|---|", f"| nothing | {right.bread:.4f} | {right.baby:.4f} | 0 | |"]
    for difference, effect in zip(DIFFERENCES, effects, strict=True):
        name = f"`{difference.wrong}`" if isinstance(difference.wrong, str) else ""
        figures = f"{effect.bread:.4f} | {effect.baby:.4f} | {effect.error:.1e}"
        rows.append(f"| {difference.what}: {difference.gpt} | {figures} | {name} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    write_block("questions", questions_block(measure_questions()))
    write_block("bert-for-gpt", differences_block(*measure_differences()))


if __name__ == "__main__":
    main()
