"""``manage.py larder stats | prune | clear | verify``."""

from __future__ import annotations

from typing import Any

from django.core.cache import caches
from django.core.management.base import BaseCommand, CommandError, CommandParser

from larder_cache import Error
from larder_cache.django.backend import LarderCache


class Command(BaseCommand):
    """Looks into a cache and takes care of it."""

    help = "Shows, prunes, clears or verifies a cache of Larder's."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["stats", "prune", "clear", "verify"])
        parser.add_argument("--cache", default="default", help="the alias in CACHES (default: default)")
        parser.add_argument("--dry-run", action="store_true", help="prune: remove nothing, tell what would be")
        parser.add_argument("--repair", action="store_true", help="verify: mend what can be mended")

    def handle(self, *args: Any, **options: Any) -> None:
        alias = options["cache"]
        cache = caches[alias]
        if not isinstance(cache, LarderCache):
            raise CommandError(f"the cache {alias!r} is a {type(cache).__name__}, not a LarderCache")
        try:
            getattr(self, f"_{options['action']}")(cache, options)
        except Error as error:
            raise CommandError(str(error)) from error

    def _stats(self, cache: LarderCache, options: dict[str, Any]) -> None:
        stats = cache.stats()
        reads = stats.hits + stats.misses
        share = f" ({100 * stats.hits / reads:.1f} % of reads)" if reads else ""
        for name, text in {
            "entries": f"{stats.entries:,} of {stats.max_entries:,}" if stats.max_entries else f"{stats.entries:,}",
            "bytes": f"{stats.bytes:,} of {stats.max_bytes:,}" if stats.max_bytes else f"{stats.bytes:,}",
            "hits": f"{stats.hits:,}{share}",
            "misses": f"{stats.misses:,}",
            "sets": f"{stats.sets:,}",
            "deletes": f"{stats.deletes:,}",
            "evictions": f"{stats.evictions:,}",
            "expired": f"{stats.expired:,}",
        }.items():
            self.stdout.write(f"{name:<10} {text}")

    def _prune(self, cache: LarderCache, options: dict[str, Any]) -> None:
        report = cache.larder.prune(dry_run=options["dry_run"])
        removed = sum(report.removed.values())
        verb = "would remove" if report.dry_run else "removed"
        self.stdout.write(f"{verb} {removed:,} entries, {report.removed_bytes:,} bytes; {report.kept:,} stay")

    def _clear(self, cache: LarderCache, options: dict[str, Any]) -> None:
        cache.clear()
        self.stdout.write(f"cleared the entries under the key prefix {cache.key_prefix!r}")

    def _verify(self, cache: LarderCache, options: dict[str, Any]) -> None:
        report = cache.larder.verify(repair=options["repair"])
        for finding in report.findings:
            mended = ", mended" if finding.repaired else ""
            self.stdout.write(f"{finding.place}: {finding.problem}: {finding.detail}{mended}")
        self.stdout.write(f"{report.entries:,} sound entries, {len(report.findings):,} findings")
        if len(report.findings) > report.repaired:
            raise CommandError("the cache has faults; --repair mends what can be mended")
