#!/usr/bin/env bash
# Runs the tests and reruns the committed notebooks. Arguments go to pytest:
# ./run_tests.sh tests/test_labels.py -k polarity

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source scripts/environment.sh

# nbval starts kernels by itself: they must be this interpreter's, and leave the home folder alone.
cache=${EMOMM_CACHE:-$PWD/cache}
export JUPYTER_PREFER_ENV_PATH=1 JUPYTER_DATA_DIR="$cache/jupyter"
export JUPYTER_CONFIG_DIR="$cache/jupyter/config" IPYTHONDIR="$cache/jupyter/ipython"
exec "$PYTHON" -m pytest --nbval-lax --nbval-current-env "$@"
