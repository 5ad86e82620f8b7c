"""System checks: what a site's settings say about its caches that it would rather know now."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.utils.module_loading import import_string

from larder_cache import Cache
from larder_cache import Error as LarderError
from larder_cache.django import backend
from larder_cache.django.backend import LarderCache, is_url, larder_options

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "ceph", "glusterfs", "afs", "lustre"}
#: Directories that systemd-tmpfiles and its like clean by age.
_CLEANED = ("/tmp", "/var/tmp")


def _aliases() -> dict[str, dict[str, Any]]:
    """The aliases of ``CACHES`` that are Larder's."""
    found = {}
    for alias, params in settings.CACHES.items():
        try:
            found_class = import_string(params.get("BACKEND", ""))
        except ImportError:
            continue
        if isinstance(found_class, type) and issubclass(found_class, LarderCache):
            found[alias] = params
    return found


def check_caches(**_: Any) -> list[CheckMessage]:
    """All checks of all aliases."""
    messages: list[CheckMessage] = []
    limits: dict[str, tuple[str, dict[str, Any]]] = {}
    for alias, params in _aliases().items():
        location = os.fspath(params.get("LOCATION", ""))
        messages += _options(alias, params)
        if is_url(location):
            continue
        if not backend.HAS_DIRECTORIES:
            messages.append(_stand_in(alias))
            continue
        messages += _directory(alias, location)
        messages += _conflicts(alias, location, larder_options(params))
        own = {name: value for name, value in larder_options(params).items() if name in _SHARED}
        path = os.path.realpath(location)
        first, others = limits.setdefault(path, (alias, own))
        if others != own:
            messages.append(
                Warning(
                    f"The cache aliases {first!r} and {alias!r} share the directory {location} but not its limits.",
                    hint="Limits belong to the directory: give both aliases the same, or a LOCATION each.",
                    id="larder_cache.W001",
                )
            )
    return messages


def check_limits(**_: Any) -> list[CheckMessage]:
    """What ``check --deploy`` tells besides: caches that may fill the disk."""
    return [
        Warning(
            f"The cache {alias!r} has no limit of bytes.",
            hint='Set one in OPTIONS, such as "max_bytes": "2GiB". The limit of entries alone says little of the disk.',
            id="larder_cache.W005",
        )
        for alias, params in _aliases().items()
        if not is_url(os.fspath(params.get("LOCATION", ""))) and not larder_options(params).get("max_bytes")
    ]


def _stand_in(alias: str) -> CheckMessage:
    """What is said of a directory on a platform that has none."""
    hint = f"Larder keeps caches in directories on Linux; this is {sys.platform}. Set LOCATION to a server: redis://host."
    if settings.DEBUG:
        text = f"The cache {alias!r} is in the memory of each process, and ends with it."
        return Warning(text, hint=hint, id="larder_cache.W004")
    return Error(f"The cache {alias!r} can't be opened on this platform.", hint=hint, id="larder_cache.E003")


#: Options that belong to the directory and so to all who open it.
_SHARED = frozenset(
    {"max_entries", "max_bytes", "min_free_bytes", "min_free_inodes", "policy", "durability", "layout", "access"}
)


def _options(alias: str, params: dict[str, Any]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    options = params.get("OPTIONS", {})
    if "CULL_FREQUENCY" in options or "CULL_FREQUENCY" in params:
        messages.append(
            Info(
                f"CULL_FREQUENCY of the cache {alias!r} is without effect.",
                hint="At its limit Larder evicts one entry for each new one, by its policy. Remove the option.",
                id="larder_cache.I001",
            )
        )
    return messages


def _directory(alias: str, location: str) -> list[CheckMessage]:
    if not location:
        hint = 'Set LOCATION to a directory, such as "/var/cache/site".'
        return [Error(f"The cache {alias!r} has no LOCATION.", hint=hint, id="larder_cache.E001")]
    messages: list[CheckMessage] = []
    path = Path(os.path.realpath(location))
    there = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK):
        messages.append(
            Error(
                f"The cache {alias!r} can't be written: {there} isn't writable for this user.",
                hint=f"Make {location} and give it to the user that runs the site.",
                id="larder_cache.E002",
            )
        )
    kind = _file_system(there)
    if kind in _NETWORK:
        messages.append(
            Warning(
                f"The cache {alias!r} is on a network file system ({kind}).",
                hint="Use a local directory for each machine, or the URL of a server: redis://host:6379.",
                id="larder_cache.W002",
            )
        )
    if any(path.is_relative_to(cleaned) for cleaned in _CLEANED):
        messages.append(
            Warning(
                f"The cache {alias!r} is below {path.parts[1]}, where cleaners remove files by their age.",
                hint="Use /var/cache/<site>, or exclude the directory in tmpfiles.d.",
                id="larder_cache.W003",
            )
        )
    return messages


def _conflicts(alias: str, location: str, options: dict[str, Any]) -> list[CheckMessage]:
    """The options of an alias that don't hold, since its directory has other settings already."""
    options = {name: value for name, value in options.items() if name not in ("serializer", "pickle_key")}
    try:
        found = Cache[Any](location, **{**options, "create": False}).conflicts()
    except (LarderError, TypeError, ValueError):
        # There is none yet, or opening it will say what is wrong.
        return []
    return [
        Warning(
            f"Of the cache {alias!r} {name} is {kept}, not {given}: its directory was made with that.",
            hint=f'Put "on_conflict": "apply" into OPTIONS, or change it by: cachectl -C {location} config set {name}={given}',
            id="larder_cache.W006",
        )
        for name, (given, kept) in found.items()
    ]


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path; empty where it can't be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split(" ")[4].encode().decode("unicode_escape")
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, after.split(" ")[0]
    return kind
