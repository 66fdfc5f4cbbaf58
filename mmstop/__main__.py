"""Let ``python -m mmstop`` run the ``mmstop`` command."""

import sys

from mmstop_cli import main

sys.exit(main())
