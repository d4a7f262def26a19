// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/pci_transport.h"

#include <map>
#include <memory>
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

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr uint16_t kRegisters = 0x1200;
constexpr uint16_t kNotify = 0x1300;
constexpr uint32_t kMsix = 0xd0001000;

class FakeBinder : public NotifyBinder {
 public:
  absl::Status Bind(const NotifyAddress& address,
                    const base::EventFd& event) override {
    if (fail) return absl::UnavailableError("no ioeventfds");
    EXPECT_EQ(address.width, 2u);
    EXPECT_TRUE(bound.emplace(address.address, event.fd()).second);
    return absl::OkStatus();
  }
  void Unbind(const NotifyAddress& address,
              const base::EventFd& event) override {
    EXPECT_EQ(bound[address.address], event.fd());
    bound.erase(address.address);
  }
  bool fail = false;
  std::map<uint64_t, int> bound;
};

class FakeMsi : public MsiSink {
 public:
  void Send(uint64_t address, uint32_t data) override {
    sent.push_back({address, data});
  }
  std::vector<std::pair<uint64_t, uint32_t>> sent;
};

class PciTransportTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(/*msix=*/true); }
  void TearDown() override { TakeAway(); }
  // Off the buses, which would keep it.
  void TakeAway() {
    if (transport_ != nullptr) SetConfig<uint16_t>(4, 0);
    transport_.reset();
    EXPECT_TRUE(binder_.bound.empty());
  }
  void Make(bool msix) {
    TakeAway();
    PciTransport::Parts parts;
    parts.pio = &pio_;
    parts.mmio = &mmio_;
    parts.view = &ram_.view();
    parts.irq = &irq_;
    parts.notify = &binder_;
    if (msix) parts.msi = &msi_;
    auto device = std::make_unique<FakeTarget>();
    target_ = device.get();
    ASSERT_OK_AND_ASSIGN(transport_,
                         PciTransport::Create(std::move(device), parts,
                                              {.registers = kRegisters,
                                               .notify = kNotify,
                                               .msix = kMsix,
                                               .irq_line = 10},
                                              {}));
  }

  template <typename T>
  T In(uint64_t port) {
    uint8_t bytes[sizeof(T)] = {};
    pio_.Read(port, absl::MakeSpan(bytes));
    return base::LoadLe<T>(bytes);
  }
  template <typename T>
  void Out(uint64_t port, T value) {
    uint8_t bytes[sizeof(T)];
    base::StoreLe<T>(bytes, value);
    pio_.Write(port, bytes);
  }
  template <typename T>
  T Config(uint32_t offset) {
    uint8_t bytes[sizeof(T)] = {};
    transport_->ReadPciConfig(offset, absl::MakeSpan(bytes));
    return base::LoadLe<T>(bytes);
  }
  template <typename T>
  void SetConfig(uint32_t offset, T value) {
    uint8_t bytes[sizeof(T)];
    base::StoreLe<T>(bytes, value);
    transport_->WritePciConfig(offset, bytes);
  }
  void SetMsix(uint64_t offset, uint32_t value) {
    uint8_t bytes[4];
    base::StoreLe<uint32_t>(bytes, value);
    mmio_.Write(kMsix + offset, bytes);
  }
  // The capability with that type, or MSI-X for 0.
  uint32_t FindCapability(uint8_t type) {
    uint32_t at = Config<uint8_t>(0x34);
    for (int i = 0; at != 0 && i < 16; ++i) {
      const uint8_t id = Config<uint8_t>(at);
      if (type == 0 ? id == 0x11
                    : id == 0x09 && Config<uint8_t>(at + 3) == type) {
        return at;
      }
      at = Config<uint8_t>(at + 1);
    }
    return 0;
  }

  // What a driver does, by the common registers.
  void Start(uint16_t queue_vector = 0xffff, uint16_t config_vector = 0xffff) {
    const uint16_t base = kRegisters;
    Out<uint8_t>(base + 0x14, 0);
    for (uint8_t status : {1, 3}) Out<uint8_t>(base + 0x14, status);
    Out<uint32_t>(base + 0x08, 0);
    Out<uint32_t>(base + 0x0c, 0x21);
    Out<uint32_t>(base + 0x08, 1);
    Out<uint32_t>(base + 0x0c, 3);
    Out<uint8_t>(base + 0x14, 11);
    ASSERT_EQ(In<uint8_t>(base + 0x14), 11);
    driver_ =
        std::make_unique<DriverFake>(ram_, DriverFake::Options{.size = 16});
    Out<uint16_t>(base + 0x10, config_vector);
    Out<uint16_t>(base + 0x16, 1);
    Out<uint16_t>(base + 0x18, 16);
    Out<uint16_t>(base + 0x1a, queue_vector);
    const QueueConfig& config = driver_->config();
    uint16_t port = base + 0x20;
    for (auto address : {config.desc, config.driver, config.device}) {
      Out<uint32_t>(port, static_cast<uint32_t>(address.value()));
      Out<uint32_t>(port + 4, static_cast<uint32_t>(address.value() >> 32));
      port += 8;
    }
    Out<uint16_t>(base + 0x1c, 1);
    Out<uint8_t>(base + 0x14, 15);
    ASSERT_EQ(In<uint8_t>(base + 0x14), 15);
  }
  void OneRequest() {
    driver_->Offer({{ram_.Alloc(8), 8, true}});
    target_->Serve(1);
    EXPECT_TRUE(driver_->PopUsed().has_value());
  }

  FakeRam ram_;
  Bus pio_{Bus::Space::kPio, base::Logger::Null()};
  Bus mmio_{Bus::Space::kMmio, base::Logger::Null()};
  FakeIrqLine irq_;
  FakeBinder binder_;
  FakeMsi msi_;
  FakeTarget* target_ = nullptr;
  std::unique_ptr<DriverFake> driver_;
  std::shared_ptr<PciTransport> transport_;
};

TEST_F(PciTransportTest, DescribesItself) {
  EXPECT_EQ(Config<uint32_t>(0), 0x1af4u | (0x1040 + 42) << 16);
  EXPECT_EQ(Config<uint8_t>(8), 1);      // modern
  EXPECT_EQ(Config<uint8_t>(0x3d), 1);   // INTA
  EXPECT_EQ(Config<uint8_t>(0x3c), 10);  // where
  for (uint8_t type : {1, 2, 3, 4, 5, 0}) {
    EXPECT_NE(FindCapability(type), 0u) << int{type};
  }
  // Everything but MSI-X is in port BARs.
  for (uint8_t type : {1, 2, 3, 4}) {
    const uint8_t bar = Config<uint8_t>(FindCapability(type) + 4);
    EXPECT_EQ(Config<uint32_t>(0x10 + 4 * bar) & 1, 1u) << int{type};
  }
}

TEST_F(PciTransportTest, ReadsBackItsRegisters) {
  Start();
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x12), 2);   // queues
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x16), 1);   // selected
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x18), 16);  // size
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x1c), 1);   // enabled
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x1e), 1);   // notify
  EXPECT_EQ(In<uint32_t>(kRegisters + 0x20), driver_->config().desc.value());
  EXPECT_EQ(In<uint32_t>(kRegisters + 0x30), driver_->config().device.value());
  EXPECT_EQ(In<uint32_t>(kRegisters + 0x0c), 3u);
  EXPECT_EQ(In<uint32_t>(kRegisters + 0x00), 0u);
  EXPECT_EQ(In<uint32_t>(kRegisters + 0x04) & 0x21, 0x21u);
  Out<uint16_t>(kRegisters + 0x16, 99);
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x18), 0);  // no such queue
  Out<uint32_t>(kRegisters + 0x51, 0xaabbccdd);
  EXPECT_EQ(target_->config[1], 0xdd);
  EXPECT_EQ(In<uint32_t>(kRegisters + 0x50), 0xbbccdd01u);
}

TEST_F(PciTransportTest, InterruptsByLineUntilTheStatusIsRead) {
  Start();
  OneRequest();
  EXPECT_TRUE(irq_.level());
  EXPECT_NE(Config<uint16_t>(6) & 8, 0);
  OneRequest();
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x40), 1);
  EXPECT_FALSE(irq_.level());
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x40), 0);
  target_->activation->interrupts->SignalConfig();
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x40), 2);
  EXPECT_EQ(irq_.redundant(), 0);
  OneRequest();
  SetConfig<uint16_t>(4, 0x407);  // INTx off, on
  EXPECT_FALSE(irq_.level());
  SetConfig<uint16_t>(4, 7);
  EXPECT_TRUE(irq_.level());
  Out<uint8_t>(kRegisters + 0x14, 0);
  EXPECT_FALSE(irq_.level());
}

TEST_F(PciTransportTest, InterruptsByMessage) {
  const uint32_t msix = FindCapability(0);
  EXPECT_EQ(Config<uint16_t>(msix + 2), 2);  // three vectors
  SetConfig<uint16_t>(msix + 2, 0x8000);
  for (uint32_t vector = 0; vector < 3; ++vector) {
    SetMsix(vector * 16, 0xfee00000);
    SetMsix(vector * 16 + 8, 0x40 + vector);
    SetMsix(vector * 16 + 12, 0);
  }
  Start(/*queue_vector=*/2, /*config_vector=*/0);
  OneRequest();
  target_->activation->interrupts->SignalConfig();
  EXPECT_THAT(msi_.sent,
              ElementsAre(Pair(0xfee00000, 0x42), Pair(0xfee00000, 0x40)));
  EXPECT_FALSE(irq_.level());
  // A masked vector waits.
  msi_.sent.clear();
  SetMsix(2 * 16 + 12, 1);
  OneRequest();
  EXPECT_TRUE(msi_.sent.empty());
  SetMsix(2 * 16 + 12, 0);
  EXPECT_THAT(msi_.sent, ElementsAre(Pair(0xfee00000, 0x42)));
  // So do all under the function mask; a reset forgets them.
  msi_.sent.clear();
  SetConfig<uint16_t>(msix + 2, 0xc000);
  OneRequest();
  Out<uint8_t>(kRegisters + 0x14, 0);
  SetConfig<uint16_t>(msix + 2, 0x8000);
  EXPECT_TRUE(msi_.sent.empty());
}

TEST_F(PciTransportTest, KnowsOnlyItsVectors) {
  Out<uint16_t>(kRegisters + 0x10, 2);
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x10), 2);
  Out<uint16_t>(kRegisters + 0x10, 3);
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x10), 0xffff);
  Make(/*msix=*/false);
  EXPECT_EQ(FindCapability(0), 0u);
  Out<uint16_t>(kRegisters + 0x10, 0);
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x10), 0xffff);
  Start(0, 0);
  OneRequest();
  EXPECT_TRUE(irq_.level());
}

TEST_F(PciTransportTest, BindsNotificationsWhereverTheBarIs) {
  EXPECT_THAT(binder_.bound, ::testing::SizeIs(2));
  EXPECT_TRUE(binder_.bound.contains(kNotify + 4));
  SetConfig<uint32_t>(0x14, 0x4000);
  EXPECT_TRUE(binder_.bound.contains(0x4000));
  EXPECT_FALSE(binder_.bound.contains(kNotify));
  Start();
  Out<uint16_t>(0x4004, 1);  // as an exit
  EXPECT_EQ(target_->activation->queues[0].kick->Drain(), 1u);
  SetConfig<uint16_t>(4, 0);
  EXPECT_TRUE(binder_.bound.empty());
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x14), 0xff);
  SetConfig<uint16_t>(4, 7);
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x14), 15);
  EXPECT_THAT(binder_.bound, ::testing::SizeIs(2));
}

TEST_F(PciTransportTest, SurvivesABarOnTopOfAnother) {
  SetConfig<uint32_t>(0x14, kRegisters);  // notifications over the registers
  EXPECT_TRUE(binder_.bound.empty());
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x12), 2);
  SetConfig<uint32_t>(0x14, kNotify);
  EXPECT_THAT(binder_.bound, ::testing::SizeIs(2));
}

TEST_F(PciTransportTest, WorksWithoutIoeventfds) {
  binder_.fail = true;
  SetConfig<uint32_t>(0x14, 0x4000);
  Start();
  Out<uint16_t>(0x4004, 1);
  EXPECT_EQ(target_->activation->queues[0].kick->Drain(), 1u);
  Out<uint16_t>(0x40fc, 1);  // no such queue
  EXPECT_EQ(transport_->counters().bad_writes, 1u);
}

TEST_F(PciTransportTest, ReachesRegistersThroughConfigurationSpace) {
  const uint32_t cap = FindCapability(5);
  auto select = [&](uint8_t bar, uint32_t offset, uint32_t length) {
    SetConfig<uint8_t>(cap + 4, bar);
    SetConfig<uint32_t>(cap + 8, offset);
    SetConfig<uint32_t>(cap + 12, length);
  };
  select(0, 0x14, 1);
  SetConfig<uint8_t>(cap + 16, 1);
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x14), 1);
  EXPECT_EQ(Config<uint8_t>(cap + 16), 1);
  select(0, 0x12, 2);
  EXPECT_EQ(Config<uint16_t>(cap + 16), 2);
  select(1, 4, 2);
  SetConfig<uint16_t>(cap + 16, 1);
  EXPECT_EQ(transport_->counters().kicks, 1u);
  EXPECT_EQ(Config<uint16_t>(cap + 16), 0);
  // Accesses that are none.
  for (auto [bar, offset, length] :
       {std::tuple<uint8_t, uint32_t, uint32_t>{2, 0, 4},
        {0, 0xffffffff, 1},
        {0, 256, 4},
        {0, 0x12, 3},
        {0, 0x12, 0},
        {0, 0x12, 0x80000000},
        {0, 0x13, 2},
        {255, 0, 4}}) {
    select(bar, offset, length);
    SetConfig<uint32_t>(cap + 16, 0x5a5a5a5a);
    EXPECT_EQ(Config<uint32_t>(cap + 16), 0x5a5a5a5au);
  }
}

TEST_F(PciTransportTest, IgnoresAccessesThatAreNoRegisters) {
  Start();
  for (uint64_t offset = 0; offset < 256; ++offset) {
    if (offset == 0x14 || (offset & ~3u) == 0x40) continue;
    Out<uint64_t>(kRegisters + (offset & ~7u), ~uint64_t{0});
    std::vector<uint8_t> three(3, 0xff);
    pio_.Write(kRegisters + std::min<uint64_t>(offset, 253), three);
    In<uint64_t>(kRegisters + (offset & ~7u));
  }
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x14), 15);
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x18), 16);
}

TEST_F(PciTransportTest, ReadsNothingOfAQueueThatThereIsNot) {
  Out<uint16_t>(kRegisters + 0x16, 1);
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x1c), 0);
  Out<uint16_t>(kRegisters + 0x1c, 2);  // only ever 1
  EXPECT_EQ(In<uint16_t>(kRegisters + 0x1c), 0);
  for (uint16_t queue : {2, 63, 64, 0xffff}) {
    Out<uint16_t>(kRegisters + 0x16, queue);
    Out<uint16_t>(kRegisters + 0x1a, 0);
    EXPECT_EQ(In<uint16_t>(kRegisters + 0x1a), 0xffff) << queue;
    EXPECT_EQ(In<uint16_t>(kRegisters + 0x1e), 0) << queue;
    EXPECT_EQ(In<uint16_t>(kRegisters + 0x18), 0) << queue;
  }
}

TEST_F(PciTransportTest, TakesTheStatusAsAByte) {
  Start();
  Out<uint16_t>(kRegisters + 0x14, 0);
  Out<uint32_t>(kRegisters + 0x14, 0);
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x14), 15);
}

TEST_F(PciTransportTest, InterruptsForNoQueueThatThereIsNot) {
  Start();
  target_->activation->interrupts->SignalQueue(64);
  target_->activation->interrupts->SignalQueue(0xffff);
  EXPECT_FALSE(irq_.level());
}

TEST_F(PciTransportTest, InterruptsForTheConfigurationByLine) {
  Make(/*msix=*/false);
  Start();
  target_->activation->interrupts->SignalConfig();
  EXPECT_TRUE(irq_.level());
  EXPECT_EQ(In<uint8_t>(kRegisters + 0x40), 2);
}

TEST_F(PciTransportTest, NoMessagesWithoutAPlaceForTheirTable) {
  TakeAway();
  PciTransport::Parts parts;
  parts.pio = &pio_;
  parts.view = &ram_.view();
  parts.irq = &irq_;
  parts.msi = &msi_;
  ASSERT_OK_AND_ASSIGN(
      transport_,
      PciTransport::Create(std::make_unique<FakeTarget>(), parts,
                           {.registers = kRegisters, .notify = kNotify}, {}));
  EXPECT_EQ(FindCapability(0), 0u);
}

TEST_F(PciTransportTest, SaysWhatClassOfDeviceItIs) {
  class Typed : public FakeTarget {
   public:
    explicit Typed(uint32_t type) : type_(type) {}
    uint32_t type() const override { return type_; }

   private:
    const uint32_t type_;
  };
  const std::pair<uint32_t, uint32_t> classes[] = {{1, 0x020000},
                                                   {2, 0x018000},
                                                   {3, 0x078000},
                                                   {19, 0x078000},
                                                   {4, 0xff0000}};
  for (const auto& [type, code] : classes) {
    TakeAway();
    PciTransport::Parts parts;
    parts.pio = &pio_;
    parts.view = &ram_.view();
    parts.irq = &irq_;
    ASSERT_OK_AND_ASSIGN(
        transport_,
        PciTransport::Create(std::make_unique<Typed>(type), parts,
                             {.registers = kRegisters, .notify = kNotify}, {}));
    EXPECT_EQ(Config<uint16_t>(2), 0x1040 + type);
    EXPECT_EQ(Config<uint32_t>(8) >> 8, code) << type;
  }
}

TEST_F(PciTransportTest, RefusesNotificationPortsInUse) {
  PciTransport::Parts parts;
  parts.pio = &pio_;
  parts.view = &ram_.view();
  parts.irq = &irq_;
  parts.mmio = &mmio_;
  parts.msi = &msi_;
  EXPECT_THAT(
      PciTransport::Create(
          std::make_unique<FakeTarget>(), parts,
          {.registers = 0x6000, .notify = kNotify, .msix = kMsix + 0x10000},
          {}),
      base::StatusIs(absl::StatusCode::kAlreadyExists));
  // Nothing of it is left where it was put first.
  EXPECT_EQ(In<uint32_t>(0x6000), ~0u);
}

TEST_F(PciTransportTest, RefusesPortsInUse) {
  PciTransport::Parts parts;
  parts.pio = &pio_;
  parts.view = &ram_.view();
  parts.irq = &irq_;
  EXPECT_THAT(
      PciTransport::Create(std::make_unique<FakeTarget>(), parts,
                           {.registers = kRegisters, .notify = 0x6000}, {}),
      base::StatusIs(absl::StatusCode::kAlreadyExists,
                     ::testing::HasSubstr("fake0")));
}

}  // namespace
}  // namespace cloister::devices::virtio
