// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_HOST_MAPPING_H_
#define CLOISTER_KVM_HOST_MAPPING_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cloister/kvm/syscalls.h"

namespace cloister::kvm {

// Owns one mmap(2)ed range of this process and unmaps it when destroyed.
// Move-only; a moved-from or default-made object holds nothing.
class HostMapping {
 public:
  HostMapping() = default;
  // Takes ownership of [data, data + size), which `syscalls` mapped and which
  // must outlive this object.
  HostMapping(Syscalls& syscalls, void* data, size_t size)
      : syscalls_(&syscalls), data_(data), size_(size) {}
  HostMapping(HostMapping&& other) noexcept
      : syscalls_(other.syscalls_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  HostMapping& operator=(HostMapping&& other) noexcept {
    if (this == &other) return *this;
    Reset();
    syscalls_ = other.syscalls_;
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~HostMapping() { Reset(); }

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  size_t size() const { return size_; }

  // Gives up ownership without unmapping.
  [[nodiscard]] void* Release() {
    size_ = 0;
    return std::exchange(data_, nullptr);
  }

 private:
  void Reset() {
    if (data_ != nullptr) syscalls_->Munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

  Syscalls* syscalls_ = nullptr;
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_HOST_MAPPING_H_
