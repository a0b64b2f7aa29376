"""`python -m topwork`, for `accelerate launch -m topwork run recipe.yaml` and the like."""

from __future__ import annotations

import sys

from topwork.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
