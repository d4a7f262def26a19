// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/memory/guest_memory_copy.h"

namespace cloister::memory {
namespace {

// The kernel copies no more than this in one call (MAX_RW_COUNT, rounded down).
constexpr uint64_t kMaxRead = uint64_t{1} << 30;

template <typename T>
uint64_t LoadAs(const uint8_t* host, std::memory_order order) {
  const T* field = reinterpret_cast<const T*>(host);
  switch (order) {
    case std::memory_order_relaxed:
      return __atomic_load_n(field, __ATOMIC_RELAXED);
    case std::memory_order_acquire:
    case std::memory_order_consume:
      return __atomic_load_n(field, __ATOMIC_ACQUIRE);
    default:
      return __atomic_load_n(field, __ATOMIC_SEQ_CST);
  }
}

template <typename T>
void StoreAs(uint8_t* host, uint64_t value, std::memory_order order) {
  T* field = reinterpret_cast<T*>(host);
  const T narrow = static_cast<T>(value);
  switch (order) {
    case std::memory_order_relaxed:
      return __atomic_store_n(field, narrow, __ATOMIC_RELAXED);
    case std::memory_order_release:
      return __atomic_store_n(field, narrow, __ATOMIC_RELEASE);
    default:
      return __atomic_store_n(field, narrow, __ATOMIC_SEQ_CST);
  }
}

}  // namespace

absl::StatusOr<MemoryRegion> MemoryRegion::Create(GuestAddress start,
                                                  HostMapping mapping) {
  ASSIGN_OR_RETURN(GuestRange range,
                   GuestRange::CreatePageAligned(start, mapping.size()));
  return MemoryRegion(range, std::move(mapping));
}

absl::StatusOr<GuestMemory> GuestMemory::Create(
    std::vector<MemoryRegion> regions) {
  std::sort(regions.begin(), regions.end(),
            [](const MemoryRegion& a, const MemoryRegion& b) {
              return a.range().start() < b.range().start();
            });
  for (size_t i = 1; i < regions.size(); ++i) {
    if (regions[i - 1].range().Overlaps(regions[i].range())) {
      return absl::InvalidArgumentError(
          absl::StrCat("memory regions ", regions[i - 1].range().ToString(),
                       " and ", regions[i].range().ToString(), " overlap"));
    }
  }
  return GuestMemory(std::move(regions));
}

GuestMemory::GuestMemory(std::vector<MemoryRegion> regions)
    : regions_(std::move(regions)) {
  for (const MemoryRegion& region : regions_) size_ += region.range().size();
}

const MemoryRegion* GuestMemory::Find(GuestAddress address) const {
  auto after = std::upper_bound(regions_.begin(), regions_.end(), address,
                                [](GuestAddress a, const MemoryRegion& b) {
                                  return a < b.range().start();
                                });
  if (after == regions_.begin()) return nullptr;
  const MemoryRegion& region = *(after - 1);
  return region.range().Contains(address) ? &region : nullptr;
}

bool GuestMemory::Contains(const GuestRange& range) const {
  GuestAddress next = range.start();
  for (const MemoryRegion* region = Find(next);
       region != nullptr && region != regions_.data() + regions_.size();
       ++region) {
    if (region->range().start() > next) return false;
    if (range.last() <= region->range().last()) return true;
    next = GuestAddress(region->range().last().value() + 1);
  }
  return false;
}

absl::Status GuestMemory::ForEachPart(
    GuestAddress start, uint64_t size, absl::string_view what,
    absl::FunctionRef<absl::Status(const Part&)> part) const {
  if (size == 0) return absl::OkStatus();
  absl::StatusOr<GuestRange> range = GuestRange::Create(start, size);
  if (!range.ok() || !Contains(*range)) {
    return absl::OutOfRangeError(
        absl::StrCat("cannot ", what, " ", size, " bytes at ", start.ToString(),
                     ": not all of it is guest memory"));
  }
  for (const MemoryRegion* region = Find(start); size > 0; ++region) {
    const uint64_t offset = start.value() - region->range().start().value();
    const uint64_t length = std::min(size, region->range().size() - offset);
    RETURN_IF_ERROR(
        part({region, {offset, length}, region->mapping().base() + offset}));
    size -= length;
    start = GuestAddress(start.value() + length);
  }
  return absl::OkStatus();
}

absl::Status GuestMemory::Read(GuestAddress from,
                               absl::Span<uint8_t> to) const {
  return ForEachPart(from, to.size(), "read", [&](const Part& part) {
    guest_copy::FromGuest(to.data(), part.host, part.extent.size);
    to.remove_prefix(part.extent.size);
    return absl::OkStatus();
  });
}

absl::Status GuestMemory::Write(GuestAddress to,
                                absl::Span<const uint8_t> from) {
  return ForEachPart(to, from.size(), "write", [&](const Part& part) {
    guest_copy::ToGuest(part.host, from.data(), part.extent.size);
    from.remove_prefix(part.extent.size);
    return absl::OkStatus();
  });
}

absl::Status GuestMemory::Fill(const GuestRange& range, uint8_t value) {
  return ForEachPart(
      range.start(), range.size(), "fill", [&](const Part& part) {
        guest_copy::FillGuest(part.host, value, part.extent.size);
        return absl::OkStatus();
      });
}

absl::Status GuestMemory::CopyFromFd(const GuestRange& range, int fd,
                                     uint64_t offset) {
  if (range.size() > INT64_MAX || offset > INT64_MAX - range.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot copy ", range.size(), " bytes from file offset ", offset));
  }
  uint64_t done = 0;
  auto copy = [&](const Part& part) -> absl::Status {
    for (uint64_t at = 0; at < part.extent.size;) {
      const uint64_t size = std::min(part.extent.size - at, kMaxRead);
      ssize_t got = base::RetryOnEintr([&] {
        return ::pread(fd, part.host + at, size,
                       static_cast<off_t>(offset + done));
      });
      if (got < 0) {
        return base::ErrnoStatus(
            errno, absl::StrCat("pread of ", size, " bytes at file offset ",
                                offset + done));
      }
      if (got == 0) {
        return absl::OutOfRangeError(
            absl::StrCat("the file ends after ", done, " of ", range.size(),
                         " bytes from offset ", offset));
      }
      at += static_cast<uint64_t>(got);
      done += static_cast<uint64_t>(got);
    }
    return absl::OkStatus();
  };
  return ForEachPart(range.start(), range.size(), "copy from a file", copy);
}

absl::StatusOr<uint8_t*> GuestMemory::Aligned(GuestAddress address,
                                              size_t size) const {
  if (address.value() % size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("atomic access of ", size, " bytes at ",
                     address.ToString(), " is not aligned"));
  }
  // Regions consist of pages, so an aligned field lies in one.
  const MemoryRegion* region = Find(address);
  if (region == nullptr) {
    return absl::OutOfRangeError(absl::StrCat("atomic access of ", size,
                                              " bytes at ", address.ToString(),
                                              ": not guest memory"));
  }
  return region->mapping().base() +
         (address.value() - region->range().start().value());
}

absl::StatusOr<uint64_t> GuestMemory::LoadBits(GuestAddress address,
                                               size_t size,
                                               std::memory_order order) const {
  ASSIGN_OR_RETURN(uint8_t * host, Aligned(address, size));
  switch (size) {
    case 1:
      return LoadAs<uint8_t>(host, order);
    case 2:
      return LoadAs<uint16_t>(host, order);
    case 4:
      return LoadAs<uint32_t>(host, order);
    default:
      return LoadAs<uint64_t>(host, order);
  }
}

absl::Status GuestMemory::StoreBits(GuestAddress address, size_t size,
                                    uint64_t value, std::memory_order order) {
  ASSIGN_OR_RETURN(uint8_t * host, Aligned(address, size));
  switch (size) {
    case 1:
      StoreAs<uint8_t>(host, value, order);
      break;
    case 2:
      StoreAs<uint16_t>(host, value, order);
      break;
    case 4:
      StoreAs<uint32_t>(host, value, order);
      break;
    default:
      StoreAs<uint64_t>(host, value, order);
  }
  return absl::OkStatus();
}

absl::Status GuestMemory::Discard(const GuestRange& range) {
  return ForEachPart(range.start(), range.size(), "discard",
                     [&](const Part& part) {
                       // This object owns the region, and is not const here.
                       auto* region = const_cast<MemoryRegion*>(part.region);
                       return region->mapping_.Discard(part.extent);
                     });
}

absl::StatusOr<std::vector<GuestRange>> GuestMemory::BackedRanges(
    const GuestRange& range) const {
  std::vector<GuestRange> ranges;
  auto append = [&](const Part& part) -> absl::Status {
    ASSIGN_OR_RETURN(std::vector<MappingExtent> extents,
                     part.region->mapping().BackedExtents(part.extent));
    for (const MappingExtent& extent : extents) {
      GuestAddress start(part.region->range().start().value() + extent.offset);
      uint64_t size = extent.size;
      // Regions may touch; ranges are maximal.
      if (!ranges.empty() &&
          ranges.back().last().value() + 1 == start.value()) {
        start = ranges.back().start();
        size += ranges.back().size();
        ranges.pop_back();
      }
      ASSIGN_OR_RETURN(GuestRange backed, GuestRange::Create(start, size));
      ranges.push_back(backed);
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(
      ForEachPart(range.start(), range.size(), "look through", append));
  return ranges;
}

absl::StatusOr<uint64_t> GuestMemory::BackedBytes(
    const GuestRange& range) const {
  ASSIGN_OR_RETURN(std::vector<GuestRange> ranges, BackedRanges(range));
  uint64_t bytes = 0;
  for (const GuestRange& backed : ranges) bytes += backed.size();
  return bytes;
}

absl::Status GuestMemory::AppendIovecs(
    HostAccess, GuestAddress start, uint64_t size,
    std::vector<struct iovec>* iovecs) const {
  return ForEachPart(start, size, "access", [&](const Part& part) {
    iovecs->push_back({part.host, part.extent.size});
    return absl::OkStatus();
  });
}

}  // namespace cloister::memory
