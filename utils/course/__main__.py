"""python -m utils.course: the same as the command `labs`."""

import sys

from utils.course.cli import main

sys.exit(main())
