#!/usr/bin/env bash
# A shell where every compiled kernel is a folder to look into. Usage: bash enter.sh
# Or a command about the store: ls, show, verify, gc, compile, export, import. Usage: bash enter.sh -h
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || { echo "enter.sh: run.sh comes first: it compiles" >&2; exit 3; }
[ $# -eq 0 ] || exec "$python" -P -m services.driver.cache "$@"
shelf=$("$python" -P -m services.driver.shelf)
cd "$shelf" && ls
[ -t 0 ] && exec "${SHELL:-bash}" -i || exec "${SHELL:-bash}"
