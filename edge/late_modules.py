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
_lock = threading.RLock()


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
    stand_in = ModuleType(name)

    def looked_into() -> ModuleType:
        with _lock:
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
            return importlib.import_module(name)

    def call(function: str, *given: Any, **named: Any) -> Any:
        return getattr(looked_into(), function)(*given, **named)

    def look(attribute: str) -> Any:
        """What is asked of the stand-in (PEP 562) and isn't in it."""
        if attribute.startswith("__"):  # the import system's own questions
            raise AttributeError(f"module {name!r} has no attribute {attribute!r} until it is loaded")
        if attribute in functions:
            return partial(call, attribute)
        return getattr(looked_into(), attribute)

    stand_in.__spec__ = spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        stand_in.__path__ = spec.submodule_search_locations  # its submodules can be imported, as those of any package
    stand_in.__getattr__ = look  # type: ignore[method-assign]
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), leaf, stand_in)
    sys.modules[name] = stand_in
