// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_memory_mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/guest_address.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;

// Touches a page through the file, as the guest would through its own mapping.
void WritePage(const HostMapping& mapping, uint64_t offset) {
  const char byte = 1;
  ASSERT_EQ(::pwrite(mapping.fd(), &byte, 1,
                     static_cast<off_t>(mapping.file_offset() + offset)),
            1);
}

std::vector<MappingExtent> Backed(const HostMapping& mapping) {
  auto extents = mapping.BackedExtents({0, mapping.size()});
  EXPECT_OK(extents);
  return extents.ok() ? *extents : std::vector<MappingExtent>();
}

// The VmFlags line of the mapping in /proc/self/smaps.
std::string VmFlags(const HostMapping& mapping) {
  std::ifstream smaps("/proc/self/smaps");
  const std::string start =
      absl::StrCat(absl::Hex(mapping.host_address().ForKvmSlot()), "-");
  std::string line;
  bool inside = false;
  while (std::getline(smaps, line)) {
    if (absl::StartsWith(line, start)) inside = true;
    if (inside && absl::StartsWith(line, "VmFlags:")) return line + " ";
  }
  return "";
}

TEST(HostMappingTest, MemfdIsSealedAndCloseOnExec) {
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::CreateMemfd("ram", kMiB, {}));
  EXPECT_EQ(mapping.size(), kMiB);
  EXPECT_EQ(mapping.host_address().ForKvmSlot() % kPageSize, 0u);
  EXPECT_NE(::fcntl(mapping.fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(::fcntl(mapping.fd(), F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW),
            F_SEAL_SHRINK | F_SEAL_GROW);
  EXPECT_NE(::ftruncate(mapping.fd(), 0), 0);
  EXPECT_NE(::ftruncate(mapping.fd(), 2 * kMiB), 0);
  EXPECT_NE(::fcntl(mapping.fd(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(HostMappingTest, RefusesSizesThatAreNotPages) {
  EXPECT_THAT(HostMapping::CreateMemfd("ram", 0, {}),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("memory 'ram'")));
  EXPECT_THAT(HostMapping::CreateMemfd("ram", 4097, {}),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("not a multiple of 4 KiB")));
  EXPECT_THAT(
      HostMapping::CreateMemfd("ram", kMiB, {HugePages::kHugetlb2M, false}),
      base::StatusIs(absl::StatusCode::kInvalidArgument,
                     HasSubstr("not a multiple of 2 MiB")));
  EXPECT_FALSE(HostMapping::CreateMemfd("ram", uint64_t{1} << 63, {}).ok());
  EXPECT_FALSE(HostMapping::CreateMemfd("ram", uint64_t{1} << 62, {}).ok());
}

TEST(HostMappingTest, NothingIsBackedBeforeItIsTouched) {
  // More than this machine may have: memory is committed when touched.
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::CreateMemfd("ram", uint64_t{1} << 36, {}));
  EXPECT_THAT(Backed(mapping), IsEmpty());
  WritePage(mapping, uint64_t{1} << 35);
  EXPECT_THAT(Backed(mapping),
              ElementsAre(MappingExtent{uint64_t{1} << 35, kPageSize}));
}

TEST(HostMappingTest, BackedExtentsAreMaximalAndClipped) {
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::CreateMemfd("ram", kMiB, {}));
  for (uint64_t page : {0, 3, 4, 5, 255}) WritePage(mapping, page * kPageSize);
  EXPECT_THAT(Backed(mapping),
              ElementsAre(MappingExtent{0, kPageSize},
                          MappingExtent{3 * kPageSize, 3 * kPageSize},
                          MappingExtent{255 * kPageSize, kPageSize}));
  EXPECT_THAT(mapping.BackedExtents({4 * kPageSize, 8 * kPageSize}),
              base::IsOkAndHolds(
                  ElementsAre(MappingExtent{4 * kPageSize, 2 * kPageSize})));
  EXPECT_THAT(mapping.BackedExtents({6 * kPageSize, 8 * kPageSize}),
              base::IsOkAndHolds(IsEmpty()));
}

TEST(HostMappingTest, DiscardFreesExactlyItsPages) {
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::CreateMemfd("ram", kMiB, {}));
  for (uint64_t page = 0; page < 8; ++page)
    WritePage(mapping, page * kPageSize);
  ASSERT_OK(mapping.Discard({2 * kPageSize, 3 * kPageSize}));
  EXPECT_THAT(Backed(mapping),
              ElementsAre(MappingExtent{0, 2 * kPageSize},
                          MappingExtent{5 * kPageSize, 3 * kPageSize}));
  char byte = 7;
  ASSERT_EQ(::pread(mapping.fd(), &byte, 1, 2 * kPageSize), 1);
  EXPECT_EQ(byte, 0);
  // What is not backed may be discarded, too.
  EXPECT_OK(mapping.Discard({0, kMiB}));
  EXPECT_OK(mapping.Discard({0, kMiB}));
  EXPECT_THAT(Backed(mapping), IsEmpty());
}

TEST(HostMappingTest, ExtentsAreChecked) {
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::CreateMemfd("ram", kMiB, {}));
  EXPECT_FALSE(mapping.Discard({0, 0}).ok());
  EXPECT_FALSE(mapping.Discard({1, kPageSize}).ok());
  EXPECT_FALSE(mapping.Discard({0, kPageSize + 1}).ok());
  EXPECT_THAT(mapping.Discard({kMiB, kPageSize}),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(mapping.Discard({uint64_t{0} - kPageSize, 2 * kPageSize}),
              base::StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_FALSE(mapping.BackedExtents({kMiB - kPageSize, 2 * kPageSize}).ok());
}

TEST(HostMappingTest, OptionsReachTheKernel) {
  ASSERT_OK_AND_ASSIGN(HostMapping plain,
                       HostMapping::CreateMemfd("plain", kMiB, {}));
  EXPECT_THAT(VmFlags(plain), AllOf(HasSubstr(" nh "), HasSubstr(" sh ")));
  EXPECT_THAT(VmFlags(plain), ::testing::Not(HasSubstr(" dd ")));
  ASSERT_OK_AND_ASSIGN(
      HostMapping secret,
      HostMapping::CreateMemfd("secret", kMiB, {HugePages::kNone, true}));
  EXPECT_THAT(VmFlags(secret), AllOf(HasSubstr(" nh "), HasSubstr(" dd ")));
  ASSERT_OK_AND_ASSIGN(HostMapping huge,
                       HostMapping::CreateMemfd(
                           "huge", 3 * kMiB, {HugePages::kTransparent, false}));
  EXPECT_THAT(VmFlags(huge), HasSubstr(" hg "));
  EXPECT_EQ(huge.host_address().ForKvmSlot() % (2 * kMiB), 0u);
}

TEST(HostMappingTest, HugetlbWorksOrSaysWhatToDo) {
  for (HugePages option : {HugePages::kHugetlb2M, HugePages::kHugetlb1G}) {
    // More than any pool here holds.
    auto mapping =
        HostMapping::CreateMemfd("huge", uint64_t{1} << 50, {option, false});
    ASSERT_FALSE(mapping.ok());
    EXPECT_THAT(
        std::string(mapping.status().message()),
        ::testing::AnyOf(HasSubstr("nr_hugepages"), HasSubstr("hugepagesz=")))
        << mapping.status();
    EXPECT_THAT(std::string(mapping.status().message()),
                HasSubstr("choose another huge-page option"));
  }
}

TEST(HostMappingTest, HugetlbIsNeverPunched) {
  auto mapping = HostMapping::CreateMemfd("huge", 2 * kMiB,
                                          {HugePages::kHugetlb2M, false});
  if (!mapping.ok()) {
    std::cout << "no huge page to be had: " << mapping.status() << std::endl;
    GTEST_SKIP() << mapping.status();
  }
  EXPECT_THAT(mapping->Discard({0, 2 * kMiB}),
              base::StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Backed(*mapping), IsEmpty());
}

TEST(HostMappingTest, MapsPartOfAFileAndSealsIt) {
  base::UniqueFd file(::memfd_create("file", MFD_ALLOW_SEALING));
  ASSERT_TRUE(file.valid());
  ASSERT_EQ(::ftruncate(file.get(), kMiB), 0);
  ASSERT_OK_AND_ASSIGN(base::UniqueFd copy, file.Duplicate());
  ASSERT_OK_AND_ASSIGN(
      HostMapping mapping,
      HostMapping::MapFile(std::move(copy), 4 * kPageSize, 8 * kPageSize, {}));
  EXPECT_NE(::fcntl(mapping.fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::ftruncate(file.get(), 0), 0);
  WritePage(mapping, kPageSize);
  EXPECT_THAT(Backed(mapping),
              ElementsAre(MappingExtent{kPageSize, kPageSize}));
  // Discarding stays within the part.
  const char byte = 1;
  ASSERT_EQ(::pwrite(file.get(), &byte, 1, 3 * kPageSize), 1);
  ASSERT_EQ(::pwrite(file.get(), &byte, 1, 12 * kPageSize), 1);
  ASSERT_OK(mapping.Discard({0, mapping.size()}));
  EXPECT_EQ(::lseek(file.get(), 0, SEEK_DATA),
            static_cast<off_t>(3 * kPageSize));
  EXPECT_EQ(::lseek(file.get(), 4 * kPageSize, SEEK_DATA),
            static_cast<off_t>(12 * kPageSize));
}

TEST(HostMappingTest, RefusesFilesThatCouldRaiseSigbus) {
  auto map = [](unsigned flags, uint64_t length, uint64_t offset, uint64_t size,
                HugePages huge_pages) {
    base::UniqueFd file(::memfd_create("file", flags));
    EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(length)), 0);
    return HostMapping::MapFile(std::move(file), offset, size,
                                {huge_pages, false})
        .status();
  };
  const unsigned sealable = MFD_ALLOW_SEALING;
  const HugePages none = HugePages::kNone;
  EXPECT_OK(map(sealable, kMiB, 0, kMiB, none));
  EXPECT_THAT(map(sealable, kMiB, kPageSize, kMiB, none),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("too short")));
  EXPECT_FALSE(map(sealable, kMiB, uint64_t{0} - kPageSize, kMiB, none).ok());
  EXPECT_FALSE(map(sealable, kMiB, 1, kPageSize, none).ok());
  EXPECT_FALSE(map(sealable, kMiB, 0, kPageSize + 1, none).ok());
  EXPECT_FALSE(map(sealable, kMiB, 0, kMiB, HugePages::kHugetlb2M).ok());
  // It could be cut short, and nothing here can forbid it.
  EXPECT_THAT(map(0, kMiB, 0, kMiB, none),
              base::StatusIs(absl::StatusCode::kPermissionDenied,
                             HasSubstr("MFD_ALLOW_SEALING")));
  EXPECT_FALSE(HostMapping::MapFile(base::UniqueFd(), 0, kPageSize, {}).ok());
}

// A file that cannot tell holes from data is asked through mincore.
TEST(HostMappingTest, ResidencyOfAFileWithoutHoles) {
  std::string path = ::testing::TempDir() + "/host_mapping_XXXXXX";
  base::UniqueFd file(::mkstemp(path.data()));
  ASSERT_TRUE(file.valid());
  ASSERT_EQ(::unlink(path.c_str()), 0);
  ASSERT_EQ(::ftruncate(file.get(), kMiB), 0);
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::MapFile(std::move(file), 0, kMiB, {}));
  EXPECT_THAT(Backed(mapping), IsEmpty());
  WritePage(mapping, 7 * kPageSize);
  EXPECT_THAT(Backed(mapping),
              ElementsAre(MappingExtent{7 * kPageSize, kPageSize}));
}

TEST(HostMappingTest, MovesLeaveNothingBehind) {
  ASSERT_OK_AND_ASSIGN(HostMapping a, HostMapping::CreateMemfd("a", kMiB, {}));
  const HostAddress address = a.host_address();
  HostMapping b = std::move(a);
  EXPECT_EQ(b.host_address(), address);
  ASSERT_OK_AND_ASSIGN(HostMapping c, HostMapping::CreateMemfd("c", kMiB, {}));
  const uint64_t unmapped = c.host_address().ForKvmSlot();
  c = std::move(b);
  EXPECT_EQ(c.host_address(), address);
  unsigned char resident;
  EXPECT_EQ(::mincore(reinterpret_cast<void*>(unmapped), kPageSize, &resident),
            -1);
  WritePage(c, 0);
}

}  // namespace
}  // namespace cloister::memory
