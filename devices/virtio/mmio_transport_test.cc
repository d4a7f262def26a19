// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/mmio_transport.h"

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/fake_irq_line.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/driver_fake_target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t kAddress = 0xd2000000;

class FakeBinder : public NotifyBinder {
 public:
  absl::Status Bind(const NotifyAddress& address,
                    const base::EventFd&) override {
    if (bound.size() >= room) return absl::UnavailableError("no ioeventfds");
    bound.push_back(address);
    return absl::OkStatus();
  }
  void Unbind(const NotifyAddress&, const base::EventFd&) override {
    ++unbound;
  }
  size_t room = SIZE_MAX;
  std::vector<NotifyAddress> bound;
  size_t unbound = 0;
};

class MmioTransportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto device = std::make_unique<FakeTarget>();
    target_ = device.get();
    ASSERT_OK_AND_ASSIGN(
        transport_,
        MmioTransport::Create(
            std::move(device),
            {.view = &ram_.view(), .irq = &irq_, .notify = &binder_}, kAddress,
            {}));
  }
  uint32_t In(uint64_t offset) {
    uint8_t bytes[4] = {};
    transport_->Read(offset, absl::MakeSpan(bytes));
    return base::LoadLe<uint32_t>(bytes);
  }
  void Out(uint64_t offset, uint32_t value) {
    uint8_t bytes[4];
    base::StoreLe<uint32_t>(bytes, value);
    transport_->Write(offset, bytes);
  }
  void Start() {
    for (uint32_t status : {0, 1, 3}) Out(0x70, status);
    Out(0x24, 0);
    Out(0x20, 0x21);
    Out(0x24, 1);
    Out(0x20, 3);
    Out(0x70, 11);
    ASSERT_EQ(In(0x70), 11u);
    driver_ =
        std::make_unique<DriverFake>(ram_, DriverFake::Options{.size = 8});
    Out(0x30, 0);
    Out(0x38, 8);
    uint64_t offset = 0x80;
    for (auto address : {driver_->config().desc, driver_->config().driver,
                         driver_->config().device}) {
      Out(offset, static_cast<uint32_t>(address.value()));
      Out(offset + 4, static_cast<uint32_t>(address.value() >> 32));
      offset += 0x10;
    }
    Out(0x44, 1);
    Out(0x70, 15);
    ASSERT_EQ(In(0x70), 15u);
  }

  FakeRam ram_;
  FakeIrqLine irq_;
  FakeBinder binder_;
  FakeTarget* target_ = nullptr;
  std::unique_ptr<DriverFake> driver_;
  std::shared_ptr<MmioTransport> transport_;
};

TEST_F(MmioTransportTest, DescribesItself) {
  EXPECT_EQ(In(0x00), 0x74726976u);
  EXPECT_EQ(In(0x04), 2u);
  EXPECT_EQ(In(0x08), 42u);
  Out(0x14, 1);
  EXPECT_EQ(In(0x10) & 3, 3u);
  Out(0x30, 1);
  EXPECT_EQ(In(0x34), 16u);
  Out(0x30, 0x10000);  // no such queue, nor queue 0
  EXPECT_EQ(In(0x34), 0u);
  EXPECT_EQ(In(0xb0), UINT32_MAX);
  EXPECT_EQ(In(0x100), 0x04030201u);
  EXPECT_EQ(In(0x1fc), 0u);
}

TEST_F(MmioTransportTest, WorksFromKickToInterrupt) {
  Start();
  EXPECT_EQ(In(0x44), 1u);
  driver_->Offer({{ram_.Alloc(8), 8, true}});
  Out(0x50, 0);
  EXPECT_EQ(transport_->counters().kicks, 1u);
  target_->Serve(0);
  EXPECT_TRUE(irq_.level());
  EXPECT_EQ(In(0x60), 1u);
  EXPECT_TRUE(irq_.level());  // until it is acknowledged
  Out(0x64, 1);
  EXPECT_FALSE(irq_.level());
  Out(0x50, 0x10001);  // a queue beyond 16 bits is none
  EXPECT_EQ(transport_->counters().bad_writes, 1u);
}

TEST_F(MmioTransportTest, BindsNotificationsByValue) {
  ASSERT_EQ(binder_.bound.size(), 2u);
  EXPECT_EQ(binder_.bound[1].address, kAddress + 0x50);
  EXPECT_EQ(binder_.bound[1].width, 4u);
  EXPECT_EQ(binder_.bound[1].value, 1u);
  transport_.reset();
  EXPECT_EQ(binder_.unbound, 2u);
}

TEST_F(MmioTransportTest, WorksWithFewerIoeventfdsOrNone) {
  FakeBinder binder;
  binder.room = 1;
  for (NotifyBinder* notify : {static_cast<NotifyBinder*>(&binder),
                               static_cast<NotifyBinder*>(nullptr)}) {
    auto device = std::make_unique<FakeTarget>();
    target_ = device.get();
    ASSERT_OK_AND_ASSIGN(
        transport_, MmioTransport::Create(
                        std::move(device),
                        {.view = &ram_.view(), .irq = &irq_, .notify = notify},
                        kAddress, {}));
    Start();
    Out(0x50, 1);
    EXPECT_EQ(transport_->counters().kicks, 1u);
  }
  EXPECT_EQ(binder.unbound, 1u);
}

TEST_F(MmioTransportTest, SaysWhoMadeItAndWhetherItsConfigurationChanged) {
  EXPECT_EQ(In(0x0c), 0x4f4c4354u);
  const uint32_t before = In(0xfc);
  target_->config[0] = 77;
  EXPECT_NE(In(0xfc), before);
  EXPECT_EQ(In(0xc0), 0u);  // behind the shared memory's registers
  EXPECT_EQ(In(0x74), 0u);  // no register
}

TEST_F(MmioTransportTest, ASizeBeyondSixteenBitsIsNone) {
  Out(0x30, 0);
  const uint64_t bad = transport_->counters().bad_writes;
  Out(0x38, 0x10008);
  EXPECT_EQ(transport_->counters().bad_writes, bad + 1);
}

TEST_F(MmioTransportTest, HoldsTheDriverUntilTheResetIsDone) {
  Start();
  target_->hold_reset = true;
  std::thread vcpu([&] { Out(0x70, 0); });
  while (transport_->counters().resets < 2) std::this_thread::yield();
  // Registers answer meanwhile, on other vCPUs.
  EXPECT_EQ(In(0x70), 15u);
  target_->reset_done();
  vcpu.join();
  EXPECT_EQ(In(0x70), 0u);
  EXPECT_EQ(In(0x44), 0u);
}

TEST_F(MmioTransportTest, IgnoresAccessesThatAreNoRegisters) {
  Start();
  std::vector<uint8_t> bytes(8, 0xff);
  for (uint64_t offset = 0; offset < 0x100; ++offset) {
    for (size_t width : {1, 2, 3, 8}) {
      transport_->Write(offset, absl::MakeConstSpan(bytes.data(), width));
    }
    if (offset % 4 != 0) Out(offset, ~0u);
  }
  Out(0x88, ~0u);
  Out(0x8c, ~0u);
  EXPECT_EQ(In(0x70), 15u);
  std::vector<uint8_t> byte(1, 0xff);
  transport_->Read(0, absl::MakeSpan(byte));
  EXPECT_EQ(byte[0], 0);
}

}  // namespace
}  // namespace cloister::devices::virtio
