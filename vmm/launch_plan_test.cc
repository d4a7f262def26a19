// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/launch_plan.h"

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

class LaunchPlanTest : public ::testing::Test {
 protected:
  LaunchPlanTest() {
    kernel_ = boot::MakeVmlinux();
    initrd_ = std::vector<uint8_t>(5000, 7);
    config_.kernel.path = absl::StrCat(::testing::TempDir(), "/kernel");
    config_.kernel.initrd_path = absl::StrCat(::testing::TempDir(), "/initrd");
    config_.kernel.command_line = "quiet";
    config_.memory.bytes = 64 << 20;
  }

  void WriteFiles() {
    std::ofstream(config_.kernel.path, std::ios::binary)
        .write(reinterpret_cast<const char*>(kernel_.data()), kernel_.size());
    std::ofstream(config_.kernel.initrd_path, std::ios::binary)
        .write(reinterpret_cast<const char*>(initrd_.data()), initrd_.size());
  }

  std::string Digest(const ConfidentialLaunch& launch = {}) {
    WriteFiles();
    auto plan = PlanLaunch(config_, launch);
    if (!plan.ok()) return std::string(plan.status().message());
    auto shim = shim::BuildShimLaunch(*plan->shim);
    return shim.ok() ? shim::DigestHex(shim->digest)
                     : std::string(shim.status().message());
  }

  VmConfig config_;
  std::vector<uint8_t> kernel_;
  std::vector<uint8_t> initrd_;
};

TEST_F(LaunchPlanTest, OrdinaryGuestsHaveNoShim) {
  WriteFiles();
  ASSERT_OK_AND_ASSIGN(LaunchPlan plan, PlanLaunch(config_, std::nullopt));
  EXPECT_FALSE(plan.shim.has_value());
  EXPECT_EQ(plan.ram.size(), 1u);
  EXPECT_FALSE(plan.image.pieces().empty());
}

TEST_F(LaunchPlanTest, TheShimLiesApartFromEveryPiece) {
  WriteFiles();
  ASSERT_OK_AND_ASSIGN(LaunchPlan plan,
                       PlanLaunch(config_, ConfidentialLaunch()));
  ASSERT_TRUE(plan.shim.has_value());
  auto shim = shim::BuildShimLaunch(*plan.shim);
  ASSERT_OK(shim);
  for (const boot::Piece& piece : plan.image.pieces()) {
    EXPECT_FALSE(piece.range().Overlaps(shim->reserved));
  }
}

std::string CommandLineOf(const LaunchPlan& plan) {
  for (const boot::Piece& piece : plan.image.pieces()) {
    if (piece.type != boot::PieceType::kCommandLine) continue;
    return std::string(reinterpret_cast<const char*>(piece.data.data()),
                       piece.data.size() - 1);
  }
  return "none";
}

TEST_F(LaunchPlanTest, OnlyConfidentialGuestsAreToldToDoWithoutAnIoapic) {
  WriteFiles();
  ASSERT_OK_AND_ASSIGN(LaunchPlan plain, PlanLaunch(config_, std::nullopt));
  EXPECT_EQ(CommandLineOf(plain), "quiet");
  ASSERT_OK_AND_ASSIGN(LaunchPlan plan,
                       PlanLaunch(config_, ConfidentialLaunch()));
  EXPECT_EQ(CommandLineOf(plan), "quiet noapic");
  config_.kernel.command_line = "noapic quiet";
  ASSERT_OK_AND_ASSIGN(plan, PlanLaunch(config_, ConfidentialLaunch()));
  EXPECT_EQ(CommandLineOf(plan), "noapic quiet");
}

TEST_F(LaunchPlanTest, EveryOptionThatReachesTheGuestChangesTheDigest) {
  std::set<std::string> digests = {Digest()};
  auto expect_new = [&](const char* what) {
    std::string digest = Digest();
    EXPECT_EQ(digest.size(), 64u) << digest;
    EXPECT_TRUE(digests.insert(digest).second) << what;
  };
  config_.kernel.command_line = "quiet ";
  expect_new("--append");
  config_.cpus.count = 2;
  expect_new("--cpus");
  config_.cpus.threads_per_core = 2;
  expect_new("--threads-per-core");
  config_.memory.bytes += 4096;
  expect_new("--memory");
  initrd_[4999] ^= 1;
  expect_new("a byte of the initrd");
  initrd_.push_back(0);
  expect_new("a zero at the end of the initrd");
  kernel_.back() ^= 1;
  expect_new("a byte of the kernel");
}

TEST_F(LaunchPlanTest, OptionsThatTheGuestCannotSeeDoNot) {
  std::string digest = Digest();
  EXPECT_EQ(digest, Digest({.c_bit = 39}));
  config_.id = "other";
  EXPECT_EQ(digest, Digest());
  config_.confidential.backend = confidential::BackendChoice::kEmulated;
  EXPECT_EQ(digest, Digest());
  EXPECT_NE(digest, Digest({.hypercalls = false}));
}

}  // namespace
}  // namespace cloister::vmm
