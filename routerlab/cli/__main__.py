"""`python -m routerlab.cli` is the same as `routerlab`."""

import sys

from routerlab.cli import main

sys.exit(main())
