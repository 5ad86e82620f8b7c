"""FastAPI: coroutines share a cache with all workers. `uvicorn fastapi_app:app --workers 4`"""

import asyncio
import os

from fastapi import FastAPI

from larder_cache import Cache, aio

app = FastAPI()
# Opened before the workers are forked or spawned; each goes on with it.
cache = aio.Cache(Cache(os.environ.get("CACHE_DIR", "fastapi-cache"), max_bytes="256MiB"))


@app.get("/report/{name}")
async def report(name: str) -> dict[str, str | int]:
    """Of all requests that miss at once, in all workers, one computes; the event loop never waits for a file."""

    async def compute() -> dict[str, str | int]:
        await asyncio.sleep(0.2)  # stands for a query
        return {"name": name, "computed": await cache.incr(f"computed:{name}", initial=1)}

    found: dict[str, str | int] = await cache.get_or_set(f"report:{name}", compute, "5m")
    return found


@app.post("/visit")
async def visit() -> dict[str, int]:
    """Atomic over all workers."""
    return {"visits": await cache.incr("visits", initial=1)}
