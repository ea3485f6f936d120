"""The command behind run.sh: `python -m services.driver [options]`."""

import signal
import sys

from services.driver.app import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
