"""Runs Django's own tests of caches, sessions and middleware under Larder: ``run.py FOLDER``.

They are not part of Django's wheel, so its sdist of the installed release is fetched into FOLDER by pip. What runs:

- ``larder_suite``: Django's ``BaseCacheTests``, which every backend must pass;
- ``sessions_tests``, with ``CACHES`` of Larder's;
- the tests of the cache middleware, of cached pages, fragments and keys, whose local-memory cache is Larder's here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

HERE = Path(__file__).parent
LABELS = [
    "larder_suite",
    "sessions_tests",
    *(
        f"cache.tests.{name}"
        for name in (
            "CacheUtils",
            "CacheHEADTest",
            "CacheI18nTest",
            "PrefixedCacheI18nTest",
            "CacheMiddlewareTest",
            "TestWithTemplateResponse",
            "TestMakeTemplateFragmentKey",
            "CacheHandlerTest",
        )
    ),
]


def fetch(folder: Path) -> Path:
    """The folder of the tests of the installed release."""
    version = django.__version__
    tests = folder / f"django-{version}" / "tests"
    if not tests.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"django=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True)
        with tarfile.open(next(folder.glob(f"[dD]jango-{version}.tar.gz"))) as sdist:
            sdist.extractall(folder, [m for m in sdist.getmembers() if "/tests/" in m.name], filter="data")
        found = next(path for path in folder.glob(f"[dD]jango-{version}") if path.is_dir())
        found.rename(folder / f"django-{version}")
    return tests


def main() -> int:
    """Runs them; the exit status is that of Django's runner."""
    tests = fetch(Path(sys.argv[1]).absolute())
    suite = tests / "larder_suite"
    suite.mkdir(exist_ok=True)
    (suite / "__init__.py").touch()
    shutil.copy(HERE / "larder_suite.py", suite / "tests.py")
    shutil.copy(HERE / "larder_settings.py", tests)
    with tempfile.TemporaryDirectory(prefix="larder-suite-") as caches:
        environment = {**os.environ, "LARDER_SUITE_DIR": caches}
        how = ["--settings=larder_settings", "--parallel=1", "--verbosity=1"]
        return subprocess.run([sys.executable, "runtests.py", *how, *LABELS], cwd=tests, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
