// SPDX-License-Identifier: Apache-2.0
//
// backend_test has it on real VMs; here, what it asks of KVM.
#include "cloister/confidential/emulated.h"

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
using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using ::testing::HasSubstr;

constexpr int kCBit = 39;
constexpr uint64_t kC = uint64_t{1} << kCBit;

class EmulatedTest : public FakeKvmVmTest {
 protected:
  absl::Status Create(uint64_t aliased_end) {
    return FakeKvmVmTest::Create(
        aliased_end, [](const kvm::System& system, const RamOptions& ram) {
          return CreateEmulatedVm(system, ram, kCBit);
        });
  }
};

TEST_F(EmulatedTest, BothViewsAreThereAndApartButForTheLowMiB) {
  ASSERT_OK(Create(kMiB));
  ASSERT_EQ(slots_.size(), 6u);
  for (uint64_t gpa : {uint64_t{0}, kMiB, kHigh}) {
    ASSERT_EQ(slots_.count(gpa), 1u) << gpa;
    ASSERT_EQ(slots_.count(gpa | kC), 1u) << gpa;
    EXPECT_EQ(slots_[gpa].size, slots_[gpa | kC].size);
    EXPECT_EQ(slots_[gpa].host == slots_[gpa | kC].host, gpa == 0) << gpa;
    EXPECT_EQ(slots_[gpa].guest_memfd, -1);
  }
}

TEST_F(EmulatedTest, WithoutAnAliasedPartNothingIsShared) {
  ASSERT_OK(Create(0));
  ASSERT_EQ(slots_.size(), 4u);
  EXPECT_NE(slots_[0].host, slots_[kC].host);
}

TEST_F(EmulatedTest, LaunchPagesLieInViewAAlone) {
  ASSERT_OK(Create(kMiB));
  const std::vector<uint8_t> bytes = {1, 2, 3};
  LaunchRequest request;
  request.pages.push_back({GuestAddress(2 * kMiB), bytes});
  ASSERT_OK(vm_.backend->Launch(request));
  const auto* a = static_cast<const uint8_t*>(slots_[kMiB].host) + kMiB;
  const auto* b = static_cast<const uint8_t*>(slots_[kMiB | kC].host) + kMiB;
  EXPECT_EQ(std::vector<uint8_t>(a, a + 3), bytes);
  EXPECT_EQ(b[0], 0);
}

TEST_F(EmulatedTest, FreeingTheHiddenSideLeavesTheOther) {
  ASSERT_OK(Create(kMiB));
  auto* a = static_cast<uint8_t*>(slots_[kMiB].host);
  auto* b = static_cast<uint8_t*>(slots_[kMiB | kC].host);
  a[0] = 0xaa;
  b[0] = 0xbb;  // as the guest would
  ASSERT_OK(vm_.backend->FreePrivate(Range(kMiB, 0x1000)));
  EXPECT_EQ(a[0], 0xaa);
  EXPECT_EQ(b[0], 0);
  b[0] = 0xbb;
  ASSERT_OK(vm_.backend->FreeShared(Range(kMiB, 0x1000)));
  EXPECT_EQ(a[0], 0);
  EXPECT_EQ(b[0], 0xbb);
}

TEST_F(EmulatedTest, KvmIsNotAskedForWhatItLacks) {
  ASSERT_OK(Create(kMiB));
  EXPECT_EQ(vm_.backend->c_bit(), kCBit);
  EXPECT_OK(vm_.backend->SetAttributes(Range(kMiB, 0x1000), PageState::kPrivate)
                .status);
  EXPECT_EQ(fake_.CountOf(kvm::Requests::kSetMemoryAttributes), 0u);
  EXPECT_EQ(fake_.CountOf(kvm::Requests::kCreateGuestMemfd), 0u);
  kvm::MemoryFaultExit fault;
  fault.address = GuestAddress(kMiB);
  fault.is_private = true;
  EXPECT_THAT(vm_.backend->TranslateFault(fault).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("not trapped")));
}

}  // namespace
}  // namespace cloister::confidential
