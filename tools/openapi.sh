#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the API's OpenAPI document with the pinned validator, and that the
# validator sees a mistake.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${CLOISTER_CACHE:?run through ./dev}/npm"
key=$(sha256sum tools/npm/package-lock.json | cut -c1-16)
modules="$cache/$key/node_modules"
[ -d "$modules" ] || tools/buildifier.sh -mode=check >/dev/null # installs them
bazel build --noshow_progress //api:print_reference 2>/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bazel-bin/api/print_reference --openapi >"$work/openapi.json"
valid() { "$modules/.bin/validate-api" "$1" | grep -q '"valid": true'; }
valid "$work/openapi.json" || { "$modules/.bin/validate-api" "$work/openapi.json"; exit 1; }
sed 's/"operationId"/"operationID"/;s/"responses": {/"responses": 7, "x": {/' "$work/openapi.json" >"$work/bad.json"
if valid "$work/bad.json"; then
  echo "the validator accepts a document that is wrong"
  exit 1
fi
