"""Modules that a library imports and hardly ever uses, loaded when something in them is asked for.

``edge run`` alone asks for it, before it imports what needs them: a waiting device carries all that was ever imported,
all day. Python 3.15's ``lazy import`` (PEP 810) does this in the language; ``importlib.util.LazyLoader`` doesn't serve,
since the library's own ``import`` already loads what it put off.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any, Final

UNUSED: Final = (
    "urllib.request",  # paho's, for a proxy: 0.6 MB with HTTP's client
    "google.protobuf.internal.python_message",  # protobuf's, for where it has no compiled half: 0.8 MB
)
_lock = threading.Lock()  # held for no import: that has locks of its own, and knows when two wait for each other


def put_off_unused() -> None:
    """Put off all that a waiting device never uses."""
    for name in UNUSED:
        put_off(name)


def put_off(name: str) -> None:
    """Have ``import`` of the module ``name``, no package, give a stand-in; it is loaded at the first look into it.

    Where it has been imported already nothing happens. Its parent package is imported.
    """
    if name in sys.modules:
        return
    stand_in = ModuleType(name)
    stand_in.__spec__ = importlib.util.find_spec(name)

    def look(attribute: str) -> Any:
        """What is asked of the stand-in (PEP 562) and isn't in it."""
        if attribute.startswith("__") and attribute != "__all__":  # the import system's own questions
            raise AttributeError(f"module {name!r} has no attribute {attribute!r} until it is loaded")
        with _lock:
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__getattr__ = look  # type: ignore[method-assign]
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), leaf, stand_in)
    sys.modules[name] = stand_in
