"""Stand-ins for torch and transformers, which FastChat's programs import at their beginning and never use here.

Python loads a module of this name at its start wherever it stands on the path. FastChat's controller, API server and
test client run no model; the tests' worker has one of its own. Whatever of these packages is named is an empty class.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

ABSENT = ("torch", "transformers", "psutil", "accelerate", "huggingface_hub", "peft", "tqdm")


class StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__getattr__": lambda self, name: None, "__call__": lambda self, *args, **named: None})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
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


sys.meta_path.append(Finder())  # behind all others: what is installed is used
