// SPDX-License-Identifier: Apache-2.0
//
// Where a guest finds its devices; what they do is their own tests' affair.
#include "cloister/vmm/virtio_devices.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "cloister/base/log.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/pci_root.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vm.h"
#include "cloister/vmm/device_config.h"
#include "cloister/vmm/layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using base::StatusIs;
using devices::Bus;
using devices::PciRoot;

// Virtio 1.3, 4.1.2 and 4.2.2; PCI 3.0, 6.7 and 6.8.2.
constexpr uint32_t kPciVendor = 0x1af4, kPciEntropy = 0x1044,
                   kMmioMagic = 0x74726976, kMmioEntropy = 4;
constexpr uint8_t kCapabilities = 0x34, kMsix = 0x11;

class NoConsole : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    return bytes.size();
  }
};

class VirtioDevicesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(kvm::System system, kvm::System::Open(fake_));
    ASSERT_OK_AND_ASSIGN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
    vm_.emplace(std::move(vm));
    config_.rng.emplace();
  }
  VirtioDevices::Parts Parts() {
    VirtioDevices::Parts parts;
    parts.vm = &*vm_;
    parts.pio = &pio_;
    parts.mmio = &mmio_;
    parts.view = &ram_.view();
    parts.ram = ram_.range().size();
    parts.console = &console_;
    return parts;
  }
  void Make(VirtioDevices::Parts parts) {
    ASSERT_OK_AND_ASSIGN(devices_,
                         VirtioDevices::Create(config_, std::move(parts)));
  }

  static uint32_t Read(Bus& bus, uint64_t address) {
    uint8_t data[4] = {};
    bus.Read(address, absl::MakeSpan(data));
    return base::LoadLe<uint32_t>(data);
  }
  // A register of the configuration space, by 0xCF8 and 0xCFC.
  uint32_t Config(int slot, uint8_t reg) {
    uint8_t address[4] = {};
    base::StoreLe<uint32_t>(address, 0x80000000u | slot << 11 | (reg & ~3u));
    pio_.Write(PciRoot::kPort, address);
    return Read(pio_, PciRoot::kPort + 4);
  }
  std::set<uint8_t> Capabilities(int slot) {
    std::set<uint8_t> ids;
    uint8_t at = Config(slot, kCapabilities) & 0xff;
    for (int i = 0; at != 0 && i < 48; ++i) {
      const uint32_t head = Config(slot, at) >> (at % 4 * 8);
      ids.insert(head & 0xff);
      at = head >> 8 & 0xff;
    }
    return ids;
  }

  kvm::FakeKvm fake_;
  std::optional<kvm::Vm> vm_;
  devices::virtio::FakeRam ram_;
  NoConsole console_;
  DevicesConfig config_;
  std::unique_ptr<VirtioDevices> devices_;
  // Gone before the devices.
  Bus pio_{Bus::Space::kPio, base::Logger::Null()};
  Bus mmio_{Bus::Space::kMmio, base::Logger::Null()};
};

class Nothing : public devices::BusDevice {
 public:
  absl::string_view name() const override { return "nothing"; }
  void Read(uint64_t, absl::Span<uint8_t>) override {}
  void Write(uint64_t, absl::Span<const uint8_t>) override {}
};

TEST_F(VirtioDevicesTest, WithoutDevicesThereIsNoBus) {
  config_ = {};
  Make(Parts());
  EXPECT_EQ(Config(0, 0), 0xffffffff);
  EXPECT_TRUE(devices_->counters().empty());
  EXPECT_EQ(devices_->console(), nullptr);
}

TEST_F(VirtioDevicesTest, OnPciEachHasASlot) {
  Make(Parts());
  EXPECT_EQ(Config(1, 0), kPciEntropy << 16 | kPciVendor);
  EXPECT_EQ(Config(2, 0), 0xffffffff);
  EXPECT_EQ(Capabilities(1).count(kMsix), 1u);
  EXPECT_EQ(devices_->counters().size(), 1u);
}

TEST_F(VirtioDevicesTest, MsixNeedsMemoryMappedRegisters) {
  VirtioDevices::Parts parts = Parts();
  parts.confidential = true;
  parts.msi_x = false;
  Make(std::move(parts));
  EXPECT_EQ(Config(1, 0), kPciEntropy << 16 | kPciVendor);
  EXPECT_EQ(Capabilities(1).count(kMsix), 0u);
  EXPECT_GT(Capabilities(1).size(), 0u);
}

TEST_F(VirtioDevicesTest, BehindMemoryEachHasAPage) {
  config_.transport = VirtioTransport::kMmio;
  Make(Parts());
  const uint64_t at = PlaceVirtioMmio(0, /*io_apic=*/true).address;
  EXPECT_EQ(Read(mmio_, at), kMmioMagic);
  EXPECT_EQ(Read(mmio_, at + 8), kMmioEntropy);
  EXPECT_EQ(Config(0, 0), 0xffffffff) << "no PCI";
}

// The buses outlive these devices, and have nothing of them any more.
TEST_F(VirtioDevicesTest, PlacesThatAreTakenAreAnErrorThatLeavesNothing) {
  const VirtioPciPlace place = PlaceVirtioPci(1, /*io_apic=*/true);
  uint8_t byte[1];
  ASSERT_OK(pio_.Insert(PciRoot::kPort, 1, std::make_shared<Nothing>()));
  EXPECT_THAT(VirtioDevices::Create(config_, Parts()).status(),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_FALSE(pio_.Read(place.registers, byte));
  EXPECT_FALSE(pio_.Read(place.notify, byte));

  config_.transport = VirtioTransport::kMmio;
  config_.console.emplace();
  const uint64_t first = PlaceVirtioMmio(0, true).address;
  ASSERT_OK(mmio_.Insert(PlaceVirtioMmio(1, true).address, 1,
                         std::make_shared<Nothing>()));
  EXPECT_THAT(VirtioDevices::Create(config_, Parts()).status(),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_FALSE(mmio_.Read(first, byte));
}

}  // namespace
}  // namespace cloister::vmm
