#!/bin/sh
# Make .venv with the pinned packages and lt25 itself, editable. PYTHON names another interpreter than the first suitable one.
set -u
cd "$(dirname "$0")/../.." || exit 1

fail() {
    echo "lt25: error: $1" >&2
    exit 2
}

python=
for candidate in ${PYTHON:-python3.12 python3.11 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" --version 2>&1) || found="${PYTHON:-python3} that does not run"
    fail "Python 3.11 or 3.12 is needed, found $found: install one, or name it: make PYTHON=/path/to/python3.11"
fi

need_gib=9
free_kib=$(df -Pk . | awk 'NR == 2 {print $4}')
if [ ! -d .venv ] && [ "$free_kib" -lt $((need_gib * 1024 * 1024)) ]; then
    fail "the environment needs $need_gib GiB of disk, $((free_kib / 1024 / 1024)) GiB are free in $(pwd): make room"
fi

log=.venv/setup.log
echo "setting up .venv with $("$python" --version): some 6 GB of packages, once"
"$python" -m venv .venv || fail "$python -m venv failed: install Python's venv module (on Debian: apt-get install python3-venv)"

step() {
    "$@" >"$log" 2>&1 && return
    if grep -qiE 'resolve host|name resolution|connection|network|timed out|dns|unreachable|no matching distribution|tunnel' "$log"; then
        fail "the package index cannot be reached: connect to the network and run the same command again (details: $log)"
    elif grep -qi 'no space left' "$log"; then
        fail "the disk is full: make room and run the same command again (details: $log)"
    fi
    fail "installing the packages failed: $(grep -v '^ *$' "$log" | tail -n 1) (details: $log)"
}

step .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
# Compiled here, so that the first command is as quick as the second, and also where Python is told to write no bytecode.
step .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python --constraint constraints.txt --editable '.[dev]'
.venv/bin/python -m compileall -q -j 0 lt25 >/dev/null 2>&1
touch .venv/ready
