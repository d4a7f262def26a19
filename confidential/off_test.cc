// SPDX-License-Identifier: Apache-2.0
//
// tests/ and backend_test have it on real VMs; here, what it asks of KVM.
#include "cloister/confidential/off.h"

#include <cerrno>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "cloister/confidential/fake_kvm_vm.h"
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

class OffTest : public FakeKvmVmTest {
 protected:
  absl::Status Create(uint64_t aliased_end) {
    return FakeKvmVmTest::Create(
        aliased_end, [](const kvm::System& system, const RamOptions& ram) {
          return CreateOffVm(system, ram);
        });
  }
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
