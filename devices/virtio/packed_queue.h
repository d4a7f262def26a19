// SPDX-License-Identifier: Apache-2.0
//
// Internal to the queue library.
#ifndef CLOISTER_DEVICES_VIRTIO_PACKED_QUEUE_H_
#define CLOISTER_DEVICES_VIRTIO_PACKED_QUEUE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/devices/virtio/chain_builder.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/devices/virtio/ring_area.h"

namespace cloister::devices::virtio {

// The device's side of a packed virtqueue (virtio 1.3, section 2.8).
class PackedQueue : public Queue {
 public:
  static absl::StatusOr<std::unique_ptr<Queue>> Create(
      const QueueConfig& config, memory::SharedView& view);

  absl::StatusOr<std::optional<Chain>> Pop() override;
  absl::StatusOr<std::optional<Chain>> PopUnleased() override;
  void Unpop(Chain chain) override;
  absl::Status PushAll(absl::Span<UsedChain> used) override;
  absl::StatusOr<bool> NeedsInterrupt() override;
  absl::Status DisableKicks() override;
  absl::StatusOr<bool> EnableKicks() override;
  uint16_t size() const override { return size_; }

 private:
  // A place in the ring, and the wrap counter of the lap it belongs to.
  struct Position {
    uint16_t index = 0;
    bool wrap = true;

    // By at most a lap.
    void Advance(uint16_t count, uint16_t size) {
      const uint32_t next = uint32_t{index} + count;
      if (next >= size) wrap = !wrap;
      index = static_cast<uint16_t>(next >= size ? next - size : next);
    }
    void Retreat(uint16_t count, uint16_t size) {
      if (count > index) wrap = !wrap;
      index = static_cast<uint16_t>(count > index ? index + size - count
                                                  : index - count);
    }
  };

  PackedQueue(const QueueConfig& config, memory::SharedView& view,
              RingArea ring, RingArea driver, RingArea device)
      : size_(config.size),
        event_idx_(config.event_idx),
        builder_(view, /*packed=*/true, config.indirect),
        ring_(std::move(ring)),
        driver_(std::move(driver)),
        device_(std::move(device)) {}

  // An entry's length, id and flags, by one load; the driver writes them after
  // its address.
  static absl::StatusOr<uint64_t> LoadRest(const memory::Lease& ring,
                                           Position at);
  // Whether the driver made the entry available: its flags hold this lap's wrap
  // counter as AVAIL, and the opposite as USED.
  static bool IsAvailable(uint64_t rest, Position at);
  // The first entry that was never popped.
  Position Unseen() const;
  // The chain whose first entry is the one at next_, with this rest.
  absl::StatusOr<Chain> Build(const memory::Lease& ring, uint64_t rest);
  bool PassedEvent(uint16_t event, uint32_t pushed) const;
  absl::Status Publish(const memory::Lease& ring, const UsedChain& used,
                       Position at) const;

  const uint16_t size_;
  const bool event_idx_;
  ChainBuilder builder_;
  const RingArea ring_;
  const RingArea driver_;  // event suppression by the driver
  const RingArea device_;  // and by the device

  Position next_;       // to be popped next
  Position used_;       // to be written next
  uint32_t taken_ = 0;  // entries of chains popped and not pushed
  // Entries pushed since NeedsInterrupt looked last.
  uint32_t unsignalled_ = 0;
  uint16_t unpopped_ = 0;  // entries from next_ on that were popped before
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_PACKED_QUEUE_H_
