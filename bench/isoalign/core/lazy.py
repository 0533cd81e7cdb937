"""Libraries that take long to import, under names that stand at the top of a file and load nothing until they are used.

    from isoalign.core.lazy import transformers

    def load(name):
        return transformers.AutoTokenizer.from_pretrained(name)  # transformers is imported here

`isoalign --help`, a board, and a run whose stages are all made already need none of these libraries. What a module needs as
soon as it is imported, such as a base class or a decorator, it imports in the ordinary way.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import fsspec.core
    import h5py
    import huggingface_hub.constants
    import krippendorff
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.collections
    import matplotlib.figure
    import matplotlib.lines
    import matplotlib.path
    import matplotlib.style
    import matplotlib.transforms
    import peft.tuners.tuners_utils
    import pyarrow.parquet
    import safetensors.torch
    import scipy.optimize
    import scipy.special
    import scipy.stats
    import sklearn.feature_extraction.text
    import sklearn.linear_model
    import statsmodels.stats.inter_rater
    import torch
    import trackio
    import transformers.trainer_callback
    import transformers.utils.hub
    import trl.trainer.utils
    import vl_convert
    import vllm
    import wandb

__all__ = [
    "datasets", "fsspec", "h5py", "huggingface_hub", "krippendorff", "matplotlib", "peft", "pyarrow", "safetensors", "scipy",
    "sklearn", "statsmodels", "torch", "trackio", "transformers", "trl", "vl_convert", "vllm", "wandb",
]  # fmt: skip


class LazyModule(ModuleType):
    """A name for a module that is not imported yet: each attribute is looked up in the module itself, which imports it.

    It never enters ``sys.modules``, so other code, the library's own included, sees the real module alone, and classes and
    functions are the real ones: pickling, ``isinstance`` and patching in tests work as with an ordinary import. Threads wait
    for each other as they do at an ``import`` statement. A submodule is lazy as well, and need not be imported by its package.
    """

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        submodule = f"{self.__name__}.{name}"
        try:
            found = getattr(module, name)
        except AttributeError:
            if not hasattr(module, "__path__") or importlib.util.find_spec(submodule) is None:
                raise
            return LazyModule(submodule)
        return LazyModule(found.__name__) if isinstance(found, ModuleType) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(importlib.import_module(self.__name__), name, value)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickled, it is the real module."""
        return importlib.import_module, (self.__name__,)


if not TYPE_CHECKING:
    globals().update({name: LazyModule(name) for name in __all__})
