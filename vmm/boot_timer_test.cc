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

}  // namespace
}  // namespace cloister::vmm
