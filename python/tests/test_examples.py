"""The examples run, the web applications under the servers that they name."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, where: Path) -> list[str]:
    done = subprocess.run([sys.executable, EXAMPLES / name], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_script_asks_once(tmp_path: Path) -> None:
    assert run("script.py", tmp_path) == ["asking the service", "1 EUR = 0.94 CHF", "runs so far: 1"]
    assert run("script.py", tmp_path) == ["1 EUR = 0.94 CHF", "runs so far: 2"]


def test_the_notebook_keeps_what_it_computed(tmp_path: Path) -> None:
    first, second = run("notebook_memo.py", tmp_path), run("notebook_memo.py", tmp_path)
    assert first[0] == "simulating 1000 steps" and first[1:2] == second[:1]
    assert second[1:] == ["CacheInfo(hits=2, misses=0)"]


def test_the_workers_compute_each_square_once(tmp_path: Path) -> None:
    assert run("workers.py", tmp_path) == ["4 processes computed 100 squares together"]


def test_the_flask_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask")
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from flask_app import app

    client = app.test_client()
    assert [client.get("/").text for _ in range(2)] == ["<h1>rendered 1 times</h1>"] * 2
    assert [client.get("/visit").json for _ in range(2)] == [{"visits": 1}, {"visits": 2}]
    assert client.post("/publish").status_code == 204
    assert client.get("/").text == "<h1>rendered 2 times</h1>"


def at_once(count: int, url: str, **how: Any) -> list[str]:
    """What so many requests of eight threads are answered."""

    def ask(_: int) -> str:
        with urllib.request.urlopen(urllib.request.Request(url, **how), timeout=30) as answer:
            return str(answer.read().decode())

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(ask, range(count)))


def test_gunicorn_that_forks_after_the_cache_was_opened(tmp_path: Path, serve: Any) -> None:
    """`--preload` opens the cache in the arbiter; three workers go on with it and count together."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("django")
    how = ["--preload", "--workers=3", "django_site:application"]
    with serve(
        lambda port: [sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{port}", *how],
        cwd=EXAMPLES,
        CACHE_DIR=str(tmp_path / "cache"),
    ) as port:
        site = f"http://127.0.0.1:{port}"
        assert at_once(24, f"{site}/") == ["<h1>rendered 1 times</h1>"] * 24
        visits = sorted(json.loads(answer)["visits"] for answer in at_once(60, f"{site}/visit"))
        assert visits == list(range(1, 61)), "no visit is lost and none is counted twice"


def test_uvicorn_with_workers(tmp_path: Path, serve: Any) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    how = ["--workers=2", "--log-level=error", "fastapi_app:app"]
    with serve(
        lambda port: [sys.executable, "-m", "uvicorn", f"--port={port}", *how],
        cwd=EXAMPLES,
        CACHE_DIR=str(tmp_path / "cache"),
    ) as port:
        site = f"http://127.0.0.1:{port}"
        reports = at_once(24, f"{site}/report/sales")
        assert [json.loads(report) for report in reports] == [{"name": "sales", "computed": 1}] * 24
        visits = sorted(json.loads(answer)["visits"] for answer in at_once(60, f"{site}/visit", method="POST"))
        assert visits == list(range(1, 61))
