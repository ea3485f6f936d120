"""A peer's child for tests: does as its request says, well or not."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path


def layouts(repeats):
    """What public `tilus` says: the place of each code that a thread holds, and of its bytes."""
    ops = import_module("tilus.ir.layout.ops")
    lang = import_module("tilus.lang.modules.cuda")
    held = ops.local(*repeats) * lang.cuda.atomic_mma_configs.m16n8k16_f16_f32.lb
    count = held.local_size
    stored = ops.local(count // 16).spatial(32).local(16)

    def place(layout, thread, index):
        return [int(x) for x in layout.get_global(spatial_index=thread, local_index=index)]

    def places(layout):
        return [[place(layout, thread, index) for index in range(count)] for thread in range(32)]

    order = [byte for thread in places(stored) for (byte,) in thread]
    inverse = [0] * len(order)
    for index, byte in enumerate(order):
        inverse[byte] = index
    return {"codes": places(held), "bytes": inverse}


def main():
    request = json.load(sys.stdin)
    match request["do"]:
        case "import":
            words = import_module(request["module"]).words
            Path(sys.argv[1], "kernel.cubin").write_text(words)
            print("a line that is not the answer")
            print(json.dumps({"words": words}))
        case "layout":
            print(json.dumps(layouts(request["repeats"])))
        case "call":
            done = subprocess.run([request["program"]], check=False)
            print(json.dumps({"code": done.returncode}))
        case "raise":
            raise ValueError("no such shape")
        case "exit":
            print("there is no compiler", file=sys.stderr)
            sys.exit(7)
        case "mumble":
            print("nothing to say")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(60)


if __name__ == "__main__":
    main()
