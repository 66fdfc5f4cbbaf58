"""``python -m mmstop`` is ``mmstop``."""

import sys

from mmstop.cli import main

sys.exit(main())
