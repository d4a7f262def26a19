// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/device_runner.h"

#include <array>
#include <atomic>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake_device.h"
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

  std::atomic<int> starts{0}, stops{0};
  std::atomic<bool> refuse_start{false};
  std::atomic<bool> fail{false};
  std::atomic<bool> hold{false};
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

TEST_F(DeviceRunnerTest, NothingRunsAfterShutdown) {
  ASSERT_OK(driver_->Activate());
  ASSERT_TRUE(driver_->Reset());
  echo_->runner().Shutdown();
  echo_->runner().loop().Post([] { FAIL(); });
}

}  // namespace
}  // namespace cloister::devices::virtio
