"""Flask: a page that is rendered once a minute for all workers, and visits counted exactly. `flask --app flask_app run`"""

import os

from flask import Flask

from larder_cache import Cache

app = Flask(__name__)
cache = Cache(os.environ.get("CACHE_DIR", "flask-cache"), max_bytes="256MiB")


@app.get("/")
def front() -> str:
    """The others wait while one renders, and get the old page for up to ten more seconds meanwhile."""
    return str(cache.get_or_set("front", render_front, 60, tags=["pages"], stale_while_revalidate=10))


def render_front() -> str:
    """Stands for slow queries and a template."""
    return f"<h1>rendered {cache.incr('renderings', initial=1)} times</h1>"


@app.get("/visit")
def visit() -> dict[str, int]:
    """Atomic over all workers."""
    return {"visits": cache.incr("visits", initial=1)}


@app.post("/publish")
def publish() -> tuple[str, int]:
    """Makes misses of all pages, at once, for all workers."""
    cache.invalidate_tag("pages")
    return "", 204
