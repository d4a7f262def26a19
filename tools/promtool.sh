#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Has Prometheus' own checker read what GET /metrics/prometheus prints, and sees
# that it would find a mistake. The program is taken out of the distribution's
# package, which also brings a server that nobody asked for; without such a
# package the step is skipped, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${CLOISTER_CACHE:?run through ./dev}/promtool"
promtool=$(command -v promtool || echo "$cache/usr/bin/promtool")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -x "$promtool" ]; then
  (cd "$work" && apt-get download prometheus >/dev/null 2>&1) ||
    { echo "promtool: SKIPPED: the distribution has no package prometheus, or cannot be reached"; exit 0; }
  dpkg-deb -x "$work"/prometheus_*.deb "$work/out"
  mkdir -p "$cache/usr/bin"
  mv "$work/out/usr/bin/promtool" "$cache/usr/bin/promtool"
fi
bazel build --noshow_progress //api:print_metrics 2>/dev/null
bazel-bin/api/print_metrics >"$work/metrics"
complaints=$("$promtool" check metrics <"$work/metrics" 2>&1) ||
  { echo "$complaints"; exit 1; }
[ -z "$complaints" ] || { echo "$complaints"; exit 1; }
# A sample without the counter's ending, and one line that is none.
sed 's/_total{/{/;s/_total /_count /' "$work/metrics" >"$work/bad"
echo 'cloister_bad{label=} 1' >>"$work/bad"
if "$promtool" check metrics <"$work/bad" >/dev/null 2>&1; then
  echo "promtool accepts metrics that are wrong"
  exit 1
fi
