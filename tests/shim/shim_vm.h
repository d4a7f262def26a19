// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_SHIM_SHIM_VM_H_
#define CLOISTER_TESTS_SHIM_SHIM_VM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/shim/launch.h"

struct kvm_run;

namespace cloister::tests {

// How a launch through the shim ended.
struct ShimOutcome {
  enum class End {
    kHalted,   // The guest halted after its last output.
    kRefused,  // The shim said so on its status port.
    kDied,     // Triple fault, failed emulation, or an access to nothing.
    kTimeout,
  };
  End end = End::kTimeout;
  // Of the status port: the refusal, or kVerified.
  shim::Status status = shim::Status::kVerified;
  bool saw_private = false;   // kPrivate was reported.
  bool saw_verified = false;  // kVerified was reported.
  std::string serial;         // Written to the serial port.
  std::vector<uint8_t> echo;  // Written to kEchoPort.
  // Ranges reported private, as (GPA, bytes).
  std::vector<std::pair<uint64_t, uint64_t>> reports;
  std::string detail;  // Of the last exit, for failure messages.
};

// A VM on raw KVM with just what the shim needs: the first MiB in both views,
// view A from shared memory, view B from a second mapping (a default VM) or
// from guest_memfd (a software-protected VM), a C-bit in CPUID and one vCPU.
class ShimVm {
 public:
  enum class Kind { kDefault, kSwProtected };
  static constexpr uint64_t kRamSize = 4 << 20;
  static constexpr uint16_t kEchoPort = 0x10;

  struct Options {
    Kind kind = Kind::kDefault;
    // CPUID 0x8000001F as the guest finds it; -1 hides it.
    int cpuid_c_bit = 0;
    // RAX of a report of private memory.
    int64_t report_result = 0;
    // Called on the vCPU's thread for every byte on the status port, before
    // the guest goes on.
    std::function<void(shim::Status)> on_status;
    int timeout_seconds = 60;
  };

  // True if the machine offers such VMs.
  static bool IsSupported(Kind kind);
  // The C-bit's position on this machine.
  static int CBit();
  // True if VMMCALL in such a VM reaches the monitor. A software KVM may never
  // come back from it.
  static bool HasHypercalls(Kind kind);

  static absl::StatusOr<std::unique_ptr<ShimVm>> Create(Options options);
  ~ShimVm();

  // Offsets are guest-physical addresses. Valid from 1 MiB to kRamSize.
  uint8_t* view_a() { return view_a_; }
  // Null for a software-protected VM.
  uint8_t* view_b() { return view_b_; }

  // Writes a launch and its pieces into view A.
  void Load(const shim::ShimLaunch& launch,
            const std::vector<boot::Piece>& pieces);

  // Runs until the guest halts, the shim refuses, or something else happens.
  ShimOutcome Run(uint64_t rip, uint64_t cr3);

 private:
  ShimVm() = default;
  absl::Status Setup();
  absl::Status AddSlots();
  absl::Status SetCpuid();
  absl::Status SetRegisters(uint64_t rip, uint64_t cr3);
  bool HandleOut(uint16_t port, uint8_t value, ShimOutcome* outcome);
  bool HandleExit(ShimOutcome* outcome);
  bool HandleReport(ShimOutcome* outcome);
  absl::Status SetPrivate(uint64_t gpa, uint64_t size);

  Options options_;
  int vm_ = -1;
  int vcpu_ = -1;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
  uint8_t* low_ = nullptr;
  uint8_t* view_a_ = nullptr;
  uint8_t* view_b_ = nullptr;
  uint8_t* hidden_ = nullptr;  // Behind the guest_memfd's slot; never touched.
  int guest_memfd_ = -1;
};

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_SHIM_SHIM_VM_H_
