#!/usr/bin/env bash
# A shell where every compiled kernel is a folder to look into. Usage: bash enter.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -x "$here/.venv/bin/python" ] || { echo "enter.sh: run.sh comes first: it compiles" >&2; exit 3; }
shelf=$("$here/.venv/bin/python" -P -m services.driver.shelf)
cd "$shelf" && ls
[ -t 0 ] && exec "${SHELL:-bash}" -i || exec "${SHELL:-bash}"
