// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/balloon.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_queue.h"
#include "cloister/devices/virtio/eventually.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using Buffer = DriverFake::Buffer;

constexpr uint64_t kRam = uint64_t{64} << 20;
constexpr uint16_t kInflate = 0;
constexpr uint16_t kDeflate = 1;
constexpr uint16_t kStats = 2;

// Says what was asked of it; frame 13 is nobody's, and everything fails when
// told to. While it works nothing of `ram` may be leased. Thread-safe.
class FakePages : public BalloonPages {
 public:
  explicit FakePages(const FakeRam& ram) : ram_(ram) {}
  absl::StatusOr<uint64_t> GiveUp(const GuestRange& range) override {
    return Do("up", range);
  }
  absl::Status TakeBack(const GuestRange& range) override {
    return Do("back", range).status();
  }
  absl::Status TakeBackAll() override {
    base::MutexLock lock(&mutex_);
    calls_.push_back("all");
    return broken_ ? absl::InternalError("told to") : absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Discard(const GuestRange& range) override {
    return Do("discard", range);
  }
  std::vector<std::string> Take() {
    base::MutexLock lock(&mutex_);
    return std::exchange(calls_, {});
  }
  void Break(bool broken) {
    base::MutexLock lock(&mutex_);
    broken_ = broken;
  }

 private:
  absl::StatusOr<uint64_t> Do(absl::string_view what, const GuestRange& range) {
    base::MutexLock lock(&mutex_);
    EXPECT_EQ(ram_.LeasedBytes(), 0u);
    if (broken_) return absl::InternalError("told to");
    if (range.Contains(GuestAddress(13 * kPageSize))) {
      return absl::InvalidArgumentError("13");
    }
    calls_.push_back(absl::StrCat(what, " ", range.start().value() / kPageSize,
                                  "+", range.size() / kPageSize));
    return range.size();
  }
  const FakeRam& ram_;
  base::Mutex mutex_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

class BalloonTest : public ::testing::TestWithParam<bool> {
 protected:
  void Make(uint64_t features = ~uint64_t{0}) {
    driver_.reset();
    options_.max = kRam;
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("balloon"));
    ASSERT_OK_AND_ASSIGN(balloon_,
                         Balloon::Create(options_, pages_, std::move(worker)));
    FakeDriver::Options with;
    with.packed = GetParam();
    with.features = features;
    driver_ = std::make_unique<FakeDriver>(*balloon_, ram_, with);
    ASSERT_OK(driver_->Activate());
  }
  // A new driver, one of whose queues is late in the way that `moment` says.
  void MakeLate(uint16_t late, LateQueue::Moment moment) {
    driver_.reset();
    FakeDriver::Options with;
    with.packed = GetParam();
    with.wrap = [late, moment](
                    uint16_t index,
                    std::unique_ptr<Queue> queue) -> std::unique_ptr<Queue> {
      if (index != late) return queue;
      return std::make_unique<LateQueue>(std::move(queue), moment);
    };
    driver_ = std::make_unique<FakeDriver>(*balloon_, ram_, with);
    ASSERT_OK(driver_->Activate());
  }
  Buffer Frames(const std::vector<uint32_t>& frames) {
    const Buffer buffer = {ram_.Alloc(frames.size() * 4),
                           static_cast<uint32_t>(frames.size() * 4), false};
    for (size_t i = 0; i < frames.size(); ++i) {
      ram_.Store<uint32_t>(*buffer.address.Plus(i * 4), frames[i]);
    }
    return buffer;
  }
  Buffer Stats(const std::vector<std::pair<uint16_t, uint64_t>>& stats) {
    std::string bytes(stats.size() * 10, '\0');
    for (size_t i = 0; i < stats.size(); ++i) {
      base::StoreLe<uint16_t>(&bytes[i * 10], stats[i].first);
      base::StoreLe<uint64_t>(&bytes[i * 10 + 2], stats[i].second);
    }
    return {ram_.AllocString(bytes), static_cast<uint32_t>(bytes.size()),
            false};
  }
  void WriteConfig(uint64_t offset, std::vector<uint8_t> bytes) {
    balloon_->WriteConfig(offset, bytes);
  }

  Balloon::Options options_;
  FakeRam ram_;
  FakePages pages_{ram_};
  std::unique_ptr<Balloon> balloon_;
  std::unique_ptr<FakeDriver> driver_;
};

TEST_P(BalloonTest, TakesAndGivesBackFramesInRanges) {
  Make();
  ASSERT_OK(driver_->Run(kInflate, {Frames({7, 5, 6, 100, 6})}));
  EXPECT_THAT(pages_.Take(), ElementsAre("up 5+3", "up 100+1"));
  ASSERT_OK(driver_->Run(kDeflate, {Frames({100, 7})}));
  EXPECT_THAT(pages_.Take(), ElementsAre("back 7+1", "back 100+1"));
  EXPECT_EQ(balloon_->counters().inflated_pages, 4u);
  EXPECT_EQ(balloon_->counters().deflated_pages, 2u);
}

TEST_P(BalloonTest, OneBadFrameSpoilsNoOther) {
  Make();
  ASSERT_OK(driver_->Run(kInflate, {Frames({10, 11, 12, 13, 14, 15})}));
  EXPECT_THAT(pages_.Take(), ElementsAre("up 10+3", "up 14+2"));
  EXPECT_EQ(balloon_->counters().refused_pages, 1u);
  EXPECT_EQ(balloon_->counters().inflated_pages, 5u);
}

TEST_P(BalloonTest, TakesTheHighestFrameForWhatItIs) {
  Make();
  ASSERT_OK(driver_->Run(kInflate, {Frames({0xffffffff, 0})}));
  EXPECT_THAT(pages_.Take(), ElementsAre("up 0+1", "up 4294967295+1"));
}

TEST_P(BalloonTest, CountsWhatTheHostCannotDo) {
  Make();
  pages_.Break(true);
  ASSERT_OK(driver_->Run(kInflate, {Frames({1, 2})}));
  EXPECT_EQ(balloon_->counters().errors, 1u);
  EXPECT_EQ(balloon_->counters().inflated_pages, 0u);
}

TEST_P(BalloonTest, ListsOfAnotherShapeNeedAReset) {
  for (int kind = 0; kind < 4; ++kind) {
    Make();
    std::vector<Buffer> buffers;
    if (kind == 0) buffers = {{ram_.Alloc(6), 6, false}};
    if (kind == 1) buffers = {{ram_.Alloc(8), 8, true}};
    if (kind == 2) buffers = {Frames({1}), {ram_.Alloc(8), 8, true}};
    if (kind == 3) {
      buffers = {Frames(std::vector<uint32_t>(Balloon::kMaxFrames + 1, 1))};
    }
    EXPECT_EQ(QueueErrorOf(driver_->Run(kInflate, buffers).status()),
              QueueError::kBadRequest)
        << kind;
    ASSERT_TRUE(driver_->Reset());
    EXPECT_THAT(pages_.Take(), ElementsAre("all")) << kind;
  }
}

TEST_P(BalloonTest, AResetGivesEverythingBack) {
  Make();
  ASSERT_OK(driver_->Run(kInflate, {Frames({5})}));
  WriteConfig(4, {1, 0, 0, 0});
  EXPECT_EQ(balloon_->actual(), kPageSize);
  pages_.Take();
  ASSERT_TRUE(driver_->Reset());
  EXPECT_THAT(pages_.Take(), ElementsAre("all"));
  EXPECT_EQ(balloon_->actual(), 0u);
}

TEST_P(BalloonTest, TheTargetChangesWhileTheGuestRuns) {
  options_.target = 8 * kPageSize;
  Make();
  EXPECT_EQ(driver_->ReadConfig(0, 4), 8u);
  const uint64_t before = driver_->interrupts().config_signals();
  ASSERT_OK(balloon_->SetTarget(uint64_t{16} << 20));
  EXPECT_TRUE(driver_->interrupts().WaitForConfig(before + 1));
  EXPECT_EQ(driver_->ReadConfig(0, 4), 4096u);
  EXPECT_EQ(balloon_->target(), uint64_t{16} << 20);
  EXPECT_THAT(
      balloon_->SetTarget(kRam + kPageSize),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the guest has")));
  EXPECT_THAT(
      balloon_->SetTarget(100),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("whole pages")));
}

TEST_P(BalloonTest, TheDriverWritesOnlyItsFields) {
  options_.target = 3 * kPageSize;
  Make();
  WriteConfig(0, std::vector<uint8_t>(16, 0xff));
  EXPECT_EQ(driver_->ReadConfig(0, 4), 3u);
  EXPECT_EQ(driver_->ReadConfig(4, 4), 0xffffffffu);
  EXPECT_EQ(driver_->ReadConfig(8, 4), 0u);
  EXPECT_EQ(driver_->ReadConfig(12, 8), 0xffffffffu);
  WriteConfig(5, {0x12});
  EXPECT_EQ(driver_->ReadConfig(4, 4), 0xffff12ffu);
  WriteConfig(~uint64_t{0}, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(driver_->ReadConfig(4, 4), 0xffff12ffu);
}

TEST_P(BalloonTest, ReadsStatisticsAndAsksForMore) {
  options_.stats_interval = std::chrono::seconds(1);
  Make();
  const Buffer buffer = Stats({{4, 1000}, {5, 2000}, {77, 1}});
  ASSERT_TRUE(driver_->queue(kStats).Offer({{buffer}}).has_value());
  driver_->Kick(kStats);
  ASSERT_TRUE(
      Eventually([&] { return balloon_->counters().stats_updates == 1; }));
  EXPECT_THAT(balloon_->stats()[4], Optional(1000u));
  EXPECT_THAT(balloon_->stats()[5], Optional(2000u));
  EXPECT_EQ(balloon_->stats()[0], std::nullopt);
  EXPECT_TRUE(Eventually([&] { return ram_.LeasedBytes() == 0; }));
  // The timer gives the buffer back.
  ASSERT_OK(driver_->WaitUsed(kStats));
  ASSERT_TRUE(driver_->queue(kStats).Offer({{Stats({{4, 3000}})}}).has_value());
  driver_->Kick(kStats);
  ASSERT_TRUE(
      Eventually([&] { return balloon_->counters().stats_updates == 2; }));
  EXPECT_THAT(balloon_->stats()[4], Optional(3000u));
  EXPECT_EQ(balloon_->stats()[5], std::nullopt);
}

TEST_P(BalloonTest, AsksForNoStatisticsUntilTold) {
  Make();
  ASSERT_TRUE(driver_->queue(kStats).Offer({{Stats({{4, 1}})}}).has_value());
  driver_->Kick(kStats);
  ASSERT_TRUE(
      Eventually([&] { return balloon_->counters().stats_updates == 1; }));
  EXPECT_FALSE(driver_->queue(kStats).HasUsed());
  EXPECT_THAT(balloon_->SetStatsInterval(std::chrono::seconds(-1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK(balloon_->SetStatsInterval(std::chrono::seconds(1)));
  EXPECT_OK(driver_->WaitUsed(kStats));
}

class BalloonReportTest : public BalloonTest {
 protected:
  void SetUp() override { options_.reporting = true; }
  // Reports private pages: the device must not ask the shared view for them.
  Buffer Report(uint64_t pages) {
    const GuestAddress at = ram_.AllocPages(pages);
    ram_.SetState(at, pages * kPageSize, PageState::kPrivate);
    return {at, static_cast<uint32_t>(pages * kPageSize), true};
  }
  std::string Discarded(const Buffer& buffer) {
    return absl::StrCat("discard ", buffer.address.value() / kPageSize, "+",
                        buffer.length / kPageSize);
  }
};

TEST_P(BalloonReportTest, FreesWhatIsReportedByWhicheverQueue) {
  Make();
  for (uint16_t queue : {3, 4}) {
    const Buffer one = Report(2), other = Report(1);
    EXPECT_THAT(driver_->Run(queue, {one, other}, /*indirect=*/true),
                IsOkAndHolds(0u));
    EXPECT_THAT(pages_.Take(), ElementsAre(Discarded(one), Discarded(other)));
  }
  EXPECT_EQ(balloon_->counters().reported_bytes, 6 * kPageSize);
}

TEST_P(BalloonReportTest, WithoutStatisticsTheThirdQueueMayReport) {
  Make(~uint64_t{2});
  const Buffer buffer = Report(1);
  EXPECT_OK(driver_->Run(2, {buffer}));
  EXPECT_THAT(pages_.Take(), ElementsAre(Discarded(buffer)));
}

TEST_P(BalloonReportTest, LeavesPoisonedPagesAlone) {
  Make();
  WriteConfig(12, {0xaa, 0xaa, 0xaa, 0xaa});
  EXPECT_OK(driver_->Run(4, {Report(1)}));
  EXPECT_THAT(pages_.Take(), IsEmpty());
  EXPECT_EQ(balloon_->counters().reports_ignored, 1u);
}

TEST_P(BalloonReportTest, RefusesPartsOfPagesAndPagesOfNobody) {
  Make();
  Buffer part = Report(1);
  part.length = 100;
  EXPECT_OK(
      driver_->Run(4, {part, {GuestAddress(13 * kPageSize), kPageSize, true}}));
  EXPECT_EQ(balloon_->counters().refused_pages, 2u);
  EXPECT_THAT(pages_.Take(), IsEmpty());
}

TEST_P(BalloonReportTest, ReadableReportsNeedAReset) {
  Make();
  EXPECT_EQ(QueueErrorOf(driver_->Run(4, {{ram_.Alloc(8), 8, false}}).status()),
            QueueError::kBadRequest);
}

TEST_P(BalloonReportTest, WithoutPoisoningThePoisonMeansNothing) {
  Make(~uint64_t{16});
  WriteConfig(12, {0xaa, 0xaa, 0xaa, 0xaa});
  const Buffer buffer = Report(1);
  EXPECT_OK(driver_->Run(4, {buffer}));
  EXPECT_THAT(pages_.Take(), ElementsAre(Discarded(buffer)));
}

TEST_P(BalloonReportTest, CountsReportsThatTheHostCannotFollow) {
  Make();
  pages_.Break(true);
  EXPECT_OK(driver_->Run(4, {Report(1)}));
  EXPECT_EQ(balloon_->counters().errors, 1u);
  EXPECT_EQ(balloon_->counters().reported_bytes, 0u);
}

TEST_P(BalloonReportTest, SeesAReportThatComesAsItStopsLooking) {
  Make();
  const Buffer late = Report(2);
  const LateQueue::First first = LateQueue::Once([this, late] {
    EXPECT_TRUE(driver_->queue(4).Offer({{late}}).has_value());
  });
  MakeLate(4, first.moment);
  first.done.wait();
  EXPECT_OK(driver_->WaitUsed(4));
  EXPECT_THAT(pages_.Take(), ElementsAre("all", Discarded(late)));
}

TEST_P(BalloonTest, CountsWhatCannotBeGivenBackAtAReset) {
  Make();
  pages_.Break(true);
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(balloon_->counters().errors, 1u);
}

TEST_P(BalloonTest, ReadsZeroesBeyondItsConfiguration) {
  Make();
  EXPECT_EQ(driver_->ReadConfig(16, 4), 0u);
  EXPECT_EQ(driver_->ReadConfig(~uint64_t{0}, 4), 0u);
}

TEST_P(BalloonTest, WritableStatisticsNeedAReset) {
  Make();
  EXPECT_EQ(
      QueueErrorOf(driver_->Run(kStats, {{ram_.Alloc(10), 10, true}}).status()),
      QueueError::kBadRequest);
}

// Several drivers at once, for their timers have whole seconds: one without the
// queue, one that gives no buffer, and two that spoil theirs before more
// statistics are wanted.
TEST_P(BalloonTest, AsksForStatisticsWhateverTheDriverDidMeanwhile) {
  options_.max = kRam;
  options_.stats_interval = std::chrono::seconds(1);
  struct One {
    std::unique_ptr<Balloon> balloon;
    std::unique_ptr<FakeDriver> driver;
  };
  std::vector<One> all;
  const Buffer buffer = {ram_.AllocPages(1), 20, false};
  for (int i = 0; i < 4; ++i) {
    auto worker = Worker::Create("balloon");
    ASSERT_OK(worker);
    auto balloon = Balloon::Create(options_, pages_, *std::move(worker));
    ASSERT_OK(balloon);
    FakeDriver::Options with;
    with.packed = GetParam();
    if (i == 0) with.queues = {kInflate};
    auto driver = std::make_unique<FakeDriver>(**balloon, ram_, with);
    ASSERT_OK(driver->Activate());
    all.push_back({*std::move(balloon), std::move(driver)});
    if (i < 2) continue;
    ASSERT_TRUE(all[i].driver->queue(kStats).Offer({{buffer}}).has_value());
    all[i].driver->Kick(kStats);
    // Then its timer is set, too, before the next one's.
    ASSERT_TRUE(Eventually(
        [&] { return all[i].balloon->counters().stats_updates == 1; }));
  }
  // The packed ring's entry is not available any more.
  if (GetParam()) {
    all[2].driver->queue(kStats).WriteDescriptor(0, buffer.address.value(), 20,
                                                 0, 0);
  }
  ram_.SetState(buffer.address, 1, PageState::kPrivate);
  // The last one's timer was set last: the others' are over, and what they do
  // comes before a reset.
  EXPECT_TRUE(all[3].driver->interrupts().WaitForReset());
  for (int i : {0, 1, 2}) {
    EXPECT_TRUE(all[i].driver->Reset());
    const bool broken = all[i].driver->interrupts().reset_reason().has_value();
    EXPECT_EQ(broken, i == 2 && !GetParam()) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Rings, BalloonTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });
INSTANTIATE_TEST_SUITE_P(Rings, BalloonReportTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

TEST(BalloonCreateTest, RefusesATargetThatItsFieldCannotHold) {
  const FakeRam ram;
  FakePages pages(ram);
  ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("balloon"));
  Balloon::Options options;
  options.max = uint64_t{1} << 50;
  options.target = kPageSize << 32;
  EXPECT_THAT(Balloon::Create(options, pages, std::move(worker)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(BalloonCreateTest, RefusesAnIntervalOfMoreThanADay) {
  const FakeRam ram;
  FakePages pages(ram);
  ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("balloon"));
  Balloon::Options options;
  options.stats_interval = std::chrono::hours(24) + std::chrono::seconds(1);
  EXPECT_THAT(Balloon::Create(options, pages, std::move(worker)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(BalloonCreateTest, RefusesATargetBeyondTheGuest) {
  const FakeRam ram;
  FakePages pages(ram);
  ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("balloon"));
  Balloon::Options options;
  options.max = kRam;
  options.target = kRam + kPageSize;
  EXPECT_THAT(Balloon::Create(options, pages, std::move(worker)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace cloister::devices::virtio
