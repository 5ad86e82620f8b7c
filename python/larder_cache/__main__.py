"""``python -m larder_cache``: the program ``cachectl`` that wheels bring along."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig


def main() -> None:
    """Becomes ``cachectl``: that of this environment, else the one on ``PATH``."""
    found = shutil.which("cachectl", path=sysconfig.get_path("scripts")) or shutil.which("cachectl")
    if found is None:
        sys.exit("larder_cache: cachectl is not installed: wheels have it; from source, cargo install --path cli")
    os.execv(found, ["cachectl", *sys.argv[1:]])


if __name__ == "__main__":
    main()
