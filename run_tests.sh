#!/usr/bin/env bash
# Runs the tests and reruns the committed notebooks, side by side: under half an hour.
#
# usage: ./run_tests.sh [--quick | arguments for pytest]
#
#   --quick         what to run before a commit, under three minutes: style, types, floors, the tests
#                   of the small library and of the documents; no notebook, no browser, no wheel
#   ./run_tests.sh tests/lib/test_labels.py -k polarity
#
# Tests of the widgets need chromium on PATH; without one they are skipped, or fail where
# EMOMM_BROWSER_TESTS=1. Where EMOMM_LONG_TESTS=1 Ray's workers and drivers are killed at twenty moments
# instead of two.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source scripts/environment.sh

cache=${EMOMM_CACHE:-$PWD/cache}
if [[ ${1:-} == --quick ]]; then
    [[ $# -eq 1 ]] || fail "--quick takes no further arguments; got: ${*:2}"
    exec "$PYTHON" -m pytest -o cache_dir="$cache/pytest" -q tests/study/test_house.py tests/lib \
        --ignore tests/lib/test_wheel.py tests/study/test_docs.py tests/study/test_paper.py \
        tests/study/test_values.py tests/study/test_lines.py tests/study/test_prompts.py
fi
if [[ $# -gt 0 ]]; then
    exec "$PYTHON" -m pytest -o cache_dir="$cache/pytest" --nbval-lax --nbval-current-env "$@"
fi

log=$(mktemp)
tests=
trap 'rm -f "$log"; [[ -z $tests ]] || kill "$tests" 2>/dev/null || true' EXIT
# One thread: processes that spin for the same cores take several times as long.
export OMP_NUM_THREADS=1
# Two sides that take alike: the audit builds on no other notebook, and these tests on none of the
# study's others.
alone=notebooks/10_paper_audit.ipynb
beside=(tests/lib tests/study/test_benchmarks.py tests/study/test_paper_profile.py)
options=(--nbval-lax --nbval-current-env --durations=30 --durations-min=5)
"$PYTHON" -m pytest -o cache_dir="$cache/pytest" "${options[@]}" tests "$alone" \
    "${beside[@]/#/--ignore=}" >"$log" 2>&1 &
tests=$!
notebooks=0
"$PYTHON" -m pytest -o cache_dir="$cache/pytest-notebooks" "${options[@]}" \
    notebooks "${beside[@]}" --ignore="$alone" || notebooks=$?
failed=0
wait "$tests" || failed=$?
tests=
cat "$log"
exit $((notebooks || failed))
