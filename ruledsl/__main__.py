"""`python -m ruledsl`: the same as the command `ruledsl`."""

import sys

from ruledsl.cli.main import main

sys.exit(main())
