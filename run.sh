#!/usr/bin/env bash
# Draws the figures and runs the tests, setting up what they need. Usage: bash run.sh -h
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "run.sh: $*" >&2; }

# The Python to begin with: the first on PATH that is new enough.
find_python() {
  for python in python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
    then echo "$python"; return; fi
  done
  say "this needs Python 3.11 to 3.13: install python3 and python3-venv"
  exit 3
}

# Parts --wheels DIR, wherever it stands, from the rest.
wheels=() rest=()
part_wheels() {
  while (($#)); do
    case $1 in
      --wheels) wheels=(--wheels "${2:-}") && shift ;;
      --wheels=*) wheels=(--wheels "${1#--wheels=}") ;;
      *) rest+=("$1") ;;
    esac
    shift || true
  done
}

# What stands on the command line makes sense, before anything is installed.
check() { PYTHONPATH=$here "$python" -m services.driver.options "$@"; }

ready() { "$python" "$here/scripts/environment.py" ready "$@"; }

python=$(find_python)
part_wheels "$@"
case ${1:-} in
  -h | --help) check "$@" ;;
  test)
    ready --test "${wheels[@]}"
    cd "$here" && exec .venv/bin/python -m pytest -n 3 "${rest[@]:1}"
    ;;
  peers) exec "$python" "$here/scripts/environment.py" peers "${@:2}" ;;
  wheels)
    [[ $# -ge 2 && $2 != -* ]] || { say "say which folder: bash run.sh wheels DIR"; exit 2; }
    exec "$python" "$here/scripts/environment.py" wheels "${@:2}"
    ;;
  page)
    [ $# -eq 1 ] || { say "bash run.sh page takes nothing more"; exit 2; }
    ready "${wheels[@]}"
    exec "$here/.venv/bin/python" -P -m services.driver.page
    ;;
  *)
    check "$@"
    [[ " $* " != *" -h "* && " $* " != *" --help "* ]] || exit 0
    ready "${wheels[@]}"
    exec "$here/.venv/bin/python" -P -m services.driver "$@"
    ;;
esac
