"""The command `tilus`: `tilus inspect ...` looks inside."""

import sys

from tilus import inspect


def main() -> int:
    """Do what the command line says; 2 where it makes no sense."""
    match sys.argv[1:]:
        case ["inspect", *question]:
            return inspect.main(question)
        case ["--help" | "-h" | "help"]:
            return inspect.main(["help"])
    print("usage: tilus inspect QUESTION; tilus --help says which there are", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
