// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/linux_params.h"

#include <cstring>
#include <string>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::LoadLe;
using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

BootParams Params() {
  return {.setup_header = DefaultSetupHeader(),
          .e820 = {{Range(0, 0x9fc00), E820Type::kRam},
                   {Range(kMiB, kMiB), E820Type::kAcpi}},
          .command_line = GuestAddress(0x123456789a000),
          .initrd = Range(0x2345678000, 0x1ffffffff),
          .rsdp = GuestAddress(0xabcdef0)};
}

TEST(EncodeBootParamsTest, FieldsAreWhereZeroPageRstSays) {
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> page, EncodeBootParams(Params()));
  ASSERT_EQ(page.size(), kBootParamsSize);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x70]), 0xabcdef0u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x218]), 0x45678000u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0xc0]), 0x23u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x21c]), 0xffffffffu);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0xc4]), 1u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x228]), 0x6789a000u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0xc8]), 0x12345u);
  EXPECT_EQ(page[0x210], 0xff);
  EXPECT_EQ(page[0x211], 1);
  EXPECT_EQ(page[0x1ef], 0) << "sentinel: the kernel would wipe the page";
  EXPECT_EQ(LoadLe<uint16_t>(&page[0x1fe]), 0xaa55);
  EXPECT_EQ(std::memcmp(&page[0x202], "HdrS", 4), 0);
  EXPECT_EQ(LoadLe<uint16_t>(&page[0x206]), 0x20f);
}

TEST(EncodeBootParamsTest, SetupDataIsAListThatMayBeEmpty) {
  BootParams params = Params();
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> page, EncodeBootParams(params));
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x250]), 0u);
  params.setup_data = GuestAddress(0x123456789000);
  ASSERT_OK_AND_ASSIGN(page, EncodeBootParams(params));
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x250]), 0x123456789000u);
}

TEST(EncodeSetupDataTest, OneElementAndNoNext) {
  const std::vector<uint8_t> data =
      EncodeSetupData(SetupDataType::kDeviceTree, {7, 8, 9});
  ASSERT_EQ(data.size(), 19u);
  EXPECT_EQ(LoadLe<uint64_t>(data.data()), 0u);
  EXPECT_EQ(LoadLe<uint32_t>(&data[8]), 2u) << "SETUP_DTB";
  EXPECT_EQ(LoadLe<uint32_t>(&data[12]), 3u);
  EXPECT_EQ(data[16], 7);
  EXPECT_EQ(data[18], 9);
}

TEST(EncodeBootParamsTest, TheE820Table) {
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> page, EncodeBootParams(Params()));
  EXPECT_EQ(page[0x1e8], 2);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x2d0]), 0u);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x2d8]), 0x9fc00u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x2e0]), 1u);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x2e4]), kMiB);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x2ec]), kMiB);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x2f4]), 3u);
}

TEST(EncodeBootParamsTest, TheE820TableIsBounded) {
  BootParams params = Params();
  params.e820.assign(128, {Range(0, 1), E820Type::kRam});
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> page, EncodeBootParams(params));
  EXPECT_EQ(page[0x1e8], 128);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0xccc]), 1u);
  params.e820.push_back({Range(0, 1), E820Type::kRam});
  EXPECT_THAT(EncodeBootParams(params), StatusIs(kInvalid, HasSubstr("129")));
  params.e820.clear();
  EXPECT_THAT(EncodeBootParams(params), StatusIs(kInvalid));
}

TEST(EncodeBootParamsTest, AKernelsOwnHeaderIsCopiedButNotItsLoaderFields) {
  BootParams params = Params();
  params.initrd.reset();
  params.rsdp.reset();
  params.setup_header.bytes.assign(0x290 - 0x1f1, 0x77);
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> page, EncodeBootParams(params));
  EXPECT_EQ(page[0x1f1], 0x77);
  EXPECT_EQ(page[0x28f], 0x77);
  EXPECT_EQ(page[0x290], 0);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x250]), 0u) << "setup_data";
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x218]), 0u);
  EXPECT_EQ(LoadLe<uint32_t>(&page[0x21c]), 0u);
  EXPECT_EQ(LoadLe<uint64_t>(&page[0x70]), 0u);
  EXPECT_EQ(page[0x211], 1);
}

TEST(CheckCommandLineTest, TheKernelsLimitCounts) {
  SetupHeader header = DefaultSetupHeader();
  EXPECT_OK(CheckCommandLine("", header));
  EXPECT_OK(CheckCommandLine(std::string(2047, 'x'), header));
  EXPECT_THAT(CheckCommandLine(std::string(2048, 'x'), header),
              StatusIs(kInvalid, HasSubstr("2048 bytes, more than the 2047")));
  header.command_line_size = 255;
  EXPECT_THAT(CheckCommandLine(std::string(256, 'x'), header),
              StatusIs(kInvalid));
  EXPECT_THAT(CheckCommandLine(absl::string_view("a\0b", 3), header),
              StatusIs(kInvalid, HasSubstr("NUL")));
}

TEST(PlaceInitrdTest, AsHighAsMemoryAndTheKernelAllow) {
  SetupHeader header = DefaultSetupHeader();
  LaunchImage small = *LaunchImage::Create({Range(kMiB, 63 * kMiB)});
  EXPECT_EQ(*PlaceInitrd(small, 5000, header),
            GuestAddress(64 * kMiB - 0x2000));
  LaunchImage large = *LaunchImage::Create({Range(kMiB, 0xc0000000 - kMiB)});
  EXPECT_EQ(*PlaceInitrd(large, 4096, header), GuestAddress(0x7ffff000));
  header.initrd_address_max = 0x37ffffff;
  EXPECT_EQ(*PlaceInitrd(large, 4096, header), GuestAddress(0x37fff000));
}

TEST(PlaceInitrdTest, GoesAboveFourGiBOnlyIfItMustAndMay) {
  SetupHeader header = DefaultSetupHeader();
  LaunchImage image = *LaunchImage::Create(
      {Range(kMiB, 15 * kMiB), Range(kFourGiB, 64 * kMiB)});
  EXPECT_EQ(*PlaceInitrd(image, 15 * kMiB, header), GuestAddress(kMiB));
  EXPECT_EQ(*PlaceInitrd(image, 16 * kMiB, header),
            GuestAddress(kFourGiB + 48 * kMiB));
  header.can_load_above_4g = false;
  EXPECT_THAT(PlaceInitrd(image, 16 * kMiB, header),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("16777216 bytes do not fit")));
}

TEST(PlaceInitrdTest, AvoidsWhatIsThere) {
  LaunchImage image = *LaunchImage::Create({Range(kMiB, 63 * kMiB)});
  ASSERT_OK(image.Add({PieceType::kKernelSegment, GuestAddress(60 * kMiB),
                       SharedBytes(), 4 * kMiB}));
  EXPECT_EQ(*PlaceInitrd(image, 4096, DefaultSetupHeader()),
            GuestAddress(60 * kMiB - 4096));
  EXPECT_THAT(PlaceInitrd(image, 60 * kMiB, DefaultSetupHeader()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("of 66060288 usable bytes at most 61865984")));
}

TEST(PlaceInitrdTest, LimitsAtTheEdges) {
  SetupHeader header = DefaultSetupHeader();
  header.can_load_above_4g = false;
  LaunchImage image = *LaunchImage::Create({Range(kMiB, 63 * kMiB)});
  header.initrd_address_max = UINT32_MAX;
  EXPECT_OK(PlaceInitrd(image, 4096, header));
  header.initrd_address_max = 0;
  EXPECT_FALSE(PlaceInitrd(image, 4096, header).ok());
  EXPECT_FALSE(PlaceInitrd(image, UINT64_MAX, header).ok());
}

}  // namespace
}  // namespace cloister::boot
