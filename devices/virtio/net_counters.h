// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_NET_COUNTERS_H_
#define CLOISTER_DEVICES_VIRTIO_NET_COUNTERS_H_

#include "cloister/devices/virtio/counter.h"

namespace cloister::devices::virtio {

// What a network device counts; "rx" is towards the guest. Bytes are without
// headers of virtio.
struct NetCounters {
  Counter rx_packets, rx_bytes;
  Counter tx_packets, tx_bytes;
  Counter rx_dropped_too_long;   // no buffers of the driver could hold it
  Counter rx_no_buffers;         // times that a packet waited for the driver
  Counter tx_dropped_malformed;  // a header or a length against the rules
  Counter tx_dropped_tap;        // the interface refused it, or is gone
  Counter tx_busy;               // times that the interface had no room
  Counter tap_errors;            // failed calls of either direction
  Counter control_commands, control_refused;
  Counter link_down;  // the interface went away
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_COUNTERS_H_
