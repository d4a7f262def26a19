// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/launch_plan.h"

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::cloister::base::StatusIs;
using memory::GuestRange;
using ::testing::AllOf;
using ::testing::HasSubstr;

GuestRange Window(uint64_t start, uint64_t size) {
  return *GuestRange::Create(memory::GuestAddress(start), size);
}

DiskConfig Disk(const std::string& serial) {
  DiskConfig disk;
  disk.path = "/disk";
  disk.serial = serial;
  return disk;
}

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

TEST_F(LaunchPlanTest, ADeviceTreeStandsForTheAcpiTables) {
  WriteFiles();
  auto pieces = [&](boot::PieceType type) {
    auto plan = PlanLaunch(config_, ConfidentialLaunch());
    EXPECT_OK(plan);
    int count = 0;
    for (const boot::Piece& piece : plan->shim->pieces) {
      count += piece.type == type ? 1 : 0;
    }
    return count;
  };
  EXPECT_EQ(pieces(boot::PieceType::kAcpi), 1);
  EXPECT_EQ(pieces(boot::PieceType::kDeviceTree), 0);
  config_.devices.transport = VirtioTransport::kMmioFdt;
  EXPECT_EQ(pieces(boot::PieceType::kAcpi), 0);
  EXPECT_EQ(pieces(boot::PieceType::kDeviceTree), 1) << "measured as others";
  ASSERT_OK_AND_ASSIGN(LaunchPlan plan,
                       PlanLaunch(config_, ConfidentialLaunch()));
  EXPECT_EQ(CommandLineOf(plan), "quiet") << "it has an IOAPIC";
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
  config_.confidential.reports = ConversionReports::kFault;
  expect_new("--conversion-reports");
  config_.confidential.exchange_windows = {Window(128 << 20, 4096)};
  expect_new("an exchange window");
  config_.confidential.exchange_windows = {Window(128 << 20, 8192)};
  expect_new("the size of an exchange window");
  config_.devices.disks.push_back(Disk(""));
  expect_new("--disk");
  config_.devices.disks[0].read_only = true;
  expect_new("a read-only disk");
  config_.devices.disks[0].serial = "a\" x \"";
  expect_new("a disk's serial number");
  config_.devices.disks[0].serial = "a";
  config_.devices.disks.push_back(Disk("b"));
  expect_new("two disks");
  std::swap(config_.devices.disks[0].read_only,
            config_.devices.disks[1].read_only);
  expect_new("the order of disks");
  config_.devices.nets.emplace_back();
  config_.devices.nets[0].tap = "tap0";
  expect_new("--net");
  config_.devices.nets[0].queues = 2;
  expect_new("queues of an interface");
  config_.devices.nets[0].mac = "02:00:00:00:00:01";
  expect_new("the address of an interface");
  config_.devices.rng.emplace();
  expect_new("--rng");
  config_.devices.vsock.emplace();
  config_.devices.vsock->path = "/socket";
  expect_new("--vsock");
  config_.devices.vsock->cid = 4;
  expect_new("the address of a guest's sockets");
  config_.devices.balloon.emplace();
  expect_new("--balloon");
  config_.devices.balloon->target = 1 << 20;
  expect_new("a balloon's size");
  config_.devices.balloon->deflate_on_oom = true;
  expect_new("a balloon that yields");
  config_.devices.balloon->reporting = true;
  expect_new("free page reporting");
  config_.devices.balloon->stats_seconds = 1;
  expect_new("statistics of a balloon");
  config_.devices.console.emplace();
  expect_new("--console virtio");
  config_.devices.transport = VirtioTransport::kMmio;
  expect_new("--virtio-transport mmio");
  config_.devices.transport = VirtioTransport::kMmioFdt;
  expect_new("--virtio-transport mmio-fdt");
  config_.devices.packed_rings = false;
  expect_new("split rings");
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
  config_.confidential.policy.shared_limit = 1 << 20;
  config_.confidential.policy.per_second = 1;
  config_.devices.disks.push_back(Disk(""));
  digest = Digest();
  config_.devices.disks[0].path = "/moved/disk";
  config_.devices.disks[0].direct = true;
  config_.devices.disks[0].limit.bandwidth.size = 1 << 20;
  config_.confidential.policy.implicit = memory::ImplicitPolicy::kDeny;
  EXPECT_EQ(digest, Digest());
}

TEST_F(LaunchPlanTest, ExchangeWindowsAreMemoryThatTheGuestIsNotToldOf) {
  WriteFiles();
  config_.confidential.exchange_windows = {Window(64 << 20, 4096),
                                           Window(uint64_t{4} << 30, 1 << 20)};
  ASSERT_OK_AND_ASSIGN(LaunchPlan plan,
                       PlanLaunch(config_, ConfidentialLaunch()));
  EXPECT_EQ(plan.ram, std::vector<GuestRange>({Window(0, 64 << 20)}));
  EXPECT_EQ(plan.all_ram, std::vector<GuestRange>(
                              {Window(0, 64 << 20), Window(64 << 20, 4096),
                               Window(uint64_t{4} << 30, 1 << 20)}));
  EXPECT_EQ(plan.shim->ram, plan.ram);
  // Ordinary guests have none: ValidateConfig refuses to ask for them.
  config_.confidential.backend = confidential::BackendChoice::kOff;
  EXPECT_FALSE(PlanLaunch(config_, std::nullopt).ok());
}

TEST_F(LaunchPlanTest, ExchangeWindowsElsewhereAreRefused) {
  WriteFiles();
  config_.memory.bytes = uint64_t{3} << 30;
  auto expect_refused = [&](std::vector<GuestRange> windows, const char* why) {
    config_.confidential.exchange_windows = std::move(windows);
    EXPECT_THAT(PlanLaunch(config_, ConfidentialLaunch()),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("exchange window"), HasSubstr(why))));
  };
  const uint64_t four_gib = uint64_t{4} << 30;
  expect_refused({Window(four_gib + 8, 4096)}, "page-aligned");
  expect_refused({Window(four_gib, 100)}, "page-aligned");
  expect_refused({Window(0xa0000, 4096)}, "low MiB");
  expect_refused({Window(64 << 20, 4096)}, "e820");
  expect_refused({Window((uint64_t{3} << 30) - 4096, 8192)}, "hole");
  expect_refused({Window(0xfee00000, 4096)}, "hole");
  expect_refused({Window(four_gib, 4096), Window(four_gib, 4096)},
                 "the one before");
  expect_refused({Window(four_gib + 4096, 4096), Window(four_gib, 4096)},
                 "the one before");
  config_.memory.bytes = uint64_t{2} << 30;
  expect_refused({Window((uint64_t{2} << 30) - 4096, 8192)}, "e820");
}

}  // namespace
}  // namespace cloister::vmm
