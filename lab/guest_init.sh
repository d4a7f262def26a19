#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The init of Cloister's test guests. On the kernel's command line:
#   cloister.test=echo      answer each line of the console with "echo: LINE", until one is "quit",
#                           "reboot" or "panic"
#   cloister.test=poweroff  power off at once
#   cloister.test=reboot    reboot at once
#   cloister.test=panic     crash the kernel
#   cloister.test=hold      wait for the power button
#   cloister.run="COMMAND"  run it, say how it ended, power off
#   cloister.root=DEVICE    mount it, an ext4 file system, and become its /sbin/init
# and without any of them a shell; leaving it powers off. The power button does so at any time.

PATH=/bin
export PATH

busybox mount -t devtmpfs dev /dev
guest_mark || echo "cloister guest: cannot write the marker"

busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs tmpfs /tmp

release=$(busybox uname -r)
if [ -r "/lib/modules/$release/order" ]; then
  while read -r module; do
    busybox insmod "$module" || echo "cloister guest: cannot load $module"
  done <"/lib/modules/$release/order"
fi

# The value of a word NAME=VALUE or NAME="VALUE WITH SPACES" of the kernel's command line.
option() {
  busybox sed -n "s/.*\\b$1=\"\\([^\"]*\\)\".*/\\1/p;t;s/.*\\b$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline
}

finish() {
  busybox sync
  busybox poweroff -f
}

watch_power_button() {
  for name in /sys/class/input/event*/device/name; do
    [ -r "$name" ] || continue
    read -r text <"$name"
    [ "$text" = "Power Button" ] || continue
    event=${name#/sys/class/input/}
    event=${event%%/*}
    # Opened before anyone is told that the guest listens: events are queued only from then on.
    exec 3<"/dev/input/$event"
    (
      busybox dd of=/dev/null bs=24 count=1 <&3 2>/dev/null
      echo "cloister guest: power button"
      finish
    ) &
  done
}

banner() {
  cpus=$(busybox grep -c ^processor /proc/cpuinfo)
  while read -r key value _; do
    [ "$key" = MemTotal: ] && memory=$((value / 1024))
  done </proc/meminfo
  encryption=$(busybox dmesg | busybox sed -n 's/.*Memory Encryption Features active: *//p')
  swiotlb=$(busybox dmesg |
    busybox sed -n 's/.*software IO TLB: mapped .*(\([0-9]*\)MB).*/\1 MiB/p')
  echo
  echo "cloister guest: Linux $release, $cpus CPU(s), $memory MiB"
  echo "cloister guest: memory encryption: ${encryption:-none}; swiotlb: ${swiotlb:-none}"
}

echo_lines() {
  echo "cloister guest: echo ready"
  while read -r line; do
    case $line in
      quit) break ;;
      reboot) busybox reboot -f ;;
      panic) echo c >/proc/sysrq-trigger ;;
    esac
    echo "echo: $line"
  done
}

# Leaves the initramfs for a disk, as a distribution's does.
enter_root() {
  busybox mount -t ext4 "$1" /mnt || return
  for folder in dev proc sys; do
    busybox mount -o move "/$folder" "/mnt/$folder"
  done
  exec busybox switch_root /mnt /sbin/init
}

root=$(option cloister.root)
[ -n "$root" ] && enter_root "$root"

test=$(option cloister.test)
command=$(option cloister.run)
[ "$test" = poweroff ] || [ "$test" = reboot ] || [ "$test" = panic ] || banner
case $test in
  echo)
    watch_power_button
    echo_lines
    finish
    ;;
  poweroff)
    finish
    ;;
  reboot)
    busybox reboot -f
    ;;
  panic)
    echo c >/proc/sysrq-trigger
    ;;
  hold)
    watch_power_button
    echo "cloister guest: holding"
    while :; do busybox sleep 3600; done
    ;;
esac

if [ -n "$command" ]; then
  busybox sh -c "$command"
  echo "cloister guest: command ended with $?"
  finish
fi

watch_power_button
echo "cloister guest: leave this shell to power off"
cd /root || cd /
HOME=/root PS1='cloister# ' busybox setsid busybox cttyhack busybox sh
finish
