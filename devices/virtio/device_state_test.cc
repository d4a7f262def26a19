// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/device_state.h"

#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/driver_fake_target.h"
#include "cloister/memory/shared_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using memory::PageState;
using memory::ShareRefusal;
using Ring = DeviceState::Ring;

class Listener : public DeviceState::Listener {
 public:
  void QueueInterrupt(uint16_t) override { ++queue; }
  void ConfigInterrupt() override { ++config; }
  void ResetDone() override { ++resets; }
  int queue = 0;
  int config = 0;
  int resets = 0;
};

class DeviceStateTest : public ::testing::Test {
 protected:
  void SetUp() override { Make({}); }
  void Make(const DeviceState::Options& options) {
    auto device = std::make_unique<FakeTarget>();
    target_ = device.get();
    ASSERT_OK_AND_ASSIGN(
        state_, DeviceState::Create(std::move(device), ram_.view(), options,
                                    listener_, base::Logger::Null()));
  }

  static constexpr uint64_t kAll = FakeTarget::kFeatures | kFeatureVersion1 |
                                   kFeatureAccessPlatform | kFeatureIndirect;
  // Up to FEATURES_OK; true if the device agrees.
  bool Negotiate(uint64_t features = kAll) {
    state_->WriteStatus(0);
    state_->WriteStatus(1);
    state_->WriteStatus(3);
    state_->AcceptFeatures(0, static_cast<uint32_t>(features));
    state_->AcceptFeatures(1, static_cast<uint32_t>(features >> 32));
    state_->WriteStatus(11);
    return state_->status() == 11;
  }
  void SetUpQueue(uint16_t index, const QueueConfig& config) {
    auto address = [&](Ring ring, uint64_t value) {
      state_->SetQueueAddress(index, ring, false, static_cast<uint32_t>(value));
      state_->SetQueueAddress(index, ring, true,
                              static_cast<uint32_t>(value >> 32));
    };
    state_->SetQueueSize(index, config.size);
    address(Ring::kDesc, config.desc.value());
    address(Ring::kDriver, config.driver.value());
    address(Ring::kDevice, config.device.value());
    state_->SetQueueEnabled(index, true);
  }
  void Start() {
    ASSERT_TRUE(Negotiate());
    driver_ = std::make_unique<DriverFake>(
        ram_, DriverFake::Options{.size = 8, .indirect = true});
    SetUpQueue(0, driver_->config());
    state_->WriteStatus(15);
  }
  uint64_t Reason(QueueError error) {
    return state_->counters().needs_reset[static_cast<size_t>(error)];
  }
  uint64_t Kind(ShareRefusal refusal) {
    return state_->counters().not_shared[static_cast<size_t>(refusal)];
  }

  FakeRam ram_;
  Listener listener_;
  FakeTarget* target_ = nullptr;
  std::unique_ptr<DriverFake> driver_;
  std::unique_ptr<DeviceState> state_;
};

TEST_F(DeviceStateTest, OffersWhatEveryDeviceMust) {
  EXPECT_EQ(state_->OfferedFeatures(0),
            FakeTarget::kFeatures | kFeatureIndirect | kFeatureEventIdx);
  EXPECT_EQ(
      state_->OfferedFeatures(1),
      (kFeatureVersion1 | kFeatureAccessPlatform | kFeatureRingPacked) >> 32);
  EXPECT_EQ(state_->OfferedFeatures(2), 0u);
  EXPECT_EQ(state_->OfferedFeatures(UINT32_MAX), 0u);
}

TEST_F(DeviceStateTest, WorksFromStartToReset) {
  Start();
  EXPECT_EQ(state_->status(), 15);
  ASSERT_EQ(target_->activations, 1);
  EXPECT_EQ(target_->accepted, kAll);
  EXPECT_EQ(target_->activation->features, kAll);
  ASSERT_EQ(target_->activation->queues.size(), 1u);  // the one enabled
  EXPECT_EQ(target_->activation->queues[0].index, 0);
  driver_->Offer({{ram_.Alloc(8), 8, true}});
  state_->Kick(0);
  EXPECT_EQ(target_->activation->queues[0].kick->Drain(), 1u);
  target_->Serve(0);
  EXPECT_TRUE(driver_->PopUsed().has_value());
  EXPECT_EQ(listener_.queue, 1);
  state_->WriteStatus(0);
  EXPECT_EQ(state_->status(), 0);
  EXPECT_EQ(target_->resets, 1);
  EXPECT_FALSE(state_->queue(0).enabled);
  EXPECT_EQ(state_->queue(0).desc, 0u);
  EXPECT_EQ(state_->AcceptedFeatures(1), 0u);
  Start();
  EXPECT_EQ(target_->activations, 2);
}

TEST_F(DeviceStateTest, RefusesOldDriversAndUnknownFeatures) {
  EXPECT_FALSE(Negotiate(kAll & ~kFeatureVersion1));
  EXPECT_EQ(state_->status(), 3);
  EXPECT_FALSE(Negotiate(kAll | 2));
  EXPECT_FALSE(Negotiate(kAll | uint64_t{1} << 63));
  EXPECT_EQ(state_->counters().features_refused, 3u);
  // Then DRIVER_OK does nothing.
  state_->WriteStatus(7);
  EXPECT_EQ(target_->activations, 0);
  EXPECT_EQ(state_->status(), 3);
}

TEST_F(DeviceStateTest, InsistsOnAccessPlatformForConfidentialGuests) {
  EXPECT_TRUE(Negotiate(kAll & ~kFeatureAccessPlatform));
  Make({.require_access_platform = true});
  EXPECT_FALSE(Negotiate(kAll & ~kFeatureAccessPlatform));
  EXPECT_EQ(state_->counters().features_refused, 1u);
  EXPECT_TRUE(Negotiate(kAll));
}

TEST_F(DeviceStateTest, FixesFeaturesOnceTheyAreAgreed) {
  ASSERT_TRUE(Negotiate());
  state_->AcceptFeatures(0, 0);
  EXPECT_EQ(state_->AcceptedFeatures(0), static_cast<uint32_t>(kAll));
  EXPECT_EQ(state_->counters().bad_writes, 1u);
}

TEST_F(DeviceStateTest, HasTwoWordsOfFeatures) {
  state_->WriteStatus(0);
  const uint64_t bad = state_->counters().bad_writes;
  state_->AcceptFeatures(2, 0);  // what a driver may well do
  EXPECT_EQ(state_->counters().bad_writes, bad);
  state_->AcceptFeatures(2, 1);
  state_->AcceptFeatures(UINT32_MAX, ~0u);
  EXPECT_EQ(state_->counters().bad_writes, bad + 2);
  EXPECT_EQ(state_->AcceptedFeatures(0), 0u);
  EXPECT_EQ(state_->AcceptedFeatures(2), 0u);
  EXPECT_EQ(state_->OfferedFeatures(2), 0u);
}

TEST_F(DeviceStateTest, NeverTakesStatusBitsAway) {
  Start();
  state_->WriteStatus(3);
  EXPECT_EQ(state_->status(), 15);
  state_->WriteStatus(0xff);  // NEEDS_RESET is not the driver's
  EXPECT_EQ(state_->status(), 15 | kStatusFailed);
  EXPECT_EQ(target_->activations, 1);
}

TEST_F(DeviceStateTest, IgnoresQueueRegistersOutOfTurn) {
  Start();
  const auto before = state_->queue(0);
  const uint64_t bad = state_->counters().bad_writes;
  state_->SetQueueSize(0, 4);
  state_->SetQueueAddress(0, Ring::kDesc, false, 0);
  state_->SetQueueEnabled(0, false);
  state_->SetQueueSize(2, 4);
  state_->SetQueueEnabled(0xffff, true);
  state_->Kick(2);
  EXPECT_EQ(state_->queue(0).size, before.size);
  EXPECT_EQ(state_->queue(0).desc, before.desc);
  EXPECT_TRUE(state_->queue(0).enabled);
  EXPECT_EQ(state_->counters().bad_writes, bad + 6);
  EXPECT_EQ(state_->queue(2).max_size, 0);
  state_->WriteStatus(0);
  state_->SetQueueSize(0, 9);  // more than it has
  state_->SetQueueSize(0, 0);
  EXPECT_EQ(state_->queue(0).size, 8);
}

TEST_F(DeviceStateTest, NeedsAResetForRingsThatAreNotShared) {
  ASSERT_TRUE(Negotiate());
  driver_ = std::make_unique<DriverFake>(ram_, DriverFake::Options{.size = 8});
  QueueConfig config = driver_->config();
  config.device = ram_.AllocPages(1);
  ram_.SetState(config.device, 1, PageState::kPrivate);
  SetUpQueue(0, config);
  state_->WriteStatus(15);
  EXPECT_EQ(state_->status(), 15 | kStatusNeedsReset);
  EXPECT_EQ(target_->activations, 0);
  EXPECT_EQ(listener_.config, 1);
  EXPECT_EQ(Reason(QueueError::kRingNotShared), 1u);
  EXPECT_EQ(Kind(ShareRefusal::kPrivate), 1u);
  Start();
  EXPECT_EQ(state_->status(), 15);
}

TEST_F(DeviceStateTest, NeedsAResetWhenTheDeviceSaysSo) {
  Start();
  driver_->Offer({{memory::GuestAddress(0), 8, true}});
  target_->Serve(0);
  EXPECT_EQ(state_->status(), 15 | kStatusNeedsReset);
  EXPECT_EQ(listener_.config, 1);
  EXPECT_EQ(Reason(QueueError::kBufferNotShared), 1u);
  state_->WriteStatus(0);
  EXPECT_EQ(state_->status(), 0);
  // Reasons of the device's own.
  target_->activate_status = absl::InternalError("no");
  Start();
  EXPECT_EQ(state_->status(), 15 | kStatusNeedsReset);
  EXPECT_EQ(state_->counters().needs_reset[kQueueErrorCount], 1u);
}

TEST_F(DeviceStateTest, CountsWhatWasWrongWithMemoryThatIsNotShared) {
  const memory::GuestAddress area = ram_.AllocPages(4);
  auto page = [&](uint64_t index) { return *area.Plus(index * 4096); };
  ram_.SetState(page(1), 1, PageState::kPrivate);
  ram_.SetState(page(2), 1, PageState::kAliased);
  ram_.SetState(page(3), 1, PageState::kNotRam);
  const std::vector<std::pair<memory::GuestAddress, ShareRefusal>> wrong = {
      {page(1), ShareRefusal::kPrivate},
      {memory::GuestAddress(page(1).value() - 4), ShareRefusal::kMixed},
      {page(2), ShareRefusal::kAliased},
      {page(3), ShareRefusal::kNotRam},
      {memory::GuestAddress(UINT64_MAX - 3), ShareRefusal::kWrapping}};
  for (const auto& [address, refusal] : wrong) {
    Start();
    driver_->Offer({{address, 8, true}});
    target_->Serve(0);
    EXPECT_EQ(state_->status(), 15 | kStatusNeedsReset);
    EXPECT_EQ(Kind(refusal), 1u) << memory::ShareRefusalName(refusal);
  }
  EXPECT_EQ(Reason(QueueError::kBufferNotShared), wrong.size());
  // Another reason is none of these.
  Start();
  driver_->OfferHead(99);
  target_->Serve(0);
  EXPECT_EQ(Reason(QueueError::kBadIndex), 1u);
  uint64_t all = 0;
  for (uint64_t count : state_->counters().not_shared) all += count;
  EXPECT_EQ(all, wrong.size());
}

TEST_F(DeviceStateTest, IsResetOnlyWhenTheDeviceIs) {
  Start();
  Interrupts* interrupts = target_->activation->interrupts;
  target_->hold_reset = true;
  const int resets = listener_.resets;
  state_->WriteStatus(0);
  EXPECT_EQ(state_->status(), 15);
  // The device gives up what it had; none of that reaches the driver.
  interrupts->SignalQueue(0);
  interrupts->NeedsReset(absl::InternalError("late"));
  EXPECT_EQ(listener_.queue, 0);
  EXPECT_EQ(listener_.config, 0);
  state_->WriteStatus(0);  // again: no second reset
  state_->WriteStatus(1);
  EXPECT_EQ(state_->status(), 15);
  const uint64_t bad = state_->counters().bad_writes;
  state_->AcceptFeatures(0, 1);
  state_->SetQueueSize(0, 4);
  EXPECT_EQ(state_->AcceptedFeatures(0), 0u);
  EXPECT_EQ(state_->queue(0).size, 8);
  EXPECT_EQ(state_->counters().bad_writes, bad + 2);
  EXPECT_EQ(target_->resets, 1);
  EXPECT_FALSE(state_->WaitForReset(std::chrono::steady_clock::now()));
  std::thread worker([this] { target_->reset_done(); });
  EXPECT_TRUE(state_->WaitForReset(std::chrono::steady_clock::now() +
                                   std::chrono::seconds(10)));
  worker.join();
  EXPECT_EQ(state_->status(), 0);
  EXPECT_EQ(listener_.resets, resets + 1);
  Start();
  EXPECT_EQ(state_->status(), 15);
}

TEST_F(DeviceStateTest, ChangesTheGenerationWithTheConfiguration) {
  const uint8_t before = state_->ConfigGeneration();
  EXPECT_EQ(state_->ConfigGeneration(), before);
  target_->config[3] = 99;
  const uint8_t after = state_->ConfigGeneration();
  EXPECT_NE(after, before);
  EXPECT_EQ(state_->ConfigGeneration(), after);
}

TEST(DeviceStateCreateTest, RefusesDevicesWithoutQueues) {
  FakeRam ram;
  Listener listener;
  for (size_t count : {0u, 65u}) {
    auto device = std::make_unique<FakeTarget>();
    device->sizes.assign(count, 8);
    EXPECT_THAT(DeviceState::Create(std::move(device), ram.view(), {}, listener,
                                    base::Logger::Null()),
                base::StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace cloister::devices::virtio
