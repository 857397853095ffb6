"""Which words does "it" attend to? Attention probabilities of one head, read off the named stages."""

from minilm_np import SentenceTransformer

model = SentenceTransformer()
stages = model.stages(["The cat sat on the mat because it was tired."], detail=True)
tokens = stages["tokens"][0]
probs = stages["encoder.layer.5.attention.self.attention_probs"][0]  # (12 heads, 13 tokens, 13 tokens)

row = probs[11, tokens.index("it")]  # head 11: what "it" attends to; the row sums to 1
for token, p in sorted(zip(tokens, row, strict=True), key=lambda pair: -pair[1])[:3]:
    print(f"{token:6} {p:.2f} {'#' * round(40 * p)}")
