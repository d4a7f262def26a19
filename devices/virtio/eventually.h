// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_EVENTUALLY_H_
#define CLOISTER_DEVICES_VIRTIO_EVENTUALLY_H_

#include <chrono>
#include <thread>

namespace cloister::devices::virtio {

// For tests of what a device's own thread does: false if `condition` does not
// come true within ten seconds.
template <typename Condition>
bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_EVENTUALLY_H_
