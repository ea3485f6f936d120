"""A fleet on this machine and the page that shows it, until told to stop."""

import signal
import sys
import time

from services.driver.app import ENVIRONMENT, OK
from services.driver.processes import CannotStart, local_fleet, locked
from services.gpu import devices
from services.records import gpu_folder
from services.revision import revision
from services.settings import load

LOOK_SECONDS = 1.0


def main() -> int:
    """Serve; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where whoever began this ignores them
        signal.signal(number, signal.default_int_handler)
    settings = load()
    settings = settings.model_copy(update={"commit": revision(settings.commit).commit})
    gpu = next((gpu_folder(device.name) for device in devices()), None)
    try:
        with locked(settings.state), local_fleet(settings, gpu) as (household, client):
            print(f"the page is at {client.base_url} until Ctrl-C", flush=True)
            while True:
                household.watch()
                time.sleep(LOOK_SECONDS)
    except CannotStart as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return ENVIRONMENT
    except KeyboardInterrupt:
        return OK


if __name__ == "__main__":
    sys.exit(main())
