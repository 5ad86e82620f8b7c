"""Tries an installed wheel in an environment that has nothing else: `make wheels` runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata

from larder_cache import Cache, __version__


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


with tempfile.TemporaryDirectory() as home:
    cache = Cache[str](f"{home}/cache")
    cache.set("greeting", "Hello, friend! " * 100)
    assert cache.get("greeting") == "Hello, friend! " * 100
    # The program on PATH is the wheel's, and reads what Python compressed.
    assert run("cachectl", "-C", f"{home}/cache", "get", "greeting") == ("Hello, friend! " * 100).strip()
    assert __version__ in run(sys.executable, "-m", "larder_cache", "--version")
installed = metadata.distribution("larder-cache")
# What PyPI will show is the wheel's own description: its first example runs as it stands.
shown = str(installed.metadata.get_payload()) or installed.metadata["Description"]
example = re.search(r"^```python\n(.*?)^```$", shown, re.DOTALL | re.MULTILINE)
assert example is not None
with tempfile.TemporaryDirectory() as home:
    os.chdir(home)
    exec(compile(example[1], "README.md", "exec"), {"__name__": "example"})
    os.chdir("/")
assert {path.name for path in installed.files or [] if "licenses" in path.parts} >= {"LICENSE-APACHE", "LICENSE-MIT"}
print(f"larder_cache {__version__} and cachectl work from the wheel, in Python {sys.version.split()[0]}")
