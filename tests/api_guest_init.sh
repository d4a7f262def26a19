#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The init of the guest of api_boot_test: says where its bounce buffers are, then
# reads its disk again and again and says what it found, how fast, and when the
# disk has another size.
PATH=/bin
export PATH
busybox mount -t devtmpfs dev /dev
guest_mark
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox dmesg | busybox grep "software IO TLB: mapped"

hundredths() { busybox sed 's/\([0-9]*\)\.\([0-9]*\) .*/\1\2/' /proc/uptime; }

size=0 pass=0
while [ -b /dev/vda ]; do
  now=$(busybox cat /sys/block/vda/size)
  [ "$now" = "$size" ] || echo "disk has $now sectors at $(busybox readlink -f /sys/block/vda/device)"
  size=$now
  start=$(hundredths)
  sum=$(busybox dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | busybox md5sum)
  end=$(hundredths)
  pass=$((pass + 1))
  speed=fast
  [ $((end - start)) -lt 300 ] || speed=slow
  echo "pass $pass: $speed: ${sum%% *}"
done
echo "there is no disk"
