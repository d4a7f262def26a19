// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/sandbox/syscall_name.h"

#include <cstddef>
#include <iterator>

namespace cloister::vmm {
namespace {

constexpr const char* kNames[] = {
#include "vmm/sandbox/syscall_names.inc"
};

}  // namespace

const char* SyscallName(long number) {
  if (number < 0 || static_cast<size_t>(number) >= std::size(kNames) ||
      kNames[number] == nullptr) {
    return "unknown";
  }
  return kNames[number];
}

}  // namespace cloister::vmm
