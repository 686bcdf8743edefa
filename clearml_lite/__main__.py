"""`python -m clearml_lite`."""

import sys

from clearml_lite.cli import main

sys.exit(main())
