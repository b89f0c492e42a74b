#!/usr/bin/env bash
# Runs a command as another make of processor would: with arithmetic of an older instruction set.
#
# usage: scripts/other_kernels.sh ./run_tests.sh
#
# PyTorch, MKL, oneDNN, OpenBLAS and NumPy are held to kernels that every x86-64 machine has, in one
# thread, so that sums are taken in another order and the last bits differ. That they do is checked
# first. Everything is computed anew, in a copy of the project with a cache of its own
# (cache/other-kernels, emptied first).
# What the command prints of estimated values then says how far they move: by notebook, in tolerances.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -eq 0 ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "scripts/${BASH_SOURCE[0]##*/}"
    exit 2
fi

source scripts/environment.sh
usual=$("$PYTHON" scripts/last_bits.py)

export ATEN_CPU_CAPABILITY=default
export MKL_ENABLE_INSTRUCTIONS=SSE4_2 MKL_CBWR=COMPATIBLE
export ONEDNN_MAX_CPU_ISA=SSE41
export OPENBLAS_CORETYPE=Nehalem
export NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# A copy, since a run writes its figures over the committed ones.
cache=${EMOMM_CACHE:-$PWD/cache}
place=$cache/other-kernels
rm -rf "$place"
mkdir -p "$place/project" "$place/cache"
tar --exclude=./.git --exclude=./.venv --exclude=./cache --exclude=./runs -cf - . |
    tar -xf - -C "$place/project"
# Downloads are the same whatever the arithmetic.
[[ ! -d $cache/mediapipe ]] || cp -r "$cache/mediapipe" "$place/cache/"
cd "$place/project"
export EMOMM_CACHE=$place/cache PYTHONPATH=$PWD

apart=0
"$PYTHON" scripts/last_bits.py --beside "$usual" || apart=$?
[[ $apart -ne 3 ]] ||
    fail "On this machine these kernels compute the very same bits, so a run under them shows nothing."
[[ $apart -eq 0 ]] || fail "The comparison of last bits itself failed; its message is above."
began=$SECONDS status=0
"$@" || status=$?
echo "Under other kernels: exit status $status after $((SECONDS - began)) s"
exit "$status"
