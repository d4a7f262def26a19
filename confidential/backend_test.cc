// SPDX-License-Identifier: Apache-2.0
//
// The backends on this host's /dev/kvm and, as a lab test, on one with private
// memory: what each one does to the pages of a VM that does not run.
#include <cstdint>
#include <optional>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/confidential/backend_factory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using memory::BackingSide;
using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kCBit = 39;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

class BackendTest : public ::testing::TestWithParam<BackendKind> {
 protected:
  void SetUp() override {
    auto system = kvm::System::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    system_ = *std::move(system);
    ASSERT_OK_AND_ASSIGN(HostFacts facts, CollectHostFacts(*system_));
    std::string missing = MissingFor(GetParam(), facts, /*hypercalls=*/false);
    if (!missing.empty()) GTEST_SKIP() << "this host lacks " << missing;
    RamOptions ram;
    ram.ram = {Range(0, 16 << 20), Range(uint64_t{4} << 30, 2 << 20)};
    ram.aliased_end = GetParam() == BackendKind::kOff ? 0 : 1 << 20;
    ASSERT_OK_AND_ASSIGN(vm_,
                         CreateBackendVm(*system_, GetParam(), ram, kCBit));
  }

  std::vector<GuestRange> Backed(BackingSide side, const GuestRange& range) {
    std::vector<GuestRange> found;
    EXPECT_OK(vm_.backend->ForEachBacked(
        side, range, [&](const GuestRange& part) { found.push_back(part); }));
    return found;
  }

  std::optional<kvm::System> system_;
  BackendVm vm_;
};

TEST_P(BackendTest, SaysWhatItIs) {
  EXPECT_EQ(vm_.backend->kind(), GetParam());
  EXPECT_EQ(vm_.backend->name(), BackendKindName(GetParam()));
  if (GetParam() == BackendKind::kOff) {
    EXPECT_EQ(vm_.backend->c_bit(), std::nullopt);
  } else {
    EXPECT_EQ(vm_.backend->c_bit(), kCBit);
  }
}

TEST_P(BackendTest, LaunchPagesLandInSharedMemory) {
  const std::vector<uint8_t> bytes(5000, 0x5a);
  LaunchRequest request;
  request.pages.push_back({GuestAddress(0x200000), bytes});
  ASSERT_OK(vm_.backend->Launch(request));
  std::vector<uint8_t> got(bytes.size());
  ASSERT_OK(vm_.memory->Read(GuestAddress(0x200000), absl::MakeSpan(got)));
  EXPECT_EQ(got, bytes);
  request.pages[0].gpa = GuestAddress(16 << 20);
  EXPECT_FALSE(vm_.backend->Launch(request).ok());
}

TEST_P(BackendTest, FreeingTheSharedSideGivesPagesBack) {
  const std::vector<uint8_t> bytes(3 * 4096, 1);
  ASSERT_OK(vm_.memory->Write(GuestAddress(0x300000), bytes));
  const GuestRange around = Range(0x200000, 0x400000);
  EXPECT_THAT(Backed(BackingSide::kShared, around),
              ElementsAre(Range(0x300000, 0x3000)));
  ASSERT_OK(vm_.backend->FreeShared(Range(0x301000, 0x1000)));
  EXPECT_THAT(Backed(BackingSide::kShared, around),
              ElementsAre(Range(0x300000, 0x1000), Range(0x302000, 0x1000)));
}

TEST_P(BackendTest, PrivateSideStartsEmptyAndFreesTwice) {
  const GuestRange range = Range(0x200000, 0x400000);
  EXPECT_THAT(Backed(BackingSide::kPrivate, range), IsEmpty());
  EXPECT_OK(vm_.backend->FreePrivate(range));
  EXPECT_OK(vm_.backend->FreePrivate(range));
}

TEST_P(BackendTest, AttributesCoverBothDirections) {
  const GuestRange range = Range(0x200000, 0x5000);
  memory::PageProgress shared =
      vm_.backend->SetAttributes(range, PageState::kShared);
  EXPECT_OK(shared.status);
  EXPECT_EQ(shared.bytes_done, range.size());
  memory::PageProgress hidden =
      vm_.backend->SetAttributes(range, PageState::kPrivate);
  if (GetParam() == BackendKind::kOff) {
    EXPECT_FALSE(hidden.status.ok());
    EXPECT_EQ(hidden.bytes_done, 0u);
  } else {
    EXPECT_OK(hidden.status);
    EXPECT_EQ(hidden.bytes_done, range.size());
  }
}

TEST_P(BackendTest, TranslatesOnlyFaultsOfTheSharedView) {
  kvm::MemoryFaultExit fault;
  fault.address = GuestAddress(0x345000);
  fault.size = 4096;
  fault.flags = 8;
  fault.is_private = true;
  auto wanted = vm_.backend->TranslateFault(fault);
  if (GetParam() != BackendKind::kSwProtected) {
    EXPECT_FALSE(wanted.ok());
    return;
  }
  ASSERT_OK(wanted);
  EXPECT_EQ(wanted->page, GuestAddress(0x345000));
  EXPECT_EQ(wanted->wanted, PageState::kShared);
  ASSERT_TRUE(wanted->slot.has_value());
  EXPECT_EQ(wanted->slot->value(), 1);  // View A above the low MiB.
  fault.address = GuestAddress(0x345000 | (uint64_t{1} << kCBit));
  EXPECT_FALSE(vm_.backend->TranslateFault(fault).ok());
  fault = {.address = GuestAddress(0x345000), .size = 4096};
  EXPECT_FALSE(vm_.backend->TranslateFault(fault).ok());
}

INSTANTIATE_TEST_SUITE_P(Kinds, BackendTest,
                         ::testing::Values(BackendKind::kOff,
                                           BackendKind::kEmulated,
                                           BackendKind::kSwProtected),
                         [](const ::testing::TestParamInfo<BackendKind>& info) {
                           return info.param == BackendKind::kSwProtected
                                      ? std::string("sw_protected")
                                      : std::string(
                                            BackendKindName(info.param));
                         });

}  // namespace
}  // namespace cloister::confidential
