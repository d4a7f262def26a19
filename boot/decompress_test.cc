// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/decompress.h"

#include <random>
#include <string>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_compress.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Compressible, but not trivially.
std::vector<uint8_t> Sample(size_t size) {
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = i % 7 == 0 ? static_cast<uint8_t>(random()) : 'a';
  }
  return bytes;
}

class DecompressTest : public ::testing::TestWithParam<Compression> {};

TEST_P(DecompressTest, RoundTrip) {
  // LZ4's legacy blocks hold 8 MiB.
  size_t large = GetParam() == Compression::kLz4 ? size_t{9} << 20 : 300000;
  for (size_t size : {size_t{1}, size_t{5000}, large + 17}) {
    std::vector<uint8_t> original = Sample(size);
    std::vector<uint8_t> packed = Compress(GetParam(), original);
    EXPECT_EQ(DetectCompression(packed), GetParam());
    ASSERT_OK_AND_ASSIGN(SharedBytes unpacked,
                         Decompress(GetParam(), packed, size));
    EXPECT_TRUE(unpacked.span() == absl::MakeConstSpan(original));
  }
}

TEST_P(DecompressTest, AWrongSizeIsAnError) {
  std::vector<uint8_t> packed = Compress(GetParam(), Sample(5000));
  for (uint64_t size : {1u, 4999u, 5001u, 10000u}) {
    EXPECT_THAT(Decompress(GetParam(), packed, size), StatusIs(kInvalid))
        << size;
  }
}

TEST_P(DecompressTest, ABombStopsAtTheDeclaredSize) {
  std::vector<uint8_t> packed =
      Compress(GetParam(), std::vector<uint8_t>(size_t{4} << 20));
  EXPECT_THAT(Decompress(GetParam(), packed, 4096), StatusIs(kInvalid));
}

TEST_P(DecompressTest, EveryTruncationIsAnError) {
  std::vector<uint8_t> packed = Compress(GetParam(), Sample(700));
  for (size_t length = 0; length < packed.size(); ++length) {
    EXPECT_THAT(Decompress(GetParam(),
                           absl::MakeConstSpan(packed).subspan(0, length), 700),
                StatusIs(kInvalid))
        << length;
  }
}

TEST_P(DecompressTest, TrailingGarbageIsAnError) {
  std::vector<uint8_t> packed = Compress(GetParam(), Sample(700));
  packed.insert(packed.end(), {0xde, 0xad, 0xbe, 0xef, 0xff});
  EXPECT_THAT(Decompress(GetParam(), packed, 700), StatusIs(kInvalid));
}

TEST_P(DecompressTest, FlippedBitsNeverCrash) {
  const std::vector<uint8_t> packed = Compress(GetParam(), Sample(700));
  int failures = 0;
  for (size_t at = 0; at < packed.size(); ++at) {
    std::vector<uint8_t> bad = packed;
    bad[at] ^= static_cast<uint8_t>(1 << (at % 8));
    absl::StatusOr<SharedBytes> result = Decompress(GetParam(), bad, 700);
    if (result.ok()) {
      EXPECT_EQ(result->size(), 700u);
    } else {
      ++failures;
    }
  }
  EXPECT_GT(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, DecompressTest,
                         ::testing::ValuesIn(kSupportedCompressions),
                         [](const ::testing::TestParamInfo<Compression>& info) {
                           return std::string(CompressionName(info.param));
                         });

TEST(Lz4LegacyTest, TheMagicMayComeAgain) {
  std::vector<uint8_t> packed = Compress(Compression::kLz4, Sample(500));
  std::vector<uint8_t> twice = packed;
  twice.insert(twice.end(), packed.begin(), packed.end());
  ASSERT_OK_AND_ASSIGN(SharedBytes unpacked,
                       Decompress(Compression::kLz4, twice, 1000));
  EXPECT_TRUE(unpacked.span().subspan(500) == absl::MakeConstSpan(Sample(500)));
}

TEST(Lz4LegacyTest, BlockLengthsAreChecked) {
  for (uint32_t length : {0u, 5u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    std::vector<uint8_t> bad = {0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0, 1, 2, 3, 4};
    base::StoreLe(bad.data() + 4, length);
    EXPECT_THAT(Decompress(Compression::kLz4, bad, 100),
                StatusIs(kInvalid, HasSubstr("block of")))
        << length;
  }
}

TEST(DecompressErrorsTest, LzoIsNamed) {
  const uint8_t lzo[] = {0x89, 'L', 'Z', 'O', 0, 0x0d, 0x0a, 0x1a, 0x0a};
  EXPECT_EQ(DetectCompression(lzo), Compression::kLzo);
  EXPECT_THAT(
      Decompress(Compression::kLzo, lzo, 100),
      StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("LZO compression")));
}

TEST(DecompressErrorsTest, SizesAreBounded) {
  std::vector<uint8_t> packed = Compress(Compression::kZstd, Sample(10));
  EXPECT_THAT(Decompress(Compression::kZstd, packed, 0), StatusIs(kInvalid));
  EXPECT_THAT(Decompress(Compression::kZstd, packed, UINT64_MAX),
              StatusIs(kInvalid, HasSubstr("not acceptable")));
}

TEST(DetectCompressionTest, NeedsTheWholeMagic) {
  EXPECT_EQ(DetectCompression({}), std::nullopt);
  EXPECT_EQ(DetectCompression({0x28, 0xb5, 0x2f}), std::nullopt);
  EXPECT_EQ(DetectCompression({0x7f, 'E', 'L', 'F'}), std::nullopt);
}

}  // namespace
}  // namespace cloister::boot
