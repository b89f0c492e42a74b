#!/usr/bin/env bash
# Runs the tests and reruns the committed notebooks, side by side: about half an hour.
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

logs=$(mktemp -d)
sides=()
trap 'rm -rf "$logs"; ((!${#sides[@]})) || kill "${sides[@]}" 2>/dev/null || true' EXIT
# One thread: processes that spin for the same cores take several times as long.
export OMP_NUM_THREADS=1
# Three sides for two cores, since each waits now and then for a kernel, a worker or a browser. The
# audit builds on no other notebook, and what stands beside it on none of the study's other tests.
alone=notebooks/10_paper_audit.ipynb
whole=(lib study/test_benchmarks.py study/test_paper_profile.py study/test_omni_profile.py study/test_places.py)
whole=("${whole[@]/#/tests/}")

own=("$PYTHON" -m pytest --nbval-lax --nbval-current-env --durations=30 --durations-min=5)

"${own[@]}" -o cache_dir="$cache/pytest" tests "${whole[@]/#/--ignore=}" >"$logs/tests" 2>&1 &
sides+=($!)
"${own[@]}" -o cache_dir="$cache/pytest-whole" "${whole[@]}" "$alone" >"$logs/whole" 2>&1 &
sides+=($!)
failed=0
"${own[@]}" -o cache_dir="$cache/pytest-notebooks" notebooks --ignore="$alone" || failed=$?
for one in "${sides[@]}"; do
    wait "$one" || failed=$?
done
sides=()
cat "$logs/tests" "$logs/whole"
exit "$failed"
