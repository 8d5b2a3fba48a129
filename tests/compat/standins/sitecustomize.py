"""Stand-ins for torch and transformers, which FastChat's programs import but do not use in these tests.

Python imports a module of this name at its start if it is on the path. FastChat's controller, API server and test
client run no model, and the tests' worker has none. Each attribute of these packages is an empty class.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

ABSENT = ("torch", "transformers", "psutil", "accelerate", "huggingface_hub", "peft", "tqdm")


class StandIn(types.ModuleType):
    """A package that is not installed."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__getattr__": lambda self, name: None, "__call__": lambda self, *args, **named: None})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages in `ABSENT` and their modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(Finder())  # after all others: installed packages are preferred
