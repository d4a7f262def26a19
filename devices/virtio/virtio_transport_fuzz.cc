// SPDX-License-Identifier: Apache-2.0
//
// A guest that reads and writes whatever it likes at the PCI root, at a virtio
// device's BARs wherever they move, and at a virtio-mmio window, with rings in
// memory that changes its state. Beyond the sanitizers' findings it checks that
// interrupt lines keep their contract and that no lease is left behind.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <utility>

#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "cloister/base/log.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/fake_irq_line.h"
#include "cloister/devices/pci_root.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/driver_fake_target.h"
#include "cloister/devices/virtio/mmio_transport.h"
#include "cloister/devices/virtio/pci_transport.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestAddress;
using memory::kPageSize;
using memory::PageState;

constexpr uint64_t kRamStart = 0x100000;
constexpr uint64_t kRamSize = 32 * kPageSize;
constexpr uint16_t kRegisters = 0x1000;
constexpr uint16_t kNotify = 0x1100;
constexpr uint32_t kMsix = 0xd0000000;
constexpr uint64_t kWindow = 0xd1000000;

void Require(bool condition) {
  if (!condition) std::abort();
}

// Aborts when something is bound twice, or unbound that was not.
class StrictBinder : public NotifyBinder {
 public:
  ~StrictBinder() override { Require(bound_.empty()); }
  absl::Status Bind(const NotifyAddress& address,
                    const base::EventFd& event) override {
    Require(bound_.insert({address.address, event.fd()}).second);
    return absl::OkStatus();
  }
  void Unbind(const NotifyAddress& address,
              const base::EventFd& event) override {
    Require(bound_.erase({address.address, event.fd()}) == 1);
  }

 private:
  std::set<std::pair<uint64_t, int>> bound_;
};

class NullMsi : public MsiSink {
 public:
  void Send(uint64_t, uint32_t) override {}
};

class Machine {
 public:
  Machine() {
    auto root = std::make_shared<PciRoot>();
    PciTransport::Parts parts;
    parts.pio = &pio_;
    parts.mmio = &mmio_;
    parts.view = &ram_.view();
    parts.irq = &irq_;
    parts.notify = &binder_;
    parts.msi = &msi_;
    auto device = std::make_unique<FakeTarget>();
    pci_target_ = device.get();
    auto pci = PciTransport::Create(
        std::move(device), parts,
        {.registers = kRegisters, .notify = kNotify, .msix = kMsix}, {});
    Require(pci.ok() && root->Add(1, *pci).ok());
    pci_ = *std::move(pci);
    Require(pio_.Insert(PciRoot::kPort, PciRoot::kPortCount, root).ok());
    device = std::make_unique<FakeTarget>();
    mmio_target_ = device.get();
    auto mmio = MmioTransport::Create(
        std::move(device),
        {.view = &ram_.view(), .irq = &mmio_irq_, .notify = &binder_}, kWindow,
        {.require_access_platform = true});
    Require(mmio.ok());
    Require(mmio_.Insert(kWindow, MmioTransport::kSize, *mmio).ok());
    // Rings that a driver may as well use.
    for (auto& driver : drivers_) {
      driver = std::make_unique<DriverFake>(ram_, DriverFake::Options{});
    }
  }
  ~Machine() {
    const std::array<uint8_t, 2> off = {};
    pci_->WritePciConfig(4, off);
    pci_.reset();
    Require(pio_.Remove(PciRoot::kPort).ok() && mmio_.Remove(kWindow).ok());
    Require(irq_.redundant() == 0 && mmio_irq_.redundant() == 0);
    Require(ram_.LeasedBytes() == 0);
  }

  void Access(Bus& bus, uint64_t address, size_t width, bool write,
              uint64_t value) {
    std::array<uint8_t, 8> bytes;
    base::StoreLe<uint64_t>(bytes.data(), value);
    if (write) {
      bus.Write(address, absl::MakeConstSpan(bytes.data(), width));
    } else {
      bus.Read(address, absl::MakeSpan(bytes.data(), width));
    }
  }
  Bus& pio() { return pio_; }
  Bus& mmio() { return mmio_; }
  FakeRam& ram() { return ram_; }
  DriverFake& driver(bool mmio) { return *drivers_[mmio ? 1 : 0]; }
  FakeTarget& target(bool mmio) { return mmio ? *mmio_target_ : *pci_target_; }

 private:
  FakeRam ram_{kRamSize, kRamStart};
  FakeIrqLine irq_;
  FakeIrqLine mmio_irq_;
  StrictBinder binder_;
  NullMsi msi_;
  Bus pio_{Bus::Space::kPio, base::Logger::Null()};
  Bus mmio_{Bus::Space::kMmio, base::Logger::Null()};
  std::shared_ptr<PciTransport> pci_;
  FakeTarget* pci_target_ = nullptr;
  FakeTarget* mmio_target_ = nullptr;
  std::array<std::unique_ptr<DriverFake>, 2> drivers_;
};

// Register numbers that a driver's start consists of, so that a byte of input
// suffices for each step of it.
void StartPci(Machine& machine, uint8_t variant) {
  auto out = [&](uint16_t offset, size_t width, uint64_t value) {
    machine.Access(machine.pio(), kRegisters + offset, width, true, value);
  };
  const QueueConfig& rings = machine.driver(false).config();
  for (uint8_t status : {0, 1, 3}) out(0x14, 1, status);
  out(0x08, 4, 1);
  out(0x0c, 4, 3);
  out(0x14, 1, 11);
  out(0x16, 2, 1);
  out(0x18, 2, rings.size);
  uint16_t offset = 0x20;
  for (GuestAddress at : {rings.desc, rings.driver, rings.device}) {
    out(offset, 4, at.value() + (variant == offset ? 1 : 0));
    offset += 8;
  }
  out(0x1c, 2, 1);
  out(0x14, 1, 15);
}

void StartMmio(Machine& machine) {
  auto out = [&](uint64_t offset, uint64_t value) {
    machine.Access(machine.mmio(), kWindow + offset, 4, true, value);
  };
  const QueueConfig& rings = machine.driver(true).config();
  for (uint8_t status : {0, 1, 3}) out(0x70, status);
  out(0x24, 1);
  out(0x20, 3);
  out(0x70, 11);
  out(0x30, 1);
  out(0x38, rings.size);
  uint64_t offset = 0x80;
  for (GuestAddress at : {rings.desc, rings.driver, rings.device}) {
    out(offset, at.value());
    offset += 0x10;
  }
  out(0x44, 1);
  out(0x70, 15);
}

void Step(Machine& machine, absl::Span<const uint8_t> step) {
  const uint8_t op = step[0];
  const bool mmio = (op & 0x80) != 0;
  const bool write = (op & 0x40) != 0;
  const size_t width = size_t{1} << (op >> 4 & 3);
  const uint64_t value = base::LoadLe<uint32_t>(&step[3]);
  const uint64_t at = base::LoadLe<uint16_t>(&step[1]);
  switch (op & 15) {
    case 0:
      return machine.Access(machine.pio(), 0xcf8 + at % 8, width, write, value);
    case 1:  // the address port, and a data port behind it
      machine.Access(machine.pio(), 0xcf8, 4, true, 0x80000800u | (at & 0xff));
      return machine.Access(machine.pio(), 0xcfc + (at >> 8) % 4, width, write,
                            value);
    case 2:
      return machine.Access(machine.pio(), kRegisters + at % 0x200, width,
                            write, value);
    case 3:
      return machine.Access(machine.pio(), at, width, write, value);
    case 4:
      return machine.Access(machine.mmio(), kMsix + at % 0x1000, width, write,
                            value | uint64_t{value} << 32);
    case 5:
      return machine.Access(machine.mmio(), kWindow + at % 0x200, width, write,
                            value);
    case 6:
      return StartPci(machine, step[1]);
    case 7:
      return StartMmio(machine);
    case 8:
      machine.driver(mmio).Offer({DriverFake::Buffer{
          GuestAddress(kRamStart + at), static_cast<uint32_t>(value), write}});
      return;
    case 9:
      machine.driver(mmio).PopUsed();
      return machine.target(mmio).Serve(at % 3);
    case 10:
      return machine.ram().Write(GuestAddress(kRamStart + at),
                                 step.subspan(3, 4));
    case 11:
      return machine.ram().SetState(
          GuestAddress(kRamStart + at % 32 * kPageSize), 1,
          static_cast<PageState>(value % 4));
    case 12:  // only PCI's driver asks whether a reset is done
      machine.target(false).hold_reset = write;
      return;
    case 13: {
      auto done = std::exchange(machine.target(false).reset_done, nullptr);
      if (done) done();
      return;
    }
    default:
      machine.target(mmio).config[at % 8] = step[3];
      if (machine.target(mmio).activation.has_value()) {
        machine.target(mmio).activation->interrupts->SignalConfig();
      }
  }
}

}  // namespace
}  // namespace cloister::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using cloister::devices::virtio::Machine;
  constexpr size_t kStep = 7;
  Machine machine;
  absl::Span<const uint8_t> left(data, size);
  for (int i = 0; i < 256 && left.size() >= kStep; ++i) {
    cloister::devices::virtio::Step(machine, left.subspan(0, kStep));
    left.remove_prefix(kStep);
  }
  return 0;
}
