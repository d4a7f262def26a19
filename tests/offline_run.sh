#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A second `./dev run` needs no network: here it has none but the loopback
# interface, over which Bazel talks to itself. A part of `./dev soak`; as root.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
if [ "$(id -u)" -ne 0 ]; then
  echo "offline run: skipped: only root may make a network namespace"
  exit 0
fi
export PATH=$PATH:/usr/sbin:/sbin
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The one server that Bazel has may be one with a network.
bazel shutdown
coproc { exec unshare -n sh -c 'ip link set lo up; exec ./dev run' 2>&1; }
dev=$COPROC_PID
while IFS= read -r -u "${COPROC[0]}" line; do
  printf '%s\n' "$line" >>"$log"
  # The shell's greeting: it reads what is typed.
  case $line in *"Enter 'help'"*) echo exit >&"${COPROC[1]}" ;; esac
done
status=0
wait "$dev" || status=$?
bazel shutdown
if [ "$status" -ne 0 ]; then
  tail -40 "$log"
  echo "offline run: FAILED: ./dev run left with $status"
  exit 1
fi
for text in "cloister guest: Linux" "leave this shell to power off" "reboot: Power down"; do
  if ! grep -q "$text" "$log"; then
    tail -40 "$log"
    echo "offline run: FAILED: the guest never said '$text'"
    exit 1
  fi
done
if grep -E "installing|downloading|apt-get" "$log"; then
  echo "offline run: FAILED: it wanted something that was not there"
  exit 1
fi
echo "offline run: passed"
