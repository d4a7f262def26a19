// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_GUEST_MEMORY_H_
#define CLOISTER_MEMORY_GUEST_MEMORY_H_

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory_mapping.h"

namespace cloister::memory {

// The right to see where guest memory lies in this process. Only SharedView can
// make one, and only for ranges it holds a lease on.
class HostAccess {
 private:
  friend class SharedView;
  friend class GuestMemoryTestPeer;
  HostAccess() = default;
};

// Guest-physical range `range` is the whole of `mapping`.
class MemoryRegion {
 public:
  // InvalidArgument unless `start` is page-aligned and the range fits.
  static absl::StatusOr<MemoryRegion> Create(GuestAddress start,
                                             HostMapping mapping);

  const GuestRange& range() const { return range_; }
  const HostMapping& mapping() const { return mapping_; }

 private:
  friend class GuestMemory;
  MemoryRegion(GuestRange range, HostMapping mapping)
      : range_(range), mapping_(std::move(mapping)) {}

  GuestRange range_;
  HostMapping mapping_;
};

// A guest's memory: ordered regions that do not overlap.
//
// Every access is checked first and then done wholly, across regions that
// touch; one that leaves the regions is OutOfRange and changes nothing. The
// guest, and other threads, may write the same bytes at any time: accesses are
// made of relaxed atomic loads and stores (or of instructions the compiler
// cannot see through), so such a race yields a mixture of old and new bytes and
// no undefined behaviour. What is read may differ the next time: read once,
// validate the copy.
//
// Nothing here knows page states: only the loader, the broker and SharedView
// hold a GuestMemory; devices hold a SharedView. Thread-safe; the set of
// regions never changes.
class GuestMemory {
 public:
  // InvalidArgument if regions overlap. They may come in any order.
  static absl::StatusOr<GuestMemory> Create(std::vector<MemoryRegion> regions);

  GuestMemory(GuestMemory&&) = default;
  GuestMemory& operator=(GuestMemory&&) = default;

  // In ascending order; for slot registration.
  absl::Span<const MemoryRegion> regions() const { return regions_; }
  // The sum of the regions' sizes.
  uint64_t size() const { return size_; }
  // Whether every byte of `range` lies in some region.
  bool Contains(const GuestRange& range) const;

  // Copies to.size() bytes at `from`, resp. from.size() bytes to `to`.
  absl::Status Read(GuestAddress from, absl::Span<uint8_t> to) const;
  absl::Status Write(GuestAddress to, absl::Span<const uint8_t> from);
  absl::Status Fill(const GuestRange& range, uint8_t value);

  // Fills `range` from [offset, offset + range.size()) of a seekable file.
  // OutOfRange if the file ends before; the bytes up to there are then copied.
  absl::Status CopyFromFd(const GuestRange& range, int fd, uint64_t offset);

  // One atomic access of 1, 2, 4 or 8 bytes. InvalidArgument unless `address`
  // is a multiple of the size. Host byte order (x86-64 and arm64: the guest's).
  template <typename T>
  absl::StatusOr<T> Load(GuestAddress address, std::memory_order order) const {
    static_assert(std::is_integral_v<T> && std::is_unsigned_v<T>);
    absl::StatusOr<uint64_t> value = LoadBits(address, sizeof(T), order);
    if (!value.ok()) return std::move(value).status();
    return static_cast<T>(*value);
  }
  template <typename T>
  absl::Status Store(GuestAddress address, std::type_identity_t<T> value,
                     std::memory_order order) {
    static_assert(std::is_integral_v<T> && std::is_unsigned_v<T>);
    return StoreBits(address, sizeof(T), value, order);
  }

  // Frees the pages of a page-aligned range; see HostMapping::Discard. A
  // failure leaves each region wholly discarded or untouched, in order.
  absl::Status Discard(const GuestRange& range);
  // The backed parts of a page-aligned range, maximal and in order; see
  // HostMapping::BackedExtents.
  absl::StatusOr<std::vector<GuestRange>> BackedRanges(
      const GuestRange& range) const;
  // Their total.
  absl::StatusOr<uint64_t> BackedBytes(const GuestRange& range) const;

  // Appends the host's view of `size` bytes at `start` to `iovecs`, one per
  // region. They are valid while this object lives and the caller's lease is
  // held.
  absl::Status AppendIovecs(HostAccess access, GuestAddress start,
                            uint64_t size,
                            std::vector<struct iovec>* iovecs) const;

 private:
  // Part of a region, in the order of the request.
  struct Part {
    const MemoryRegion* region;
    MappingExtent extent;
    uint8_t* host;
  };
  explicit GuestMemory(std::vector<MemoryRegion> regions);
  const MemoryRegion* Find(GuestAddress address) const;
  // Checks all of [start, start + size), then calls `part` for each piece until
  // one fails.
  absl::Status ForEachPart(
      GuestAddress start, uint64_t size, absl::string_view what,
      absl::FunctionRef<absl::Status(const Part&)> part) const;
  absl::StatusOr<uint8_t*> Aligned(GuestAddress address, size_t size) const;
  absl::StatusOr<uint64_t> LoadBits(GuestAddress address, size_t size,
                                    std::memory_order order) const;
  absl::Status StoreBits(GuestAddress address, size_t size, uint64_t value,
                         std::memory_order order);

  std::vector<MemoryRegion> regions_;
  uint64_t size_ = 0;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_GUEST_MEMORY_H_
