"""Run the command line: ``python -m nbnorm``."""

import sys

from nbnorm.cli import main

if __name__ == "__main__":
    sys.exit(main())
