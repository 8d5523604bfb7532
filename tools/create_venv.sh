#!/usr/bin/env bash
# tools/create_venv.sh DIRECTORY [PYTHON]: a virtual environment with pip, from PYTHON or the newest of 3.11 to 3.13.
# Works where Debian's python3-venv is missing, as long as pip itself is there.
set -euo pipefail

directory=$1
suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${2:-}
if [ -z "$python" ]; then
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if suits "$candidate"; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ] || ! suits "$python"; then
    echo "envmesh needs Python 3.11 or later, and found none on PATH." >&2
    echo "Debian 12, Ubuntu 24.04: sudo apt-get install python3 python3-venv; elsewhere: https://www.python.org/downloads/" >&2
    exit 1
fi

if [ -x "$directory/bin/python" ] && suits "$directory/bin/python" && "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi
echo "Creating $directory with $("$python" --version)"
if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv --clear "$directory"
elif "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear --without-pip "$directory"
    "$python" -m pip --disable-pip-version-check --python "$directory/bin/python" install --quiet pip
else
    echo "$python has neither ensurepip nor pip. Debian, Ubuntu: sudo apt-get install python3-venv" >&2
    exit 1
fi
