"""Modules that a library imports and hardly ever uses, loaded when something in them is asked for.

``edge run`` alone asks for it, before anything that needs them is imported: a waiting device carries all that was ever
imported, all day. Python 3.15's ``lazy import`` (PEP 810) does this in the language; ``importlib.util.LazyLoader``
doesn't serve, since the library's own ``import`` already loads what it put off.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

UNUSED: Final[dict[str, tuple[str, ...]]] = {  # and what is taken from it where it is imported, all of it functions
    "urllib.request": (),  # paho's, for a proxy: 0.6 MB with HTTP's client
    "google.protobuf.internal.python_message": (),  # protobuf's, for where it has no compiled half: 0.8 MB
    "importlib.metadata": (
        "entry_points",
        "version",
    ),  # pydantic's, to find plugins: 1.7 MB with those of e-mail and zip
    "shutil": (),  # tempfile's, to clean up: 0.6 MB with all kinds of compression
}
_lock = threading.Lock()  # held for no import: that has locks of its own, and knows when two wait for each other


def put_off_unused() -> None:
    """Put off all that a waiting device never uses, and have pydantic look for no plugins."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "1"  # nor does a device run code that nobody knows of
    for name, functions in UNUSED.items():
        put_off(name, *functions)


def put_off(name: str, *functions: str) -> None:
    """Have ``import`` of the module ``name`` give a stand-in; it is loaded at the first look into it.

    Of its ``functions`` nobody need look before they are called. Where it has been imported already nothing happens.
    Its parent package is imported; one of its own modules can't be as long as it is put off.
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

    def later(function: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return look(function)(*args, **kwargs)

        return call

    stand_in.__getattr__ = look  # type: ignore[method-assign]
    for function in functions:
        setattr(stand_in, function, later(function))
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), leaf, stand_in)
    sys.modules[name] = stand_in
