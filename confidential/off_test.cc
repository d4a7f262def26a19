// SPDX-License-Identifier: Apache-2.0
//
// tests/ and backend_test have it on real VMs; here, what it asks of KVM.
#include "cloister/confidential/off.h"

#include <cerrno>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/memory/guest_address.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using ::cloister::base::StatusIs;
using kvm::Capability;
using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kHigh = uint64_t{4} << 30;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

class OffTest : public ::testing::Test {
 protected:
  absl::Status Create(uint64_t aliased_end) {
    auto system = kvm::System::Open(fake_);
    if (!system.ok()) return system.status();
    RamOptions ram;
    ram.ram = {Range(0, 16 * kMiB), Range(kHigh, 2 * kMiB)};
    ram.aliased_end = aliased_end;
    auto vm = CreateOffVm(*system, ram);
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

TEST_F(OffTest, RamIsGuestMemfdWhereTheHostMayMapIt) {
  ASSERT_OK(Create(0));
  ASSERT_EQ(slots_.size(), 2u);
  EXPECT_GE(slots_[0].guest_memfd, 0);
  EXPECT_EQ(slots_[0].size, 16 * kMiB);
  EXPECT_GE(slots_[kHigh].guest_memfd, 0);
  EXPECT_EQ(fake_.attribute_calls().size(), 0u) << "nothing is private";
}

TEST_F(OffTest, RamIsAMemfdElsewhere) {
  fake_.SetCapability(Capability::kGuestMemfdFlags, 1);  // MMAP alone
  ASSERT_OK(Create(0));
  ASSERT_EQ(slots_.size(), 2u);
  EXPECT_EQ(slots_[0].guest_memfd, -1);
  EXPECT_EQ(slots_[kHigh].guest_memfd, -1);
}

TEST_F(OffTest, WhatTheHostWritesIsWhatKvmsSlotHas) {
  ASSERT_OK(Create(0));
  const std::vector<uint8_t> bytes = {1, 2, 3};
  LaunchRequest request;
  request.pages.push_back({GuestAddress(kHigh + 0x1000), bytes});
  ASSERT_OK(vm_.backend->Launch(request));
  const auto* host = static_cast<const uint8_t*>(slots_[kHigh].host);
  EXPECT_EQ(std::vector<uint8_t>(host + 0x1000, host + 0x1003), bytes);
}

TEST_F(OffTest, NothingBecomesPrivate) {
  ASSERT_OK(Create(0));
  const GuestRange page = Range(0x2000, 0x1000);
  EXPECT_OK(vm_.backend->SetAttributes(page, PageState::kShared).status);
  EXPECT_THAT(vm_.backend->SetAttributes(page, PageState::kPrivate).status,
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("no private memory")));
  EXPECT_EQ(fake_.CountOf(kvm::Requests::kSetMemoryAttributes), 0u);
  EXPECT_EQ(vm_.backend->c_bit(), std::nullopt);
  kvm::MemoryFaultExit fault;
  fault.address = GuestAddress(0x2000);
  EXPECT_THAT(
      vm_.backend->TranslateFault(fault).status(),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("0x2000")));
}

TEST_F(OffTest, RefusalsOfKvmAreItsOwn) {
  fake_.QueueErrno(kvm::Requests::kCreateVm, ENOMEM);
  EXPECT_FALSE(Create(0).ok());
  fake_.QueueErrno(kvm::Requests::kCreateGuestMemfd, ENOMEM);
  EXPECT_FALSE(Create(0).ok());
  fake_.QueueErrno(kvm::Requests::kSetMemoryRegion2, EINVAL);
  EXPECT_FALSE(Create(0).ok());
}

}  // namespace
}  // namespace cloister::confidential
