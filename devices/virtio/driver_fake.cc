// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/driver_fake.h"

#include <array>
#include <utility>

#include "cloister/base/bytes.h"

namespace cloister::devices::virtio {

using memory::GuestAddress;

namespace {

constexpr uint64_t kDescriptorSize = 16;
// Indirect tables up to this size are used again.
constexpr size_t kPooledEntries = 64;
constexpr uint16_t kAvail = 1 << 7;
constexpr uint16_t kUsed = 1 << 15;

}  // namespace

DriverFake::DriverFake(FakeRam& ram, const Options& options)
    : ram_(ram), free_(options.size) {
  config_.size = options.size;
  config_.packed = options.packed;
  config_.indirect = options.indirect;
  config_.event_idx = options.event_idx;
  const uint64_t size = options.size;
  config_.desc = ram.Alloc(size * kDescriptorSize, 16);
  config_.driver = ram.Alloc(options.packed ? 4 : 6 + size * 2, 4);
  config_.device = ram.Alloc(options.packed ? 4 : 6 + size * 8, 4);
  for (uint16_t i = options.size; i > 0; --i) free_ids_.push_back(i - 1);
}

std::optional<uint16_t> DriverFake::Offer(absl::Span<const Buffer> buffers,
                                          bool indirect) {
  const size_t entries = indirect ? 1 : buffers.size();
  if (buffers.empty() || entries > free_) return std::nullopt;
  Buffer table;
  if (indirect) {
    table = BuildTable(buffers);
    buffers = absl::MakeConstSpan(&table, 1);
  }
  table_ = indirect;
  return config_.packed ? OfferPacked(buffers) : OfferSplit(buffers);
}

DriverFake::Buffer DriverFake::BuildTable(absl::Span<const Buffer> buffers) {
  const uint32_t bytes = buffers.size() * kDescriptorSize;
  GuestAddress table;
  if (buffers.size() > kPooledEntries) {
    table = ram_.Alloc(bytes, 16);
  } else if (free_tables_.empty()) {
    table = ram_.Alloc(kPooledEntries * kDescriptorSize, 16);
    tables_.insert(table);
  } else {
    table = free_tables_.back();
    free_tables_.pop_back();
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    uint16_t flags = buffers[i].writable ? kWrite : 0;
    if (!last && !config_.packed) flags |= kNext;
    WriteTableEntry(table, i, buffers[i].address.value(), buffers[i].length,
                    flags, last || config_.packed ? 0 : i + 1);
  }
  return {table, bytes, false};
}

std::optional<uint16_t> DriverFake::OfferSplit(absl::Span<const Buffer> ring) {
  Request request;
  for (size_t i = 0; i < ring.size(); ++i) {
    request.chain.push_back(free_ids_.back());
    free_ids_.pop_back();
  }
  for (size_t i = 0; i < ring.size(); ++i) {
    const bool last = i + 1 == ring.size();
    const uint16_t flags = (last ? 0 : kNext) | (table_ ? kIndirect : 0) |
                           (ring[i].writable ? kWrite : 0);
    WriteDescriptor(request.chain[i], ring[i].address.value(), ring[i].length,
                    flags, last ? 0 : request.chain[i + 1]);
  }
  const uint16_t head = request.chain[0];
  request.descriptors = static_cast<uint16_t>(ring.size());
  request.buffer = ring[0].address;
  free_ -= ring.size();
  busy_[head] = std::move(request);
  OfferHead(head);
  return head;
}

void DriverFake::OfferHead(uint16_t head) {
  const uint64_t slot = next_ % config_.size;
  ram_.Store<uint16_t>(At(config_.driver, 4 + 2 * slot), head);
  WriteAvailIndex(next_ + 1);
  ++offered_;
}

void DriverFake::WriteAvailIndex(uint16_t index) {
  next_ = index;
  ram_.Store<uint16_t>(At(config_.driver, 2), index);
}

uint16_t DriverFake::AvailableFlags() const {
  return next_wrap_ ? kAvail : kUsed;
}

std::optional<uint16_t> DriverFake::OfferPacked(absl::Span<const Buffer> ring) {
  const uint16_t id = free_ids_.back();
  free_ids_.pop_back();
  const uint16_t head = next_;
  uint16_t head_flags = 0;
  for (size_t i = 0; i < ring.size(); ++i) {
    const bool last = i + 1 == ring.size();
    const uint16_t flags = (last ? 0 : kNext) | (table_ ? kIndirect : 0) |
                           (ring[i].writable ? kWrite : 0) | AvailableFlags();
    // The head's flags publish the chain: they come last.
    const uint16_t hidden = next_wrap_ ? 0 : kAvail | kUsed;
    if (i == 0) head_flags = flags;
    WriteDescriptor(next_, ring[i].address.value(), ring[i].length,
                    i == 0 ? hidden : flags, id);
    Advance(1, next_, next_wrap_);
  }
  ram_.Store<uint16_t>(At(config_.desc, head * kDescriptorSize + 14),
                       head_flags);
  free_ -= ring.size();
  offered_ += ring.size();
  busy_[id] = Request{static_cast<uint16_t>(ring.size()), {}, ring[0].address};
  return id;
}

void DriverFake::WriteDescriptor(uint16_t index, uint64_t address,
                                 uint32_t length, uint16_t flags,
                                 uint16_t next_or_id) {
  WriteTableEntry(config_.desc, index, address, length, flags, next_or_id);
}

void DriverFake::WriteTableEntry(GuestAddress table, uint32_t index,
                                 uint64_t address, uint32_t length,
                                 uint16_t flags, uint16_t next_or_id) {
  std::array<uint8_t, kDescriptorSize> bytes;
  base::StoreLe<uint64_t>(&bytes[0], address);
  base::StoreLe<uint32_t>(&bytes[8], length);
  base::StoreLe<uint16_t>(&bytes[config_.packed ? 14 : 12], flags);
  base::StoreLe<uint16_t>(&bytes[config_.packed ? 12 : 14], next_or_id);
  ram_.Write(At(table, index * kDescriptorSize), bytes);
}

bool DriverFake::HasUsed() const {
  if (!config_.packed) {
    return ram_.Load<uint16_t>(At(config_.device, 2)) != used_;
  }
  const uint16_t flags =
      ram_.Load<uint16_t>(At(config_.desc, used_ * kDescriptorSize + 14));
  const bool avail = (flags & kAvail) != 0;
  const bool used = (flags & kUsed) != 0;
  return avail == used && used == used_wrap_;
}

std::optional<DriverFake::Used> DriverFake::PopUsed() {
  if (!HasUsed()) return std::nullopt;
  return config_.packed ? PopUsedPacked() : PopUsedSplit();
}

std::optional<DriverFake::Used> DriverFake::PopUsedSplit() {
  const uint64_t entry = 4 + 8 * (used_ % config_.size);
  Used used;
  used.id = ram_.Load<uint32_t>(At(config_.device, entry));
  used.written = ram_.Load<uint32_t>(At(config_.device, entry + 4));
  ++used_;
  auto busy = busy_.find(used.id);
  if (busy != busy_.end()) {  // else offered by OfferHead
    for (uint16_t descriptor : busy->second.chain) {
      free_ids_.push_back(descriptor);
    }
    Finish(busy->second);
    busy_.erase(busy);
  }
  return used;
}

std::optional<DriverFake::Used> DriverFake::PopUsedPacked() {
  const uint64_t entry = used_ * kDescriptorSize;
  Used used;
  used.id = ram_.Load<uint16_t>(At(config_.desc, entry + 12));
  const uint16_t flags = ram_.Load<uint16_t>(At(config_.desc, entry + 14));
  if ((flags & kWrite) != 0) {
    used.written = ram_.Load<uint32_t>(At(config_.desc, entry + 8));
  }
  auto busy = busy_.find(used.id);
  uint16_t descriptors = 1;
  if (busy != busy_.end()) {
    descriptors = busy->second.descriptors;
    free_ids_.push_back(used.id);
    Finish(busy->second);
    busy_.erase(busy);
  }
  Advance(descriptors, used_, used_wrap_);
  return used;
}

void DriverFake::Finish(const Request& request) {
  free_ += request.descriptors;
  if (tables_.count(request.buffer) != 0) {
    free_tables_.push_back(request.buffer);
  }
}

void DriverFake::Advance(uint16_t count, uint16_t& index, bool& wrap) const {
  uint32_t next = uint32_t{index} + count;
  if (next >= config_.size) {
    next -= config_.size;
    wrap = !wrap;
  }
  index = static_cast<uint16_t>(next);
}

bool DriverFake::NeedsKick() {
  const uint16_t offered = std::exchange(offered_, 0);
  if (offered == 0) return false;
  if (!config_.packed) {
    if (!config_.event_idx) {
      return (ram_.Load<uint16_t>(config_.device) & 1) == 0;
    }
    const uint16_t event =
        ram_.Load<uint16_t>(At(config_.device, 4 + 8 * uint64_t{config_.size}));
    const uint16_t past = next_ - event - 1;
    return past < offered;
  }
  const uint32_t event = ram_.Load<uint32_t>(config_.device);
  const uint32_t flags = event >> 16 & 3;
  if (flags != 2) return flags == 0;
  int32_t offset = event & 0x7fff;
  if (((event & 0x8000) != 0) != next_wrap_) offset -= config_.size;
  const int32_t past = next_ - offset;
  return past >= 1 && past <= offered;
}

void DriverFake::DisableInterrupts() {
  if (config_.packed) {
    ram_.Store<uint32_t>(config_.driver, 1u << 16);
  } else if (!config_.event_idx) {
    ram_.Store<uint16_t>(config_.driver, 1);
  } else {
    // An event that lies behind: not passed again for 2^16 requests.
    ram_.Store<uint16_t>(At(config_.driver, 4 + 2 * uint64_t{config_.size}),
                         used_ - 1);
  }
}

bool DriverFake::EnableInterrupts(uint16_t after) {
  if (config_.packed) {
    uint16_t index = used_;
    bool wrap = used_wrap_;
    Advance(after, index, wrap);
    const uint32_t event =
        config_.event_idx ? 2u << 16 | (wrap ? 0x8000u : 0u) | index : 0;
    ram_.Store<uint32_t>(config_.driver, event);
  } else if (!config_.event_idx) {
    ram_.Store<uint16_t>(config_.driver, 0);
  } else {
    ram_.Store<uint16_t>(At(config_.driver, 4 + 2 * uint64_t{config_.size}),
                         used_ + after);
  }
  return HasUsed();
}

}  // namespace cloister::devices::virtio
