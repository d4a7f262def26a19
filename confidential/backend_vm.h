// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_BACKEND_VM_H_
#define CLOISTER_CONFIDENTIAL_BACKEND_VM_H_

#include <memory>

#include "cloister/confidential/backend.h"
#include "cloister/kvm/vm.h"
#include "cloister/memory/guest_memory.h"

namespace cloister::confidential {

// A VM with its memory and backend. The VM goes first when this is destroyed,
// since its slots refer to the memory of the other two.
struct BackendVm {
  std::unique_ptr<memory::GuestMemory> memory;  // the shared side
  std::unique_ptr<Backend> backend;
  std::unique_ptr<kvm::Vm> vm;
};

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_BACKEND_VM_H_
