// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/convert_request.h"

#include <nlohmann/json.hpp>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

Json Range(uint64_t gpa, uint64_t len, const char* to) {
  return {{"gpa", gpa}, {"len", len}, {"to", to}};
}

TEST(ConvertRequestTest, HasRangesStateAndReason) {
  ASSERT_OK_AND_ASSIGN(
      ConvertRequest request,
      ConvertRequestOf({{"ranges",
                         {Range(0x1000, 0x2000, "shared"),
                          Range(uint64_t{1} << 32, 0x1000, "shared")}},
                        {"reason", "given-up"}}));
  ASSERT_EQ(request.ranges.size(), 2u);
  EXPECT_EQ(request.ranges[0].start().value(), 0x1000u);
  EXPECT_EQ(request.ranges[0].size(), 0x2000u);
  EXPECT_EQ(request.ranges[1].start().value(), uint64_t{1} << 32);
  EXPECT_EQ(request.to, memory::PageState::kShared);
  EXPECT_EQ(request.reason, memory::HostConversionReason::kGivenUp);

  ASSERT_OK_AND_ASSIGN(
      request, ConvertRequestOf({{"ranges", {Range(0, 4096, "private")}}}));
  EXPECT_EQ(request.to, memory::PageState::kPrivate);
  EXPECT_EQ(request.reason, memory::HostConversionReason::kExchangeWindow);
}

TEST(ConvertRequestTest, MistakesNameTheField) {
  const struct {
    Json ranges;
    const char* named;
  } kBad[] = {
      {{Range(1, 4096, "shared")}, "gpa, len"},
      {{Range(0, 4095, "shared")}, "gpa, len"},
      {{Range(0, 0, "shared")}, "gpa, len"},
      {{Range(0xfffffffffffff000, 8192, "shared")}, "gpa, len"},
      {{Range(0, 4096, "shared"), Range(4096, 4096, "private")}, "\"to\""},
  };
  for (const auto& bad : kBad) {
    EXPECT_THAT(
        ConvertRequestOf({{"ranges", bad.ranges}}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad.named)))
        << bad.ranges.dump();
  }
}

}  // namespace
}  // namespace cloister::api
