#!/usr/bin/env bash
# Runs the notebooks in order and compares what they find with the paper.
#
# usage: ./run_all.sh [--profile mini|omni|paper] [--from NN | --only NN] [--clips N]
#                     [--refresh] [--formats LIST] [--check [--measure]] [--help]
#
#   --profile NAME  parameters to run with: notebooks/profiles/NAME.yaml (default: mini)
#   --from NN       start at notebook NN
#   --only NN       run notebook NN alone
#   --clips N       from notebook 03 on, ask about a stratified part of N clips alone; figures go to
#                   figures/NAME-N-clips, and answers stay valid for all clips
#   --refresh       also rewrite the outputs of the committed notebooks
#   --formats LIST  formats of figures, png and with it svg or pdf (default: png,svg; an SVG only
#                   where it is small and has no raster image in it): --formats png,svg,pdf
#   --check         run nothing; say what a run would be, and whether it fits (exit 0) or not (1)
#   --measure       with --check: ask two real batches, and say how long the rest would take
#   --help          show this
#
# Executed notebooks and the comparison go to runs/NAME. The environment is the active one if it has
# the packages of requirements.lock, else .venv, which is made on the first run.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for argument in "$@"; do
    case $argument in
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}"
        exit
        ;;
    esac
done

source scripts/environment.sh
exec "$PYTHON" -m emomm_study.run.pipeline "$@"
