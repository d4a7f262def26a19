// SPDX-License-Identifier: Apache-2.0
//
// memory/ over a real guest_memfd, which kvm/ makes and memory/ knows only as a
// file: what the `off` backend stands on where the VM offers it (Linux 6.18).
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/guest_memfd.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vm.h"
#include "cloister/kvm/vm_type.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister {
namespace {

using memory::GuestAddress;
using memory::GuestMemory;
using memory::GuestRange;
using memory::HostMapping;
using memory::kPageSize;
using memory::MemoryRegion;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kSize = 1 << 20;
constexpr uint64_t kBase = 0x100000;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

class GuestMemfdMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto system = kvm::System::Open();
    if (!system.ok()) GTEST_SKIP() << system.status();
    system_.emplace(*std::move(system));
    auto vm = system_->CreateVm(kvm::VmType::kDefault);
    ASSERT_OK(vm);
    vm_.emplace(*std::move(vm));
    const kvm::GuestMemfdFlags wanted = {.mmap = true, .init_shared = true};
    kvm::GuestMemfdFlags offered = vm_->SupportedGuestMemfdFlags();
    if (!offered.mmap || !offered.init_shared) {
      GTEST_SKIP() << "this KVM has no guest_memfd with MMAP and INIT_SHARED "
                      "(Linux 6.18)";
    }
    auto file = vm_->CreateGuestMemfd(kSize, wanted);
    ASSERT_OK(file);
    file_.emplace(*std::move(file));
  }

  // A second descriptor: memory/ owns what it maps.
  base::UniqueFd Descriptor() {
    return base::UniqueFd(::fcntl(file_->fd(), F_DUPFD_CLOEXEC, 0));
  }
  GuestMemory Memory() {
    auto mapping = HostMapping::MapFile(Descriptor(), 0, kSize, {});
    EXPECT_OK(mapping);
    auto region =
        MemoryRegion::Create(GuestAddress(kBase), *std::move(mapping));
    EXPECT_OK(region);
    std::vector<MemoryRegion> regions;
    regions.push_back(*std::move(region));
    return *GuestMemory::Create(std::move(regions));
  }

  std::optional<kvm::System> system_;
  std::optional<kvm::Vm> vm_;
  std::optional<kvm::GuestMemfd> file_;
};

TEST_F(GuestMemfdMemoryTest, ReadsWritesAndTellsWhatIsBacked) {
  GuestMemory memory = Memory();
  EXPECT_THAT(memory.BackedRanges(Range(kBase, kSize)),
              base::IsOkAndHolds(IsEmpty()));
  std::vector<uint8_t> bytes(3 * kPageSize, 0x5a);
  ASSERT_OK(memory.Write(GuestAddress(kBase + 5 * kPageSize), bytes));
  std::vector<uint8_t> back(bytes.size());
  ASSERT_OK(
      memory.Read(GuestAddress(kBase + 5 * kPageSize), absl::MakeSpan(back)));
  EXPECT_EQ(back, bytes);
  EXPECT_THAT(memory.BackedRanges(Range(kBase, kSize)),
              base::IsOkAndHolds(
                  ElementsAre(Range(kBase + 5 * kPageSize, 3 * kPageSize))));

  // Only the page in the middle goes, and it reads as zeroes.
  ASSERT_OK(memory.Discard(Range(kBase + 6 * kPageSize, kPageSize)));
  EXPECT_THAT(
      memory.BackedRanges(Range(kBase, kSize)),
      base::IsOkAndHolds(ElementsAre(Range(kBase + 5 * kPageSize, kPageSize),
                                     Range(kBase + 7 * kPageSize, kPageSize))));
  ASSERT_OK(memory.Read(GuestAddress(kBase + 6 * kPageSize),
                        absl::MakeSpan(back).first(kPageSize)));
  EXPECT_THAT(absl::MakeSpan(back).first(kPageSize), Each(0));
}

TEST_F(GuestMemfdMemoryTest, CopiesFromAFile) {
  GuestMemory memory = Memory();
  base::UniqueFd file(::memfd_create("file", MFD_CLOEXEC));
  std::vector<uint8_t> bytes(2 * kPageSize, 0x3c);
  ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  ASSERT_OK(memory.CopyFromFd(Range(kBase + 100, bytes.size()), file.get(), 0));
  std::vector<uint8_t> back(bytes.size());
  ASSERT_OK(memory.Read(GuestAddress(kBase + 100), absl::MakeSpan(back)));
  EXPECT_EQ(back, bytes);
}

TEST_F(GuestMemfdMemoryTest, RefusesMoreThanTheFileHas) {
  EXPECT_FALSE(HostMapping::MapFile(Descriptor(), 0, 2 * kSize, {}).ok());
  EXPECT_FALSE(HostMapping::MapFile(Descriptor(), kPageSize, kSize, {}).ok());
  EXPECT_OK(
      HostMapping::MapFile(Descriptor(), kPageSize, kSize - kPageSize, {}));
}

}  // namespace
}  // namespace cloister
