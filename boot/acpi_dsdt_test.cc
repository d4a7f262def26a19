// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/acpi_dsdt.h"

#include <algorithm>
#include <string>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/memory/guest_address.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Bytes = std::vector<uint8_t>;

AcpiOptions Bare() {
  AcpiOptions options;
  options.rtc = false;
  return options;
}

// How often `part` is in `code`.
int Count(const aml::Code& code, const Bytes& part) {
  int count = 0;
  for (auto at = code.begin();; ++at, ++count) {
    at = std::search(at, code.end(), part.begin(), part.end());
    if (at == code.end()) return count;
  }
}
bool Has(const aml::Code& code, const Bytes& part) {
  return Count(code, part) > 0;
}

// ACPI 6.4, 20.2: what a device's name and its EISA id look like.
Bytes Named(const std::string& name) { return {name.begin(), name.end()}; }
const Bytes kSerialId = {0x0c, 0x41, 0xd0, 0x05, 0x01};
const Bytes kClockId = {0x0c, 0x41, 0xd0, 0x0b, 0x00};
const Bytes kPciId = {0x0c, 0x41, 0xd0, 0x0a, 0x03};

TEST(AcpiDsdtTest, AMachineWithoutDevicesCanSwitchItselfOff) {
  AcpiOptions options = Bare();
  options.s5_sleep_type = 6;
  EXPECT_THAT(
      BuildDsdtCode(options),
      ElementsAre(
          // Name (_S5_, Package (4) {6, 6, 0, 0})
          0x08, '_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0a, 6, 0x0a, 6, 0, 0,
          // Scope (\\_SB_) {}
          0x10, 0x06, '\\', '_', 'S', 'B', '_'));
}

TEST(AcpiDsdtTest, EveryDeviceIsThereIfAskedForAndOnce) {
  AcpiOptions options = Bare();
  EXPECT_FALSE(Has(BuildDsdtCode(options), kClockId));
  options.rtc = true;
  EXPECT_EQ(Count(BuildDsdtCode(options), kClockId), 1);
  EXPECT_FALSE(Has(BuildDsdtCode(options), kSerialId));
  options.serial_ports = {{}, {.port = 0x2f8, .irq = 3}};
  aml::Code code = BuildDsdtCode(options);
  EXPECT_EQ(Count(code, kSerialId), 2);
  EXPECT_TRUE(Has(code, Named("COM1")));
  EXPECT_TRUE(Has(code, Named("COM2")));
  EXPECT_FALSE(Has(code, kPciId));
  options.pci = AcpiPciRoot{.io_first = 0x1000, .io_last = 0xefff};
  EXPECT_EQ(Count(BuildDsdtCode(options), kPciId), 1);
}

TEST(AcpiDsdtTest, SerialPortsHaveTheirPortsAndInterrupt) {
  AcpiOptions options = Bare();
  options.serial_ports = {{.port = 0x2f8, .irq = 3}};
  const aml::Code code = BuildDsdtCode(options);
  // IO (Decode16, 0x2f8, 0x2f8, 1, 8), then IRQNoFlags () {3}: 6.4.2.
  EXPECT_TRUE(Has(code, {0x47, 0x01, 0xf8, 0x02, 0xf8, 0x02, 0x01, 0x08, 0x22,
                         0x08, 0x00}));
}

TEST(AcpiDsdtTest, PciRoutesNameDevicePinAndInterrupt) {
  AcpiOptions options = Bare();
  options.io_apic = AcpiIoApic{};
  options.pci = AcpiPciRoot{.io_first = 0x1000,
                            .io_last = 0xefff,
                            .interrupts = {{.device = 3, .pin = 2, .gsi = 17}}};
  const aml::Code code = BuildDsdtCode(options);
  // Package (4) {0x3ffff, 2, 0, 17}
  EXPECT_TRUE(Has(code, {0x04, 0x0c, 0xff, 0xff, 0x03, 0x00, 0x0a, 0x02, 0x00,
                         0x0a, 0x11}));
  // The window of ports: minimum, maximum, no translation, length.
  EXPECT_TRUE(Has(code, {0x00, 0x10, 0xff, 0xef, 0x00, 0x00, 0x00, 0xe0}));
}

TEST(AcpiDsdtTest, VirtioDevicesLieWhereTheyAre) {
  AcpiOptions options = Bare();
  options.io_apic = AcpiIoApic{};
  options.virtio_mmio = {
      {.registers = *GuestRange::Create(GuestAddress(0xd2000000), 0x1000),
       .gsi = 20},
      {.registers = *GuestRange::Create(GuestAddress(uint64_t{1} << 40), 0x200),
       .gsi = 21,
       .level = true}};
  const aml::Code code = BuildDsdtCode(options);
  EXPECT_TRUE(Has(code, Named("LNRO0005")));
  EXPECT_TRUE(Has(code, Named("VR00")));
  EXPECT_TRUE(Has(code, Named("VR01")));
  // Memory32Fixed (ReadWrite, 0xd2000000, 0x1000)
  EXPECT_TRUE(
      Has(code, {0x86, 0x09, 0x00, 0x01, 0, 0, 0, 0xd2, 0, 0x10, 0, 0}));
  // QWordMemory: minimum 1 << 40, maximum 0x1ff further.
  EXPECT_TRUE(
      Has(code, {0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0x01, 0, 0, 0, 1, 0, 0}));
  // Interrupt: edge (bit 1 of the flags) for the first, level for the second.
  EXPECT_TRUE(Has(code, {0x89, 0x06, 0x00, 0x03, 0x01, 20, 0, 0, 0}));
  EXPECT_TRUE(Has(code, {0x89, 0x06, 0x00, 0x01, 0x01, 21, 0, 0, 0}));
}

void ExpectRefused(const AcpiOptions& options, const char* what) {
  EXPECT_THAT(CheckDsdtOptions(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what)));
}

TEST(AcpiDsdtTest, RefusalsNameTheDevice) {
  AcpiOptions options = Bare();
  EXPECT_OK(CheckDsdtOptions(options));
  options.serial_ports.resize(5);
  ExpectRefused(options, "serial ports: more than 4");
  options = Bare();
  options.serial_ports = {{.port = 0xfff9}};
  ExpectRefused(options, "serial port: the ports wrap");
  options.serial_ports = {{.irq = 16}};
  ExpectRefused(options, "IRQ 16");
  options = Bare();
  options.pci = AcpiPciRoot{.io_first = 0xc00, .io_last = 0xcff};
  ExpectRefused(options, "0xCF8-0xCFF");
  options.pci = AcpiPciRoot{.io_first = 2, .io_last = 1};
  ExpectRefused(options, "ends before it starts");
  options.pci = AcpiPciRoot{.io_first = 0x1000,
                            .io_last = 0x2000,
                            .interrupts = {{.device = 1, .pin = 0, .gsi = 16}}};
  ExpectRefused(options, "PCI device 1 pin 0: interrupt 16");
  options.io_apic = AcpiIoApic{};
  EXPECT_OK(CheckDsdtOptions(options));
  options.pci->interrupts.push_back({.device = 1, .pin = 0, .gsi = 17});
  ExpectRefused(options, "is routed twice");
  options.pci->interrupts = {{.device = 32, .pin = 0, .gsi = 1}};
  ExpectRefused(options, "no such device or pin");
}

}  // namespace
}  // namespace cloister::boot
