"""Modules that a library imports and hardly ever uses, loaded when something in them is asked for.

``edge run`` asks for it before it imports what needs them: a waiting device carries all that was ever imported, all
day. So does ``edge.signals``, since a filter needs little of what ``scipy.signal`` imports. Python 3.15's ``lazy
import`` (PEP 810) does this in the language; ``importlib.util.LazyLoader`` doesn't serve, since the library's own
``import`` already loads what it put off.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Collection
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

UNUSED: Final = (
    "urllib.request",  # paho's, for a proxy: 0.6 MB with HTTP's client
    "google.protobuf.internal.python_message",  # protobuf's, for where it has no compiled half: 0.8 MB
)
OF_FILTERS: Final = {  # what scipy.signal imports for other things than filters, with the functions it takes by name
    "scipy.stats": ("scoreatpercentile",),  # 19 MB and half of the time that the import takes
    "scipy.optimize": ("minimize_scalar",),  # 9 MB
}
_lock = threading.Lock()  # held for no import: that has locks of its own, and knows when two wait for each other


def put_off_unused() -> None:
    """Put off all that a waiting device never uses."""
    for name in UNUSED:
        put_off(name)


def put_off(name: str, functions: Collection[str] = ()) -> None:
    """Have ``import`` of the module ``name`` give a stand-in; the module is loaded at the first look into it.

    ``functions`` of it may be taken by ``from ... import`` and are looked into when they are called. Where the module
    has been imported already nothing happens. Its parent package is imported.
    """
    if name in sys.modules:
        return
    stand_in = _StandIn(name, functions)
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), leaf, stand_in)
    sys.modules[name] = stand_in
    if _packages not in sys.meta_path:
        sys.meta_path.insert(0, _packages)


class _StandIn(ModuleType):
    def __init__(self, name: str, functions: Collection[str]) -> None:
        super().__init__(name)
        self.__spec__ = spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations  # it is a package
        self._functions = functions

    def __getattr__(self, attribute: str) -> Any:
        """What is asked of it and isn't in it."""
        if attribute.startswith("__") and attribute != "__all__":  # the import system's own questions
            raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r} until it is loaded")
        if attribute in self._functions:
            return partial(self._call, attribute)
        return getattr(self._load(), attribute)

    def _load(self) -> ModuleType:
        """The module itself."""
        name = self.__name__
        with _lock:
            if sys.modules.get(name) is self:
                del sys.modules[name]
        return importlib.import_module(name)

    def _call(self, function: str, *given: Any, **named: Any) -> Any:
        return getattr(self._load(), function)(*given, **named)


class _Packages(MetaPathFinder):
    """Loads a package that was put off before a module of it, as ``import`` has it: it may be what loads that."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """None, for the finders behind us, unless the module came with its package."""
        package = sys.modules.get(fullname.rpartition(".")[0])
        if not isinstance(package, _StandIn):
            return None
        package._load()  # noqa: SLF001 - of this file
        came = sys.modules.get(fullname)
        if came is None:
            return None
        spec = ModuleSpec(fullname, _Come(came))
        came.__spec__ = spec  # else the import system takes its own from it, and runs it once more
        return spec


class _Come(Loader):
    """Gives a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, _: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


_packages: Final = _Packages()
