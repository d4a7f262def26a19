// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_COUNTERS_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_COUNTERS_H_

#include "cloister/devices/virtio/counter.h"

namespace cloister::devices::virtio {

// What a socket device counts; "rx" is towards the guest.
struct VsockCounters {
  Counter rx_packets, rx_bytes;
  Counter tx_packets, tx_bytes;
  Counter opened_by_host, opened_by_guest;
  Counter closed;
  Counter clients_refused;   // no CONNECT line, or no more connections
  Counter tx_malformed;      // headers against the rules
  Counter tx_bad_cid;        // from or to an address that is not there
  Counter tx_no_connection;  // for a connection that does not exist
  Counter tx_out_of_turn;    // an operation its connection does not expect
  Counter tx_over_credit;    // data beyond what the guest was granted
  Counter connect_failed;    // nobody listens where the guest connects to
  Counter resets_sent, resets_dropped;
  Counter timeouts;
  Counter socket_errors;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_COUNTERS_H_
