// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_QUEUE_H_
#define CLOISTER_DEVICES_VIRTIO_QUEUE_H_

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/devices/virtio/queue_error.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// Where a driver put a virtqueue, as the transport's registers say (virtio 1.3,
// sections 2.7 and 2.8). Nothing is checked until Queue::Create.
struct QueueConfig {
  uint16_t size = 0;            // descriptors
  memory::GuestAddress desc;    // descriptor table, or the packed ring
  memory::GuestAddress driver;  // avail ring, or driver event suppression
  memory::GuestAddress device;  // used ring, or device event suppression
  bool packed = false;          // VIRTIO_F_RING_PACKED
  bool indirect = false;        // VIRTIO_F_INDIRECT_DESC
  bool event_idx = false;       // VIRTIO_F_EVENT_IDX
};

// One request of the driver: its buffers, leased until this object is gone,
// pushed back, or asked to release them. All readable bytes come before all
// writable ones. Move-only; may be handed to another thread.
class Chain {
 public:
  Chain(Chain&&) noexcept = default;
  Chain& operator=(Chain&&) noexcept = default;

  uint64_t readable_size() const { return readable_size_; }
  uint64_t writable_size() const { return writable_size_; }
  // Of the ring's descriptors, how many it takes: one for an indirect table.
  uint16_t entries() const { return entries_; }

  // Copies bytes at `offset` within the readable part, or to the writable one.
  // OutOfRange, touching nothing, for what is not inside. Guest memory changes
  // at any time: read once, validate the copy.
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> to) const;
  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> from) const;

  // Copies bytes of the writable part: what the device put there, if the driver
  // left it alone.
  absl::Status ReadBack(uint64_t offset, absl::Span<uint8_t> to) const;

  // The host's addresses of [offset, offset + size) of either part, for vector
  // I/O that ends before this object does. OutOfRange as above.
  absl::StatusOr<std::vector<struct iovec>> ReadableIovecs(uint64_t offset,
                                                           uint64_t size);
  absl::StatusOr<std::vector<struct iovec>> WritableIovecs(uint64_t offset,
                                                           uint64_t size);

  // Ends the leases of the readable part's buffers that end before `offset`
  // bytes of it, for a device that is done with them before it is with the
  // request. Reading them is OutOfRange from then on.
  void ReleaseReadable(uint64_t offset);
  void ReleaseReadable() { ReleaseReadable(readable_size_); }

  // Of PopUnleased: where the writable buffers are. Nothing is known about such
  // memory, not even that it exists.
  absl::Span<const memory::GuestRange> unleased() const { return unleased_; }

 private:
  friend class SplitQueue;
  friend class PackedQueue;
  friend class ChainBuilder;
  Chain() = default;
  void DropLeases() {
    ReleaseReadable();
    writable_.clear();
  }

  uint16_t id_ = 0;  // head index (split), buffer id (packed)
  uint16_t entries_ = 1;
  uint64_t readable_size_ = 0;
  uint64_t released_ = 0;  // bytes of it before those of readable_
  uint64_t writable_size_ = 0;
  // Most requests have a header, some data and a status.
  absl::InlinedVector<memory::Lease, 2> readable_;
  absl::InlinedVector<memory::Lease, 2> writable_;
  std::vector<memory::GuestRange> unleased_;
};

// A request that is done, `written` bytes of its writable part filled.
struct UsedChain {
  Chain chain;
  uint32_t written = 0;
};

// The device's side of one virtqueue. Everything in guest memory is hostile:
// each field is read once and the copy validated; chains are bounded by the
// ring size (and by kMaxIndirect for indirect tables).
//
// An error of any method means that the driver broke the rules, or took the
// ring's memory away: the device must stop using the queue and report
// DEVICE_NEEDS_RESET; the error's QueueErrorOf() is the reason to count, and
// memory::ShareRefusalOf() says what was wrong with memory that is not shared.
//
// The rings are leased for the time of one call only: a guest may convert their
// pages whenever it likes, and the next call then fails.
//
// Used by one thread at a time.
class Queue {
 public:
  // Indirect tables hold at most this many descriptors.
  static constexpr uint16_t kMaxIndirect = 1024;
  static constexpr uint16_t kMaxSize = 32768;

  // Checks size, alignment and that the rings are shared. `view` must outlive
  // the queue.
  static absl::StatusOr<std::unique_ptr<Queue>> Create(
      const QueueConfig& config, memory::SharedView& view);
  virtual ~Queue() = default;

  // The next request; nullopt when the driver has offered no more.
  virtual absl::StatusOr<std::optional<Chain>> Pop() = 0;

  // As Pop, for queues whose writable buffers stand for memory that the device
  // does not touch (free page reporting): no lease, and no bytes to write.
  virtual absl::StatusOr<std::optional<Chain>> PopUnleased() = 0;

  // Puts the chain popped last back to the front, for a device that cannot take
  // it now (an empty rate limiter). Several: the one popped last comes first.
  // Drops its leases: the next Pop reads and checks it anew.
  virtual void Unpop(Chain chain) = 0;

  // Returns a request, in any order, `written` bytes of its writable part
  // filled. Drops its leases, then publishes it.
  absl::Status Push(Chain chain, uint32_t written) {
    UsedChain one = {std::move(chain), written};
    return PushAll(absl::MakeSpan(&one, 1));
  }

  // As Push, for requests that mean something only together (a packet merged
  // from several buffers): the driver sees all of them or none (virtio 1.3,
  // section 5.1.6.4). The chains are used up, whatever the result.
  virtual absl::Status PushAll(absl::Span<UsedChain> used) = 0;

  // True if the driver wants an interrupt for what was pushed since the last
  // call.
  virtual absl::StatusOr<bool> NeedsInterrupt() = 0;

  // Asks the driver not to kick (a hint), or to kick again. EnableKicks returns
  // true if requests that were never popped are there: then Pop again instead
  // of waiting.
  virtual absl::Status DisableKicks() = 0;
  virtual absl::StatusOr<bool> EnableKicks() = 0;

  virtual uint16_t size() const = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_QUEUE_H_
