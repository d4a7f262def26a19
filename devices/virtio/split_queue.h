// SPDX-License-Identifier: Apache-2.0
//
// Internal to the queue library.
#ifndef CLOISTER_DEVICES_VIRTIO_SPLIT_QUEUE_H_
#define CLOISTER_DEVICES_VIRTIO_SPLIT_QUEUE_H_

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

// The device's side of a split virtqueue (virtio 1.3, section 2.7).
class SplitQueue : public Queue {
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
  SplitQueue(const QueueConfig& config, memory::SharedView& view,
             RingArea descriptors, RingArea avail, RingArea used)
      : size_(config.size),
        event_idx_(config.event_idx),
        builder_(view, /*packed=*/false, config.indirect),
        descriptors_(std::move(descriptors)),
        avail_(std::move(avail)),
        used_(std::move(used)) {}

  absl::Status LoadAvailIndex(const memory::Lease& avail);
  absl::StatusOr<Chain> Build(uint16_t head);

  const uint16_t size_;  // a power of two
  const bool event_idx_;
  ChainBuilder builder_;
  const RingArea descriptors_;
  const RingArea avail_;
  const RingArea used_;

  // Free-running, as the indices in the rings.
  uint16_t next_avail_ = 0;  // to be popped next
  uint16_t avail_end_ = 0;   // the avail index read last
  uint16_t used_index_ = 0;  // published
  // Pushed since NeedsInterrupt looked last.
  uint32_t unsignalled_ = 0;
  // So many requests from next_avail_ on were popped before.
  uint16_t unpopped_ = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_SPLIT_QUEUE_H_
