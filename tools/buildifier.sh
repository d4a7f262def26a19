#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the pinned buildifier over every BUILD, .bzl and WORKSPACE file.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${CLOISTER_CACHE:?run through ./dev}/npm"
key=$(sha256sum tools/npm/package-lock.json | cut -c1-16)
binary="$cache/$key/node_modules/@bazel/buildifier/buildifier-linux_amd64"
if [ ! -x "$binary" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.new-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cp tools/npm/package.json tools/npm/package-lock.json "$work/"
  (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --silent >&2)
  chmod +x "$work/node_modules/@bazel/buildifier/buildifier-linux_amd64"
  rm -rf "${cache:?}/$key"
  mv "$work" "$cache/$key"
fi
git ls-files -z -- '*BUILD' '*.bzl' '*WORKSPACE' MODULE.bazel | xargs -0 "$binary" -lint=off "$@"
