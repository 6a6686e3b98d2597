"""python -m lanczos_saddle: the command line, as torchrun starts it."""

import sys

from lanczos_saddle.cli import main

sys.exit(main())
