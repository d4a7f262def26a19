// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/boot_timer.h"

#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using std::chrono::milliseconds;

TEST(BootTimerTest, ReportsPhasesWithTotalsAndSteps) {
  BootTimer::Clock::time_point start;
  BootTimer timer(start);
  timer.Reached("VM created", start + milliseconds(2));
  timer.Reached("first KVM_RUN", start + milliseconds(1500));
  timer.Reached("VM created", start + milliseconds(9999));
  EXPECT_EQ(timer.Report(),
            "       2.0 ms      +2.0 ms  VM created\n"
            "    1500.0 ms   +1498.0 ms  first KVM_RUN\n");
}

TEST(BootTimerTest, EmptyWithoutPhases) {
  EXPECT_EQ(BootTimer(BootTimer::Clock::now()).Report(), "");
}

TEST(BootTimerTest, PhasesCountFromTheStart) {
  const BootTimer::Clock::time_point start = BootTimer::Clock::now();
  BootTimer timer(start);
  timer.Reached("one", start + std::chrono::milliseconds(3));
  timer.Reached("two", start + std::chrono::milliseconds(5));
  const auto phases = timer.Phases();
  ASSERT_EQ(phases.size(), 2u);
  EXPECT_EQ(phases[0].first, "one");
  EXPECT_EQ(phases[1].second, std::chrono::milliseconds(5));
}

}  // namespace
}  // namespace cloister::vmm
