"""An executor and a compile worker for tests: builds are counted, slow, fail or die as asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services import queue
from services.batch import Unfit
from services.executors import EXECUTORS
from services.executors.base import Built, CpuCheck, ExecutorError, group_refusal
from services.messages import KernelSpec
from services.queue import COMPILE
from services.worker import DRAIN_SECONDS, Bounds, serve

# Keeps a processor busy for so many seconds of its time.
BURN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"


class Fake:
    """Behaves as its spec's parameters say; every build leaves a line in `log`."""

    def __init__(self, name: str, log: Path):
        self.name = name
        self.log = log
        self.lacks = None

    def absence(self):
        return self.lacks

    def refusal(self, workload):
        return group_refusal(workload)

    def candidates(self, workload, arch):
        return [
            KernelSpec(
                executor=self.name,
                kernel="fake",
                arch=arch,
                parameters={"b_dtype": workload.b_dtype, "n": workload.n, "k": workload.k},
            )
        ]

    def key(self, spec):
        if "refuse" in spec.parameters:
            raise ExecutorError("fake refuses: leave it out")
        return spec.key()

    def build(self, spec):
        with self.log.open("a") as log:
            log.write(f"{spec.key()}\n")
        time.sleep(float(spec.parameters.get("milliseconds", 0)) / 1000)
        if "burn" in spec.parameters:
            subprocess.run([sys.executable, "-c", BURN, str(spec.parameters["burn"])], check=True)
        if spec.parameters.get("fail"):
            raise ValueError("this kernel cannot be")
        if spec.parameters.get("full"):
            raise OSError("no space left on device")
        if spec.parameters.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.parameters.get("die_once") and self.log.read_text().count(spec.key()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.parameters.get("slow_once") and self.log.read_text().count(spec.key()) == 1:
            time.sleep(60)
        if spec.parameters.get("greedy"):
            bytearray(1 << 30)
        if spec.parameters.get("unfit"):
            raise Unfit("this machine's GPU does not pass its test")
        if spec.parameters.get("deaf"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            time.sleep(60)
        if spec.parameters.get("large"):
            (self.log.parent / "large").write_bytes(bytes(1 << 20))
        files = {"kernel.cubin": spec.canonical().encode(), "source.cu": b"// fake\n"}
        if "said" in spec.parameters:
            files["compile.log"] = str(spec.parameters["said"]).encode()
        return Built(files, {"entry": "fake", "threads": 32, "shared_bytes": 0}, {"fake": "1"})

    def check(self, spec):
        return CpuCheck(float(spec.parameters.get("error", 1e-4)), 0.5, 1, 64, 64)


def spec(**parameters):
    return KernelSpec(executor="fake", kernel="fake", parameters=parameters, arch="sm_90")


def built(log: Path) -> list[str]:
    """The keys that were built, in order, each time they were."""
    return log.read_text().split() if log.exists() else []


if __name__ == "__main__":
    if "TESTS_HEARTBEAT" in os.environ:
        queue.HEARTBEAT_SECONDS = int(os.environ["TESTS_HEARTBEAT"])
        queue.MAINTENANCE_SECONDS = 1
    url, folder = sys.argv[1], Path(sys.argv[2])
    EXECUTORS.update({name: Fake(name, folder) for name in ("fake", "tilus")})
    serve(
        COMPILE,
        url,
        *sys.argv[4:6],
        burst=sys.argv[3:4] == ["burst"],
        bounds=Bounds(int(os.environ.get("FAKE_MEMORY", 0)), int(os.environ.get("FAKE_FILE", 0))),
        drain_seconds=float(os.environ.get("FAKE_DRAIN", DRAIN_SECONDS)),
    )
