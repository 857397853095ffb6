"""The sentence encoder all-MiniLM-L6-v2 in plain NumPy, with six holes.

Replace each `raise NotImplementedError` by your code. README.md explains how to check it, and has hints.

S tokens of the sentence    H hidden size (384)    N heads (12)    D = H / N head size (32)
I intermediate size (1536)    V vocabulary (30522)

`params` is a dict from the names of the checkpoint to arrays, such as
params["encoder.layer.0.attention.self.query.weight"]. A dense layer computes x W^T + b; its weight is stored as
(outputs, inputs). Computing in float32 or float64 are both right. Do not change the arguments in place.

Papers: Vaswani et al. 2017 (attention, arxiv.org/abs/1706.03762), Devlin et al. 2018 (BERT, 1810.04805),
Ba et al. 2016 (LayerNorm, 1607.06450), Hendrycks & Gimpel 2016 (GELU, 1606.08415), Reimers & Gurevych 2019 (pooling,
1908.10084).
"""

from __future__ import annotations

import numpy as np

Params = dict[str, np.ndarray]


def embeddings(params: Params, token_ids: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
    """Hole 1: LayerNorm of the sum of three embeddings of each token: word, position and token type.

    A token's word embedding is the row of its id, its position embedding the row of its place in the sentence, counted
    from 0, and its token type embedding the row of its type. (Devlin et al. 2018, figure 2.)

    token_ids: (S,) integers, 0 to V - 1. token_type_ids: (S,) integers, 0 or 1. Returns (S, H).

    Parameters used: embeddings.word_embeddings.weight (V, H), embeddings.position_embeddings.weight (512, H),
    embeddings.token_type_embeddings.weight (2, H), embeddings.LayerNorm.weight and .bias (H,).
    """
    raise NotImplementedError("embeddings")


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Hole 2: (x - mean) / sqrt(variance + 1e-12) * weight + bias, separately for each token.

    mean and variance are those of the H elements of a row; the variance is divided by H. (Ba et al. 2016, section 3.)

    x: (S, H). weight, bias: (H,). Returns (S, H).
    """
    raise NotImplementedError("layer_norm")


def attention(params: Params, layer: int, hidden_states: np.ndarray) -> np.ndarray:
    """Hole 3: self-attention with N heads, a dense layer, the residual, and LayerNorm.

    1. Query, key and value are three dense layers of hidden_states: Q, K and V, (S, H) each.
    2. Head n has the columns n D to (n + 1) D - 1 of each: Q_n, K_n and V_n, (S, D).
    3. Each head computes softmax(Q_n K_n^T / sqrt(D)) V_n, (S, D); the softmax is of each row.
       (Vaswani et al. 2017, equation 1.)
    4. The heads' results, side by side in the order of the heads, are the context, (S, H). (Section 3.2.2.)
    5. A dense layer of the context, plus hidden_states (the residual), then LayerNorm. (Section 3.1.)

    layer: 0 to 5. hidden_states: (S, H). Returns (S, H).

    Parameters used, all after the prefix f"encoder.layer.{layer}.": attention.self.query, attention.self.key,
    attention.self.value and attention.output.dense, each with .weight (H, H) and .bias (H,);
    attention.output.LayerNorm with .weight and .bias (H,).
    """
    raise NotImplementedError("attention")


def feed_forward(params: Params, layer: int, attention_output: np.ndarray) -> np.ndarray:
    """Hole 4: LayerNorm(x + dense(GELU(dense(x)))), where x is attention_output.

    The first dense layer has I outputs, the second H. GELU(a) = a Phi(a) = a (1 + erf(a / sqrt(2))) / 2 of each
    element. (Vaswani et al. 2017, section 3.3; Hendrycks & Gimpel 2016, section 2.)

    layer: 0 to 5. attention_output: (S, H). Returns (S, H).

    Parameters used, all after the prefix f"encoder.layer.{layer}.": intermediate.dense with .weight (I, H) and
    .bias (I,); output.dense with .weight (H, I) and .bias (H,); output.LayerNorm with .weight and .bias (H,).
    """
    raise NotImplementedError("feed_forward")


def pooling(hidden_states: np.ndarray) -> np.ndarray:
    """Hole 5: the mean of the hidden states over all tokens, divided by its length (the square root of its dot product
    with itself). (Reimers & Gurevych 2019, section 3.)

    hidden_states: (S, H) of the last layer; [CLS] and [SEP], the first and the last token, belong to the mean.
    Returns (H,), a vector of length 1.
    """
    raise NotImplementedError("pooling")


def encode(params: Params, token_ids: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
    """Hole 6: the whole model: embeddings, six layers of attention and feed_forward, pooling.

    Each layer gets the result of the layer before it. (Vaswani et al. 2017, figure 1, the left half.)

    token_ids, token_type_ids: (S,) integers. Returns (H,), the sentence embedding.
    """
    raise NotImplementedError("encode")
