"""Settings under which Django's own suite runs: sessions and everything else that caches go to Larder."""

import os

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3"}, "other": {"ENGINE": "django.db.backends.sqlite3"}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
CACHES = {
    "default": {"BACKEND": "larder_cache.django.LarderCache", "LOCATION": os.environ["LARDER_SUITE_DIR"] + "/default"}
}
