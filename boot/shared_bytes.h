// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_SHARED_BYTES_H_
#define CLOISTER_BOOT_SHARED_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace cloister::boot {

// Immutable bytes of the host (a kernel file, an unpacked segment, an initrd)
// with shared ownership, so that slices of a large buffer can be handed on
// without copying it. Copying one copies a pointer. Thread-safe as std::string
// is: concurrent reads are fine. Never guest memory.
class SharedBytes {
 public:
  SharedBytes() = default;

  // Takes the vector over.
  explicit SharedBytes(std::vector<uint8_t> bytes) {
    auto owner = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
    span_ = absl::MakeConstSpan(*owner);
    owner_ = std::move(owner);
  }

  // `span` must stay valid and unchanged for as long as `owner` lives.
  SharedBytes(std::shared_ptr<const void> owner, absl::Span<const uint8_t> span)
      : owner_(std::move(owner)), span_(span) {}

  absl::Span<const uint8_t> span() const { return span_; }
  const uint8_t* data() const { return span_.data(); }
  size_t size() const { return span_.size(); }
  bool empty() const { return span_.empty(); }

  // The part [offset, offset + length), sharing ownership; nullopt if it does
  // not lie inside.
  std::optional<SharedBytes> Slice(uint64_t offset, uint64_t length) const {
    if (offset > size() || length > size() - offset) return std::nullopt;
    return SharedBytes(owner_, span_.subspan(offset, length));
  }

 private:
  std::shared_ptr<const void> owner_;
  absl::Span<const uint8_t> span_;
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_SHARED_BYTES_H_
