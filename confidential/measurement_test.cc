// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/measurement.h"

#include <functional>
#include <set>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/shim/shim_image.h"
#include "cloister/confidential/sample_launch.h"

namespace cloister::confidential {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::boot::PieceType;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::HasSubstr;

std::string DigestOf(const shim::LaunchOptions& options) {
  auto report = Measure(options);
  EXPECT_THAT(report, base::IsOk());
  return shim::DigestHex(report->digest);
}

TEST(MeasurementTest, IsTheDigestThatALaunchWritesIntoTheShim) {
  ASSERT_OK_AND_ASSIGN(MeasurementReport report, Measure(SampleLaunch()));
  ASSERT_OK_AND_ASSIGN(shim::ShimLaunch launch,
                       shim::BuildShimLaunch(SampleLaunch()));
  EXPECT_EQ(report.digest, launch.digest);
  EXPECT_EQ(MeasureHandover(launch.handover).digest, launch.digest);
  EXPECT_EQ(report.shim_size, shim::ShimImage().size());
  EXPECT_EQ(report.format, 1u);
}

TEST(MeasurementTest, IsRepeatable) {
  EXPECT_EQ(DigestOf(SampleLaunch()), DigestOf(SampleLaunch()));
}

TEST(MeasurementTest, EveryByteOfEveryPieceCounts) {
  std::set<std::string> digests = {DigestOf(SampleLaunch())};
  size_t expected = 1;
  const shim::LaunchOptions sample = SampleLaunch();
  for (size_t piece = 0; piece < sample.pieces.size(); ++piece) {
    absl::Span<const uint8_t> data = sample.pieces[piece].data.span();
    for (size_t i = 0; i < data.size(); ++i) {
      shim::LaunchOptions options = SampleLaunch();
      std::vector<uint8_t> bytes(data.begin(), data.end());
      bytes[i] ^= 0x10;
      options.pieces[piece].data = boot::SharedBytes(std::move(bytes));
      digests.insert(DigestOf(options));
      ++expected;
    }
  }
  EXPECT_EQ(digests.size(), expected);
}

TEST(MeasurementTest, EveryByteOfTheShimButItsSlotCounts) {
  absl::Span<const uint8_t> image = shim::ShimImage();
  ASSERT_OK_AND_ASSIGN(MeasurementReport base, Measure(SampleLaunch()));
  std::vector<uint8_t> changed(image.begin(), image.end());
  for (size_t i = 0; i < image.size(); ++i) {
    changed[i] ^= 1;
    ASSERT_OK_AND_ASSIGN(MeasurementReport report,
                         Measure(changed, SampleLaunch()));
    bool in_slot =
        i >= shim::kDigestSlot && i < shim::kDigestSlot + shim::kDigestSize;
    ASSERT_EQ(report.digest == base.digest, in_slot) << i;
    changed[i] ^= 1;
  }
  changed.push_back(0);
  ASSERT_OK_AND_ASSIGN(MeasurementReport longer,
                       Measure(changed, SampleLaunch()));
  EXPECT_NE(longer.digest, base.digest);
}

TEST(MeasurementTest, EveryOptionButTheCBitCounts) {
  using Change = std::function<void(shim::LaunchOptions&)>;
  const Change changes[] = {
      [](shim::LaunchOptions& o) {
        o.ram = {*GuestRange::Create(GuestAddress(0), 64 * kMiB)};
      },
      [](shim::LaunchOptions& o) {
        o.ram = {*GuestRange::Create(GuestAddress(0x1000), 32 * kMiB - 0x1000)};
      },
      [](shim::LaunchOptions& o) {
        o.ram = {*GuestRange::Create(GuestAddress(0), 0xa0000),
                 *GuestRange::Create(GuestAddress(kMiB), 31 * kMiB)};
      },
      [](shim::LaunchOptions& o) { o.shim = GuestAddress(17 * kMiB); },
      [](shim::LaunchOptions& o) { o.entry.rip = GuestAddress(2 * kMiB + 1); },
      [](shim::LaunchOptions& o) { o.entry.rsi = GuestAddress(4 * kMiB); },
      [](shim::LaunchOptions& o) { o.vcpus = 2; },
      [](shim::LaunchOptions& o) { o.hypercalls = false; },
      [](shim::LaunchOptions& o) { o.platform = "cpuid=2\n"; },
      [](shim::LaunchOptions& o) { o.platform = ""; },
      [](shim::LaunchOptions& o) { o.pieces[1].type = PieceType::kAcpi; },
      [](shim::LaunchOptions& o) { o.pieces[1].gpa = GuestAddress(5 * kMiB); },
      [](shim::LaunchOptions& o) { o.pieces[1].memory_size = 0x2000; },
      // A zero more or less, in data or in memory, is another launch.
      [](shim::LaunchOptions& o) {
        o.pieces[1].data = boot::SharedBytes({6, 7, 8, 0});
      },
      [](shim::LaunchOptions& o) { o.pieces.erase(o.pieces.begin() + 1); },
      [](shim::LaunchOptions& o) { std::swap(o.pieces[1], o.pieces[2]); },
      [](shim::LaunchOptions& o) {
        o.pieces.push_back(
            MakePiece(PieceType::kInitrd, 6 * kMiB, {1}, 0x1000));
      },
      [](shim::LaunchOptions& o) {
        o.pieces.push_back(MakePiece(PieceType::kInitrd, 6 * kMiB, {}, 0x1000));
      },
  };
  std::set<std::string> digests = {DigestOf(SampleLaunch())};
  size_t expected = 1;
  for (const Change& change : changes) {
    shim::LaunchOptions options = SampleLaunch();
    change(options);
    digests.insert(DigestOf(options));
    EXPECT_EQ(digests.size(), ++expected) << "change " << expected - 2;
  }
  shim::LaunchOptions other_bit = SampleLaunch();
  other_bit.c_bit = 47;
  EXPECT_EQ(DigestOf(other_bit), DigestOf(SampleLaunch()));
}

TEST(MeasurementTest, RefusesAnImageWithoutASlotOrTooLarge) {
  std::vector<uint8_t> image(shim::kDigestSlot + shim::kDigestSize);
  EXPECT_THAT(Measure(image, SampleLaunch()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64")));
  image.resize(shim::kImageMax + 1);
  EXPECT_THAT(Measure(image, SampleLaunch()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  shim::LaunchOptions bad = SampleLaunch();
  bad.vcpus = 0;
  EXPECT_THAT(Measure(bad), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace cloister::confidential
