"""Training: losses over a batch of texts, the gradients of every parameter, and AdamW.

Examples
--------
>>> from minilm_np import SentenceTransformer
>>> from minilm_np.training import loss_and_gradients
>>> model = SentenceTransformer(backend="numpy")
>>> examples = [["How far is the moon?", "It is 384,400 km away."], ["Who wrote Hamlet?", "Shakespeare wrote it."]]
>>> loss, gradients = loss_and_gradients(model, examples)
>>> gradients["encoder.layer.0.attention.self.query.weight"].shape
(384, 384)
"""

from minilm_np.training.gradients import loss_and_gradients as loss_and_gradients
from minilm_np.training.lines import DataError as DataError
from minilm_np.training.losses import CoSENTLoss as CoSENTLoss
from minilm_np.training.losses import CosineSimilarityLoss as CosineSimilarityLoss
from minilm_np.training.losses import Loss as Loss
from minilm_np.training.losses import MatryoshkaLoss as MatryoshkaLoss
from minilm_np.training.losses import MultipleNegativesRankingLoss as MultipleNegativesRankingLoss
from minilm_np.training.losses import TripletLoss as TripletLoss
from minilm_np.training.optimizer import AdamW as AdamW
from minilm_np.training.optimizer import clip_gradients as clip_gradients
from minilm_np.training.optimizer import learning_rate_at as learning_rate_at
from minilm_np.training.trainer import History as History
from minilm_np.training.trainer import TrainingError as TrainingError
from minilm_np.training.trainer import retrieval_scores as retrieval_scores
from minilm_np.training.trainer import train as train

__all__ = [
    "AdamW",
    "CoSENTLoss",
    "CosineSimilarityLoss",
    "DataError",
    "History",
    "Loss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "TrainingError",
    "TripletLoss",
    "clip_gradients",
    "learning_rate_at",
    "loss_and_gradients",
    "retrieval_scores",
    "train",
]
