// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/device_runner.h"

#include <array>
#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_queue.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using Buffer = DriverFake::Buffer;

// A device that returns requests, as long as it may.
class Echo : public VirtioDevice, private DeviceRunner::Handler {
 public:
  explicit Echo(std::unique_ptr<Worker> worker)
      : runner_(std::move(worker), this) {}
  ~Echo() override { runner_.Shutdown(); }

  absl::string_view name() const override { return "echo"; }
  uint32_t type() const override { return 99; }
  uint64_t features() const override { return 5; }
  absl::Span<const uint16_t> queue_sizes() const override { return kSizes; }
  void ReadConfig(uint64_t, absl::Span<uint8_t>) override {}
  void WriteConfig(uint64_t, absl::Span<const uint8_t>) override {}
  absl::Status Activate(Activation activation) override {
    return runner_.Activate(std::move(activation));
  }
  void Reset(std::function<void()> done) override {
    runner_.Reset(std::move(done));
  }

  std::atomic<int> starts{0}, stops{0}, kicks{0};
  std::atomic<bool> refuse_start{false};
  std::atomic<bool> fail{false};
  std::atomic<bool> hold{false};
  // If set, called after a request was pushed; then the turn ends.
  std::function<void()> after_push;
  DeviceRunner& runner() { return runner_; }

 private:
  static constexpr std::array<uint16_t, 2> kSizes = {256, 256};
  absl::Status OnStart() override {
    ++starts;
    if (refuse_start) return absl::InternalError("not today");
    EXPECT_TRUE(runner_.Has(0) && !runner_.Has(1) && runner_.Has(2));
    return absl::OkStatus();
  }
  void OnKick(uint16_t queue) override {
    ++kicks;
    runner_.Serve(queue,
                  [this](Queue& queue,
                         Chain chain) -> absl::StatusOr<DeviceRunner::Next> {
                    if (fail)
                      return MakeQueueError(QueueError::kBadRequest, "told to");
                    if (hold) {
                      queue.Unpop(std::move(chain));
                      return DeviceRunner::Next::kStop;
                    }
                    absl::Status status = queue.Push(std::move(chain), 0);
                    if (!status.ok()) return status;
                    if (after_push) {
                      after_push();
                      return DeviceRunner::Next::kStop;
                    }
                    return DeviceRunner::Next::kMore;
                  });
  }
  void OnStop() override { ++stops; }

  DeviceRunner runner_;
};

class DeviceRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("echo"));
    echo_ = std::make_unique<Echo>(std::move(worker));
    driver_ = std::make_unique<FakeDriver>(*echo_, ram_);
  }
  Buffer Some() { return {ram_.Alloc(8), 8, false}; }

  FakeRam ram_;
  std::unique_ptr<Echo> echo_;
  std::unique_ptr<FakeDriver> driver_;
};

TEST_F(DeviceRunnerTest, ServesEachQueue) {
  ASSERT_OK(driver_->Activate());
  EXPECT_THAT(driver_->Run(0, {Some()}), IsOkAndHolds(0u));
  EXPECT_THAT(driver_->Run(1, {Some()}), IsOkAndHolds(0u));
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(echo_->starts, 1);
  EXPECT_EQ(echo_->stops, 1);
}

TEST_F(DeviceRunnerTest, SeesWhatWasThereBeforeTheFirstKick) {
  FakeDriver::Options options;
  options.queues = {0};
  FakeDriver driver(*echo_, ram_, options);
  ASSERT_OK(driver.Activate());
  // Offered without a kick, more than one turn: Again does the rest.
  echo_->hold = true;
  for (int i = 0; i < DeviceRunner::kTurn + 10; ++i) {
    ASSERT_TRUE(driver.queue(0).Offer({{Some()}}).has_value());
  }
  driver.Kick(0);
  echo_->hold = false;
  echo_->runner().loop().Post([this] { echo_->runner().Again(0); });
  for (int i = 0; i < DeviceRunner::kTurn + 10; ++i) {
    ASSERT_OK(driver.WaitUsed(0));
  }
}

// A driver that kicks all the time must not make turns pile up: whatever waits
// behind them, the reset for one, would wait longer with every kick.
TEST_F(DeviceRunnerTest, OwesAQueueOneMoreTurnAtMost) {
  ASSERT_OK(driver_->Activate());
  std::promise<int> before, after;
  base::EventLoop& loop = echo_->runner().loop();
  loop.Post([&] {
    before.set_value(echo_->kicks);
    for (int i = 0; i < 100; ++i) {
      echo_->runner().Again(0);
      echo_->runner().Again(1);
    }
    loop.Post([&] { after.set_value(echo_->kicks); });
  });
  EXPECT_EQ(after.get_future().get() - before.get_future().get(), 2);
}

TEST_F(DeviceRunnerTest, OwesNothingToTheNextActivation) {
  ASSERT_OK(driver_->Activate());
  base::EventLoop& loop = echo_->runner().loop();
  loop.Post([&] { echo_->runner().Again(0); });
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  EXPECT_THAT(driver_->Run(0, {Some()}), IsOkAndHolds(0u));
}

TEST_F(DeviceRunnerTest, ResetsAtOnceWhatIsNotActive) {
  bool done = false;
  echo_->Reset([&done] { done = true; });
  EXPECT_TRUE(done);
}

TEST_F(DeviceRunnerTest, StopsOnceWhenTheDriverBreaksTheRules) {
  ASSERT_OK(driver_->Activate());
  echo_->fail = true;
  EXPECT_EQ(QueueErrorOf(driver_->Run(0, {Some()}).status()),
            QueueError::kBadRequest);
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(echo_->stops, 1);
  echo_->fail = false;
  ASSERT_OK(driver_->Activate());
  EXPECT_OK(driver_->Run(0, {Some()}));
}

TEST_F(DeviceRunnerTest, ADeviceThatCannotStartNeedsAReset) {
  echo_->refuse_start = true;
  ASSERT_OK(driver_->Activate());
  EXPECT_TRUE(driver_->interrupts().WaitForReset());
  ASSERT_TRUE(driver_->Reset());
  EXPECT_EQ(echo_->stops, 1);
}

TEST_F(DeviceRunnerTest, TheFirstMistakeCountsOnly) {
  ASSERT_OK(driver_->Activate());
  std::promise<void> done;
  echo_->runner().loop().Post([&] {
    EXPECT_TRUE(echo_->runner().Check(absl::OkStatus()));
    EXPECT_FALSE(echo_->runner().Check(absl::InternalError("first")));
    EXPECT_FALSE(echo_->runner().Check(absl::InternalError("second")));
    EXPECT_FALSE(echo_->runner().active());
    EXPECT_EQ(echo_->runner().queue(0), nullptr);
    done.set_value();
  });
  done.get_future().wait();
  EXPECT_EQ(driver_->interrupts().reset_reason()->message(), "first");
  EXPECT_EQ(echo_->stops, 1);
}

TEST_F(DeviceRunnerTest, HasNothingBeforeItIsActive) {
  std::promise<void> done;
  echo_->runner().loop().Post([&] {
    EXPECT_EQ(echo_->runner().features(), 0u);
    EXPECT_EQ(echo_->runner().interrupts(), nullptr);
    EXPECT_EQ(echo_->runner().queue(0), nullptr);
    EXPECT_FALSE(echo_->runner().Check(absl::InternalError("nobody")));
    done.set_value();
  });
  done.get_future().wait();
}

TEST_F(DeviceRunnerTest, AQueueThatTheDriverDidNotEnableIsLeftAlone) {
  FakeDriver::Options options;
  options.queues = {0};
  FakeDriver driver(*echo_, ram_, options);
  ASSERT_OK(driver.Activate());
  std::promise<void> done;
  echo_->runner().loop().Post([&] {
    EXPECT_EQ(echo_->runner().queue(1), nullptr);
    echo_->runner().Signal(1);
    echo_->runner().Again(1);
    echo_->runner().loop().Post([&] { done.set_value(); });
  });
  done.get_future().wait();
  EXPECT_THAT(driver.Run(0, {Some()}), IsOkAndHolds(0u));
}

TEST_F(DeviceRunnerTest, ARingThatGoesAwayBeforeTheInterruptNeedsAReset) {
  ASSERT_OK(driver_->Activate());
  echo_->after_push = [this] {
    ram_.SetState(driver_->queue(0).config().driver, 1,
                  memory::PageState::kPrivate);
  };
  ASSERT_TRUE(driver_->queue(0).Offer({{Some()}}).has_value());
  driver_->Kick(0);
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kRingNotShared);
}

TEST_F(DeviceRunnerTest, SeesARequestThatComesAsItStopsLooking) {
  FakeDriver* late = nullptr;
  const LateQueue::First first = LateQueue::Once([this, &late] {
    EXPECT_TRUE(late->queue(0).Offer({{Some()}}).has_value());
  });
  FakeDriver::Options options;
  options.queues = {0};
  options.wrap = [first](uint16_t, std::unique_ptr<Queue> queue) {
    return std::make_unique<LateQueue>(std::move(queue), first.moment);
  };
  FakeDriver driver(*echo_, ram_, options);
  late = &driver;
  ASSERT_OK(driver.Activate());
  first.done.wait();
  EXPECT_OK(driver.WaitUsed(0));
}

TEST_F(DeviceRunnerTest, ADriverThatOnlyPretendsDoesNotHoldTheWorker) {
  FakeDriver::Options options;
  options.wrap = [](uint16_t, std::unique_ptr<Queue> queue) {
    return std::make_unique<LateQueue>(std::move(queue), [] { return true; });
  };
  FakeDriver driver(*echo_, ram_, options);
  ASSERT_OK(driver.Activate());
  ASSERT_TRUE(driver.queue(0).Offer({{Some()}}).has_value());
  EXPECT_OK(driver.WaitUsed(0));
  EXPECT_TRUE(driver.Reset());
}

TEST_F(DeviceRunnerTest, NothingRunsAfterShutdown) {
  ASSERT_OK(driver_->Activate());
  ASSERT_TRUE(driver_->Reset());
  echo_->runner().Shutdown();
  echo_->runner().loop().Post([] { FAIL(); });
}

}  // namespace
}  // namespace cloister::devices::virtio
