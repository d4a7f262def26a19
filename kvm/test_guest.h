// SPDX-License-Identifier: Apache-2.0
//
// Test only.
#ifndef CLOISTER_KVM_TEST_GUEST_H_
#define CLOISTER_KVM_TEST_GUEST_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/kvm/host_mapping.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vcpu_fd.h"
#include "cloister/kvm/vm.h"

namespace cloister::kvm {

// Guest-physical layout of a test guest: page tables that map the first GiB to
// itself, then code and a stack.
inline constexpr uint64_t kTestPageTables = 0x1000;
inline constexpr uint64_t kTestCode = 0x8000;
inline constexpr uint64_t kTestStack = 0x10000;
// The least memory from address 0 that holds all of that.
inline constexpr uint64_t kTestMemory = 0x10000;

// Why tests that need a KVM cannot run here, or "".
std::string NoKvmReason();

// Writes the page tables and `code` into the guest memory at `memory`, which
// backs guest-physical 0 and has at least kTestMemory bytes.
void LoadTestGuest(uint8_t* memory, absl::Span<const uint8_t> code);

// Puts a new vCPU into 64-bit mode at kTestCode, with every CPUID leaf that the
// host offers.
absl::Status StartTestVcpu(const System& system, const VcpuFd& vcpu);

// Anonymous zeroed memory for slots.
absl::StatusOr<HostMapping> MapAnonymous(uint64_t size);

// Runs until an exit that is not an interruption.
absl::StatusOr<Exit> RunToExit(VcpuFd& vcpu);

// Machine code, one method per instruction that test guests use. Registers RAX,
// RBX and RDX only.
class TestCode {
 public:
  TestCode& MovRax(uint64_t value);
  TestCode& MovRdx(uint64_t value);
  TestCode& StoreAl();    // [rdx] = al
  TestCode& StoreRax();   // [rdx] = rax
  TestCode& LoadRax();    // rax = [rdx]
  TestCode& MovRbxRax();  // rbx = rax
  TestCode& OutAl();      // out dx, al
  TestCode& OutEax();     // out dx, eax
  TestCode& InAl();       // in al, dx
  TestCode& Hlt();
  TestCode& JumpToSelf();
  TestCode& LoadRaxForEver();  // again: rax = [rdx]; jmp again
  TestCode& Wrmsr();           // msr ecx: set by MovEcx
  TestCode& Vmmcall();
  TestCode& MovEcx(uint32_t value);

  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  TestCode& Add(std::initializer_list<uint8_t> bytes);
  TestCode& AddLe(uint64_t value, int size);

  std::vector<uint8_t> bytes_;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_TEST_GUEST_H_
