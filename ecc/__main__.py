"""``python -m ecc`` is the command ``ecc``."""

import sys

from ecc.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
