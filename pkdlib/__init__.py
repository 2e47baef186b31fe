"""Patient Knowledge Distillation (Sun et al., EMNLP 2019): the objective, the loops, the cache and the analysis.

The core lies at the top of this package. It reads in this order: losses, layer_maps, objectives, models, tasks, data,
targets, evaluation, loop, training, config, records. `__init__.pyi` lists the names that the package gives.
"""

from pkdlib.engine.files import VERSION as __version__  # noqa: F401
from pkdlib.engine.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)  # a name is imported when it is first used
