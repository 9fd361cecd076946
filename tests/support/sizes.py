"""How much the longest tests do: less by default, all of it with `tools/test --long`."""

import os

LONG = bool(os.environ.get("VENTIFS_LONG"))
