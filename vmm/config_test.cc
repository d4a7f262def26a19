// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/config.h"

#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;
using ::testing::StartsWith;

VmConfig Good() {
  VmConfig config;
  config.kernel.path = "/vmlinuz";
  return config;
}

void ExpectRefused(const VmConfig& config, const char* option) {
  EXPECT_THAT(ValidateConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith(option)));
}

TEST(ConfigTest, DefaultsAreGoodOnceThereIsAKernel) {
  EXPECT_OK(ValidateConfig(Good()));
  ExpectRefused(VmConfig(), "--kernel:");
}

TEST(ConfigTest, ExpectedDigest) {
  VmConfig config = Good();
  config.confidential.expected_digest = std::string(64, 'A');
  EXPECT_OK(ValidateConfig(config));
  for (const std::string& digest :
       {std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'g')}) {
    config.confidential.expected_digest = digest;
    ExpectRefused(config, "expected_digest:");
  }
}

TEST(ConfigTest, AConfidentialGuestKeepsItsBounceBuffers) {
  VmConfig config = Good();
  config.kernel.command_line = "quiet swiotlb=65536,noforce";
  ExpectRefused(config, "--append: swiotlb=noforce");
  config.confidential.backend = confidential::BackendChoice::kOff;
  EXPECT_OK(ValidateConfig(config));
}

TEST(ConfigTest, Memory) {
  for (uint64_t bytes : {uint64_t{0}, uint64_t{4096}, (uint64_t{16} << 20) - 1,
                         (uint64_t{256} << 20) + 1, uint64_t{1} << 62}) {
    VmConfig config = Good();
    config.memory.bytes = bytes;
    ExpectRefused(config, "--memory:");
  }
  VmConfig config = Good();
  config.memory.bytes = kMinMemory;
  EXPECT_OK(ValidateConfig(config));
}

TEST(ConfigTest, Cpus) {
  VmConfig config = Good();
  config.cpus.count = 0;
  ExpectRefused(config, "--cpus:");
  config.cpus = {.count = 3, .threads_per_core = 2};
  ExpectRefused(config, "--threads-per-core:");
  config.cpus = {.count = 4, .threads_per_core = 0};
  ExpectRefused(config, "--threads-per-core:");
  config.cpus = {.count = 4, .threads_per_core = 2};
  EXPECT_OK(ValidateConfig(config));
}

TEST(ConfigTest, HugePagesNeedAnOrdinaryGuest) {
  VmConfig config = Good();
  config.memory.huge_pages = memory::HugePages::kTransparent;
  ExpectRefused(config, "--huge-pages:");
  config.confidential.backend = confidential::BackendChoice::kOff;
  EXPECT_OK(ValidateConfig(config));
}

TEST(ConfigTest, MemoryIsWholeHugePages) {
  VmConfig config = Good();
  config.confidential.backend = confidential::BackendChoice::kOff;
  config.memory.bytes = uint64_t{1025} << 20;
  EXPECT_OK(ValidateConfig(config));
  for (auto pages :
       {memory::HugePages::kHugetlb2M, memory::HugePages::kHugetlb1G}) {
    config.memory.huge_pages = pages;
    config.memory.bytes = uint64_t{1025} << 20;
    ExpectRefused(config, "--memory:");
    config.memory.bytes = uint64_t{1024} << 20;
    EXPECT_OK(ValidateConfig(config));
  }
  config.memory.bytes = uint64_t{1026} << 20;
  ExpectRefused(config, "--memory:");
  config.memory.huge_pages = memory::HugePages::kHugetlb2M;
  EXPECT_OK(ValidateConfig(config));
}

TEST(ConfigTest, Id) {
  VmConfig config = Good();
  for (const std::string& id : {std::string(), std::string("a b"),
                                std::string("../x"), std::string(65, 'a')}) {
    config.id = id;
    ExpectRefused(config, "--id:");
  }
}

TEST(ConfigTest, LimitsOnConversions) {
  VmConfig config = Good();
  config.confidential.policy.shared_limit = 0;
  config.confidential.policy.per_second = UINT64_MAX;
  EXPECT_OK(ValidateConfig(config));
  config.confidential.policy.shared_limit = 4097;
  ExpectRefused(config, "--shared-limit:");
  config = Good();
  config.confidential.policy.burst = 0;
  ExpectRefused(config, "--conversion-rate:");
}

TEST(ConfigTest, OnlyConfidentialGuestsHaveExchangeWindows) {
  VmConfig config = Good();
  config.confidential.exchange_windows = {*memory::GuestRange::Create(
      memory::GuestAddress(uint64_t{4} << 30), 4096)};
  EXPECT_OK(ValidateConfig(config));
  config.confidential.backend = confidential::BackendChoice::kOff;
  ExpectRefused(config, "exchange windows:");
}

}  // namespace
}  // namespace cloister::vmm
