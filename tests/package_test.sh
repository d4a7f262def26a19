#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian package into a root directory of the test's own, with this
# machine's list of packages for the dependencies, runs what it installed, and
# removes it again.
set -euo pipefail

# dpkg looks for programs of the administrator.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

readonly DEB=$1 MODULE=$2 MICRO_KERNEL=$3
readonly ROOT=$TEST_TMPDIR/root
failures=0

check() { # NAME COMMAND...: runs it; says what it printed if it fails
  local name=$1
  shift
  if "$@" >"$TEST_TMPDIR/log" 2>&1; then
    echo "ok: $name"
  else
    echo "FAILED: $name: $*"
    cat "$TEST_TMPDIR/log"
    failures=$((failures + 1))
  fi
}
skip() { echo "SKIPPED: $*"; }
has() { grep -qF -- "$2" <<<"$1" || { echo "no \"$2\" in: $1"; return 1; }; }
lacks() { [ ! -e "$1" ] || { echo "$1 is still there"; return 1; }; }
dpkg_() { dpkg --root="$ROOT" --log=/dev/null "$@"; }

# --- what is in it ---
version=$(dpkg-deb -f "$DEB" Version)
upstream=${version%-*}
contents=$(dpkg-deb -c "$DEB")
for file in ./usr/bin/cloister ./usr/share/man/man1/cloister.1.gz \
  ./usr/share/bash-completion/completions/cloister \
  ./usr/lib/systemd/system/cloister@.service ./usr/share/doc/cloister/copyright \
  ./usr/share/doc/cloister/changelog.gz ./usr/share/doc/cloister/changelog.Debian.gz \
  ./usr/share/doc/cloister/docs/sandbox.md; do
  check "has $file" has "$contents" "$file"
done
check "everything is root's" bash -c "! dpkg-deb -c '$DEB' | grep -v ' root/root '"
check "says which C library it contains" has "$(dpkg-deb -f "$DEB" Built-Using)" "glibc (= "
check "depends on no package" test -z "$(dpkg-deb -f "$DEB" Depends)"
check "MODULE.bazel has the same version" has "$(cat "$MODULE")" "version = \"$upstream\""
if command -v lintian >/dev/null; then
  check "lintian is content" lintian --allow-root --fail-on error,warning --no-tag-display-limit "$DEB"
else
  skip "lintian is not installed"
fi

# --- installing ---
# As the README has it, but that nothing happens to this machine.
if command -v apt-get >/dev/null; then
  plan=$(LC_ALL=C apt-get install --simulate --no-remove "$(realpath "$DEB")" 2>&1 || true)
  check "apt would install it" has "$plan" "Inst cloister ($version"
else
  skip "apt-get is not installed"
fi
if [ "$(id -u)" -ne 0 ]; then
  skip "only root can install a package"
  exit $((failures > 0))
fi
mkdir -p "$ROOT/var/lib/dpkg/"{info,updates,triggers} "$ROOT/usr/bin"
cp /var/lib/dpkg/status "$ROOT/var/lib/dpkg/status"
cp /var/lib/dpkg/info/*.list "$ROOT/var/lib/dpkg/info/"
find "$ROOT/usr" | sort >"$TEST_TMPDIR/before"
check "installs" dpkg_ -i "$DEB"
check "dpkg says so" has "$(dpkg_ -s cloister)" "Status: install ok installed"
check "files are as packaged" bash -c "cd '$ROOT' && md5sum --quiet -c var/lib/dpkg/info/cloister.md5sums"

# --- running what was installed ---
readonly PROGRAM=$ROOT/usr/bin/cloister
check "--version" has "$("$PROGRAM" --version)" "cloister $upstream"
report=$("$PROGRAM" doctor --json) && code=0 || code=$?
check "doctor reports" has "$report" '"kvm"'
check "doctor's exit code is 0 or 1, not $code" test "$code" -le 1
page=$(zcat "$ROOT/usr/share/man/man1/cloister.1.gz")
check "the manual names the version" has "$page" "cloister $upstream"
if command -v man >/dev/null; then
  rendered=$(MANWIDTH=100 man -l "$ROOT/usr/share/man/man1/cloister.1.gz" 2>&1 | col -b)
  check "man shows it" has "$rendered" "EXIT STATUS"
else
  skip "man is not installed"
fi
completion=$ROOT/usr/share/bash-completion/completions/cloister
offered=$(bash -c "source '$completion'; COMP_WORDS=(cloister do); COMP_CWORD=1; _cloister; echo \"\${COMPREPLY[*]}\"")
check "completion offers doctor" has "$offered" "doctor"

# --- the unit ---
readonly UNIT=$ROOT/usr/lib/systemd/system/cloister@.service
mapfile -t used < <(sed -n 's/^ExecStart=//p' "$UNIT" | grep -o -- '--[a-z-]*')
help=$("$PROGRAM" serve --help)
for option in "${used[@]}"; do
  check "the unit's $option exists" has "$help" "$option"
done
if command -v systemd-analyze >/dev/null; then
  # Its own idea of the program's path, so that it can be looked for.
  sed "s,/usr/bin/cloister,$PROGRAM," "$UNIT" >"$TEST_TMPDIR/cloister@.service"
  complaints=$(systemd-analyze verify --man=no "$TEST_TMPDIR/cloister@.service" 2>&1 | grep -F cloister@ || true)
  check "systemd accepts the unit: $complaints" test -z "$complaints"
  check "systemd finds it hardened" \
    systemd-analyze security --offline=true --threshold=20 --no-pager "$TEST_TMPDIR/cloister@.service"
else
  skip "systemd-analyze is not installed"
fi

# --- what the unit starts ---
# Its command line, with the specifiers as systemd would replace them, as a user
# that has nothing but the group of /dev/kvm.
if [ ! -w /dev/kvm ]; then
  skip "no /dev/kvm here to run the unit's command with"
elif ! command -v setpriv >/dev/null; then
  skip "setpriv is not installed"
else
  place=$(mktemp -d /tmp/package-test-XXXXXX)
  mkdir -p "$place/run/cloister/web" "$place/etc"
  "$MICRO_KERNEL" off "$place/kernel"
  cat >"$place/etc/web.json" <<EOF
{"boot-source": {"kernel_image_path": "$place/kernel"},
 "confidential": {"backend": "off"},
 "serial": {"serial_out_path": "$place/run/cloister/web/console"},
 "metrics": {"metrics_path": "$place/run/cloister/web/metrics"}}
EOF
  cp "$PROGRAM" "$place/cloister"
  chown -R 65534:65534 "$place/run/cloister/web"
  chmod 755 "$place"
  started=$(sed -n 's/^ExecStart=//p' "$UNIT" | sed -e 's,%i,web,g' -e "s,%t,$place/run,g" \
    -e "s,/etc/cloister/,$place/etc/,g" -e "s,^/usr/bin/cloister,$place/cloister,")
  check "no specifier is left" bash -c "! grep -q % <<<'$started'"
  who=(setpriv --reuid=65534 --regid=65534 --groups="$(stat -c %g /dev/kvm)" --no-new-privs --bounding-set=-all)
  case $(stat -c %A /dev/kvm) in
    ????rw*) ;;
    *) skip "the group of /dev/kvm may not use it here: the unit's command runs as root"
      who=(setpriv --no-new-privs) ;;
  esac
  # shellcheck disable=SC2086
  check "the unit's command runs a VM to its end" timeout 60 "${who[@]}" $started
  check "it wrote metrics" grep -q '"id"\|"vcpu"' "$place/run/cloister/web/metrics"
  check "its socket is gone" lacks "$place/run/cloister/web/api.sock"
  rm -rf "$place"
fi

# --- removing ---
check "removes" dpkg_ -r cloister
check "purges" dpkg_ -P cloister
lacks "$PROGRAM" || failures=$((failures + 1))
find "$ROOT/usr" | sort >"$TEST_TMPDIR/after"
check "nothing is left" diff "$TEST_TMPDIR/before" "$TEST_TMPDIR/after"

echo "package test: $failures failures"
exit $((failures > 0))
