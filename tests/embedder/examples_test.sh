#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs each example as far as it goes without a VM.
set -euo pipefail
page_states=$1 custom_device=$2 dma_mirror=$3 rest_client=$4

fails() { # STATUS COMMAND...: ends with that status, and says something
  local wanted=$1 status=0 said
  shift
  said=$("$@" 2>&1) || status=$?
  [ "$status" -eq "$wanted" ] && [ -n "$said" ] || { echo "$*: $status: $said"; exit 1; }
}

printf 'private 0 0x2000\nshared 0x1000 0x1000\n' | "$page_states" | grep -q '^4096 bytes shared$'
"$dma_mirror" | grep -q 'are free$'
fails 2 "$custom_device"
fails 2 "$rest_client"
fails 1 "$rest_client" "$TEST_TMPDIR/no-socket"
echo "the examples run"
