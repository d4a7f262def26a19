// SPDX-License-Identifier: Apache-2.0
//
// Drives the legacy devices through a bus with a byte stream: guest accesses of
// every width at every port, mixed with what the host does meanwhile. Beyond
// the sanitizers' findings it checks that each access ends with defined bytes
// and that output and interrupts stay within their contracts.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/devices/acpi_pm.h"
#include "cloister/devices/boot_marker.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/i8042.h"
#include "cloister/devices/irq_line.h"
#include "cloister/devices/rtc.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/system_ports.h"

namespace cloister::devices {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

// Aborts on a level that is set twice.
class StrictIrqLine : public IrqLine {
 public:
  void SetLevel(bool asserted) override {
    Require(asserted != level_);
    level_ = asserted;
  }
  void Pulse() override { std::abort(); }

 private:
  bool level_ = false;
};

class StingySink : public SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    Require(!bytes.empty() && bytes.size() <= Serial::kFifoSize);
    const size_t taken = bytes.size() < room ? bytes.size() : room;
    room -= taken;
    return taken;
  }
  size_t room = 0;
};

// The machine and what its host does.
class Machine {
 public:
  Machine() {
    Insert(0x3f8, Serial::kPortCount, serial_.get());
    Insert(0x70, Rtc::kPortCount, &rtc_);
    Insert(0x60, 1, &i8042_.data_port());
    Insert(0x64, 1, &i8042_.command_port());
    Insert(0x61, Port61::kPortCount, &port61_);
    Insert(0x92, Port92::kPortCount, &port92_);
    Insert(0x600, AcpiPm::kPortCount, &pm_);
    Insert(0x5f0, BootMarker::kPortCount, &marker_);
  }

  void Host(uint8_t action, uint8_t value) {
    const std::array<uint8_t, 3> typed = {value, 1, 2};
    switch (action % 8) {
      case 0:
        serial_->Enqueue(typed);
        break;
      case 1:
        serial_->SendBreak();
        break;
      case 2:
        sink_.room = value % 20;
        serial_->OnSinkWritable();
        break;
      case 3:
        i8042_.SendCtrlAltDel();
        break;
      case 4:
        pm_.PressPowerButton();
        break;
      case 5:
        pm_.RaiseGpe(value);
        break;
      case 6:
        now_ += static_cast<int64_t>(value) << (value % 32);
        break;
      default:
        (void)bus_.Move(port_, uint64_t{value} << 8);
        (void)bus_.Move(uint64_t{value} << 8, port_);
    }
  }

  void Guest(bool write, uint16_t port, uint8_t width, const uint8_t* bytes) {
    port_ = port;
    std::array<uint8_t, 8> data = {};
    const auto span = absl::MakeSpan(data).subspan(0, size_t{1} << width);
    for (size_t i = 0; i < span.size(); ++i) span[i] = bytes[i % 2];
    if (write) {
      bus_.Write(port, span);
    } else if (!bus_.Read(port, span)) {
      for (uint8_t byte : span) Require(byte == 0xff);
    }
  }

 private:
  void Insert(uint64_t port, uint64_t size, BusDevice* device) {
    // The machine outlives its bus.
    auto unowned = std::shared_ptr<BusDevice>(std::shared_ptr<void>(), device);
    Require(bus_.Insert(port, size, std::move(unowned)).ok());
  }

  int64_t now_ = 0;
  uint16_t port_ = 0;
  StingySink sink_;
  StrictIrqLine irq4_, irq1_, sci_;
  std::unique_ptr<Serial> serial_ = std::make_unique<Serial>(
      Serial::Options{"serial0", [this] { serial_->Enqueue({}); }}, sink_,
      irq4_);
  Rtc rtc_{{[this] { return now_; }, 1ull << 30, 1ull << 33}};
  I8042 i8042_{{[] {}}, irq1_};
  Port61 port61_;
  Port92 port92_{[] {}};
  AcpiPm pm_{{5, 1, false, [this] { return std::chrono::nanoseconds(now_); },
              [] {}, [] {}},
             sci_};
  BootMarker marker_{
      {-1, [](uint8_t, std::chrono::steady_clock::time_point) {}}};
  Bus bus_{Bus::Space::kPio, base::Logger::Null()};
};

// One step is five bytes: what, port, two bytes of data. Ports are folded onto
// the neighbourhoods where devices are.
uint16_t FoldPort(uint8_t high, uint8_t low) {
  switch (high % 8) {
    case 0:
      return static_cast<uint16_t>(high << 8 | low);
    case 1:
    case 2:
    case 3:
      return static_cast<uint16_t>(0x3f4 + low % 16);
    case 4:
    case 5:
      return static_cast<uint16_t>(0x5f0 + low % 0x28);
    default:
      return static_cast<uint16_t>(0x5c + low % 0x38);
  }
}

}  // namespace
}  // namespace cloister::devices

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cloister::devices::Machine machine;
  for (; size >= 5; data += 5, size -= 5) {
    if (data[0] & 0x80) {
      machine.Host(data[1], data[2]);
    } else {
      machine.Guest(data[0] & 0x40,
                    cloister::devices::FoldPort(data[1], data[2]), data[0] % 4,
                    data + 3);
    }
  }
  return 0;
}
