#!/usr/bin/env bash
# Makes the book, a static site of the executed notebooks, the guides and the library's reference:
# under a minute.
#
# usage: ./build_book.sh [folder]
#
# The folder is book/site where none is named. Nothing is run or fetched, and the site needs no server:
# open its index.html.

set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
folder=${1:-}
# Relative to where it is typed.
[[ -z $folder || $folder == /* ]] || folder=$PWD/$folder
cd "$(dirname "${BASH_SOURCE[0]}")"

source scripts/environment.sh

exec "$PYTHON" -m book.build ${folder:+"$folder"}
