"""A module that is put off is imported as ever, and loaded by whoever looks into it."""

import subprocess
import sys
from pathlib import Path

import pytest

import edge
from edge.late_modules import OF_FILTERS, UNUSED

FIRST = "import edge.late_modules as late; late.put_off_unused(); "


def run(code: str, limit_s: float = 60.0) -> str:
    """What a fresh interpreter prints."""
    command, folder = [sys.executable, "-c", code], Path(edge.__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, timeout=limit_s).stdout


def test_what_a_library_imports_and_nobody_uses_is_not_loaded() -> None:
    """After all that the command imports, up to the link and the messages."""
    after = f"import edge.cli; {FIRST}import edge.start, sys; "
    stand_ins = f"print(*(len(vars(sys.modules[name])) < 10 for name in {UNUSED!r}), 'http' in sys.modules)"
    assert run(after + stand_ins) == "True True False\n"


@pytest.mark.parametrize(
    "importing", ["import urllib.request", "from urllib import request", "import urllib.request as r"]
)
def test_it_is_there_for_whoever_asks(importing: str) -> None:
    code = f"{FIRST}{importing}; import urllib; print(urllib.request.quote('a b'), 'http' in sys.modules)"
    assert run(f"import sys; {code}") == "a%20b True\n"


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


FILTERS = "import edge.signals.filters, edge.signals.r_peaks, sys; "
LOADED = f"[len(vars(sys.modules[name])) > 10 for name in {tuple(OF_FILTERS)!r}]"


def test_filters_do_not_load_what_scipy_imports_for_others() -> None:
    """A third of the memory and half of the time of all that a device imports to find beats."""
    assert run(f"{FILTERS}print({LOADED}, 'scipy.stats._distn_infrastructure' in sys.modules)") == (
        "[False, False] False\n"
    )


@pytest.mark.parametrize(
    ("used", "gives"),
    [
        ("import scipy.stats, scipy.optimize; scipy.stats.norm, scipy.optimize.brentq", "[True, True]"),
        ("from scipy.stats import norm", "[True, True]"),  # which asks for the other
        ("from scipy.optimize import linprog", "[False, True]"),
        ("from scipy.optimize._zeros_py import brentq; assert brentq(abs, 0, 1) == 0", "[False, True]"),
        ("from importlib.util import find_spec; assert find_spec('scipy.stats')", "[False, False]"),
        ("from scipy.signal import find_peaks_cwt as f; assert len(f([0., 1, 2, 1, 0] * 9, [2]))", "[True, True]"),
    ],
)
def test_what_others_take_of_scipy_is_there_after_filters(used: str, gives: str) -> None:
    assert run(f"{FILTERS}{used}; print({LOADED})") == f"{gives}\n"


@pytest.mark.parametrize(
    "taken",
    [
        "import scipy.stats.distributions; from scipy import stats; assert stats.distributions.norm is stats.norm",
        "from scipy.stats.contingency import crosstab",
        "import scipy, scipy.optimize._minpack_py as m; assert scipy.optimize.leastsq is m.leastsq",
        "import scipy, scipy.stats.sampling as s; assert scipy.stats.norm; assert scipy.stats.sampling is s",
        "from scipy.optimize import *; assert brentq(abs, 0, 1) == 0",
    ],
)
def test_modules_of_a_package_that_was_put_off_are_there_as_ever(taken: str) -> None:
    """Seen to fail: those that their package loads could not be imported first, others it lacked then, ``*`` gave none.

    What has been loaded stays what it was, its spec too.
    """
    ours = "[name for name, one in [*sys.modules.items()] if 'late_modules._' in str(getattr(one, '__spec__', ''))]"
    assert run(f"{FILTERS}{taken}; print({ours})") == "[]\n"


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
