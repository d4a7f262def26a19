#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the benchmarks, release build: all of them, or those whose names are given.
# What needs private memory runs in the lab.
set -euo pipefail
cd "$(dirname "$0")/.."

benchmarks=("$@")
if [ ${#benchmarks[@]} -eq 0 ]; then
  mapfile -t benchmarks < <(bazel query --noshow_progress 'kind(cc_binary, //bench:all)' |
    sed -n 's,^//bench:\(.*\)_bench$,\1,p')
fi
for name in "${benchmarks[@]}"; do
  [[ $name =~ ^[a-z_]+$ ]] || { echo "bench: '$name' is no benchmark" >&2; exit 1; }
  bazel build --config=release "//bench:${name}_bench" >&2
  binary=$PWD/bazel-bin/bench/${name}_bench
  echo "== $name"
  case $name in
    conversions) lab/lab --timeout 600 -- "$binary" ;;
    *) "$binary" ;;
  esac
done
