// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/console.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/eventually.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using Buffer = DriverFake::Buffer;

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;

// Takes as much as the test allows. Thread-safe.
class FakeSink : public SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    const size_t count = std::min(room_, bytes.size());
    text_.append(bytes.begin(), bytes.begin() + count);
    room_ -= count;
    return count;
  }
  void SetRoom(size_t room) {
    base::MutexLock lock(&mutex_);
    room_ = room;
  }
  std::string text() {
    base::MutexLock lock(&mutex_);
    return text_;
  }

 private:
  base::Mutex mutex_;
  size_t room_ ABSL_GUARDED_BY(mutex_) = SIZE_MAX;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class ConsoleTest : public ::testing::TestWithParam<bool> {
 protected:
  void Make(Console::Options options = {}) {
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("console"));
    ASSERT_OK_AND_ASSIGN(console_, Console::Create(std::move(options), sink_,
                                                   std::move(worker)));
    FakeDriver::Options with;
    with.packed = GetParam();
    driver_ = std::make_unique<FakeDriver>(*console_, ram_, with);
    ASSERT_OK(driver_->Activate());
  }
  Buffer Readable(absl::string_view text) {
    return {ram_.AllocString(text), static_cast<uint32_t>(text.size()), false};
  }
  Buffer OfferRx(uint32_t size) {
    const Buffer buffer = {ram_.Alloc(size), size, true};
    EXPECT_TRUE(driver_->queue(kRx).Offer({{buffer}}).has_value());
    driver_->Kick(kRx);
    return buffer;
  }

  FakeSink sink_;
  FakeRam ram_;
  std::unique_ptr<Console> console_;
  std::unique_ptr<FakeDriver> driver_;
};

TEST_P(ConsoleTest, WritesToItsSink) {
  Make();
  ASSERT_OK(driver_->Run(kTx, {Readable("hello, "), Readable("world\n")}));
  EXPECT_EQ(sink_.text(), "hello, world\n");
  EXPECT_EQ(console_->counters().tx_bytes, 13u);
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

TEST_P(ConsoleTest, WaitsForASinkWithoutRoom) {
  Make();
  sink_.SetRoom(5);
  const std::string text(3000, 'x');
  ASSERT_TRUE(driver_->queue(kTx).Offer({{Readable(text)}}).has_value());
  driver_->Kick(kTx);
  ASSERT_TRUE(Eventually([&] { return console_->counters().tx_waits >= 1; }));
  EXPECT_EQ(sink_.text().size(), 5u);
  EXPECT_TRUE(Eventually([&] { return ram_.LeasedBytes() == 0; }));
  sink_.SetRoom(SIZE_MAX);
  console_->OnSinkWritable();
  ASSERT_OK(driver_->WaitUsed(kTx));
  EXPECT_EQ(sink_.text(), text);
}

TEST_P(ConsoleTest, SendsARequestOfAnyLength) {
  Make();
  const std::string text(1 << 20, 'y');
  ASSERT_OK(driver_->Run(kTx, {Readable(text)}));
  EXPECT_EQ(sink_.text().size(), text.size());
}

TEST_P(ConsoleTest, GivesInputToTheDriver) {
  Make();
  const Buffer first = OfferRx(4);
  EXPECT_EQ(console_->Enqueue(Bytes("abcdef")), 6u);
  EXPECT_EQ(driver_->WaitUsed(kRx)->written, 4u);
  EXPECT_EQ(ram_.String(first.address, 4), "abcd");
  const Buffer second = OfferRx(4);
  EXPECT_EQ(driver_->WaitUsed(kRx)->written, 2u);
  EXPECT_EQ(ram_.String(second.address, 2), "ef");
  EXPECT_EQ(console_->counters().rx_bytes, 6u);
}

TEST_P(ConsoleTest, KeepsBuffersThatThereIsNoInputFor) {
  Make();
  OfferRx(4);
  const Buffer second = OfferRx(4);
  EXPECT_EQ(console_->Enqueue(Bytes("abcd")), 4u);
  EXPECT_EQ(driver_->WaitUsed(kRx)->written, 4u);
  EXPECT_TRUE(Eventually([&] { return ram_.LeasedBytes() == 0; }));
  EXPECT_EQ(console_->Enqueue(Bytes("ef")), 2u);
  EXPECT_EQ(driver_->WaitUsed(kRx)->written, 2u);
  EXPECT_EQ(ram_.String(second.address, 2), "ef");
}

TEST_P(ConsoleTest, TakesEverythingAgainWithoutAnybodyToTell) {
  Make();
  const std::string much(Console::kInputSize + 10, 'z');
  EXPECT_EQ(console_->Enqueue(Bytes(much)), Console::kInputSize);
  OfferRx(Console::kInputSize);
  ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_EQ(console_->Enqueue(Bytes("q")), 1u);
}

TEST_P(ConsoleTest, IsQuietWithoutADriver) {
  Make();
  ASSERT_TRUE(driver_->Reset());
  console_->SetSize(80, 25);
  console_->OnSinkWritable();
  ASSERT_OK(driver_->Activate());
  EXPECT_EQ(driver_->ReadConfig(0, 4), 25u << 16 | 80u);
  ASSERT_OK(driver_->Run(kTx, {Readable("still")}));
  EXPECT_EQ(sink_.text(), "still");
  EXPECT_EQ(driver_->interrupts().config_signals(), 0u);
}

TEST_P(ConsoleTest, TakesNoMoreInputThanItHasRoomFor) {
  std::atomic<int> notices{0};
  Console::Options options;
  options.on_input_room = [&notices] { ++notices; };
  Make(std::move(options));
  const std::string much(Console::kInputSize + 10, 'z');
  EXPECT_EQ(console_->Enqueue(Bytes(much)), Console::kInputSize);
  EXPECT_EQ(console_->Enqueue(Bytes("q")), 0u);
  OfferRx(1000);
  ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_EQ(notices, 0);
  OfferRx(3000);
  ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_TRUE(Eventually([&] { return notices == 1; }));
}

TEST_P(ConsoleTest, LimitsOutput) {
  Console::Options options;
  options.tx_limit.bandwidth = {10, 0, std::chrono::hours(1)};
  Make(std::move(options));
  ASSERT_OK(driver_->Run(kTx, {Readable("0123456789")}));
  ASSERT_TRUE(driver_->queue(kTx).Offer({{Readable("more")}}).has_value());
  driver_->Kick(kTx);
  ASSERT_TRUE(Eventually([&] { return console_->counters().throttled == 1; }));
  RateLimiterUpdate update;
  update.bandwidth = TokenBucketConfig{};
  ASSERT_OK(console_->UpdateLimit(update));
  ASSERT_OK(driver_->WaitUsed(kTx));
  EXPECT_EQ(sink_.text(), "0123456789more");
}

TEST_P(ConsoleTest, BuffersOfTheWrongKindNeedAReset) {
  Make();
  EXPECT_EQ(
      QueueErrorOf(driver_->Run(kTx, {{ram_.Alloc(8), 8, true}}).status()),
      QueueError::kBadRequest);
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  ASSERT_TRUE(driver_->queue(kRx).Offer({{Readable("r")}}).has_value());
  driver_->Kick(kRx);
  console_->Enqueue(Bytes("x"));
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kBadRequest);
}

TEST_P(ConsoleTest, KeepsInputOverAReset) {
  Make();
  EXPECT_EQ(console_->Enqueue(Bytes("kept")), 4u);
  ASSERT_TRUE(driver_->Reset());
  ASSERT_OK(driver_->Activate());
  const Buffer buffer = OfferRx(16);
  ASSERT_OK(driver_->WaitUsed(kRx));
  EXPECT_EQ(ram_.String(buffer.address, 4), "kept");
}

TEST_P(ConsoleTest, ConfigurationSaysTheSizeAndTakesEmergencies) {
  Make();
  EXPECT_EQ(driver_->ReadConfig(0, 4), 0u);
  EXPECT_EQ(driver_->ReadConfig(4, 4), 1u);
  console_->SetSize(80, 25);
  EXPECT_TRUE(driver_->interrupts().WaitForConfig(1));
  EXPECT_EQ(driver_->ReadConfig(0, 2), 80u);
  EXPECT_EQ(driver_->ReadConfig(2, 2), 25u);
  const std::vector<uint8_t> letter = {'!', 0, 0, 0};
  console_->WriteConfig(8, letter);
  console_->WriteConfig(0, letter);
  console_->WriteConfig(~uint64_t{0}, letter);
  console_->WriteConfig(8, {});
  EXPECT_EQ(driver_->ReadConfig(8, 8), 0u);
  EXPECT_EQ(driver_->ReadConfig(12, 4), 0u);
  EXPECT_EQ(driver_->ReadConfig(~uint64_t{0}, 4), 0u);
  EXPECT_EQ(sink_.text(), "!");
  EXPECT_EQ(console_->counters().emergency_bytes, 1u);
}

TEST_P(ConsoleTest, LimitsEmergenciesToo) {
  Console::Options options;
  options.tx_limit.bandwidth = {3, 0, std::chrono::hours(1)};
  Make(options);
  for (char letter : {'a', 'b', 'c', 'd', 'e'}) {
    const std::vector<uint8_t> field = {static_cast<uint8_t>(letter), 0, 0, 0};
    console_->WriteConfig(8, field);
  }
  EXPECT_EQ(sink_.text(), "abc");
  EXPECT_EQ(console_->counters().emergency_bytes, 3u);
  EXPECT_EQ(console_->counters().throttled, 2u);
}

INSTANTIATE_TEST_SUITE_P(Rings, ConsoleTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace cloister::devices::virtio
