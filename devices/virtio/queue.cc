// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/packed_queue.h"
#include "cloister/devices/virtio/split_queue.h"

namespace cloister::devices::virtio {

using memory::Lease;

namespace {

// Calls `part(lease, offset in it, position in the range, length)` for what
// [offset, offset + size) of a part of `total` bytes consists of, until one
// fails. The part's first `released` bytes are not leased any more.
template <typename Leases, typename Part>
absl::Status ForEachPart(Leases& leases, uint64_t total, uint64_t released,
                         uint64_t offset, uint64_t size, Part part) {
  if (offset > total || size > total - offset) {
    return absl::OutOfRangeError(absl::StrCat(size, " bytes at offset ", offset,
                                              " of a part of ", total));
  }
  if (offset < released && size > 0) {
    return absl::OutOfRangeError("bytes of buffers that were released");
  }
  offset -= std::min(offset, released);
  uint64_t done = 0;
  for (auto& lease : leases) {
    if (done == size) break;
    const uint64_t length = lease.range().size();
    if (offset >= length) {
      offset -= length;
      continue;
    }
    const uint64_t count = std::min(size - done, length - offset);
    RETURN_IF_ERROR(part(lease, offset, done, count));
    done += count;
    offset = 0;
  }
  if (done < size) {
    return absl::OutOfRangeError("bytes of buffers that are not leased");
  }
  return absl::OkStatus();
}

template <typename Leases>
absl::StatusOr<std::vector<struct iovec>> Iovecs(const Leases& leases,
                                                 uint64_t total,
                                                 uint64_t released,
                                                 uint64_t offset,
                                                 uint64_t size) {
  std::vector<struct iovec> iovecs;
  iovecs.reserve(leases.size());
  RETURN_IF_ERROR(ForEachPart(
      leases, total, released, offset, size,
      [&iovecs](const Lease& lease, uint64_t at, uint64_t, uint64_t count) {
        return lease.GatherIovecs(at, count, &iovecs);
      }));
  return iovecs;
}

}  // namespace

absl::Status Chain::Read(uint64_t offset, absl::Span<uint8_t> to) const {
  return ForEachPart(
      readable_, readable_size_, released_, offset, to.size(),
      [to](const Lease& lease, uint64_t at, uint64_t position, uint64_t count) {
        return lease.Read(at, to.subspan(position, count));
      });
}

absl::Status Chain::Write(uint64_t offset,
                          absl::Span<const uint8_t> from) const {
  return ForEachPart(writable_, writable_size_, 0, offset, from.size(),
                     [from](const Lease& lease, uint64_t at, uint64_t position,
                            uint64_t count) {
                       return lease.Write(at, from.subspan(position, count));
                     });
}

absl::Status Chain::ReadBack(uint64_t offset, absl::Span<uint8_t> to) const {
  return ForEachPart(
      writable_, writable_size_, 0, offset, to.size(),
      [to](const Lease& lease, uint64_t at, uint64_t position, uint64_t count) {
        return lease.Read(at, to.subspan(position, count));
      });
}

absl::StatusOr<std::vector<struct iovec>> Chain::ReadableIovecs(uint64_t offset,
                                                                uint64_t size) {
  return Iovecs(readable_, readable_size_, released_, offset, size);
}

absl::StatusOr<std::vector<struct iovec>> Chain::WritableIovecs(uint64_t offset,
                                                                uint64_t size) {
  return Iovecs(writable_, writable_size_, 0, offset, size);
}

void Chain::ReleaseReadable(uint64_t offset) {
  auto kept = readable_.begin();
  for (; kept != readable_.end(); ++kept) {
    const uint64_t end = released_ + kept->range().size();
    if (end > offset) break;
    released_ = end;
  }
  readable_.erase(readable_.begin(), kept);
}

absl::StatusOr<std::unique_ptr<Queue>> Queue::Create(const QueueConfig& config,
                                                     memory::SharedView& view) {
  if (config.packed) return PackedQueue::Create(config, view);
  return SplitQueue::Create(config, view);
}

}  // namespace cloister::devices::virtio
