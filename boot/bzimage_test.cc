// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/bzimage.h"

#include <functional>
#include <random>
#include <string>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_compress.h"
#include "cloister/boot/fake_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::base::StoreLe;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

auto Text(const std::string& text) {
  return AllOf(HasSubstr(text), Not(HasSubstr("\n")));
}

absl::StatusOr<SharedBytes> ParseAndUnpack(std::vector<uint8_t> file) {
  SharedBytes bytes(std::move(file));
  absl::StatusOr<BzImage> image = BzImage::Parse(bytes);
  if (!image.ok()) return image.status();
  return image->Unpack();
}

// The zstd bzImage after `change`, unpacked.
absl::StatusOr<SharedBytes> UnpackChanged(
    const std::function<void(std::vector<uint8_t>&)>& change) {
  std::vector<uint8_t> file = MakeBzImage(Compression::kZstd, MakeVmlinux());
  change(file);
  return ParseAndUnpack(std::move(file));
}

class BzImageFormatTest : public ::testing::TestWithParam<Compression> {};

TEST_P(BzImageFormatTest, Unpacks) {
  std::vector<uint8_t> elf = MakeVmlinux();
  ASSERT_OK_AND_ASSIGN(
      BzImage image, BzImage::Parse(SharedBytes(MakeBzImage(GetParam(), elf))));
  EXPECT_EQ(image.compression(), GetParam());
  ASSERT_OK_AND_ASSIGN(SharedBytes unpacked, image.Unpack());
  EXPECT_TRUE(unpacked.span() == absl::MakeConstSpan(elf));
}

TEST_P(BzImageFormatTest, AWrongSizeAtTheEndIsAnError) {
  std::vector<uint8_t> elf = MakeVmlinux();
  for (int difference : {-1, 1}) {
    std::vector<uint8_t> file = MakeBzImage(GetParam(), elf);
    size_t payload_end = 1024 + 64 + base::LoadLe<uint32_t>(&file[0x24c]);
    StoreLe<uint32_t>(&file[payload_end - 4],
                      static_cast<uint32_t>(elf.size()) + difference);
    EXPECT_THAT(ParseAndUnpack(file), StatusIs(kInvalid, Text("payload: ")));
  }
}

TEST_P(BzImageFormatTest, EveryTruncationIsAnError) {
  const std::vector<uint8_t> file = MakeBzImage(GetParam(), MakeVmlinux());
  size_t payload_end = 1024 + 64 + base::LoadLe<uint32_t>(&file[0x24c]);
  for (size_t length = 0; length < payload_end; ++length) {
    EXPECT_THAT(ParseAndUnpack({file.begin(), file.begin() + length}),
                StatusIs(kInvalid, Text("bzImage: ")))
        << length;
  }
}

TEST_P(BzImageFormatTest, RandomChangesGiveAnErrorOrAnImage) {
  std::vector<uint8_t> elf = MakeVmlinux();
  const std::vector<uint8_t> file = MakeBzImage(GetParam(), elf);
  std::mt19937_64 random(3);
  int failures = 0;
  for (int i = 0; i < 300; ++i) {
    std::vector<uint8_t> bad = file;
    // Half of the changes in the header, half anywhere.
    size_t at = i % 2 == 0 ? 0x1f1 + random() % 0x80 : random() % bad.size();
    bad[at] ^= static_cast<uint8_t>(1 << (random() % 8));
    absl::StatusOr<SharedBytes> result = ParseAndUnpack(bad);
    if (!result.ok()) {
      ++failures;
      EXPECT_THAT(result.status().ToString(), Not(HasSubstr("\n")));
    }
  }
  EXPECT_GT(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, BzImageFormatTest,
                         ::testing::ValuesIn(kSupportedCompressions),
                         [](const ::testing::TestParamInfo<Compression>& info) {
                           return std::string(CompressionName(info.param));
                         });

TEST(BzImageTest, ReadsTheHeader) {
  std::vector<uint8_t> file = MakeBzImage(Compression::kZstd, MakeVmlinux());
  ASSERT_OK_AND_ASSIGN(BzImage image, BzImage::Parse(SharedBytes(file)));
  EXPECT_EQ(image.header().protocol, 0x20f);
  EXPECT_EQ(image.header().command_line_size, 2047u);
  EXPECT_EQ(image.header().initrd_address_max, 0x7fffffffu);
  EXPECT_TRUE(image.header().can_load_above_4g);
  EXPECT_EQ(image.version(), "6.1.0-fake (test)");
  EXPECT_EQ(image.header().bytes,
            std::vector<uint8_t>(file.begin() + 0x1f1, file.begin() + 0x26c));
}

TEST(BzImageTest, AnUncompressedPayload) {
  std::vector<uint8_t> elf = MakeVmlinux();
  ASSERT_OK_AND_ASSIGN(SharedBytes unpacked,
                       ParseAndUnpack(MakeBzImage(std::nullopt, elf)));
  EXPECT_TRUE(unpacked.span() == absl::MakeConstSpan(elf));
}

TEST(BzImageTest, UnprintableVersionsAreMadePrintable) {
  std::vector<uint8_t> file = MakeBzImage(Compression::kZstd, MakeVmlinux());
  file[0x301] = '\n';
  EXPECT_EQ(BzImage::Parse(SharedBytes(file))->version(), "6?1.0-fake (test)");
  StoreLe<uint16_t>(&file[0x20e], 0xffff);
  EXPECT_EQ(BzImage::Parse(SharedBytes(file))->version(), "");
  StoreLe<uint16_t>(&file[0x20e], 0);
  EXPECT_EQ(BzImage::Parse(SharedBytes(file))->version(), "");
}

TEST(BzImageTest, DetectNeedsBothSignatures) {
  std::vector<uint8_t> file = MakeBzImage(Compression::kZstd, MakeVmlinux());
  EXPECT_TRUE(BzImage::Detect(SharedBytes(file)));
  std::vector<uint8_t> no_flag = file;
  no_flag[0x1fe] = 0;
  EXPECT_FALSE(BzImage::Detect(SharedBytes(no_flag)));
  std::vector<uint8_t> no_magic = file;
  no_magic[0x202] = 'h';
  EXPECT_FALSE(BzImage::Detect(SharedBytes(no_magic)));
  EXPECT_THAT(BzImage::Parse(SharedBytes(no_magic)),
              StatusIs(kInvalid, Text("no setup header")));
}

TEST(BzImageTest, RefusesOldProtocolsAnd32BitKernels) {
  EXPECT_THAT(
      UnpackChanged([](auto& f) { StoreLe<uint16_t>(&f[0x206], 0x207); }),
      StatusIs(kUnimplemented, Text("protocol 2.07")));
  EXPECT_THAT(UnpackChanged([](auto& f) { f[0x236] = 2; }),
              StatusIs(kInvalid, Text("32-bit x86")));
  EXPECT_THAT(UnpackChanged([](auto& f) { f[0x211] = 0; }),
              StatusIs(kInvalid, Text("zImage")));
  // Before 2.12 there are no such flags.
  EXPECT_OK(UnpackChanged([](auto& f) {
    StoreLe<uint16_t>(&f[0x206], 0x20b);
    f[0x236] = 0;
  }));
}

TEST(BzImageTest, ChecksTheHeadersOwnLength) {
  EXPECT_THAT(UnpackChanged([](auto& f) { f[0x201] = 0x4d; }),
              StatusIs(kInvalid, Text("ends at 0x24f")));
  EXPECT_THAT(UnpackChanged([](auto& f) { f[0x201] = 0x8f; }),
              StatusIs(kInvalid, Text("ends at 0x291")));
  EXPECT_OK(UnpackChanged([](auto& f) { f[0x201] = 0x8e; }));
}

TEST(BzImageTest, ChecksPayloadAgainstCodeAndFile) {
  EXPECT_THAT(
      UnpackChanged([](auto& f) { StoreLe<uint32_t>(&f[0x248], UINT32_MAX); }),
      StatusIs(kInvalid, Text("leaves the kernel")));
  EXPECT_THAT(
      UnpackChanged([](auto& f) { StoreLe<uint32_t>(&f[0x24c], UINT32_MAX); }),
      StatusIs(kInvalid, Text("leaves the kernel")));
  EXPECT_THAT(
      UnpackChanged([](auto& f) { StoreLe<uint32_t>(&f[0x1f4], UINT32_MAX); }),
      StatusIs(kInvalid, Text("truncated")));
  EXPECT_THAT(UnpackChanged([](auto& f) { f[0x1f1] = 255; }),
              StatusIs(kInvalid, Text("truncated")));
  EXPECT_THAT(UnpackChanged([](auto& f) { StoreLe<uint32_t>(&f[0x24c], 0); }),
              StatusIs(kInvalid, Text("no payload")));
}

TEST(BzImageTest, RefusesUnknownAndUnsupportedFormats) {
  EXPECT_THAT(UnpackChanged([](auto& f) { f[1024 + 64] = 0; }),
              StatusIs(kUnimplemented, Text("no known compression")));
  std::vector<uint8_t> lzo(2000);
  const uint8_t magic[] = {0x89, 'L', 'Z', 'O'};
  std::copy(magic, magic + 4, lzo.begin());
  lzo[lzo.size() - 4] = 1;
  EXPECT_THAT(ParseAndUnpack(MakeBzImage(std::nullopt, lzo)),
              StatusIs(kUnimplemented, Text("LZO")));
}

TEST(BzImageTest, RefusesBombs) {
  EXPECT_THAT(UnpackChanged([](auto& f) {
                size_t end = 1024 + 64 + base::LoadLe<uint32_t>(&f[0x24c]);
                StoreLe<uint32_t>(&f[end - 4], 0x40000001);
              }),
              StatusIs(kInvalid, Text("exceeds the limit of 1073741824")));
}

}  // namespace
}  // namespace cloister::boot
