"""What the tests share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from larder_cache import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache[Any]:
    """An empty cache in a directory of its own."""
    return Cache(tmp_path / "cache")


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _serve(command: Callable[[int], list[str]], cwd: Path | None = None, **environment: str) -> Iterator[int]:
    """The port of a server that runs while it is used."""
    port, env = _port(), {**os.environ, **environment}
    with subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=cwd, env=env) as server:
        try:
            for _ in range(3000):
                if server.poll() is not None or _answers(port):
                    break
                time.sleep(0.01)
            if server.poll() is not None:
                assert server.stderr is not None
                pytest.fail(f"the server did not start: {server.stderr.read().decode()}")
            yield port
        finally:
            server.terminate()


@pytest.fixture
def serve() -> Any:
    """A context manager that runs a server: from its command by port, its directory and environment to its port."""
    return contextmanager(_serve)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis server that this session started."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    command = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    for port in _serve(lambda port: [program, "--port", str(port), *command]):
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def memcached_url() -> Iterator[str]:
    """The URL of a Memcached server that this session started."""
    program = shutil.which("memcached")
    if program is None:
        pytest.skip("memcached is not installed")
    for port in _serve(lambda port: [program, "-l", "127.0.0.1", "-p", str(port), "-u", "nobody"]):
        yield f"memcached://127.0.0.1:{port}"


@pytest.fixture(params=["file", "memory", "redis", "memcached", "tiered"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Cache[Any]:
    """An empty cache on each of the stores in turn."""
    match request.param:
        case "file":
            return Cache(tmp_path / "cache")
        case "memory":
            return Cache("memory://")
        case "tiered":
            return Cache("tiered:", near="memory://", far=f"file://{tmp_path}/far")
    url = request.getfixturevalue(f"{request.param}_url")
    # A prefix of its own keeps tests apart.
    return Cache(url, prefix=f"t{abs(hash(request.node.nodeid)):x}")
