// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_types.h"

#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

TEST(ConversionTypesTest, EveryPhaseHasItsName) {
  EXPECT_EQ(ConversionPhaseName(ConversionPhase::kBuilding), "building");
  EXPECT_EQ(ConversionPhaseName(ConversionPhase::kLaunching), "launching");
  EXPECT_EQ(ConversionPhaseName(ConversionPhase::kRunning), "running");
  EXPECT_EQ(ConversionPhaseName(ConversionPhase::kStopped), "stopped");
  EXPECT_EQ(ConversionPhaseName(static_cast<ConversionPhase>(9)), "unknown");
}

// What leaks is what has pages on both sides, whichever was found first; what
// was freed or is leased is part of it, not more of it.
TEST(ConversionTypesTest, DoubleBackedIsTheSumOfBothSides) {
  ReconcileReport report;
  EXPECT_EQ(report.double_backed_bytes(), 0u);
  report.shared_bytes = 0x3000;
  report.private_bytes = 0x1000;
  report.freed_bytes = 0x4000;
  report.leased_bytes = 0x2000;
  EXPECT_EQ(report.double_backed_bytes(), 0x4000u);
}

}  // namespace
}  // namespace cloister::memory
