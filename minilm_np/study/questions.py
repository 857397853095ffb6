"""Twenty questions about the model: predict the answer, then run a few lines that measure it.

docs/questions.md shows them all, and each chapter of the walk ends with two of them. The code of a question runs
after `SETUP`. It ends with `values`, one number for each choice; the choice with the largest number is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

SETUP = '''\
import numpy as np

from minilm_np import SentenceTransformer
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.variant import Checkpoint, Simulator

model = SentenceTransformer(backend="numpy", dtype="float64")
texts = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
stages = model.stages(texts, detail=True)
food, bread, baby = (slice(*rows) for rows in ((0, 8), (8, 19), (19, 28)))  # the rows of the three texts

simulator = Simulator(Checkpoint.load("float64"))
mistakes = {mistake.name: mistake.apply() for mistake in catalogue()}


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def with_mistake(name):
    """Return the vectors of the three texts by a model that makes a mistake of the catalogue."""
    return simulator.run(mistakes[name], texts, [range(3)]).embeddings


def nearest(measured, choices):
    """Return minus the distance of each choice from the measured number, so that the nearest is the largest."""
    print(f"measured: {measured:.4f}")
    return {name: -abs(choice - measured) for name, choice in choices.items()}


def show(values):
    for name, value in values.items():
        print(f"{round(float(value), 4) + 0.0:<9.4f} {name}")  # + 0.0: without the sign of -0.0
'''


@dataclass(frozen=True)
class Question:
    """A question with several choices, and the code that measures which one is right.

    Attributes
    ----------
    name : str
        A short name, such as "separating-layer".
    page : str
        The page of docs/ that asks it, without ".md".
    question : str
        The question, in Markdown.
    choices : tuple of str
        Two or more choices.
    answer : int
        The index of the right one.
    explanation : str
        Why it is right, in Markdown. Its numbers are those that the code prints.
    code : str
        Python code that runs after `SETUP` and assigns `values`: a dict with one number for each choice. The largest
        number belongs to the answer.
    margin : float
        How much larger that number is, at least. The rounding errors of another CPU are far smaller.
    """

    name: str
    page: str
    question: str
    choices: tuple[str, ...]
    answer: int
    explanation: str
    code: str
    margin: float


QUESTIONS: tuple[Question, ...] = (
    # --- text to word pieces -------------------------------------------------------------------
    Question(
        name="word-pieces",
        page="walk/1_word_pieces",
        question="How many tokens does the model see when it reads `Sentence embeddings`?",
        choices=("2", "4", "7"),
        answer=2,
        explanation="`embeddings` is not in the vocabulary, so it becomes four word pieces. `[CLS]` and `[SEP]` are "
        "added to every text: 1 + 1 + 4 + 1 = 7.",
        code="""\
tokens = model.stages("Sentence embeddings", detail=True)["tokens"][0]
print(tokens)
values = {str(n): n == len(tokens) for n in (2, 4, 7)}
show(values)
""",
        margin=1,
    ),
    Question(
        name="smallest-change",
        page="walk/1_word_pieces",
        question="Take `A man is eating food.` Which change moves its vector least?",
        choices=("capital letters throughout", "no full stop", "`woman` instead of `man`", "`not` after `is`"),
        answer=0,
        explanation="The tokenizer turns every letter into a small one, so capital letters give the same token ids and "
        "the same vector. Dropping the full stop costs 0.0021 of the cosine. `woman` moves the vector more than `not` "
        "does: this model knows better what a sentence is about than what it claims.",
        code="""\
changed = {
    "capital letters throughout": "A MAN IS EATING FOOD.",
    "no full stop": "A man is eating food",
    "`woman` instead of `man`": "A woman is eating food.",
    "`not` after `is`": "A man is not eating food.",
}
original, *others = model.encode([texts[0], *changed.values()])
values = {name: cosine(original, other) - 1 for name, other in zip(changed, others)}
show(values)
""",
        margin=0.001,
    ),
    # --- embeddings ----------------------------------------------------------------------------
    Question(
        name="nearest-word",
        page="walk/2_embeddings",
        question="Before any layer has run, which word's vector in the word table points in the direction most similar "
        "to that of `food`?",
        choices=("`bread`", "`eating`", "`man`", "`baby`"),
        answer=1,
        explanation="The table knows which words belong to one subject, not only which mean the same kind of thing: "
        "`eating` (0.5431) is nearer to `food` than `bread` is (0.3294).",
        code="""\
table = model.weights["embeddings.word_embeddings.weight"]
word = {name: table[model.tokens(name).token_ids[1]] for name in ("food", "bread", "eating", "man", "baby")}
values = {f"`{name}`": cosine(word["food"], word[name]) for name in ("bread", "eating", "man", "baby")}
show(values)
""",
        margin=0.1,
    ),
    Question(
        name="longest-position",
        page="walk/2_embeddings",
        question="Which row of the position table is the longest vector?",
        choices=("position 0", "position 1", "position 7", "position 255"),
        answer=0,
        explanation="Position 0 always holds `[CLS]`. Its row is almost five times as long as the next, so the model "
        "can tell at once where a text begins. Question 20 shows what happens if every token gets it.",
        code="""\
table = model.weights["embeddings.position_embeddings.weight"]
values = {f"position {i}": np.linalg.norm(table[i]) for i in (0, 1, 7, 255)}
show(values)
""",
        margin=1,
    ),
    # --- attention scores ----------------------------------------------------------------------
    Question(
        name="food-attends",
        page="walk/3_attention_scores",
        question="In layer 0, which token does `food` attend to most in head 3?",
        choices=("`[CLS]`", "`man`", "`eating`", "`food`"),
        answer=2,
        explanation="`eating` gets 0.4380 of the attention, twice as much as `food` itself. Nobody designed this "
        "head to connect a verb with its object; it was learned.",
        code="""\
probs = stages["encoder.layer.0.attention.self.attention_probs"][0][3]  # (8, 8)
tokens = stages["tokens"][0]
row = probs[tokens.index("food")]
values = {f"`{name}`": row[tokens.index(name)] for name in ("[CLS]", "man", "eating", "food")}
show(values)
""",
        margin=0.1,
    ),
    Question(
        name="unscaled",
        page="walk/3_attention_scores",
        question="Leave out the division by √32 in head 3 of layer 0. What is the largest attention probability of "
        "`food` then?",
        choices=("about 0.25", "about 0.45", "about 1"),
        answer=2,
        explanation="Without the division the scores are √32 = 5.7 times as large. Softmax turns differences into "
        "ratios, so nearly all attention goes to one token: 0.9809 instead of 0.4380. The gradient of such a softmax "
        "is nearly 0, which is why the paper divides.",
        code="""\
scores = stages["encoder.layer.0.attention.self.attention_scores"][0][3][5] * np.sqrt(32)  # the row of `food`
probs = np.exp(scores) / np.exp(scores).sum()
scaled = stages["encoder.layer.0.attention.self.attention_probs"][0][3][5].max()
print(f"with the division: {scaled:.4f}")
values = nearest(probs.max(), {"about 0.25": 0.25, "about 0.45": 0.45, "about 1": 1})
""",
        margin=0.3,
    ),
    # --- values and heads ----------------------------------------------------------------------
    Question(
        name="favorite-token",
        page="walk/4_values_and_heads",
        question="The model has 72 heads. To which token do most of them send the largest part of the attention of "
        "`food`?",
        choices=("`[CLS]`", "`eating`", "`food`", "`.`"),
        answer=0,
        explanation="61 of the 72 heads look at `[CLS]` most. A head has to spend its attention somewhere, as each row "
        "sums to 1. A head that finds nothing to do for a token sends it to `[CLS]`, whose value vectors are short in "
        "most layers.",
        code="""\
tokens = stages["tokens"][0]
probs = [stages[f"encoder.layer.{i}.attention.self.attention_probs"][0][:, 5] for i in range(6)]  # 6 x (12, 8)
favorites = [tokens[j] for j in np.concatenate(probs).argmax(axis=1)]
values = {f"`{name}`": favorites.count(name) for name in ("[CLS]", "eating", "food", ".")}
show(values)
""",
        margin=40,
    ),
    Question(
        name="swap-query-key",
        page="walk/4_values_and_heads",
        question="Swap query and key in every head: each token now looks for what it used to offer. The cosine of "
        "`A man is eating food.` and `The girl is carrying a baby.` is -0.1050 in the right model. Does it go up or "
        "down?",
        choices=("up", "down", "it stays within 0.05"),
        answer=0,
        explanation="Up, by 0.6083. A broken model often finds texts more alike, because it loses what tells them "
        "apart. The cosine of the first two texts hardly moves: it goes from 0.7553 to 0.7534.",
        code="""\
wrong = with_mistake("attention-qk-swapped")
right = stages["sentence_embedding"]
for a, b in ((0, 1), (0, 2)):
    print(f"texts {a} and {b}: {cosine(right[a], right[b]):.4f}, swapped {cosine(wrong[a], wrong[b]):.4f}")
change = cosine(wrong[0], wrong[2]) - cosine(right[0], right[2])
values = {"up": change, "down": -change, "it stays within 0.05": 0.05 - abs(change)}
show(values)
""",
        margin=0.3,
    ),
    # --- residual and LayerNorm ----------------------------------------------------------------
    Question(
        name="largest-update",
        page="walk/5_residual_and_layer_norm",
        question="Attention adds its result to what a token already is. In which layer is the result largest, compared "
        "with what it is added to?",
        choices=tuple(f"layer {i}" for i in range(6)),
        answer=5,
        explanation="In layers 0 to 4 attention adds a vector less than half as long as the token's own. In layer 5 it "
        "is 0.8564 times as long.",
        code="""\
values, hidden_states = {}, stages["embeddings"]
for i in range(6):
    added = stages[f"encoder.layer.{i}.attention.output.dense"]
    values[f"layer {i}"] = np.mean(np.linalg.norm(added[food], axis=1) / np.linalg.norm(hidden_states[food], axis=1))
    hidden_states = stages[f"encoder.layer.{i}.output"]
show(values)
""",
        margin=0.2,
    ),
    Question(
        name="no-residual",
        page="walk/5_residual_and_layer_norm",
        question="Leave out the residual around attention in all layers, so that a token keeps only what it collects. "
        "What becomes of the cosine of `food` and `baby`, which is -0.1050?",
        choices=("about -0.5", "about 0", "about 0.9"),
        answer=2,
        explanation="Without the residual a token forgets which word it is. All tokens collect much the same, so all "
        "texts get much the same vector.",
        code="""\
wrong = with_mistake("residual-dropped-attention-all-layers")
values = nearest(cosine(wrong[0], wrong[2]), {"about -0.5": -0.5, "about 0": 0, "about 0.9": 0.9})
""",
        margin=0.5,
    ),
    # --- feed-forward and GELU -----------------------------------------------------------------
    Question(
        name="negative-inputs",
        page="walk/6_feed_forward",
        question="What share of the inputs of GELU is negative in layer 0, for `A man is eating food.`?",
        choices=("about a quarter", "about half", "about three quarters"),
        answer=2,
        explanation="0.7540 of them. GELU turns these into numbers near 0, so for each token most of the 1536 columns "
        "add little.",
        code="""\
share = np.mean(stages["encoder.layer.0.intermediate.dense"][food] < 0)
values = nearest(share, {"about a quarter": 0.25, "about half": 0.5, "about three quarters": 0.75})
""",
        margin=0.1,
    ),
    Question(
        name="relu",
        page="walk/6_feed_forward",
        question="ReLU, max(x, 0), looks much like GELU. Use it instead in all layers. What becomes of the cosine of "
        "`food` and `baby`, which is -0.1050?",
        choices=("about -0.1", "about 0.1", "about 0.6"),
        answer=2,
        explanation="GELU and ReLU differ by 0.17 at most, but they differ most where most inputs are: between -2 and "
        "2. Six layers add the differences up.",
        code="""\
wrong = with_mistake("relu")
values = nearest(cosine(wrong[0], wrong[2]), {"about -0.1": -0.1, "about 0.1": 0.1, "about 0.6": 0.6})
""",
        margin=0.3,
    ),
    # --- six layers ----------------------------------------------------------------------------
    Question(
        name="separating-layer",
        page="walk/7_six_layers",
        question="If the model ended after layer i, it would give a cosine, too. Which layer lowers the cosine of "
        "`food` and `baby` most?",
        choices=tuple(f"layer {i}" for i in range(6)),
        answer=5,
        explanation="Layer 5 takes the cosine from 0.7874 to -0.1050. The layers before it raise it or lower it a "
        "little. Training only ever compared the vectors that come out at the end.",
        code="""\
from minilm_np.study import layer_cosines

cosines = list(layer_cosines(model, texts[0], texts[2]).values())  # of the embeddings, and after each layer
print(" ".join(f"{value:.4f}" for value in cosines))
values = {f"layer {i}": cosines[i] - cosines[i + 1] for i in range(6)}
show(values)
""",
        margin=0.5,
    ),
    Question(
        name="missing-layer",
        page="walk/7_six_layers",
        question="Leave out one of the first five layers. Without which one does the cosine of `food` and `baby` "
        "change most?",
        choices=tuple(f"layer {i}" for i in range(5)),
        answer=4,
        explanation="Layer 4, by 0.3279. Layer 5 was trained on the output of layer 4, and gets something else. But "
        "no single one of them is essential: the residual carries every token past it.",
        code="""\
right = stages["sentence_embedding"]
values = {}
for i in range(5):
    wrong = with_mistake(f"layer-dropped-{i}")
    values[f"layer {i}"] = abs(cosine(wrong[0], wrong[2]) - cosine(right[0], right[2]))
show(values)
""",
        margin=0.05,
    ),
    # --- pooling and cosine --------------------------------------------------------------------
    Question(
        name="share-of-bread",
        page="walk/8_pooling_and_cosine",
        question="The text is the one word `bread`. Which token has the largest share in the pooled vector?",
        choices=("`[CLS]`", "`bread`", "`[SEP]`"),
        answer=1,
        explanation="`bread` itself, but it has less than half: all tokens have the same weight in the mean, and "
        "`[CLS]` and `[SEP]` have collected the meaning of `bread`, too. The shares are h · u / (3 |u|²), with u the "
        "pooled vector; they add up to 1.",
        code="""\
of_bread = model.stages("bread", detail=True)
h, u = of_bread["encoder.layer.5.output"], of_bread["pooled"][0]
values = {f"`{name}`": share for name, share in zip(of_bread["tokens"][0], h @ u / (3 * u @ u))}
show(values)
""",
        margin=0.1,
    ),
    Question(
        name="largest-pair",
        page="walk/8_pooling_and_cosine",
        question="The cosine of the texts about food and bread is 0.7553. Which pair of tokens adds most to it?",
        choices=("`[CLS]` and `[CLS]`", "`man` and `man`", "`eating` and `eating`", "`food` and `bread`"),
        answer=2,
        explanation="`eating` and `eating` add 0.0536. Equal words in equal roles add most; `food` and `bread` come "
        "behind them. No pair is large: there are 88 of them.",
        code="""\
from minilm_np.study import token_pairs

pairs = token_pairs(model, texts[0], texts[1])
print(pairs.values.size, "pairs")
values = {
    f"`{a}` and `{b}`": pairs.values[pairs.rows.index(a), pairs.columns.index(b)]
    for a, b in (("[CLS]", "[CLS]"), ("man", "man"), ("eating", "eating"), ("food", "bread"))
}
show(values)
""",
        margin=0.003,
    ),
    # --- BERT for people who know GPT ----------------------------------------------------------
    Question(
        name="tanh-gelu",
        page="bert_for_gpt",
        question="A port uses GPT-2's GELU, the tanh approximation. By how much does the cosine of `food` and `baby` "
        "change?",
        choices=("less than 0.001", "between 0.001 and 0.01", "more than 0.01"),
        answer=0,
        explanation="You can't see this mistake in a cosine. You can see it in the vectors: an element differs by "
        "0.0002, a thousand times the rounding error of float32.",
        code="""\
wrong, right = with_mistake("gelu-tanh"), stages["sentence_embedding"]
print(f"largest error of an element: {np.abs(wrong - right).max():.4f}")
change = abs(cosine(wrong[0], wrong[2]) - cosine(right[0], right[2]))
print(f"change of the cosine: {change:.0e}")
powers = {"less than 0.001": -4, "between 0.001 and 0.01": -2.5, "more than 0.01": -1}
values = {name: -abs(np.log10(change) - power) for name, power in powers.items()}
""",
        margin=0.5,
    ),
    Question(
        name="least-visible",
        page="bert_for_gpt",
        question="The cosine of `food` and `bread` should be 0.7553. Which of these broken models comes nearest to it?",
        choices=(
            "query and key are swapped",
            "ReLU instead of GELU",
            "the vector of `[CLS]` instead of the mean",
            "layer 0 is missing",
        ),
        answer=0,
        explanation="The model with query and key swapped is off by 0.0020 in this cosine, and by 0.2356 in an element "
        "of the vectors. A cosine that looks right proves nothing.",
        code="""\
broken = {
    "query and key are swapped": "attention-qk-swapped",
    "ReLU instead of GELU": "relu",
    "the vector of `[CLS]` instead of the mean": "pooling-cls",
    "layer 0 is missing": "layer-dropped-0",
}
right, values = stages["sentence_embedding"], {}
for description, name in broken.items():
    wrong = with_mistake(name)
    values[description] = -abs(cosine(wrong[0], wrong[1]) - cosine(right[0], right[1]))
    print(f"{name}: largest error of an element {np.abs(wrong - right).max():.4f}")
show(values)
""",
        margin=0.005,
    ),
    Question(
        name="useless-bias",
        page="bert_for_gpt",
        question="Drop one of these biases in all six layers. Which one does no vector miss?",
        choices=("query's", "key's", "value's"),
        answer=1,
        explanation="The key's bias adds the same number q · b to all scores in a row, and softmax does not change "
        "when all its inputs grow by the same amount. Llama has no biases here at all.",
        code="""\
right = stages["sentence_embedding"]
values = {
    f"{name}'s": -np.abs(with_mistake(f"bias-dropped-{name}-all-layers") - right).max()
    for name in ("query", "key", "value")
}
show(values)
""",
        margin=0.01,
    ),
    Question(
        name="all-at-position-0",
        page="bert_for_gpt",
        question="Give every token position 0. What is the cosine of `food` and `baby` then?",
        choices=("about -0.1", "about 0.5", "about 1"),
        answer=2,
        explanation="Position 0 belongs to `[CLS]`, and its row is so long that it drowns the word. Every token looks "
        "like `[CLS]`, and all texts get the same vector. Leaving the positions out does less harm: the cosine is then "
        "0.2028.",
        code="""\
without = with_mistake("positions-missing")
print(f"without positions: {cosine(without[0], without[2]):.4f}")
wrong = with_mistake("positions-all-0")
values = nearest(cosine(wrong[0], wrong[2]), {"about -0.1": -0.1, "about 0.5": 0.5, "about 1": 1})
""",
        margin=0.3,
    ),
)
