// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/size.h"

#include <string>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::cloister::base::IsOkAndHolds;

TEST(SizeTest, ParsesEverySpelling) {
  EXPECT_THAT(ParseSize("0"), IsOkAndHolds(0u));
  EXPECT_THAT(ParseSize("4096"), IsOkAndHolds(4096u));
  EXPECT_THAT(ParseSize("0x1000"), IsOkAndHolds(0x1000u));
  EXPECT_THAT(ParseSize("4k"), IsOkAndHolds(4096u));
  EXPECT_THAT(ParseSize("512M"), IsOkAndHolds(512u << 20));
  EXPECT_THAT(ParseSize("64MiB"), IsOkAndHolds(64u << 20));
  EXPECT_THAT(ParseSize("2gib"), IsOkAndHolds(uint64_t{2} << 30));
  EXPECT_THAT(ParseSize("1T"), IsOkAndHolds(uint64_t{1} << 40));
  EXPECT_THAT(ParseSize("18446744073709551615"), IsOkAndHolds(UINT64_MAX));
}

TEST(SizeTest, RefusesEverythingElse) {
  for (const char* text : {"", "M", "-1", "+1", " 1", "1 ", "1.5G", "512MB",
                           "1Mi", "0x", "0xg", "1E", "18446744073709551616",
                           "16777216T", "0x10000000000000000", "1K1"}) {
    EXPECT_FALSE(ParseSize(text).ok()) << text;
  }
}

TEST(SizeTest, ErrorQuotesTheTextSafely) {
  EXPECT_EQ(ParseSize("\x1b[31m").status().message(),
            "\"\\x1b[31m\" is not a size such as 512M, 2GiB or 0x20000000");
  EXPECT_LT(ParseSize(std::string(100000, 'x')).status().message().size(),
            200u);
}

TEST(SizeTest, Formats) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(17), "17 B");
  EXPECT_EQ(FormatSize(4096), "4 KiB");
  EXPECT_EQ(FormatSize(512u << 20), "512 MiB");
  EXPECT_EQ(FormatSize(uint64_t{1} << 50), "1024 TiB");
}

}  // namespace
}  // namespace cloister::vmm
