"""``python -m condorpool`` is the command ``condorpool``."""

import sys

from condorpool.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
