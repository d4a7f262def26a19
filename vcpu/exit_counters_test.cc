// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/exit_counters.h"

#include <set>
#include <thread>

#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

TEST(ExitCountersTest, CountsByKind) {
  ExitCounters counters;
  counters.Count(ExitKind::kPortRead);
  counters.Count(ExitKind::kHypercall);
  counters.Count(ExitKind::kPortRead);
  ExitCounters::Snapshot snapshot = counters.Read();
  EXPECT_EQ(snapshot[ExitKind::kPortRead], 2u);
  EXPECT_EQ(snapshot[ExitKind::kHypercall], 1u);
  EXPECT_EQ(snapshot[ExitKind::kMmioRead], 0u);
  EXPECT_EQ(snapshot.total(), 3u);
  EXPECT_EQ(snapshot.last, ExitKind::kPortRead);
}

TEST(ExitCountersTest, NamesAreDistinct) {
  std::set<absl::string_view> names;
  for (size_t i = 0; i < kExitKinds; ++i) {
    names.insert(ExitKindName(static_cast<ExitKind>(i)));
  }
  EXPECT_EQ(names.size(), kExitKinds);
  EXPECT_EQ(names.count("unknown"), 0u);
}

TEST(ExitCountersTest, OtherThreadsRead) {
  ExitCounters counters;
  std::thread writer([&counters] {
    for (int i = 0; i < 100000; ++i) counters.Count(ExitKind::kMmioWrite);
  });
  uint64_t last = 0;
  while (last < 100000) {
    uint64_t now = counters.Read()[ExitKind::kMmioWrite];
    ASSERT_GE(now, last);
    last = now;
  }
  writer.join();
  EXPECT_EQ(last, 100000u);
}

}  // namespace
}  // namespace cloister::vcpu
