// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/platform.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "cloister/base/log.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/vmm/layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class StringSink : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    text.append(bytes.begin(), bytes.end());
    return bytes.size();
  }
  std::string text;
};

// The machine of a VM that a scripted KVM made; the test is the guest.
class PlatformTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(kvm::System system, kvm::System::Open(fake_));
    ASSERT_OK_AND_ASSIGN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
    vm_.emplace(std::move(vm));
    PlatformOptions options;
    options.ram_below_4gib = uint64_t{512} << 20;
    options.ram_above_4gib = uint64_t{3} << 30;
    auto note = [this](const char* what) {
      return [this, what] { events_.emplace_back(what); };
    };
    options.events.on_power_off = note("power off");
    options.events.on_reset = note("reset");
    options.events.on_console_room = note("room");
    options.events.on_boot_marker =
        [this](uint8_t value, std::chrono::steady_clock::time_point) {
          events_.push_back("marker " + std::to_string(value));
        };
    options.events.on_shim_status = [this](uint8_t status) {
      events_.push_back("shim " + std::to_string(status));
    };
    ASSERT_OK_AND_ASSIGN(platform_, Platform::Create(*vm_, console_, options,
                                                     base::Logger::Null()));
  }

  uint8_t In(uint16_t port) {
    uint8_t value = 0;
    platform_->pio().Read(port, absl::MakeSpan(&value, 1));
    return value;
  }
  void Out(uint16_t port, uint8_t value) {
    platform_->pio().Write(port, absl::MakeConstSpan(&value, 1));
  }
  void Out16(uint16_t port, uint16_t value) {
    const uint8_t bytes[] = {static_cast<uint8_t>(value),
                             static_cast<uint8_t>(value >> 8)};
    platform_->pio().Write(port, bytes);
  }
  uint8_t Cmos(uint8_t index) {
    Out(kRtcPort, index);
    return In(kRtcPort + 1);
  }
  // The interrupts that were raised, by number.
  std::vector<uint32_t> Raised() const {
    std::vector<uint32_t> lines;
    for (const auto& call : fake_.CallsOf(kvm::Requests::kIrqLine)) {
      if (base::LoadLe<uint32_t>(&call.data[4]) == 1) {
        lines.push_back(base::LoadLe<uint32_t>(&call.data[0]));
      }
    }
    return lines;
  }

  kvm::FakeKvm fake_;
  std::optional<kvm::Vm> vm_;
  StringSink console_;
  std::vector<std::string> events_;
  std::unique_ptr<Platform> platform_;
};

TEST_F(PlatformTest, TheSerialPortIsWhereLinuxLooksForIt) {
  for (char c : std::string("hello")) Out(0x3f8, static_cast<uint8_t>(c));
  EXPECT_EQ(console_.text, "hello");
  // With interrupts on, input raises line 4.
  Out(0x3f8 + 4, 8);  // OUT2
  Out(0x3f8 + 1, 1);  // received data
  const uint8_t key = 'k';
  EXPECT_EQ(platform_->serial().Enqueue(absl::MakeConstSpan(&key, 1)), 1u);
  EXPECT_THAT(Raised(), ElementsAre(4));
  EXPECT_EQ(In(0x3f8), 'k');
}

TEST_F(PlatformTest, TheClockKnowsTheMemory) {
  // KiB above 1 MiB, at most 65535; 64 KiB above 16 MiB; 64 KiB above 4 GiB.
  EXPECT_EQ(Cmos(0x34) | Cmos(0x35) << 8, (512 - 16) * 16);
  EXPECT_EQ(Cmos(0x5b) | Cmos(0x5c) << 8 | Cmos(0x5d) << 16, 3 << 14);
}

TEST_F(PlatformTest, EveryWayToResetIsThere) {
  Out(0x64, 0xfe);  // keyboard controller
  EXPECT_THAT(events_, ElementsAre("reset"));
  events_.clear();
  Out(0x92, 1);  // system control port A
  EXPECT_THAT(events_, ElementsAre("reset"));
  events_.clear();
  const boot::AcpiOptions acpi = MakeAcpiOptions({0}, /*io_apic=*/true);
  ASSERT_TRUE(acpi.reset.has_value());
  Out(acpi.reset->port, acpi.reset->value);
  EXPECT_THAT(events_, ElementsAre("reset"));
}

TEST_F(PlatformTest, AcpiSwitchesItOffWhereTheTablesSay) {
  const boot::AcpiOptions acpi = MakeAcpiOptions({0}, /*io_apic=*/true);
  const uint16_t sleep =
      static_cast<uint16_t>(acpi.s5_sleep_type << 10 | 0x2000);
  Out16(acpi.pm.pm1_control, sleep & ~0x2000);
  EXPECT_THAT(events_, IsEmpty()) << "without SLP_EN";
  Out16(acpi.pm.pm1_control, sleep);
  EXPECT_THAT(events_, ElementsAre("power off"));
  // The power button raises the SCI once the guest wants it (PM1_EN bit 8).
  Out16(acpi.pm.pm1_event + 2, 0x100);
  platform_->power().PressPowerButton();
  EXPECT_THAT(Raised(), ElementsAre(acpi.sci_irq));
}

TEST_F(PlatformTest, MarkersAndVerdictsAreTold) {
  Out(kBootMarkerPort, kInitReached);
  Out(shim::kStatusPort, 0x5a);
  EXPECT_THAT(events_, ElementsAre("marker 123", "shim 90"));
}

TEST_F(PlatformTest, TheKeyboardTypesOnLineOne) {
  // Command byte: interrupt and translation on, keyboard enabled.
  Out(0x64, 0x60);
  Out(0x60, 0x41);
  Out(0x60, 0xf4);  // enable scanning
  EXPECT_EQ(In(0x60), 0xfa);
  EXPECT_TRUE(platform_->keyboard().SendCtrlAltDel());
  EXPECT_THAT(Raised(), ::testing::Contains(1u));
}

TEST_F(PlatformTest, TheRestIsEmpty) {
  EXPECT_EQ(In(0x2f8), 0xff);
  uint8_t bytes[4] = {};
  EXPECT_FALSE(platform_->mmio().Read(0xfec00000, absl::MakeSpan(bytes)));
  EXPECT_THAT(bytes, ElementsAre(0xff, 0xff, 0xff, 0xff));
  EXPECT_FALSE(platform_->pio().Read(0xcf8, absl::MakeSpan(bytes, 1)));
}

}  // namespace
}  // namespace cloister::vmm
