// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/packed_queue.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

using memory::Lease;
using memory::SharedView;

namespace {

// Descriptor flags (virtio 1.3, 2.8.1), and where an entry has its length, id
// and flags: 8 bytes.
constexpr uint16_t kAvail = 1 << 7;
constexpr uint16_t kUsed = 1 << 15;
constexpr uint64_t kRestOffset = 8;

// Event suppression: offset and wrap counter in the low half, flags in the high
// one (2.8.14).
constexpr uint64_t kEventSize = 4;
constexpr uint32_t kEnable = 0;
constexpr uint32_t kDisable = 1;
constexpr uint32_t kDescriptor = 2;

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
// As in split_queue.cc: store, then load what the other side stored.
constexpr std::memory_order kOrdered = std::memory_order_seq_cst;

}  // namespace

absl::StatusOr<std::unique_ptr<Queue>> PackedQueue::Create(
    const QueueConfig& config, SharedView& view) {
  const uint64_t size = config.size;
  if (size == 0 || size > kMaxSize) {
    return MakeQueueError(QueueError::kBadSize,
                          absl::StrCat("packed queue of ", size));
  }
  ASSIGN_OR_RETURN(RingArea ring,
                   RingArea::Create(view, "descriptor ring", config.desc,
                                    size * Descriptor::kSize, 16));
  ASSIGN_OR_RETURN(RingArea driver,
                   RingArea::Create(view, "driver event suppression",
                                    config.driver, kEventSize, 4));
  ASSIGN_OR_RETURN(RingArea device,
                   RingArea::Create(view, "device event suppression",
                                    config.device, kEventSize, 4));
  return std::unique_ptr<Queue>(new PackedQueue(
      config, view, std::move(ring), std::move(driver), std::move(device)));
}

absl::StatusOr<uint64_t> PackedQueue::LoadRest(const Lease& ring, Position at) {
  return ring.Load<uint64_t>(at.index * Descriptor::kSize + kRestOffset,
                             kOrdered);
}

bool PackedQueue::IsAvailable(uint64_t rest, Position at) {
  const bool avail = (rest >> 48 & kAvail) != 0;
  const bool used = (rest >> 48 & kUsed) != 0;
  return avail == at.wrap && used != at.wrap;
}

absl::StatusOr<std::optional<Chain>> PackedQueue::Pop() {
  ASSIGN_OR_RETURN(Lease ring, ring_.Acquire());
  ASSIGN_OR_RETURN(uint64_t rest, LoadRest(ring, next_));
  if (!IsAvailable(rest, next_)) return std::optional<Chain>();
  ASSIGN_OR_RETURN(Chain chain, Build(ring, rest));
  next_.Advance(chain.entries_, size_);
  taken_ += chain.entries_;
  // A driver may have changed what it offered before: no more than all.
  unpopped_ -= std::min(unpopped_, chain.entries_);
  return std::optional<Chain>(std::move(chain));
}

absl::StatusOr<std::optional<Chain>> PackedQueue::PopUnleased() {
  builder_.set_leasing(false);
  absl::StatusOr<std::optional<Chain>> chain = Pop();
  builder_.set_leasing(true);
  return chain;
}

void PackedQueue::Unpop(Chain chain) {
  const uint16_t entries = chain.entries_;
  { Chain dropped = std::move(chain); }
  next_.Retreat(entries, size_);
  taken_ -= entries;
  unpopped_ += entries;
}

PackedQueue::Position PackedQueue::Unseen() const {
  Position position = next_;
  position.Advance(unpopped_, size_);
  return position;
}

// The ring must have room for the chain beside those under way: an entry that
// was taken and not given back is not the driver's to make available.
absl::StatusOr<Chain> PackedQueue::Build(const Lease& ring, uint64_t rest) {
  Chain chain = ChainBuilder::Start();
  Position at = next_;
  const uint32_t room = size_ - taken_;
  if (room == 0) {
    return MakeQueueError(QueueError::kAvailJump,
                          "available entry in a ring that is all under way");
  }
  for (uint32_t seen = 1; seen <= room; ++seen) {
    ASSIGN_OR_RETURN(
        uint64_t address,
        ring.Load<uint64_t>(at.index * Descriptor::kSize, kRelaxed));
    const Descriptor descriptor = Descriptor::FromPacked(address, rest);
    RETURN_IF_ERROR(builder_.Add(descriptor, chain));
    if (!descriptor.Has(ChainBuilder::kNext)) {
      if (descriptor.id >= size_) {
        return MakeQueueError(QueueError::kBadIndex,
                              absl::StrCat("buffer id ", descriptor.id,
                                           " of a queue of ", size_));
      }
      ChainBuilder::Finish(descriptor.id, static_cast<uint16_t>(seen), chain);
      return chain;
    }
    at.Advance(1, size_);
    ASSIGN_OR_RETURN(rest, LoadRest(ring, at));
  }
  return MakeQueueError(
      QueueError::kLoop,
      absl::StrCat("chain of more than the ", room, " entries that are free"));
}

absl::Status PackedQueue::Publish(const Lease& ring, const UsedChain& used,
                                  Position at) const {
  const uint64_t length =
      std::min<uint64_t>(used.written, used.chain.writable_size());
  const uint64_t id = used.chain.id_;
  uint64_t flags = at.wrap ? kAvail | kUsed : 0;
  if (length != 0) flags |= ChainBuilder::kWrite;
  // All three fields at once: flags make the others valid.
  return ring.Store<uint64_t>(at.index * Descriptor::kSize + kRestOffset,
                              flags << 48 | id << 32 | length, kOrdered);
}

absl::Status PackedQueue::PushAll(absl::Span<UsedChain> used) {
  // All leases end before the driver learns of any request.
  for (UsedChain& one : used) one.chain.DropLeases();
  if (used.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(Lease ring, ring_.Acquire());
  // Drivers take entries in order: the others stay unseen until the first one,
  // written last, says that it is used (virtio 1.3, 2.8.6 and 2.8.21).
  Position at = used_;
  at.Advance(used[0].chain.entries_, size_);
  uint32_t entries = used[0].chain.entries_;
  for (const UsedChain& one : used.subspan(1)) {
    RETURN_IF_ERROR(Publish(ring, one, at));
    at.Advance(one.chain.entries_, size_);
    entries += one.chain.entries_;
  }
  RETURN_IF_ERROR(Publish(ring, used[0], used_));
  used_ = at;
  taken_ -= entries;
  unsignalled_ += entries;
  return absl::OkStatus();
}

absl::StatusOr<bool> PackedQueue::NeedsInterrupt() {
  if (unsignalled_ == 0) return false;
  ASSIGN_OR_RETURN(Lease driver, driver_.Acquire());
  ASSIGN_OR_RETURN(uint32_t event, driver.Load<uint32_t>(0, kOrdered));
  const uint32_t pushed = std::exchange(unsignalled_, 0);
  const uint32_t flags = event >> 16 & 3;
  if (flags == kDescriptor && event_idx_) {
    return PassedEvent(static_cast<uint16_t>(event), pushed);
  }
  return flags != kDisable;
}

// Whether the last `pushed` entries include the one that the driver named. Both
// laps are laid end to end: an event of the other lap lies a ring's size back.
bool PackedQueue::PassedEvent(uint16_t event, uint32_t pushed) const {
  const bool wrap = (event & 0x8000) != 0;
  int32_t offset = event & 0x7fff;
  if (wrap != used_.wrap) offset -= size_;
  // Entries from the event up to used_, the event included: 1 if it was last.
  const int32_t past = int32_t{used_.index} - offset;
  return pushed >= size_ || (past >= 1 && past <= static_cast<int32_t>(pushed));
}

absl::Status PackedQueue::DisableKicks() {
  ASSIGN_OR_RETURN(Lease device, device_.Acquire());
  return device.Store<uint32_t>(0, kDisable << 16, kRelaxed);
}

absl::StatusOr<bool> PackedQueue::EnableKicks() {
  const Position unseen = Unseen();
  {
    const uint32_t position = unseen.index | (unseen.wrap ? 0x8000u : 0u);
    const uint32_t event =
        event_idx_ ? kDescriptor << 16 | position : kEnable << 16;
    ASSIGN_OR_RETURN(Lease device, device_.Acquire());
    RETURN_IF_ERROR(device.Store<uint32_t>(0, event, kOrdered));
  }
  ASSIGN_OR_RETURN(Lease ring, ring_.Acquire());
  ASSIGN_OR_RETURN(uint64_t rest, LoadRest(ring, unseen));
  return IsAvailable(rest, unseen);
}

}  // namespace cloister::devices::virtio
