// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/launch.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/shim/handover_reader.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/boot/shim/page_tables.h"
#include "cloister/boot/shim/shim_image.h"

namespace cloister::shim {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::boot::Piece;
using ::cloister::boot::PieceType;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

Piece MakePiece(PieceType type, uint64_t gpa, size_t size, uint64_t memory) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i + gpa);
  return {type, GuestAddress(gpa), boot::SharedBytes(std::move(bytes)), memory};
}

LaunchOptions Sample() {
  LaunchOptions options;
  options.c_bit = 39;
  options.ram = {*GuestRange::Create(GuestAddress(0), 64 * kMiB)};
  options.shim = GuestAddress(16 * kMiB);
  options.pieces = {
      MakePiece(PieceType::kKernelSegment, 2 * kMiB, 0x3000, 0x9000),
      MakePiece(PieceType::kCommandLine, kMiB + 0x1000, 20, 0x800),
      MakePiece(PieceType::kBootParams, kMiB, 0x1000, 0x1000)};
  options.entry = {GuestAddress(2 * kMiB + 0x100), GuestAddress(kMiB)};
  options.vcpus = 2;
  options.platform = "cpu=test\n";
  return options;
}

TEST(ShimLaunchTest, PlacesShimTablesAndHandoverInTheReservedRange) {
  ASSERT_OK_AND_ASSIGN(ShimLaunch launch, BuildShimLaunch(Sample()));
  EXPECT_EQ(launch.reserved.start(), GuestAddress(16 * kMiB));
  EXPECT_EQ(launch.reserved.size(), kShimSize);
  ASSERT_EQ(launch.placements.size(), 3u);
  for (const Placement& placement : launch.placements) {
    EXPECT_TRUE(launch.reserved.Contains(
        *GuestRange::Create(placement.gpa, placement.bytes.size())));
  }
  EXPECT_EQ(launch.start.rip, GuestAddress(16 * kMiB + kSharedEntry));
  EXPECT_EQ(launch.start.cr3, 16 * kMiB + kTablesOffset);

  // The shim is the image but for the slot, which holds the digest.
  const std::vector<uint8_t>& shim = launch.placements[0].bytes;
  std::vector<uint8_t> unpatched = shim;
  std::fill_n(unpatched.begin() + kDigestSlot, kDigestSize, 0);
  EXPECT_TRUE(std::equal(unpatched.begin(), unpatched.end(),
                         ShimImage().begin(), ShimImage().end()));
  EXPECT_EQ(
      std::memcmp(shim.data() + kDigestSlot, launch.digest.bytes, kDigestSize),
      0);
}

TEST(ShimLaunchTest, TheShimWillAgree) {
  LaunchOptions options = Sample();
  ASSERT_OK_AND_ASSIGN(ShimLaunch launch, BuildShimLaunch(options));
  const Placement& tree = launch.placements[2];
  EXPECT_EQ(tree.gpa, GuestAddress(16 * kMiB + kHandoverOffset));
  Handover handover;
  ASSERT_TRUE(ReadHandover(tree.bytes.data(), tree.bytes.size(), &handover));
  EXPECT_TRUE(PlacementIsValid(handover));
  EXPECT_EQ(handover.c_bit, 39u);
  EXPECT_EQ(handover.vcpus, 2u);
  ASSERT_EQ(handover.piece_count, options.pieces.size());
  for (uint32_t i = 0; i < handover.piece_count; ++i) {
    EXPECT_EQ(handover.pieces[i].digest,
              Sha256::Hash(options.pieces[i].data.data(),
                           options.pieces[i].data.size()));
  }
  // From the bytes in guest memory, slot and all.
  const std::vector<uint8_t>& shim = launch.placements[0].bytes;
  EXPECT_EQ(LaunchDigest(ImageDigest(shim.data(), shim.size()), shim.size(),
                         handover),
            launch.digest);
  EXPECT_EQ(ComputeLaunchDigest(handover), launch.digest);
}

TEST(ShimLaunchTest, PrivateTablesAreThoseThatTheShimBuilds) {
  Placement placement = PrivatePageTables(GuestAddress(16 * kMiB), 39);
  EXPECT_EQ(placement.gpa, GuestAddress(16 * kMiB + kTablesOffset));
  std::vector<uint64_t> expected(kTablesSize / 8);
  uint64_t c = uint64_t{1} << 39;
  BuildPageTables(expected.data(), placement.gpa.value(), c, c, 0);
  ASSERT_EQ(placement.bytes.size(), kTablesSize);
  EXPECT_EQ(std::memcmp(placement.bytes.data(), expected.data(), kTablesSize),
            0);
}

TEST(ShimLaunchTest, DigestHexIsLowerCase) {
  Digest digest;
  digest.bytes[0] = 0xab;
  digest.bytes[31] = 0x0f;
  std::string hex = DigestHex(digest);
  EXPECT_EQ(hex, "ab" + std::string(60, '0') + "0f");
}

TEST(ShimLaunchTest, RefusesWhatTheShimWouldRefuse) {
  struct Case {
    const char* message;
    std::function<void(LaunchOptions&)> change;
  };
  const Case cases[] = {
      {"C-bit", [](LaunchOptions& o) { o.c_bit = 31; }},
      {"C-bit", [](LaunchOptions& o) { o.c_bit = -1; }},
      {"C-bit", [](LaunchOptions& o) { o.c_bit = 64; }},
      {"RAM must be", [](LaunchOptions& o) { o.ram.clear(); }},
      {"RAM must be", [](LaunchOptions& o) { o.ram.push_back(o.ram[0]); }},
      {"9 RAM ranges", [](LaunchOptions& o) { o.ram.assign(9, o.ram[0]); }},
      {"room for the shim",
       [](LaunchOptions& o) { o.shim = GuestAddress(0x10000); }},
      {"room for the shim",
       [](LaunchOptions& o) { o.shim = GuestAddress(16 * kMiB + 1); }},
      {"room for the shim",
       [](LaunchOptions& o) { o.shim = GuestAddress(64 * kMiB - 0x1000); }},
      {"33 pieces", [](LaunchOptions& o) { o.pieces.resize(33, o.pieces[0]); }},
      {"command line of 2048 bytes at 0x9f800 with 20 bytes",
       [](LaunchOptions& o) { o.pieces[1].gpa = GuestAddress(0x9f800); }},
      {"does not lie in RAM",
       [](LaunchOptions& o) { o.pieces[1].gpa = GuestAddress(64 * kMiB); }},
      {"does not lie in RAM",
       [](LaunchOptions& o) { o.pieces[1].memory_size = 19; }},
      {"overlaps the shim at 0x1000000",
       [](LaunchOptions& o) { o.pieces[1].gpa = o.shim; }},
      {"overlaps the piece at 0x200000",
       [](LaunchOptions& o) { o.pieces[1].gpa = o.pieces[0].gpa; }},
      {"must lie in a kernel segment",
       [](LaunchOptions& o) { o.entry.rip = GuestAddress(kMiB); }},
      {"must start a piece",
       [](LaunchOptions& o) { o.entry.rsi = GuestAddress(kMiB + 1); }},
      {"0 vCPUs", [](LaunchOptions& o) { o.vcpus = 0; }},
  };
  for (const Case& c : cases) {
    LaunchOptions options = Sample();
    c.change(options);
    EXPECT_THAT(
        BuildShimLaunch(options),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)));
  }
}

}  // namespace
}  // namespace cloister::shim
