// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_BYTE_BUFFER_H_
#define CLOISTER_BOOT_BYTE_BUFFER_H_

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cloister/boot/shared_bytes.h"

namespace cloister::boot {

// A large buffer of the host to be filled once and then shared. Unlike a
// std::vector it is not zeroed first, so memory is touched only where it is
// written, and failing to get it is an error rather than an exception.
class ByteBuffer {
 public:
  // ResourceExhausted if the host does not have `size` bytes.
  static absl::StatusOr<ByteBuffer> Allocate(uint64_t size) {
    std::unique_ptr<uint8_t[]> bytes(new (std::nothrow) uint8_t[size]);
    if (bytes == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot allocate ", size, " bytes"));
    }
    return ByteBuffer(std::move(bytes), size);
  }

  uint8_t* data() { return bytes_.get(); }
  uint64_t size() const { return size_; }

  // Gives the content up as immutable bytes; all of it must have been written.
  SharedBytes Share() && {
    auto span = absl::MakeConstSpan(bytes_.get(), size_);
    return SharedBytes(std::shared_ptr<const uint8_t[]>(std::move(bytes_)),
                       span);
  }

 private:
  ByteBuffer(std::unique_ptr<uint8_t[]> bytes, uint64_t size)
      : bytes_(std::move(bytes)), size_(size) {}

  std::unique_ptr<uint8_t[]> bytes_;
  uint64_t size_;
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_BYTE_BUFFER_H_
