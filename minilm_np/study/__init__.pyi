from .ablation import Ablation as Ablation
from .ablation import ablate as ablate
from .ablation import head_effects as head_effects
from .attribution import Attributions as Attributions
from .attribution import attributions as attributions
from .exercises import HoleResult as HoleResult
from .exercises import check_exercise as check_exercise
from .exercises import write_exercise as write_exercise
from .lab import Laboratory as Laboratory
from .lab import Lesson as Lesson
from .lab import Switch as Switch
from .lab import laboratory as laboratory
from .similarity import TokenPairs as TokenPairs
from .similarity import layer_cosines as layer_cosines
from .similarity import token_pairs as token_pairs
from .traces import Trace as Trace
from .traces import trace as trace

__all__ = [
    "Ablation",
    "Attributions",
    "HoleResult",
    "Laboratory",
    "Lesson",
    "Switch",
    "TokenPairs",
    "Trace",
    "ablate",
    "attributions",
    "check_exercise",
    "head_effects",
    "laboratory",
    "layer_cosines",
    "token_pairs",
    "trace",
    "write_exercise",
]
