#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# CONTRIBUTING.md names everything that this project is built with: the packages
# that ./dev installs, the external repositories, the npm packages.
# usage: contributing_test.sh CONTRIBUTING.md DEV REPOSITORIES_BZL PACKAGE_JSON
set -euo pipefail
page=$1 dev=$2 repositories=$3 npm=$4

packages() { sed -n "/^readonly [A-Z]*_NEEDS='/,/^'/s/^[^|]*|\\([a-z0-9.+-]*\\)$/\\1/p" "$dev"; }
wrappers() { sed -n '/^_FROM_BAZEL/,/^def/s/^    "\([^"]*\)"[,:].*/\1/p' "$repositories"; }
modules() { sed -n '/"dependencies"/,/}/s/^ *"\(@*[^"]*\/[^"]*\)":.*/\1/p' "$npm"; }

# A pattern that finds nothing any more would find nothing missing either.
enough() {
  [ "$(wc -l)" -ge "$1" ] || { echo "found hardly any $2: this test must follow the file"; exit 1; }
}
packages | enough 40 "packages in dev"
wrappers | enough 18 "repositories"
modules | enough 2 "npm packages"

missing=$({ packages; wrappers; modules; } | sort -u | while read -r name; do
  grep -qF "\`$name\`" "$page" || echo "$name"
done)
[ -z "$missing" ] && exit 0
echo "CONTRIBUTING.md says nothing of:" $missing
exit 1
