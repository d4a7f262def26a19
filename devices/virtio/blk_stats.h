// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BLK_STATS_H_
#define CLOISTER_DEVICES_VIRTIO_BLK_STATS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

#include "cloister/base/mutex.h"
#include "cloister/devices/virtio/blk_request.h"
#include "cloister/devices/virtio/counter.h"

namespace cloister::devices::virtio {

// What a block device has done since it was created.
struct BlkCounters {
  // Requests that were done, and the bytes they moved.
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  uint64_t writes = 0;
  uint64_t written_bytes = 0;
  uint64_t flushes = 0;
  uint64_t ids = 0;
  uint64_t discards = 0;
  uint64_t write_zeroes = 0;
  // Requests that the host's disk failed, by errno.
  std::map<int, uint64_t> errors;
  // Requests that were answered with an error and never reached the disk: all,
  // and by BlkRefusal.
  uint64_t refused = 0;
  std::array<uint64_t, kBlkRefusals> refusals = {};
  // Times that a request had to wait for the rate limiter.
  uint64_t throttled = 0;
  // Requests whose buffers O_DIRECT could not have.
  uint64_t bounced = 0;
  // Operations under way now.
  uint64_t in_flight = 0;
};

// Collects them. Counted on the device's worker, read on any thread.
class BlkStats {
 public:
  void Done(const BlkRequest& request, bool bounced);
  // Returns true if it was the first with this errno.
  bool Failed(int error);
  void Refused(BlkRefusal why) { refusals_[static_cast<size_t>(why)].Add(); }
  // All but throttled and in_flight.
  BlkCounters Snapshot() const;

 private:
  std::array<Counter, 6> requests_;  // by BlkType
  std::array<Counter, kBlkRefusals> refusals_;
  Counter read_bytes_, written_bytes_, bounced_;
  mutable base::Mutex mutex_;
  std::map<int, uint64_t> errors_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BLK_STATS_H_
