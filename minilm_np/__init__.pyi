from .checkpoint import WeightsError as WeightsError
from .encoder import InputError as InputError
from .ops import l2_normalize as l2_normalize
from .ops import mean_pool as mean_pool
from .sentence_transformer import SentenceTransformer as SentenceTransformer
from .sentence_transformer import TextInfo as TextInfo
from .sentence_transformer import TruncationWarning as TruncationWarning
from .tokenizer import Tokens as Tokens
from .util.helpers import LoggingHandler as LoggingHandler
from .util.quantization import quantize_embeddings as quantize_embeddings
from .util.similarity import SimilarityFunction as SimilarityFunction
from .weights import WeightsNotFoundError as WeightsNotFoundError

__version__: str
