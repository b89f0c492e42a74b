# Sourced in the project folder. Sets PYTHON to an interpreter that can run the project: that of
# the active environment when it has what requirements.lock asks for, else that of .venv, made on
# demand (in the cache where the project is read-only). Exports what keeps the libraries' own caches
# out of places that cannot be written to, and brings MediaPipe's models into the cache.

# File names are UTF-8 whatever the locale says.
export PYTHONUTF8=1
venv=$PWD/.venv

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# The folder is part of it because an environment does not survive being moved.
venv_wants() { printf '%s\n' "$PWD"; cat requirements.lock pyproject.toml; }

venv_is_ready() { [ -x "$venv/bin/python" ] && venv_wants | cmp -s - "$venv/emomm.stamp"; }

# Any Python from 3.11 on can say this, before a package is installed.
prepare_places() {
    local settings
    settings=$("$1" -m emomm_study) || exit 1
    eval "$settings"
}

# Those for which every pin of the lock has wheels.
can_be_used() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null
}

find_base() {
    local name
    for name in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$name" >/dev/null && can_be_used "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11, 3.12 or 3.13 with venv and pip was not found on PATH." \
        "Install it (on Debian: python3.11 and python3.11-venv), or use conda:" \
        "conda env create -f environment.yml && conda activate emomm"
}

make_venv() {
    local quiet=--quiet free needed
    [ ! -t 1 ] || quiet=
    # An install that was cut off can leave half a package that pip takes for a whole one.
    if [ -e "$venv/emomm.installing" ] || ! can_be_used "$venv/bin/python"; then
        "$base" -m venv --clear "$venv" || fail "$venv could not be made; the reason is above."
        needed=$("$venv/bin/python" scripts/torch_build.py)
        free=$(df -Pk "$venv" | awk 'END { print int($4 / 1000000) }')
        [ "$free" -ge "$needed" ] || fail "${venv%/*}: the packages need $needed GB of disk, and \
$free GB are free; make room, or activate an environment that has requirements.lock"
    fi
    rm -f "$venv/emomm.stamp"
    touch "$venv/emomm.installing"
    echo "Installing $(grep -c == requirements.lock) pinned packages into ${venv#"$PWD/"}" \
        "(minutes the first time, depending on the network)"
    # Modules are compiled when they are first imported: most never are, and all take a minute.
    "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --no-compile $quiet \
        -r requirements.lock &&
        install_project ||
        fail "Installing failed; pip's message is above. The next run starts over." \
            "pip needs a package index (see pip config list) and room for them."
    compile_once
    venv_wants >"$venv/emomm.stamp"
    rm "$venv/emomm.installing"
    echo "Environment ready after ${SECONDS} s"
}

# Numba keeps what it compiles on disk, and breaks it where several processes do so at once: then
# librosa crashes. So one process does it, before there are others.
compile_once() {
    "$venv/bin/python" -c 'import librosa, numpy
librosa.pyin(numpy.sin(numpy.arange(8000) / 12), fmin=100, fmax=400, sr=16000)' ||
        echo "librosa could not be tried out; the reason is above" >&2
}

install_project() {
    local packages
    if [ -w . ]; then
        "$venv/bin/python" -m pip install --no-input --disable-pip-version-check $quiet \
            --no-deps --no-build-isolation --editable .
    else
        # An editable install writes beside the source.
        packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        pwd >"$packages/emomm.pth"
    fi
}

find_environment() {
    local active reason base
    # Without this an active .venv would be asked to make, or to vouch for, itself.
    PATH=${PATH//"$venv/bin:"/}
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || ! venv_is_ready; then
        active=$(command -v python || command -v python3 || true)
        if [ -n "$active" ] && reason=$("$active" scripts/check_pins.py 2>/dev/null); then
            [ -z "$reason" ] || echo "Using the active environment, although $reason"
            PYTHON=$active
            prepare_places "$PYTHON"
            return
        fi
    fi
    if venv_is_ready; then
        prepare_places "$venv/bin/python"
    else
        base=$(find_base)
        prepare_places "$base"
        [ -w . ] || venv=${EMOMM_CACHE:-$PWD/cache}/venv
        venv_is_ready || make_venv
    fi
    PYTHON=$venv/bin/python
    PATH=$venv/bin:$PATH
}

find_environment
# Else every kernel would compile anew what it imports.
[ "$PYTHON" != "$venv/bin/python" ] || unset PYTHONDONTWRITEBYTECODE
# Notebook kernels start in folders of their own.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" -m emomm_study.media.models fetch >/dev/null
