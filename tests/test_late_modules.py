"""A module that is put off is imported as ever, and loaded by whoever looks into it."""

import subprocess
import sys
from pathlib import Path

import pytest

import edge
from edge.late_modules import UNUSED

FIRST = "import edge.late_modules as late; late.put_off_unused(); "


def run(code: str, limit_s: float = 60.0) -> str:
    """What a fresh interpreter prints."""
    command, folder = [sys.executable, "-c", code], Path(edge.__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, timeout=limit_s).stdout


def test_what_a_library_imports_and_nobody_uses_is_not_loaded() -> None:
    """After all that the command imports, up to the link and the messages."""
    after = f"{FIRST}import edge.cli, edge.start, sys; "
    stand_ins = f"print(*(len(vars(sys.modules[name])) < 10 for name in {list(UNUSED)!r}), 'http' in sys.modules)"
    assert run(after + stand_ins) == "True True True True False\n"


def test_nor_is_it_once_a_trainer_has_come_and_gone() -> None:
    """Most devices have one count their recordings, and then wait. Seen to fail: its folder took ``shutil``."""
    after = f"{FIRST}import sys; from edge.trainer.pool import _Child; _Child(1, 0, None).end(); "
    assert run(f"{after}print(len(vars(sys.modules['shutil'])) < 10, 'bz2' in sys.modules)") == "True False\n"


def test_a_function_that_was_taken_from_it_loads_it_when_it_is_called() -> None:
    """Seen to fail where the name alone loads it."""
    code = f"{FIRST}from importlib.metadata import version, distribution; import sys; print(version('click')[:2])"
    assert run(code) == "8.\n"
    early = f"{FIRST}from importlib.metadata import version; import sys; print('email' in sys.modules, "
    assert run(f"{early} version('click')[:2], 'email' in sys.modules)") == "False 8. True\n"


@pytest.mark.parametrize(
    "importing", ["import urllib.request", "from urllib import request", "import urllib.request as r"]
)
def test_it_is_there_for_whoever_asks(importing: str) -> None:
    code = f"{FIRST}{importing}; import urllib; print(urllib.request.quote('a b'), 'http' in sys.modules)"
    assert run(f"import sys; {code}") == "a%20b True\n"


@pytest.mark.parametrize(
    ("asking", "answer"),
    [
        ("import shutil as kept, sys; kept.Error is kept.Error is sys.modules['shutil'].Error", "True"),
        ("from shutil import *; copyfile.__module__", "shutil"),
        ("import shutil; shutil._samefile.__module__", "shutil"),
        ("import importlib.util; importlib.util.find_spec('shutil').name", "shutil"),
        ("from importlib.metadata import entry_points; len(entry_points(group='nothing', name='x'))", "0"),
    ],
)
def test_all_is_as_it_would_be_without_having_been_put_off(asking: str, answer: str) -> None:
    """Kept by whoever imported it early, and asked for all, for what is private, or for where it lies.

    Seen to fail loaded anew at each look, without ``__all__``, private names or a spec, and with arguments lost.
    """
    before, _, question = asking.rpartition("; ")
    assert run(f"{FIRST}{before}; print({question})") == f"{answer}\n"


def test_names_can_be_imported_from_it() -> None:
    code = f"{FIRST}from google.protobuf.internal.python_message import GeneratedProtocolMessageType as Type"
    assert "GeneratedProtocolMessageType" in run(f"{code}; print(Type)")


def test_a_name_that_it_lacks_is_an_error_as_ever() -> None:
    code = (
        f"{FIRST}import urllib.request; print(hasattr(urllib.request, 'nothing'), hasattr(urllib.request, 'urlopen'))"
    )
    assert run(code) == "False True\n"


def test_what_is_loaded_already_stays() -> None:
    code = f"import urllib.request as before; {FIRST}import sys; print(sys.modules['urllib.request'] is before)"
    assert run(code) == "True\n"


def test_two_threads_that_load_what_was_put_off_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Seen to fail: one held our lock and waited for an import, of which the other waited for our lock."""
    modules = {
        "first": "import events; events.loading.set(); import shared",  # put off, and loaded by the main thread
        "second": "",  # put off as well
        "shared": "import events; events.importing.set(); events.loading.wait(10); import second; second.x",
        "events": "import threading; loading, importing = threading.Event(), threading.Event()",
    }
    for name, code in modules.items():
        (tmp_path / f"{name}.py").write_text(f"{code}\nx = 1\n", encoding="utf-8")
    code = (
        f"import sys, threading; sys.path.insert(0, {str(tmp_path)!r}); import edge.late_modules as late, events; "
        "late.put_off('first'); late.put_off('second'); "
        "threading.Thread(target=lambda: __import__('shared'), daemon=True).start(); events.importing.wait(10); "
        "import first; print(first.x)"
    )
    assert run(code, limit_s=20) == "1\n"
