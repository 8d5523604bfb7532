#!/usr/bin/env bash
# tools/test_pythons.sh [PYTEST ARGUMENT...]: the unit tests on each Python of $PYTHONS (default: 3.11 3.12 3.13),
# in .venv-VERSION. Fails when tests fail; an interpreter that is not here is named, with how to get it.
set -euo pipefail
cd "$(dirname "$0")/.."

# The interpreter of version $1: on PATH, from pyenv, or from uv. A pyenv shim may be on PATH and refuse to run.
find_python() {
    local candidate
    for candidate in "$(command -v "python$1" || true)" \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1"*/bin/"python$1" \
        "$(command -v uv >/dev/null && uv python find --no-project "$1" 2>/dev/null || true)"; do
        if [ -x "$candidate" ] && "$candidate" -c '' 2>/dev/null; then echo "$candidate"; return 0; fi
    done
    return 1
}

tested=0 failed=()
for version in ${PYTHONS:-3.11 3.12 3.13}; do
    if ! python=$(find_python "$version"); then
        echo "Python $version is not on this machine, so not tested. To get it: pyenv install $version, or uv python install $version"
        continue
    fi
    venv=.venv-$version
    echo "== Python $version: $("$python" --version) in $venv"
    tools/create_venv.sh "$venv" "$python"
    if [ pyproject.toml -nt "$venv/.installed-test" ]; then
        tools/install.sh "$venv" '.[test]'
        touch "$venv/.installed-test"
    fi
    tested=$((tested + 1))
    "$venv/bin/python" -m pytest -n "${WORKERS:-auto}" tests/unit "$@" || failed+=("$version")
done

if [ "${#failed[@]}" -gt 0 ]; then echo "Failed on Python ${failed[*]}"; exit 1; fi
if [ "$tested" -eq 0 ]; then echo "No Python to test on"; exit 1; fi
