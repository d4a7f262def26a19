// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_address.h"

#include "absl/strings/str_cat.h"

namespace cloister::memory {

std::string GuestAddress::ToString() const {
  return absl::StrCat("0x", absl::Hex(value_));
}

absl::StatusOr<GuestRange> GuestRange::Create(GuestAddress start,
                                              uint64_t size) {
  if (size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("empty guest range at ", start.ToString()));
  }
  if (size - 1 > UINT64_MAX - start.value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest range of 0x", absl::Hex(size), " bytes at ",
                     start.ToString(), " wraps"));
  }
  return GuestRange(start, size);
}

absl::StatusOr<GuestRange> GuestRange::CreatePageAligned(GuestAddress start,
                                                         uint64_t size) {
  if (!start.IsPageAligned() || size % kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest range of 0x", absl::Hex(size), " bytes at ",
                     start.ToString(), " is not page-aligned"));
  }
  return Create(start, size);
}

std::string GuestRange::ToString() const {
  return absl::StrCat("[", start_.ToString(), ", ", last().ToString(), "]");
}

}  // namespace cloister::memory
