"""Where things are kept that take long to make or come from far: outside any checkout, shared by all of them.

Theory: what is in the cache is named after its version and appears by a rename, so what is there is whole.

Called by: binaries, packages.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """`TORTIE_CACHE`, else `$XDG_CACHE_HOME/tortie`, else `~/.cache/tortie`. May not exist yet."""
    if own := os.environ.get("TORTIE_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tortie"
