// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/split_queue.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

using memory::Lease;
using memory::SharedView;

namespace {

// Offsets within the avail and the used ring (virtio 1.3, 2.7.6 and 2.7.8).
constexpr uint64_t kFlags = 0;
constexpr uint64_t kIndex = 2;
constexpr uint64_t kRing = 4;
constexpr uint64_t kAvailEntry = 2;
constexpr uint64_t kUsedEntry = 8;
constexpr uint64_t kEvent = 2;  // bytes at the end of either ring

constexpr uint16_t kNoInterrupt = 1;  // avail flags
constexpr uint16_t kNoNotify = 1;     // used flags

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
// Publishing an index or an event must also come before the look at what the
// other side published meanwhile: store, then load.
constexpr std::memory_order kOrdered = std::memory_order_seq_cst;

}  // namespace

absl::StatusOr<std::unique_ptr<Queue>> SplitQueue::Create(
    const QueueConfig& config, SharedView& view) {
  const uint64_t size = config.size;
  if (size > kMaxSize || !base::IsPowerOfTwo(size)) {
    return MakeQueueError(QueueError::kBadSize,
                          absl::StrCat("split queue of ", size));
  }
  ASSIGN_OR_RETURN(RingArea descriptors,
                   RingArea::Create(view, "descriptor table", config.desc,
                                    size * Descriptor::kSize, 16));
  ASSIGN_OR_RETURN(RingArea avail,
                   RingArea::Create(view, "avail ring", config.driver,
                                    kRing + size * kAvailEntry + kEvent, 2));
  ASSIGN_OR_RETURN(RingArea used,
                   RingArea::Create(view, "used ring", config.device,
                                    kRing + size * kUsedEntry + kEvent, 4));
  return std::unique_ptr<Queue>(new SplitQueue(
      config, view, std::move(descriptors), std::move(avail), std::move(used)));
}

absl::StatusOr<std::optional<Chain>> SplitQueue::Pop() {
  ASSIGN_OR_RETURN(Lease avail, avail_.Acquire());
  if (next_avail_ == avail_end_) {
    RETURN_IF_ERROR(LoadAvailIndex(avail));
    if (next_avail_ == avail_end_) return std::optional<Chain>();
  }
  const uint64_t slot = next_avail_ & (size_ - 1);
  ASSIGN_OR_RETURN(uint16_t head,
                   avail.Load<uint16_t>(kRing + slot * kAvailEntry, kRelaxed));
  ASSIGN_OR_RETURN(Chain chain, Build(head));
  ++next_avail_;
  if (unpopped_ > 0) --unpopped_;
  return std::optional<Chain>(std::move(chain));
}

absl::StatusOr<std::optional<Chain>> SplitQueue::PopUnleased() {
  builder_.set_leasing(false);
  absl::StatusOr<std::optional<Chain>> chain = Pop();
  builder_.set_leasing(true);
  return chain;
}

void SplitQueue::Unpop(Chain chain) {
  { Chain dropped = std::move(chain); }
  --next_avail_;
  ++unpopped_;
}

// A driver has no more requests under way than the ring has descriptors, those
// included that the device has popped and not pushed yet.
absl::Status SplitQueue::LoadAvailIndex(const Lease& avail) {
  ASSIGN_OR_RETURN(uint16_t index, avail.Load<uint16_t>(kIndex, kOrdered));
  const uint16_t in_flight = next_avail_ - used_index_;
  const uint16_t offered = index - next_avail_;
  if (offered > size_ - in_flight) {
    return MakeQueueError(
        QueueError::kAvailJump,
        absl::StrCat("avail index ", index, " after ", next_avail_, " with ",
                     in_flight, " of ", size_, " requests under way"));
  }
  avail_end_ = index;
  return absl::OkStatus();
}

absl::StatusOr<Chain> SplitQueue::Build(uint16_t head) {
  ASSIGN_OR_RETURN(Lease table, descriptors_.Acquire());
  Chain chain = ChainBuilder::Start();
  uint16_t index = head;
  for (uint32_t seen = 1; seen <= size_; ++seen) {
    if (index >= size_) {
      return MakeQueueError(
          QueueError::kBadIndex,
          absl::StrCat("descriptor ", index, " of a queue of ", size_));
    }
    std::array<uint8_t, Descriptor::kSize> bytes;
    RETURN_IF_ERROR(
        table.Read(index * Descriptor::kSize, absl::MakeSpan(bytes)));
    const Descriptor descriptor = Descriptor::FromSplit(bytes.data());
    RETURN_IF_ERROR(builder_.Add(descriptor, chain));
    if (!descriptor.Has(ChainBuilder::kNext)) {
      ChainBuilder::Finish(head, static_cast<uint16_t>(seen), chain);
      return chain;
    }
    index = descriptor.next;
  }
  return MakeQueueError(QueueError::kLoop, absl::StrCat("chain of more than ",
                                                        size_, " descriptors"));
}

absl::Status SplitQueue::PushAll(absl::Span<UsedChain> used) {
  // All leases end before the driver learns of any request.
  for (UsedChain& one : used) one.chain.DropLeases();
  if (used.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(Lease ring, used_.Acquire());
  uint16_t index = used_index_;
  for (const UsedChain& one : used) {
    const uint64_t entry = kRing + (index & (size_ - 1)) * kUsedEntry;
    const uint32_t length = static_cast<uint32_t>(
        std::min<uint64_t>(one.written, one.chain.writable_size()));
    RETURN_IF_ERROR(ring.Store<uint32_t>(entry, one.chain.id_, kRelaxed));
    RETURN_IF_ERROR(ring.Store<uint32_t>(entry + 4, length, kRelaxed));
    ++index;
  }
  // The index is what publishes them.
  RETURN_IF_ERROR(ring.Store<uint16_t>(kIndex, index, kOrdered));
  used_index_ = index;
  unsignalled_ += static_cast<uint32_t>(used.size());
  return absl::OkStatus();
}

absl::StatusOr<bool> SplitQueue::NeedsInterrupt() {
  if (unsignalled_ == 0) return false;
  ASSIGN_OR_RETURN(Lease avail, avail_.Acquire());
  const uint32_t pushed = std::exchange(unsignalled_, 0);
  if (!event_idx_) {
    ASSIGN_OR_RETURN(uint16_t flags, avail.Load<uint16_t>(kFlags, kOrdered));
    return (flags & kNoInterrupt) == 0;
  }
  ASSIGN_OR_RETURN(uint16_t event,
                   avail.Load<uint16_t>(kRing + size_ * kAvailEntry, kOrdered));
  // Wanted if the index passed the event since the last look.
  const uint16_t past = used_index_ - event - 1;
  return past < pushed;
}

absl::Status SplitQueue::DisableKicks() {
  // With event indices the old event, once passed, asks for nothing.
  if (event_idx_) return absl::OkStatus();
  ASSIGN_OR_RETURN(Lease used, used_.Acquire());
  return used.Store<uint16_t>(kFlags, kNoNotify, kRelaxed);
}

absl::StatusOr<bool> SplitQueue::EnableKicks() {
  {
    ASSIGN_OR_RETURN(Lease used, used_.Acquire());
    if (event_idx_) {
      RETURN_IF_ERROR(used.Store<uint16_t>(kRing + size_ * kUsedEntry,
                                           avail_end_, kOrdered));
    } else {
      RETURN_IF_ERROR(used.Store<uint16_t>(kFlags, 0, kOrdered));
    }
  }
  ASSIGN_OR_RETURN(Lease avail, avail_.Acquire());
  RETURN_IF_ERROR(LoadAvailIndex(avail));
  const uint16_t offered = avail_end_ - next_avail_;
  return offered > unpopped_;
}

}  // namespace cloister::devices::virtio
