// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/chain_builder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/ring_area.h"

namespace cloister::devices::virtio {

using memory::GuestAddress;
using memory::GuestRange;
using memory::Lease;

Descriptor Descriptor::FromSplit(const uint8_t* bytes) {
  Descriptor descriptor;
  descriptor.address = base::LoadLe<uint64_t>(bytes);
  descriptor.length = base::LoadLe<uint32_t>(bytes + 8);
  descriptor.flags = base::LoadLe<uint16_t>(bytes + 12);
  descriptor.next = base::LoadLe<uint16_t>(bytes + 14);
  return descriptor;
}

Descriptor Descriptor::FromPacked(const uint8_t* bytes) {
  return FromPacked(base::LoadLe<uint64_t>(bytes),
                    base::LoadLe<uint64_t>(bytes + 8));
}

Descriptor Descriptor::FromPacked(uint64_t address, uint64_t rest) {
  Descriptor descriptor;
  descriptor.address = address;
  descriptor.length = static_cast<uint32_t>(rest);
  descriptor.id = static_cast<uint16_t>(rest >> 32);
  descriptor.flags = static_cast<uint16_t>(rest >> 48);
  return descriptor;
}

absl::Status ChainBuilder::Add(const Descriptor& descriptor, Chain& chain) {
  return descriptor.Has(kIndirect) ? AddTable(descriptor, chain)
                                   : AddBuffer(descriptor, chain);
}

absl::Status ChainBuilder::AddBuffer(const Descriptor& descriptor,
                                     Chain& chain) {
  const bool writable = descriptor.Has(kWrite);
  if (descriptor.length == 0) {
    return MakeQueueError(QueueError::kEmptyBuffer, "descriptor of no bytes");
  }
  if (!writable && chain.writable_size_ != 0) {
    return MakeQueueError(QueueError::kBadOrder,
                          "readable descriptor after a writable one");
  }
  const uint64_t total = chain.readable_size_ + chain.writable_size_;
  if (descriptor.length > UINT32_MAX - total) {
    return MakeQueueError(QueueError::kTooLong,
                          absl::StrCat(total, " and ", descriptor.length,
                                       " more bytes in one chain"));
  }
  if (writable && !leasing_) return AddUnleased(descriptor, chain);
  absl::StatusOr<Lease> lease =
      view_.Acquire(GuestAddress(descriptor.address), descriptor.length);
  if (!lease.ok()) {
    return QueueErrorFrom(QueueError::kBufferNotShared, "buffer",
                          lease.status());
  }
  if (writable) {
    chain.writable_.push_back(*std::move(lease));
    chain.writable_size_ += descriptor.length;
  } else {
    chain.readable_.push_back(*std::move(lease));
    chain.readable_size_ += descriptor.length;
  }
  return absl::OkStatus();
}

absl::Status ChainBuilder::AddUnleased(const Descriptor& descriptor,
                                       Chain& chain) {
  absl::StatusOr<GuestRange> range =
      GuestRange::Create(GuestAddress(descriptor.address), descriptor.length);
  if (!range.ok()) {
    // It wraps: the view names that, and counts it.
    const GuestAddress start(descriptor.address);
    return QueueErrorFrom(QueueError::kBufferNotShared, "buffer",
                          view_.Acquire(start, descriptor.length).status());
  }
  chain.unleased_.push_back(*range);
  chain.writable_size_ += descriptor.length;
  return absl::OkStatus();
}

absl::Status ChainBuilder::AddTable(const Descriptor& descriptor,
                                    Chain& chain) {
  if (!indirect_) {
    return MakeQueueError(QueueError::kBadIndirect, "not negotiated");
  }
  if (descriptor.Has(kNext)) {
    return MakeQueueError(QueueError::kBadIndirect,
                          "table that the chain goes on after");
  }
  ASSIGN_OR_RETURN(uint32_t count, CopyTable(descriptor));
  Reserve(count, chain);
  return packed_ ? AddPackedTable(count, chain) : AddSplitTable(count, chain);
}

// Copies the table, and with it each of its fields, once.
absl::StatusOr<uint32_t> ChainBuilder::CopyTable(const Descriptor& descriptor) {
  constexpr uint64_t kMaxBytes = Queue::kMaxIndirect * Descriptor::kSize;
  if (descriptor.length == 0 || descriptor.length % Descriptor::kSize != 0 ||
      descriptor.length > kMaxBytes) {
    return MakeQueueError(
        QueueError::kBadIndirect,
        absl::StrCat("table of ", descriptor.length, " bytes"));
  }
  table_.resize(descriptor.length);
  absl::Status status =
      view_.Read(GuestAddress(descriptor.address), absl::MakeSpan(table_));
  if (!status.ok()) {
    return QueueErrorFrom(QueueError::kTableNotShared, "indirect table",
                          status);
  }
  return descriptor.length / Descriptor::kSize;
}

// Room for the leases of all buffers that the table may have: no growing, and
// moving of leases, in between.
void ChainBuilder::Reserve(uint32_t count, Chain& chain) const {
  size_t writable = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const uint8_t* bytes = table_.data() + i * Descriptor::kSize;
    const Descriptor entry =
        packed_ ? Descriptor::FromPacked(bytes) : Descriptor::FromSplit(bytes);
    if (entry.Has(kWrite)) ++writable;
  }
  chain.readable_.reserve(chain.readable_.size() + count - writable);
  chain.writable_.reserve(chain.writable_.size() + (leasing_ ? writable : 0));
}

absl::Status ChainBuilder::AddSplitTable(uint32_t count, Chain& chain) {
  uint32_t index = 0;
  for (uint32_t seen = 0; seen < count; ++seen) {
    Descriptor entry =
        Descriptor::FromSplit(table_.data() + index * Descriptor::kSize);
    if (entry.Has(kIndirect)) {
      return MakeQueueError(QueueError::kBadIndirect, "nested table");
    }
    RETURN_IF_ERROR(AddBuffer(entry, chain));
    if (!entry.Has(kNext)) return absl::OkStatus();
    if (entry.next >= count) {
      return MakeQueueError(
          QueueError::kBadIndex,
          absl::StrCat("descriptor ", entry.next, " of a table of ", count));
    }
    index = entry.next;
  }
  return MakeQueueError(QueueError::kLoop,
                        absl::StrCat("chain of more than the ", count,
                                     " descriptors of its table"));
}

// All of a packed table's entries are used, in order; of their flags only WRITE
// counts (virtio 1.3, 2.8.7), but no driver has a reason to nest.
absl::Status ChainBuilder::AddPackedTable(uint32_t count, Chain& chain) {
  for (uint32_t i = 0; i < count; ++i) {
    Descriptor entry =
        Descriptor::FromPacked(table_.data() + i * Descriptor::kSize);
    if (entry.Has(kIndirect)) {
      return MakeQueueError(QueueError::kBadIndirect, "nested table");
    }
    RETURN_IF_ERROR(AddBuffer(entry, chain));
  }
  return absl::OkStatus();
}

}  // namespace cloister::devices::virtio
