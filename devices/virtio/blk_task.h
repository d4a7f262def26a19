// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BLK_TASK_H_
#define CLOISTER_DEVICES_VIRTIO_BLK_TASK_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/devices/virtio/blk_request.h"
#include "cloister/devices/virtio/disk_file.h"
#include "cloister/devices/virtio/disk_op.h"
#include "cloister/devices/virtio/queue.h"

namespace cloister::devices::virtio {

// A request of the driver under way: the disk operations it takes, one after
// another, and the file and those leases that they need until the last of them
// is done. Not movable: an engine holds its address. Not thread-safe.
//
// Data moves straight between the disk and the guest's shared memory; only
// where O_DIRECT cannot have the driver's buffers, through one of kBounceSize.
class BlkTask : public DiskOp {
 public:
  static constexpr size_t kBounceSize = 256 * 1024;

  // `durable`: the driver was promised a write-through cache.
  BlkTask(Chain chain, uint16_t queue, const BlkRequest& request,
          std::vector<BlkSegment> segments, std::shared_ptr<DiskFile> file,
          bool durable)
      : chain_(std::move(chain)),
        queue_(queue),
        request_(request),
        segments_(std::move(segments)),
        file_(std::move(file)),
        durable_(durable) {}
  // A flush that no driver asked for, and that no reset gives up.
  explicit BlkTask(std::shared_ptr<DiskFile> file)
      : file_(std::move(file)), keep_(true) {
    request_.type = BlkType::kFlush;
  }
  BlkTask(const BlkTask&) = delete;
  BlkTask& operator=(const BlkTask&) = delete;

  // Makes this the first operation; false if there is none to do. An error if
  // there is no memory to bounce through.
  absl::StatusOr<bool> Begin();
  // The operation that this was is done without error. Makes this the next one;
  // false if that was all.
  absl::StatusOr<bool> Continue();
  // All of them are done, and the cache is write-through by now. Makes this a
  // flush of what they changed, without the leases of what they read; false if
  // they changed nothing, or if it is durable already.
  bool BeginFlush();

  const BlkRequest& request() const { return request_; }
  uint16_t queue() const { return queue_; }
  std::optional<Chain>& chain() { return chain_; }
  bool bounced() const { return bounce_ != nullptr; }
  // What the operation was about, for messages.
  uint64_t op_offset() const { return offset; }

  // The owner's: where it is in a list, and that its driver has gone.
  size_t index = 0;
  bool orphan = false;

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };

  void Become(Kind kind, uint64_t at, uint64_t size);
  absl::StatusOr<bool> BeginTransfer();
  absl::StatusOr<bool> NextChunk();
  bool NextSegment();
  bool Suits(absl::Span<const struct iovec> buffers) const;

  std::optional<Chain> chain_;
  uint16_t queue_ = 0;
  BlkRequest request_;
  std::vector<BlkSegment> segments_;
  size_t next_segment_ = 0;
  std::shared_ptr<DiskFile> file_;
  bool durable_ = false;
  bool keep_ = false;
  std::unique_ptr<uint8_t, Free> bounce_;
  uint64_t moved_ = 0;  // bytes of the request that went through it
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BLK_TASK_H_
