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
  benchmarks+=(io)
fi

# Disk and network beside QEMU, all of them in the lab.
bench_io() {
  local images
  bazel build --config=release //cli:cloister //bench:guest_io >&2
  images=$(lab/guest_image tiny-bzimage --add "$PWD/bazel-bin/bench/guest_io:/bin/guest_io")
  lab/lab --timeout 3000 --env CLOISTER_LKVM -- python3 bench/io.py \
    --cloister "$PWD/bazel-bin/cli/cloister" --qemu "$(lab/qemu path)" \
    --guest-io "$PWD/bazel-bin/bench/guest_io" \
    --kernel "$(sed -n 1p <<<"$images")" --initrd "$(sed -n 2p <<<"$images")"
}

for name in "${benchmarks[@]}"; do
  [[ $name =~ ^[a-z_]+$ ]] || { echo "bench: '$name' is no benchmark" >&2; exit 1; }
  if [ "$name" = io ]; then
    echo "== io"
    bench_io
    continue
  fi
  bazel build --config=release "//bench:${name}_bench" >&2
  binary=$PWD/bazel-bin/bench/${name}_bench
  echo "== $name"
  case $name in
    conversions) lab/lab --timeout 600 -- "$binary" ;;
    start)
      bazel build --config=release //cli:cloister >&2
      "$binary" "$PWD/bazel-bin/cli/cloister"
      ;;
    *) "$binary" ;;
  esac
done
