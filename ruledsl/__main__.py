"""`python -m ruledsl`: the same as the command `ruledsl`."""

import sys

from ruledsl.cli.entry import main

if __name__ == "__main__":  # and not where a process that reads images imports what started it
    sys.exit(main())
