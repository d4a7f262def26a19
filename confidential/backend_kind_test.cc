// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/backend_kind.h"

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

TEST(BackendKindTest, NamesRoundTrip) {
  for (BackendChoice choice :
       {BackendChoice::kAuto, BackendChoice::kOff, BackendChoice::kEmulated,
        BackendChoice::kSwProtected}) {
    EXPECT_THAT(ParseBackendChoice(BackendChoiceName(choice)),
                IsOkAndHolds(choice));
  }
  EXPECT_EQ(BackendKindName(BackendKind::kSwProtected), "sw-protected");
}

TEST(BackendKindTest, MmioNeedsMemoryThatKvmCanRead) {
  EXPECT_TRUE(MmioCanBeEmulated(BackendKind::kOff));
  EXPECT_TRUE(MmioCanBeEmulated(BackendKind::kEmulated));
  EXPECT_FALSE(MmioCanBeEmulated(BackendKind::kSwProtected));
}

TEST(BackendKindTest, RefusesOtherNames) {
  for (const char* name : {"", "Off", "sev", "sw_protected", "off "}) {
    EXPECT_THAT(ParseBackendChoice(name),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("off, auto, emulated, sw-protected")));
  }
}

}  // namespace
}  // namespace cloister::confidential
