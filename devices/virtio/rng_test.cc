// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/rng.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::PageState;
using ::testing::Each;
using ::testing::HasSubstr;
using Buffer = DriverFake::Buffer;

class RngTest : public ::testing::TestWithParam<bool> {
 protected:
  void Make(Rng::Options options) {
    driver_.reset();
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("rng"));
    ASSERT_OK_AND_ASSIGN(rng_,
                         Rng::Create(std::move(options), std::move(worker)));
    FakeDriver::Options with;
    with.packed = GetParam();
    driver_ = std::make_unique<FakeDriver>(*rng_, ram_, with);
    ASSERT_OK(driver_->Activate());
  }
  Buffer Writable(uint32_t size) { return {ram_.Alloc(size), size, true}; }

  FakeRam ram_;
  std::unique_ptr<Rng> rng_;
  std::unique_ptr<FakeDriver> driver_;
};

TEST_P(RngTest, FillsRequestsFromItsSource) {
  uint8_t next = 0;
  Rng::Options options;
  options.source = [&next](absl::Span<uint8_t> to) {
    for (uint8_t& byte : to) byte = ++next;
    return absl::OkStatus();
  };
  Make(options);
  const Buffer first = Writable(100), second = Writable(28);
  EXPECT_THAT(driver_->Run(0, {first, second}), IsOkAndHolds(128u));
  EXPECT_EQ(ram_.Bytes(first.address, 100)[99], 100);
  EXPECT_EQ(ram_.Bytes(second.address, 28)[27], 128);
  EXPECT_EQ(rng_->counters().requests, 1u);
  EXPECT_EQ(rng_->counters().bytes, 128u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(RngTest, TheHostsBytesDiffer) {
  Make({});
  std::set<std::vector<uint8_t>> seen;
  for (int i = 0; i < 8; ++i) {
    const Buffer buffer = Writable(32);
    ASSERT_THAT(driver_->Run(0, {buffer}), IsOkAndHolds(32u));
    seen.insert(ram_.Bytes(buffer.address, 32));
  }
  EXPECT_EQ(seen.size(), 8u);
}

TEST_P(RngTest, GivesALargeRequestOnlyTheFirstBytes) {
  Make({});
  const Buffer buffer = Writable(Rng::kMaxBytes + 1000);
  EXPECT_THAT(driver_->Run(0, {buffer}), IsOkAndHolds(Rng::kMaxBytes));
  EXPECT_THAT(ram_.Bytes(*buffer.address.Plus(Rng::kMaxBytes), 1000), Each(0));
}

TEST_P(RngTest, RefusesReadableBytes) {
  Make({});
  const Buffer readable = {ram_.Alloc(8), 8, false};
  EXPECT_THAT(driver_->Run(0, {readable, Writable(8)}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("entropy request with readable")));
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(RngTest, NeedsResetForAPrivateBufferAndWorksAfterIt) {
  Make({});
  Buffer buffer = {ram_.AllocPages(1), 64, true};
  ram_.SetState(buffer.address, 64, PageState::kPrivate);
  EXPECT_THAT(QueueErrorOf(driver_->Run(0, {buffer}).status()),
              QueueError::kBufferNotShared);
  ASSERT_TRUE(driver_->Reset());
  ram_.SetState(buffer.address, 64, PageState::kShared);
  ASSERT_OK(driver_->Activate());
  EXPECT_THAT(driver_->Run(0, {buffer}), IsOkAndHolds(64u));
}

TEST_P(RngTest, AFailingSourceFillsNothing) {
  std::atomic<bool> broken{true};
  Rng::Options options;
  options.source = [&broken](absl::Span<uint8_t> to) -> absl::Status {
    if (broken) return absl::InternalError("no entropy");
    std::fill(to.begin(), to.end(), 7);
    return absl::OkStatus();
  };
  Make(options);
  EXPECT_THAT(driver_->Run(0, {Writable(16)}), IsOkAndHolds(0u));
  EXPECT_EQ(rng_->counters().source_errors, 1u);
  broken = false;
  EXPECT_THAT(driver_->Run(0, {Writable(16)}), IsOkAndHolds(16u));
}

TEST_P(RngTest, WaitsForItsLimitUntilItIsLifted) {
  Rng::Options options;
  options.limit.bandwidth = {64, 0, std::chrono::hours(1)};
  Make(options);
  ASSERT_THAT(driver_->Run(0, {Writable(64)}), IsOkAndHolds(64u));
  ASSERT_TRUE(driver_->queue(0).Offer({{Writable(64)}}).has_value());
  driver_->Kick(0);
  while (rng_->counters().throttled == 0) std::this_thread::yield();
  EXPECT_FALSE(driver_->queue(0).HasUsed());
  RateLimiterUpdate update;
  update.bandwidth = TokenBucketConfig{};
  ASSERT_OK(rng_->UpdateLimit(update));
  ASSERT_OK_AND_ASSIGN(DriverFake::Used used, driver_->WaitUsed(0));
  EXPECT_EQ(used.written, 64u);
}

TEST_P(RngTest, ResetsWhileARequestWaits) {
  Rng::Options options;
  options.limit.operations = {1, 0, std::chrono::hours(1)};
  Make(options);
  ASSERT_THAT(driver_->Run(0, {Writable(8)}), IsOkAndHolds(8u));
  ASSERT_TRUE(driver_->queue(0).Offer({{Writable(8)}}).has_value());
  driver_->Kick(0);
  while (rng_->counters().throttled == 0) std::this_thread::yield();
  EXPECT_TRUE(driver_->Reset());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(RngTest, ServesMoreRequestsThanOneTurnHolds) {
  Make({});
  for (int i = 0; i < 3 * DeviceRunner::kTurn; ++i) {
    ASSERT_THAT(driver_->Run(0, {Writable(1)}), IsOkAndHolds(1u));
  }
}

TEST(RngCreateTest, RefusesAnInvalidLimit) {
  ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("rng"));
  Rng::Options options;
  options.limit.bandwidth = {64, 0, std::chrono::milliseconds(0)};
  EXPECT_THAT(Rng::Create(options, std::move(worker)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(RngCreateTest, ReadsZeroesFromConfigurationSpace) {
  ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("rng"));
  ASSERT_OK_AND_ASSIGN(auto rng, Rng::Create({}, std::move(worker)));
  std::vector<uint8_t> data(4, 1);
  rng->ReadConfig(~uint64_t{0}, absl::MakeSpan(data));
  EXPECT_THAT(data, Each(0));
}

INSTANTIATE_TEST_SUITE_P(Rings, RngTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace cloister::devices::virtio
