"""The command behind run.sh: `python -m services.driver [options]`."""

import sys

from services.driver.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
