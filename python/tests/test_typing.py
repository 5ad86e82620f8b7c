"""The stubs: that they fit what is there, and what a type checker makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
TESTS = Path(__file__).parent


def run(*command: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=TESTS.parent)
    return done.returncode, done.stdout + done.stderr


def test_a_strict_checker_accepts_the_package_and_good_code_and_refuses_bad() -> None:
    """An unneeded `type: ignore` is an error too, so each line of `typing_bad` must fail as it says."""
    package = ["larder_cache/" + name for name in ("__init__.py", "aio.py", "errors.py", "_memoize.py", "_files.py", "_build.py")]
    code, shown = run("mypy", "--strict", *package, "tests/typing_good.py", "tests/typing_bad.py")
    assert code == 0, shown


def test_the_stub_has_what_the_module_has() -> None:
    code, shown = run("mypy.stubtest", "larder_cache._larder", "--allowlist", "tests/stubtest_allowed.txt")
    assert code == 0, shown
