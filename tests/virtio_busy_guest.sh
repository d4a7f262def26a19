#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's part of virtio_busy_test: keeps every device busy at once, with data
# that is checked, until it is told to stop; then meets the host's errors.
#   busy SECRET MARKER MIB    SECRET seeds what a process here keeps to itself, MARKER
#                             what it writes to the disk; MIB are moved each way in a
#                             round
# Lines of the console tell the host's part what to do next.

secret=$1
marker=$2
mib=$3

ip link set lo up
ip addr add 10.77.0.2/24 dev eth0
ip link set eth0 up
# Held open: what is typed while nobody has the terminal would be lost.
exec 3<>/dev/hvc0
secret_holder "$secret" &
until dmesg | grep -q "secret held"; do
  usleep 100000
done
echo "busy: interrupts MSI $(grep -c 'PCI-MSI.*virtio' /proc/interrupts)," \
  "8259 $(grep -c 'XT-PIC.*virtio' /proc/interrupts)"
for driver in virtio_blk virtio_net virtio_rng virtio_console vmw_vsock_virtio_transport \
  virtio_balloon; do
  echo "busy: $driver $(ls -d /sys/bus/virtio/drivers/$driver/virtio* 2>/dev/null | wc -l)"
done

# Takes its place in every loop below: one round, or the end.
go_on() {
  [ ! -e /tmp/stop ]
}

disk() {
  rounds=0
  while go_on; do
    secret_holder publish "$marker" /dev/vda &&
      blk_guest fill /dev/vda 4 "$rounds" >/tmp/disk.log &&
      blk_guest check /dev/vda 4 "$rounds" >>/tmp/disk.log || { cat /tmp/disk.log; return 1; }
    rounds=$((rounds + 1))
  done
  echo "busy: disk $rounds rounds"
}

entropy() {
  rounds=0
  while go_on; do
    [ "$(head -c 256 /dev/hwrng | wc -c)" = 256 ] || return 1
    rounds=$((rounds + 1))
  done
  echo "busy: entropy $rounds rounds"
}

console() {
  while go_on; do
    echo "over hvc0" >&3
    usleep 50000
  done
}

disk &
disk_process=$!
entropy &
entropy_process=$!
console &
console_process=$!
net_guest move tcp:10.77.0.1:5000 "$mib" 9 rounds &
net_process=$!
net_guest serve vsock:-1:5000 "$mib" 8 rounds &
vsock_process=$!

until [ "$line" = stop ]; do
  read -r line <&3
  echo "busy: heard $line" >&3
done
: >/tmp/stop
kill $net_process
wait $console_process
echo "busy: told $line"
wait $net_process
echo "busy: network ended $?"
wait $vsock_process
echo "busy: sockets ended $?"
wait $disk_process
echo "busy: disk ended $?"
wait $entropy_process
echo "busy: entropy ended $?"

sectors() {
  cat /sys/block/vda/size
}
echo "busy: disk of $(sectors) sectors"
until [ "$(sectors)" != 131072 ]; do
  usleep 10000
done
echo "busy: disk of $(sectors) sectors"
blk_guest zero /dev/vda 69206016 4194304

blk_guest try read /dev/vdb 0
blk_guest try write /dev/vdb 0
blk_guest fill /dev/vdc 8 3
echo "busy: pull the tap"
read -r line <&3
ping -c 1 -W 1 10.77.0.1 >/dev/null || echo "busy: unreachable"
echo "busy: carrier $(cat /sys/class/net/eth0/carrier)"
echo "busy: look at the counters"
read -r line <&3
