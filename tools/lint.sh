#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything `./dev lint` checks. Each step says what it looks at; all steps run
# even when one fails. With --all, clang-tidy looks at every file, not only at
# those that changed.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0

step() { # NAME COMMAND...
  local name=$1
  shift
  if "$@"; then
    printf 'lint: %s: ok\n' "$name"
  else
    printf 'lint: %s: FAILED\n' "$name"
    status=1
  fi
}

format() { git ls-files '*.h' '*.cc' '*.c' | xargs -r clang-format --dry-run -Werror; }

spdx() {
  local missing
  missing=$(git ls-files '*.h' '*.cc' '*.S' '*.py' '*.sh' 'dev' | xargs grep -L 'SPDX-License-Identifier: Apache-2.0')
  [ -z "$missing" ] || { printf 'no SPDX line: %s\n' $missing; return 1; }
}

# clang's thread-safety analysis as errors, and layering_check: a file includes
# only headers of libraries its target names.
clang_build() {
  bazel build --config=clang --features=layering_check --keep_going --noshow_progress //... 2>&1 |
    grep -E 'error|warning:|note:|ERROR|FAILED' | head -60
  return "${PIPESTATUS[0]}"
}

# The thread-safety analysis must be on: a file that breaks it must not compile.
thread_safety_works() {
  local out
  out=$(clang -std=c++20 -x c++ -fsyntax-only -Wthread-safety -Werror -I"$include" - 2>&1 <<'EOF'
#include "cloister/base/mutex.h"
struct S { cloister::base::Mutex m; int v ABSL_GUARDED_BY(m) = 0; };
int Get(S& s) { return s.v; }
EOF
  ) && { echo "a read without the lock compiled"; return 1; }
  grep -q thread-safety <<<"$out" || { echo "$out"; return 1; }
}

# So must layering_check: a file that includes a header of a library which its
# target does not name must not compile, and must once the target names it.
layering_works() {
  local out
  local build=(bazel build --config=clang --features=layering_check --noshow_progress)
  out=$("${build[@]}" //tools/layering_canary:declared 2>&1) || { tail -20 <<<"$out"; return 1; }
  out=$("${build[@]}" //tools/layering_canary:undeclared 2>&1) && { echo "an undeclared include compiled"; return 1; }
  grep -q 'does not depend on a module exporting' <<<"$out" || { tail -20 <<<"$out"; return 1; }
}

include=$(mktemp -d)
trap 'rm -rf "$include"' EXIT
ln -s "$PWD" "$include/cloister"

step "clang-format" format
step "SPDX lines" spdx
step "buildifier" tools/buildifier.sh -mode=check
step "the checks can fail" python3 -B tools/checks_test.py
step "guest memory by pointer" python3 -B tools/check_guest_memory.py
step "dependency rules" python3 -B tools/check_deps.py
step "thread-safety analysis is on" thread_safety_works
step "layering_check is on" layering_works
step "clang-tidy" python3 -B tools/clang_tidy.py "$@"
step "OpenAPI document" tools/openapi.sh
step "Prometheus metrics" tools/promtool.sh
step "clang: thread safety, layering" clang_build
exit $status
