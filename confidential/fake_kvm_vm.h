// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_FAKE_KVM_VM_H_
#define CLOISTER_CONFIDENTIAL_FAKE_KVM_VM_H_

#include <cstdint>
#include <map>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/confidential/guest_ram.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/system.h"
#include "cloister/memory/guest_address.h"
#include "gtest/gtest.h"

namespace cloister::confidential {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kHigh = uint64_t{4} << 30;

inline memory::GuestRange Range(uint64_t start, uint64_t size) {
  return *memory::GuestRange::Create(memory::GuestAddress(start), size);
}

// A test of what one backend asks of KVM: its VM on a fake, with RAM at
// [0, 16 MiB) and [kHigh, kHigh + 2 MiB).
class FakeKvmVmTest : public ::testing::Test {
 protected:
  using Maker = absl::FunctionRef<absl::StatusOr<BackendVm>(const kvm::System&,
                                                            const RamOptions&)>;

  // Sets vm_ and slots_; on an error both are what they were.
  absl::Status Create(uint64_t aliased_end, Maker make) {
    auto system = kvm::System::Open(fake_);
    if (!system.ok()) return system.status();
    RamOptions ram;
    ram.ram = {Range(0, 16 * kMiB), Range(kHigh, 2 * kMiB)};
    ram.aliased_end = aliased_end;
    auto vm = make(*system, ram);
    if (!vm.ok()) return vm.status();
    vm_ = *std::move(vm);
    // The slots of the only VM.
    slots_.clear();
    for (const auto& [number, slot] : fake_.slots(vm_.vm->fd())) {
      slots_[slot.gpa] = slot;
    }
    return absl::OkStatus();
  }

  kvm::FakeKvm fake_;
  BackendVm vm_;
  std::map<uint64_t, kvm::FakeKvm::MemorySlot> slots_;  // by address
};

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_FAKE_KVM_VM_H_
