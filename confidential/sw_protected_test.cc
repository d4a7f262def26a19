// SPDX-License-Identifier: Apache-2.0
//
// backend_test has it on real VMs; here, what it asks of KVM.
#include "cloister/confidential/sw_protected.h"

#include <cerrno>
#include <cstdint>
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

constexpr int kCBit = 39;
constexpr uint64_t kC = uint64_t{1} << kCBit;

class SwProtectedTest : public FakeKvmVmTest {
 protected:
  absl::Status Create(uint64_t aliased_end) {
    return FakeKvmVmTest::Create(
        aliased_end, [](const kvm::System& system, const RamOptions& ram) {
          return CreateSwProtectedVm(system, ram, kCBit);
        });
  }
};

TEST_F(SwProtectedTest, ViewBIsGuestMemfdAndViewAIsNot) {
  ASSERT_OK(Create(kMiB));
  ASSERT_EQ(slots_.size(), 6u);
  for (uint64_t gpa : {kMiB, kHigh}) {
    EXPECT_EQ(slots_[gpa].guest_memfd, -1) << gpa;
    EXPECT_GE(slots_[gpa | kC].guest_memfd, 0) << gpa;
    EXPECT_EQ(slots_[gpa].size, slots_[gpa | kC].size);
  }
  // Application processors start in the low MiB, which is one memory.
  EXPECT_EQ(slots_[0].host, slots_[kC].host);
  EXPECT_EQ(slots_[kC].guest_memfd, -1);
}

TEST_F(SwProtectedTest, AttributesGoToViewAOnly) {
  ASSERT_OK(Create(kMiB));
  ASSERT_EQ(fake_.attribute_calls().size(), 0u) << "mappable files need none";
  const GuestRange range = Range(2 * kMiB, 0x3000);
  EXPECT_OK(vm_.backend->SetAttributes(range, PageState::kPrivate).status);
  EXPECT_OK(vm_.backend->SetAttributes(range, PageState::kShared).status);
  const auto calls = fake_.attribute_calls();
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0].gpa, 2 * kMiB);
  EXPECT_EQ(calls[0].size, 0x3000u);
  EXPECT_TRUE(calls[0].is_private);
  EXPECT_EQ(calls[1].gpa, 2 * kMiB);
  EXPECT_FALSE(calls[1].is_private);
}

// Before Linux 6.18 a guest_memfd's pages are private by attribute alone.
TEST_F(SwProtectedTest, FilesThatCannotBeMappedArePrivateForEver) {
  fake_.SetCapability(Capability::kGuestMemfdFlags, 0);
  ASSERT_OK(Create(kMiB));
  const auto calls = fake_.attribute_calls();
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0].gpa, kMiB | kC);
  EXPECT_EQ(calls[0].size, 15 * kMiB);
  EXPECT_EQ(calls[1].gpa, kHigh | kC);
  for (const auto& call : calls) EXPECT_TRUE(call.is_private);
}

TEST_F(SwProtectedTest, OnlyAccessesThroughViewAAreWishes) {
  ASSERT_OK(Create(kMiB));
  kvm::MemoryFaultExit fault;
  fault.address = GuestAddress(kHigh + 0x1234);
  fault.is_private = true;
  ASSERT_OK_AND_ASSIGN(PageFault wanted, vm_.backend->TranslateFault(fault));
  EXPECT_EQ(wanted.page, GuestAddress(kHigh + 0x1000));
  EXPECT_EQ(wanted.wanted, PageState::kShared);
  fault.is_private = false;
  EXPECT_THAT(vm_.backend->TranslateFault(fault).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("shared access")));
  fault = {.address = GuestAddress(kC | kMiB), .is_private = true};
  EXPECT_THAT(vm_.backend->TranslateFault(fault).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("private access")));
}

TEST_F(SwProtectedTest, AHostWithoutTheVmTypeSaysSo) {
  fake_.SetCapability(Capability::kVmTypes, 1);
  EXPECT_THAT(Create(kMiB), ::testing::Not(base::IsOk()));
}

TEST_F(SwProtectedTest, AttributesThatKvmRefusesAreNotDone) {
  ASSERT_OK(Create(kMiB));
  fake_.QueueErrno(kvm::Requests::kSetMemoryAttributes, ENOMEM);
  const memory::PageProgress progress =
      vm_.backend->SetAttributes(Range(2 * kMiB, 0x3000), PageState::kPrivate);
  EXPECT_FALSE(progress.status.ok());
  EXPECT_EQ(progress.bytes_done, 0u);
}

}  // namespace
}  // namespace cloister::confidential
