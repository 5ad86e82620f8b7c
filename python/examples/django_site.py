"""Django in one file. `gunicorn --preload --workers 4 django_site:application`"""

import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "keep the real one out of the code"),
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["larder_cache.django"],
    CACHES={
        "default": {
            "BACKEND": "larder_cache.django.LarderCache",
            "LOCATION": os.environ.get("CACHE_DIR", "/var/cache/site"),
            "OPTIONS": {"max_bytes": "256MiB"},
        }
    },
)
django.setup()

from django.core.cache import cache  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from larder_cache.django import larder_cache_page  # noqa: E402


@larder_cache_page(60, tags=["pages"])
def front(request: HttpRequest) -> HttpResponse:
    """Rendered by one request, for all workers."""
    cache.add("renderings", 0, None)
    return HttpResponse(f"<h1>rendered {cache.incr('renderings')} times</h1>")


def visit(request: HttpRequest) -> JsonResponse:
    """Atomic over all workers."""
    cache.add("visits", 0, None)
    return JsonResponse({"visits": cache.incr("visits")})


urlpatterns = [path("", front), path("visit", visit)]
application = get_wsgi_application()
