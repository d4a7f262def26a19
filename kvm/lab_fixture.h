// SPDX-License-Identifier: Apache-2.0
//
// Test only: what the lab tests share.
#ifndef CLOISTER_KVM_LAB_FIXTURE_H_
#define CLOISTER_KVM_LAB_FIXTURE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/test_guest.h"
#include "gtest/gtest.h"

namespace cloister::kvm {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kData =
    0x10000000;  // guest-physical; mapped by the tables

// A software-protected VM, a vCPU for tiny guests, and private memory for them.
class LabTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason = NoKvmReason();
    if (!reason.empty()) GTEST_SKIP() << reason;
    absl::StatusOr<System> system = System::Open();
    ASSERT_TRUE(system.ok()) << system.status();
    system_.emplace(std::move(*system));
    absl::StatusOr<Vm> vm = system_->CreateVm(VmType::kSwProtected);
    if (!vm.ok()) GTEST_SKIP() << vm.status().message();
    vm_.emplace(std::move(*vm));
    absl::StatusOr<HostMapping> code = MapAnonymous(kTestMemory);
    ASSERT_TRUE(code.ok()) << code.status();
    code_ = std::move(*code);
  }

  memory::GuestRange Range(uint64_t start, uint64_t size) {
    return *memory::GuestRange::Create(memory::GuestAddress(start), size);
  }

  MemoryRegion Region(uint16_t slot, uint64_t gpa, const HostMapping& host) {
    MemoryRegion region;
    region.slot = Slot(slot);
    region.gpa = memory::GuestAddress(gpa);
    region.size = host.size();
    region.host = host.data();
    return region;
  }

  // A vCPU that will run `code` from shared memory in slot 0.
  void Load(const TestCode& code) {
    LoadTestGuest(code_.data(), code.bytes());
    if (!vcpu_.has_value()) {
      ASSERT_OK(vm_->SetMemoryRegion(Region(0, 0, code_)));
      absl::StatusOr<VcpuFd> vcpu = vm_->CreateVcpu(0);
      ASSERT_TRUE(vcpu.ok()) << vcpu.status();
      vcpu_.emplace(std::move(*vcpu));
    }
    ASSERT_OK(StartTestVcpu(*system_, *vcpu_));
  }

  // `pages` of guest memory at kData in slot 1, private, with both backings.
  void AddPrivateMemory(uint64_t pages) {
    absl::StatusOr<HostMapping> shared = MapAnonymous(pages * kPage);
    ASSERT_TRUE(shared.ok());
    shared_ = std::move(*shared);
    absl::StatusOr<GuestMemfd> file = vm_->CreateGuestMemfd(pages * kPage, {});
    ASSERT_TRUE(file.ok()) << file.status();
    file_.emplace(std::move(*file));
    ASSERT_OK(BindPrivateMemory());
    ASSERT_OK(vm_->SetMemoryAttributes(Range(kData, pages * kPage), true));
  }
  absl::Status BindPrivateMemory() {
    MemoryRegion region = Region(1, kData, shared_);
    region.guest_memfd = GuestMemfdBinding{file_->fd(), 0};
    return vm_->SetMemoryRegion(region);
  }

  template <typename T>
  T RunTo() {
    absl::StatusOr<Exit> exit = RunToExit(*vcpu_);
    if (!exit.ok() || !std::holds_alternative<T>(*exit)) {
      ADD_FAILURE() << (exit.ok() ? DescribeExit(*exit)
                                  : exit.status().ToString());
      return T{};
    }
    return std::get<T>(*exit);
  }
  // What the guest reads at `gpa`.
  uint64_t GuestRead(uint64_t gpa) {
    Load(TestCode().MovRdx(gpa).LoadRax().MovRbxRax().Hlt());
    RunTo<HaltExit>();
    absl::StatusOr<Registers> registers = vcpu_->GetRegisters();
    EXPECT_TRUE(registers.ok());
    return registers.ok() ? registers->rbx : 0;
  }
  void GuestWrite(uint64_t gpa, uint64_t value) {
    Load(TestCode().MovRdx(gpa).MovRax(value).StoreRax().Hlt());
    RunTo<HaltExit>();
  }

  std::optional<System> system_;
  HostMapping code_, shared_;
  std::optional<Vm> vm_;
  std::optional<GuestMemfd> file_;
  std::optional<VcpuFd> vcpu_;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_LAB_FIXTURE_H_
