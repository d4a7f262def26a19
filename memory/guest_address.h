// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_GUEST_ADDRESS_H_
#define CLOISTER_MEMORY_GUEST_ADDRESS_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace cloister::memory {

inline constexpr uint64_t kPageSize = 4096;
inline constexpr int kPageShift = 12;

// A guest frame number: a guest-physical address divided by kPageSize.
class Gfn {
 public:
  constexpr Gfn() = default;
  constexpr explicit Gfn(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr auto operator<=>(const Gfn&) const = default;

 private:
  uint64_t value_ = 0;
};

// A guest-physical address (GPA), without any C-bit. Only checked arithmetic.
class GuestAddress {
 public:
  constexpr GuestAddress() = default;
  constexpr explicit GuestAddress(uint64_t value) : value_(value) {}
  static constexpr GuestAddress FromGfn(Gfn gfn) {
    return GuestAddress(gfn.value() << kPageShift);
  }

  constexpr uint64_t value() const { return value_; }
  constexpr Gfn gfn() const { return Gfn(value_ >> kPageShift); }
  constexpr bool IsPageAligned() const { return value_ % kPageSize == 0; }

  // This address plus `bytes`; nullopt if that wraps.
  constexpr std::optional<GuestAddress> Plus(uint64_t bytes) const {
    if (bytes > UINT64_MAX - value_) return std::nullopt;
    return GuestAddress(value_ + bytes);
  }
  // Bytes from `base` up to this address; nullopt if `base` lies above.
  constexpr std::optional<uint64_t> OffsetFrom(GuestAddress base) const {
    if (base.value_ > value_) return std::nullopt;
    return value_ - base.value_;
  }
  constexpr auto operator<=>(const GuestAddress&) const = default;

  // "0x1000".
  std::string ToString() const;

 private:
  uint64_t value_ = 0;
};

// A non-empty range of guest-physical addresses that does not wrap. Its end may
// be 2^64, so ask for size(), last() and Contains() rather than an end.
class GuestRange {
 public:
  // InvalidArgument if `size` is 0 or the range wraps.
  static absl::StatusOr<GuestRange> Create(GuestAddress start, uint64_t size);
  // As Create, and both start and size must be multiples of kPageSize.
  static absl::StatusOr<GuestRange> CreatePageAligned(GuestAddress start,
                                                      uint64_t size);

  constexpr GuestAddress start() const { return start_; }
  constexpr uint64_t size() const { return size_; }
  // The address of the last byte.
  constexpr GuestAddress last() const {
    return GuestAddress(start_.value() + (size_ - 1));
  }
  constexpr bool IsPageAligned() const {
    return start_.IsPageAligned() && size_ % kPageSize == 0;
  }
  constexpr bool Contains(GuestAddress address) const {
    return address >= start_ && address.value() - start_.value() < size_;
  }
  constexpr bool Contains(const GuestRange& other) const {
    return Contains(other.start_) &&
           other.size_ <= size_ - (other.start_.value() - start_.value());
  }
  constexpr bool Overlaps(const GuestRange& other) const {
    return start_ <= other.last() && other.start_ <= last();
  }
  // The common part, if there is one.
  constexpr std::optional<GuestRange> Intersect(const GuestRange& other) const {
    GuestAddress first = start_ > other.start_ ? start_ : other.start_;
    GuestAddress final = last() < other.last() ? last() : other.last();
    if (first > final) return std::nullopt;
    return GuestRange(first, final.value() - first.value() + 1);
  }
  constexpr bool operator==(const GuestRange&) const = default;

  // "[0x1000, 0x1fff]".
  std::string ToString() const;

 private:
  constexpr GuestRange(GuestAddress start, uint64_t size)
      : start_(start), size_(size) {}

  GuestAddress start_;
  uint64_t size_;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_GUEST_ADDRESS_H_
