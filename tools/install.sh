#!/usr/bin/env bash
# tools/install.sh VENV REQUIREMENT: installs this project as REQUIREMENT says (`.[dev]`), editable, into VENV. By uv,
# which takes a tenth of the time; by pip where uv cannot be had or does not get through to the package index.
set -euo pipefail

venv=$1 requirement=$2
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)

# uv does not read pip's configuration: where packages come from is told to it.
configured() { "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true; }
index=${PIP_INDEX_URL:-$(configured index-url)} certificates=${PIP_CERT:-$(configured cert)}
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
if [ -n "$certificates" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}; fi
if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}; fi
export UV_LINK_MODE=${UV_LINK_MODE:-copy}

if "${pip[@]}" 'uv>=0.5' 2>/dev/null \
    && "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --editable "$requirement"; then
    exit 0
fi
echo "Without uv, so by pip, which takes a few minutes"
"${pip[@]}" --editable "$requirement"
