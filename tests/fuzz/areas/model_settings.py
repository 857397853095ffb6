"""Every JSON file of a checkpoint except tokenizer.json: missing keys, wrong types, numbers out of range."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fuzz import checks, inputs, mutations, tiny
from fuzz.case import Case
from hypothesis import strategies as st

from minilm_np import SentenceTransformer

FILES = [*tiny.JSON_FILES, *tiny.OPTIONAL_FILES]
FILES.remove("tokenizer.json")
VALID: dict[str, list[dict[str, Any]]] = {  # other valid settings
    "config.json": [
        {"hidden_act": "relu"},
        {"hidden_act": "gelu_new"},
        {"layer_norm_eps": 0},
        {"num_attention_heads": 1},
    ],
    "1_Pooling/config.json": [
        {"pooling_mode": "max"},
        {"pooling_mode": "cls"},
        {"pooling_mode": "mean_sqrt_len_tokens"},
    ],
    "sentence_bert_config.json": [{"max_seq_length": 3}, {"max_seq_length": None}],
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    files = {}
    for name in draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=2, unique=True)):
        value = (tiny.JSON_FILES | tiny.OPTIONAL_FILES)[name]
        if name in VALID and draw(st.booleans()):
            value = {**value, **draw(st.sampled_from(VALID[name]))}
        elif name == "modules.json" and draw(st.booleans()):
            value = value[:2]  # no Normalize
        if mutations.seldom(draw, 80):
            files[name] = draw(mutations.json_bombs())
        else:
            files[name] = draw(mutations.texts_of(draw(mutations.json_mutations(value))))
    return Case("model_settings", files, {"texts": draw(inputs.batches(2))})


def run(case: Case, scratch: Path) -> str:
    case.put_files(tiny.write(scratch))
    outcome = checks.check_checkpoint(scratch, case.settings["texts"], odd_weights=True)
    if outcome == "vectors":
        model = SentenceTransformer(str(scratch), backend="numpy")
        for name in model.prompts:
            checks.attempt(partial(model.encode, "the cat", prompt_name=name), checks.CHECKPOINT_NAMES)
        vectors = model.encode(["the cat", "the dog"], truncation="ignore")
        checks.attempt(lambda: model.similarity(vectors, vectors), ["similarity_fn_name"])
    return outcome
