"""`python -m ruledsl`: the same as the command `ruledsl`."""

import sys

from ruledsl.cli.entry import main

sys.exit(main())
