// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/topology.h"

#include <set>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

constexpr CpuLimits kLimits = {.max_vcpus = 1024, .max_vcpu_id = 4096};

TEST(TopologyTest, OneSocketIsDense) {
  CpuTopology topology{.count = 600};
  ASSERT_OK(ValidateTopology(topology, kLimits));
  EXPECT_EQ(topology.sockets(), 1u);
  EXPECT_EQ(topology.core_shift(), 0u);
  EXPECT_EQ(topology.socket_shift(), 10u);
  EXPECT_EQ(topology.ApicId(599), 599u);
  EXPECT_TRUE(topology.needs_x2apic_ids());
}

TEST(TopologyTest, LevelsArePaddedToPowersOfTwo) {
  CpuTopology topology{
      .count = 12, .threads_per_core = 2, .cores_per_socket = 3};
  ASSERT_OK(ValidateTopology(topology, kLimits));
  EXPECT_EQ(topology.sockets(), 2u);
  EXPECT_EQ(topology.core_shift(), 1u);
  EXPECT_EQ(topology.socket_shift(), 3u);
  // Socket 0 holds 0..5 in cores 0..2, socket 1 starts at 8.
  const uint32_t expected[] = {0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13};
  for (uint32_t i = 0; i < 12; ++i) EXPECT_EQ(topology.ApicId(i), expected[i]);
  EXPECT_FALSE(topology.needs_x2apic_ids());
}

TEST(TopologyTest, PartlyFilledCoresAndSockets) {
  CpuTopology topology{.count = 5, .threads_per_core = 2};
  ASSERT_OK(ValidateTopology(topology, kLimits));
  EXPECT_EQ(topology.sockets(), 1u);
  EXPECT_EQ(topology.threads_per_socket(), 6u);
  EXPECT_EQ(topology.ApicId(4), 4u);
}

TEST(TopologyTest, ApicIdsAreUnique) {
  for (uint32_t threads : {1u, 2u, 3u}) {
    for (uint32_t cores : {0u, 1u, 5u, 8u}) {
      CpuTopology topology{
          .count = 300, .threads_per_core = threads, .cores_per_socket = cores};
      ASSERT_OK(ValidateTopology(topology, kLimits));
      std::set<uint32_t> seen;
      for (uint32_t i = 0; i < topology.count; ++i) {
        EXPECT_TRUE(seen.insert(topology.ApicId(i)).second);
      }
      EXPECT_EQ(*seen.rbegin(), topology.max_apic_id());
    }
  }
}

TEST(TopologyTest, Id255NeedsX2Apic) {
  EXPECT_FALSE(CpuTopology{.count = 255}.needs_x2apic_ids());
  EXPECT_TRUE(CpuTopology{.count = 256}.needs_x2apic_ids());
}

TEST(TopologyTest, RefusesWhatTheHostCannot) {
  EXPECT_THAT(ValidateTopology({.count = 0}, kLimits),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ValidateTopology({.count = 1, .threads_per_core = 0}, kLimits),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(
      ValidateTopology({.count = 1025}, kLimits),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("1025 vCPUs: this host's KVM takes at most 1024")));
  EXPECT_OK(ValidateTopology({.count = 1024}, kLimits));
  // Five cores pad to eight: 1024 vCPUs in 205 sockets still fit 4096 ids...
  EXPECT_OK(ValidateTopology({.count = 1024, .cores_per_socket = 5}, kLimits));
  // ...but not 300 ids.
  EXPECT_THAT(ValidateTopology({.count = 255, .cores_per_socket = 5},
                               {.max_vcpus = 300, .max_vcpu_id = 300}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("beyond this host's limit of 300")));
}

TEST(TopologyTest, HugeNumbersDoNotWrap) {
  CpuLimits limits{.max_vcpus = UINT32_MAX, .max_vcpu_id = UINT32_MAX};
  EXPECT_THAT(
      ValidateTopology(
          {.count = UINT32_MAX, .threads_per_core = 3, .cores_per_socket = 5},
          limits),
      StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(
      ValidateTopology({.count = 4, .threads_per_core = UINT32_MAX}, kLimits),
      StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace cloister::vcpu
