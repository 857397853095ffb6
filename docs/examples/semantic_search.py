"""Search a few sentences for the one that answers a question."""

from minilm_np import SentenceTransformer, util

corpus = [
    "The Eiffel Tower is 330 metres tall.",
    "Bread is made from flour, water, salt and yeast.",
    "The Amazon carries more water than any other river.",
    "Kepler found that planets move on ellipses.",
]
model = SentenceTransformer()
embeddings = model.encode(corpus)

for question in ("What do I need for baking?", "Which river is the largest?"):
    (hit,) = util.semantic_search(model.encode(question), embeddings, top_k=1)[0]
    print(f"{hit['score']:.2f}  {corpus[hit['corpus_id']]}")
