// SPDX-License-Identifier: Apache-2.0
#include "cloister/examples/dma_mirror.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "cloister/base/status_matchers.h"
#include "cloister/examples/dma_mapper.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::examples {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::memory::ConversionSet;
using ::cloister::memory::ConversionWorld;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::cloister::memory::kPageSize;
using ::cloister::memory::PageState;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = uint64_t{1} << 20;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

class DmaMirrorTest : public ::testing::Test {
 protected:
  // A whole conversion, in chunks.
  absl::Status Convert(DmaMirror& mirror, PageState to,
                       std::vector<GuestRange> ranges,
                       uint64_t chunk = kMiB / 2) {
    ConversionSet set;
    set.id = ++id_;
    set.to = to;
    set.ranges = ranges;
    absl::Status status = mirror.Prepare(set);
    if (!status.ok()) return status;
    for (const GuestRange& range : ranges) {
      for (uint64_t at = 0; at < range.size(); at += chunk) {
        GuestRange part = Range(range.start().value() + at,
                                std::min(chunk, range.size() - at));
        to == PageState::kShared ? mirror.MapShared(part)
                                 : mirror.UnmapShared(part);
      }
    }
    mirror.Commit(set);
    EXPECT_EQ(mirror.reserved(), 0u);
    EXPECT_OK(mirror.fatal());
    return status;
  }

  uint64_t id_ = 0;
};

TEST_F(DmaMirrorTest, SharedMemoryIsMappedInAlignedBlocks) {
  FakeDmaMapper mapper(8);
  DmaMirror mirror(&mapper);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(kMiB, 4 * kMiB)}));
  EXPECT_THAT(mapper.entries(),
              ElementsAre(Range(kMiB, kMiB), Range(2 * kMiB, 2 * kMiB),
                          Range(4 * kMiB, kMiB)));
}

TEST_F(DmaMirrorTest, TakingBackAPageSplitsItsEntryOnly) {
  FakeDmaMapper mapper(8);
  DmaMirror mirror(&mapper);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(0, 4 * kMiB)}));
  ASSERT_OK(Convert(mirror, PageState::kPrivate, {Range(kMiB, kPageSize)}));
  EXPECT_THAT(
      mapper.entries(),
      ElementsAre(Range(0, kMiB), Range(kMiB + kPageSize, kMiB - kPageSize),
                  Range(2 * kMiB, 2 * kMiB)));
  EXPECT_FALSE(mapper.Reaches(GuestAddress(kMiB)));
  EXPECT_TRUE(mapper.Reaches(GuestAddress(kMiB + kPageSize)));
  ASSERT_OK(Convert(mirror, PageState::kPrivate, {Range(0, kMiB)}));
  ASSERT_OK(Convert(mirror, PageState::kPrivate,
                    {Range(kMiB + kPageSize, 3 * kMiB - kPageSize)}));
  EXPECT_THAT(mapper.entries(), IsEmpty());
}

TEST_F(DmaMirrorTest, PrepareRefusesWhatDoesNotFitAndChangesNothing) {
  FakeDmaMapper mapper(3);
  DmaMirror mirror(&mapper);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(0, 4 * kMiB)}));
  EXPECT_THAT(Convert(mirror, PageState::kShared, {Range(4 * kMiB, 4 * kMiB)}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("1 of 3 are free")));
  EXPECT_EQ(mirror.entries(), 2u);
  EXPECT_EQ(mirror.reserved(), 0u);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(4 * kMiB, 2 * kMiB)}));
  // Even taking back may need entries, for the two halves of one.
  EXPECT_THAT(
      Convert(mirror, PageState::kPrivate, {Range(kMiB, kPageSize)}),
      StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("dma: ")));
  // Not where it begins with an entry.
  ASSERT_OK(Convert(mirror, PageState::kPrivate, {Range(0, kPageSize)}));
  EXPECT_EQ(mirror.entries(), 3u);
}

TEST_F(DmaMirrorTest, OpenSetsCountAgainstTheLimit) {
  FakeDmaMapper mapper(3);
  DmaMirror mirror(&mapper);
  ConversionSet first = {1, PageState::kShared, false, {Range(0, 4 * kMiB)}};
  ConversionSet second = {
      2, PageState::kShared, false, {Range(4 * kMiB, 4 * kMiB)}};
  ASSERT_OK(mirror.Prepare(first));
  EXPECT_THAT(mirror.Prepare(second),
              StatusIs(absl::StatusCode::kResourceExhausted));
  mirror.Rollback(first);
  EXPECT_EQ(mirror.reserved(), 0u);
  EXPECT_OK(mirror.Prepare(second));
}

TEST_F(DmaMirrorTest, AChunkThatComesBackIsMappedAgain) {
  FakeDmaMapper mapper(4);
  DmaMirror mirror(&mapper);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(0, 2 * kMiB)}));
  ConversionSet set = {9, PageState::kPrivate, false, {Range(0, kMiB)}};
  ASSERT_OK(mirror.Prepare(set));
  const GuestRange failed = Range(kMiB / 2, kPageSize);
  mirror.UnmapShared(failed);
  EXPECT_FALSE(mapper.Reaches(failed.start()));
  mirror.MapShared(failed);
  mirror.Rollback(set);
  EXPECT_TRUE(mapper.Reaches(failed.start()));
  EXPECT_EQ(mirror.reserved(), 0u);
  EXPECT_THAT(mapper.entries(), ElementsAre(Range(0, 2 * kMiB)));
}

TEST_F(DmaMirrorTest, CompactMergesWithinBlocksOnly) {
  FakeDmaMapper mapper(16);
  DmaMirror mirror(&mapper);
  for (uint64_t at : {uint64_t{0}, kPageSize, 3 * kPageSize, 2 * kMiB,
                      2 * kMiB - kPageSize}) {
    ASSERT_OK(Convert(mirror, PageState::kShared, {Range(at, kPageSize)}));
  }
  EXPECT_EQ(mirror.entries(), 5u);
  mirror.Compact();
  EXPECT_THAT(
      mapper.entries(),
      ElementsAre(Range(0, 2 * kPageSize), Range(3 * kPageSize, kPageSize),
                  Range(2 * kMiB - kPageSize, kPageSize),
                  Range(2 * kMiB, kPageSize)));
  EXPECT_OK(mirror.fatal());
}

TEST_F(DmaMirrorTest, FindsWhatIsSharedAlready) {
  memory::PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 8 * kMiB), PageState::kPrivate));
  ASSERT_OK(states.Set(Range(kMiB, 2 * kMiB), PageState::kShared));
  FakeDmaMapper small(1), mapper(2);
  DmaMirror refused(&small), mirror(&mapper);
  EXPECT_THAT(refused.MapExisting(states, Range(0, 8 * kMiB)),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(small.entries(), IsEmpty());
  ASSERT_OK(mirror.MapExisting(states, Range(0, 8 * kMiB)));
  EXPECT_THAT(mapper.entries(),
              ElementsAre(Range(kMiB, kMiB), Range(2 * kMiB, kMiB)));
}

// What a balloon and a reset do: memory is replaced behind pages that stay
// shared, in no set. It takes no entry more than there are, even in the middle
// of one.
TEST_F(DmaMirrorTest, MemoryReplacedBehindSharedPagesIsMappedAgain) {
  FakeDmaMapper mapper(2);
  DmaMirror mirror(&mapper);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(0, 4 * kMiB)}));
  const GuestRange page = Range(kMiB, kPageSize);
  mirror.UnmapShared(page);
  EXPECT_FALSE(mapper.Reaches(page.start()));
  EXPECT_TRUE(mapper.Reaches(GuestAddress(2 * kMiB)));
  mirror.MapShared(page);
  EXPECT_THAT(mapper.entries(),
              ElementsAre(Range(0, 2 * kMiB), Range(2 * kMiB, 2 * kMiB)));
  mirror.UnmapShared(Range(0, 4 * kMiB));
  EXPECT_THAT(mapper.entries(), IsEmpty());
  mirror.MapShared(Range(0, 4 * kMiB));
  EXPECT_THAT(mapper.entries(),
              ElementsAre(Range(0, 2 * kMiB), Range(2 * kMiB, 2 * kMiB)));
  EXPECT_OK(mirror.fatal());
}

// Others convert pages of the same entry meanwhile.
TEST_F(DmaMirrorTest, SetsBeginAndEndBesideReplacedMemory) {
  FakeDmaMapper mapper(8);
  DmaMirror mirror(&mapper);
  ASSERT_OK(Convert(mirror, PageState::kShared, {Range(0, 2 * kMiB)}));
  mirror.UnmapShared(Range(kMiB, kPageSize));
  mirror.UnmapShared(Range(kMiB + 8 * kPageSize, kPageSize));
  ASSERT_OK(Convert(mirror, PageState::kPrivate, {Range(0, kPageSize)}));
  EXPECT_FALSE(mapper.Reaches(GuestAddress(kMiB)));
  mirror.MapShared(Range(kMiB, kPageSize));
  EXPECT_FALSE(mapper.Reaches(GuestAddress(kMiB + 8 * kPageSize)));
  mirror.MapShared(Range(kMiB + 8 * kPageSize, kPageSize));
  EXPECT_THAT(mapper.entries(),
              ElementsAre(Range(kPageSize, 2 * kMiB - kPageSize)));
  EXPECT_OK(mirror.fatal());
}

// Of a world with pages at random: what the device reaches is what is shared.
class MirrorWorld {
 public:
  static constexpr size_t kEntries = 10;

  explicit MirrorWorld(uint32_t seed) : random_(seed) {
    EXPECT_OK(mirror_.MapExisting(world_.states, ConversionWorld::Window()));
    world_.broker->AddListener(&mirror_);
  }
  ~MirrorWorld() { world_.broker->RemoveListener(&mirror_); }

  void Step() {
    switch (random_() % 8) {
      case 0:
        Balloon();
        break;
      case 1:
        Reset();
        break;
      default:
        Convert();
    }
    Check();
  }
  int refused() const { return refused_; }
  int failed() const { return failed_; }
  int replaced() const { return replaced_; }

 private:
  GuestRange Pages() {
    const uint64_t pages = ConversionWorld::kEnd / kPageSize;
    const uint64_t first = 4 + random_() % (pages - 4);
    const uint64_t count = 1 + random_() % (pages - first);
    return Range(first * kPageSize, count * kPageSize);
  }
  // The host fails now and then.
  template <typename Action>
  void MayFail(memory::FakeBackend::Method method, Action action) {
    if (random_() % 4 == 0) {
      world_.backend.FailCalls(method, random_() % 4, 1,
                               absl::InternalError("told to fail"));
    }
    action();
    if (world_.backend.failed()) ++failed_;
    world_.backend.FailNothing();
  }
  void Convert() {
    MayFail(memory::FakeBackend::Method::kSet, [&] {
      const auto result = world_.Guest(
          Pages(), random_() % 2 == 0 ? ConversionWorld::kToShared
                                      : ConversionWorld::kToPrivate);
      if (absl::StrContains(result.detail.message(), "dma: ")) ++refused_;
    });
  }
  void Balloon() {
    const GuestRange pages = Pages();
    ASSERT_OK(world_.broker->GuestGaveUp(pages));
    MayFail(memory::FakeBackend::Method::kFreeShared, [&] {
      if (world_.broker->FreeGivenUp(pages).ok()) ++replaced_;
    });
    ASSERT_OK(world_.broker->GuestTookBackAll());
  }
  void Reset() {
    MayFail(memory::FakeBackend::Method::kFreeShared,
            [&] { world_.broker->Reset().IgnoreError(); });
    // One that failed may be called again.
    ASSERT_OK(world_.broker->Reset());
    world_.broker->GuestStarted();
  }
  void Check() {
    ASSERT_OK(mirror_.fatal());
    ASSERT_EQ(mirror_.reserved(), 0u);
    const uint64_t end = ConversionWorld::Window().last().value();
    for (uint64_t at = 0; at < end; at += kPageSize) {
      ASSERT_EQ(mapper_.Reaches(GuestAddress(at)),
                world_.State(at) == PageState::kShared)
          << at;
    }
    ASSERT_LE(mapper_.peak(), kEntries);
  }

  std::mt19937 random_;
  ConversionWorld world_{ConversionWorld::WithWindow()};
  FakeDmaMapper mapper_{kEntries};
  DmaMirror mirror_{&mapper_, /*block=*/8 * kPageSize};
  int refused_ = 0;
  int failed_ = 0;
  int replaced_ = 0;
};

// The real broker, a host that fails now and then, a limit that is hit, a
// balloon and resets: the device reaches exactly what is shared, and Commit
// never lacks an entry.
TEST_F(DmaMirrorTest, MirrorsWhateverTheBrokerDoes) {
  int refused = 0, failed = 0, replaced = 0;
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    MirrorWorld world(seed);
    for (int step = 0; step < 60; ++step) {
      world.Step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    refused += world.refused();
    failed += world.failed();
    replaced += world.replaced();
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(failed, 100);
  EXPECT_GT(replaced, 100);
}

}  // namespace
}  // namespace cloister::examples
