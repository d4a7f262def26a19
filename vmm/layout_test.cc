// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/layout.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/devices/acpi_pm.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using confidential::BackendChoice;
using confidential::BackendKind;

TEST(LayoutTest, SmallMemoryIsOneRange) {
  ASSERT_OK_AND_ASSIGN(auto ram, RamRanges(256 << 20));
  ASSERT_EQ(ram.size(), 1u);
  EXPECT_EQ(ram[0].start().value(), 0u);
  EXPECT_EQ(ram[0].size(), 256u << 20);
}

TEST(LayoutTest, LargeMemoryContinuesAboveFourGiB) {
  ASSERT_OK_AND_ASSIGN(auto ram, RamRanges(uint64_t{4} << 30));
  ASSERT_EQ(ram.size(), 2u);
  EXPECT_EQ(ram[0].size(), kHoleStart);
  EXPECT_EQ(ram[1].start().value(), kFourGiB);
  EXPECT_EQ(ram[0].size() + ram[1].size(), uint64_t{4} << 30);
}

TEST(LayoutTest, RefusesZeroAndUnaligned) {
  EXPECT_FALSE(RamRanges(0).ok());
  EXPECT_FALSE(RamRanges(4095).ok());
}

TEST(LayoutTest, AcpiNamesThePortsThatTheDevicesHave) {
  boot::AcpiOptions acpi = MakeAcpiOptions({0, 1}, /*io_apic=*/false);
  EXPECT_FALSE(acpi.io_apic.has_value());
  EXPECT_EQ(acpi.apic_ids.size(), 2u);
  EXPECT_EQ(acpi.pm.pm1_control, kAcpiPmPort + 4);
  EXPECT_LT(acpi.reset->port, kAcpiPmPort + devices::AcpiPm::kPortCount);
  EXPECT_TRUE(MakeAcpiOptions({0}, true).io_apic.has_value());
}

TEST(LayoutTest, ADeviceTreeNamesTheSamePlacesAsTheDevicesHave) {
  // Its interrupts are an IOAPIC's, for confidential guests, too.
  EXPECT_TRUE(UsesIoApic(VirtioTransport::kMmioFdt, /*confidential=*/true));
  EXPECT_TRUE(UsesIoApic(VirtioTransport::kMmioFdt, false));
  EXPECT_TRUE(UsesIoApic(VirtioTransport::kPci, false));
  EXPECT_FALSE(UsesIoApic(VirtioTransport::kPci, true));
  EXPECT_FALSE(UsesIoApic(VirtioTransport::kMmio, true));

  DevicesConfig devices;
  devices.transport = VirtioTransport::kMmioFdt;
  devices.rng.emplace();
  devices.console.emplace();
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> tree,
                       MakeDeviceTree({0, 1}, devices));
  const std::string text(tree.begin(), tree.end());
  for (size_t i = 0; i < 2; ++i) {
    const VirtioMmioPlace place = PlaceVirtioMmio(i, /*io_apic=*/true);
    EXPECT_NE(text.find(absl::StrCat("virtio_mmio@", absl::Hex(place.address))),
              std::string::npos);
    EXPECT_GE(place.gsi, 16u);
  }
  EXPECT_EQ(text.find(absl::StrCat(
                "virtio_mmio@", absl::Hex(PlaceVirtioMmio(2, true).address))),
            std::string::npos);
}

std::string WindowNames(VirtioTransport transport, BackendKind kind,
                        bool devices, bool msi_x = false) {
  DevicesConfig config;
  config.transport = transport;
  if (devices) {
    config.rng.emplace();
    config.console.emplace();
  }
  std::string names;
  uint64_t end = kHoleStart;
  for (const RegisterWindow& window : RegisterWindows(config, kind, msi_x)) {
    EXPECT_GE(window.range.start().value(), end) << window.name;
    end = window.range.last().value() + 1;
    EXPECT_LE(end, kFourGiB);
    absl::StrAppend(&names, window.name, " ", window.range.start().ToString(),
                    "+", window.range.size() >> 12, ", ");
  }
  return names;
}

// What a digest covers does not depend on which backend a host has.
TEST(LayoutTest, ConfidentialGuestsHaveMsiXWhereItWasAskedFor) {
  EXPECT_TRUE(OffersMsiX(BackendChoice::kOff, false));
  EXPECT_TRUE(OffersMsiX(BackendChoice::kAuto, false));
  EXPECT_TRUE(OffersMsiX(BackendChoice::kEmulated, true));
  EXPECT_FALSE(OffersMsiX(BackendChoice::kAuto, true));
  EXPECT_FALSE(OffersMsiX(BackendChoice::kSwProtected, true));
}

TEST(LayoutTest, RegisterWindowsAreThoseThatTheGuestHas) {
  const std::string rest =
      "local APICs 0xfee00000+1, KVM's pages 0xfffbc000+4, ";
  const std::string io_apic = "IOAPIC 0xfec00000+1, " + rest;
  EXPECT_EQ(WindowNames(VirtioTransport::kPci, BackendKind::kOff, true, true),
            "PCI memory 0xd0000000+4096, " + io_apic);
  EXPECT_EQ(WindowNames(VirtioTransport::kPci, BackendKind::kOff, false, true),
            io_apic);
  EXPECT_EQ(WindowNames(VirtioTransport::kMmio, BackendKind::kOff, true),
            "virtio-mmio 0xd2000000+2, " + io_apic);
  // Its interrupts are the 8259's.
  EXPECT_EQ(
      WindowNames(VirtioTransport::kPci, BackendKind::kEmulated, true, true),
      "PCI memory 0xd0000000+4096, " + rest);
  // Its PCI devices have ports alone.
  EXPECT_EQ(WindowNames(VirtioTransport::kPci, BackendKind::kSwProtected, true),
            rest);
  EXPECT_EQ(
      WindowNames(VirtioTransport::kMmioFdt, BackendKind::kSwProtected, true),
      "virtio-mmio 0xd2000000+2, " + io_apic);
}

TEST(LayoutTest, APciRootHasRoomForMsixTablesWhateverTheInterruptController) {
  DevicesConfig devices;
  devices.rng.emplace();
  for (bool io_apic : {false, true}) {
    boot::AcpiOptions acpi = MakeAcpiOptions({0}, io_apic);
    ASSERT_OK(AddVirtio(devices, acpi));
    ASSERT_TRUE(acpi.pci.has_value());
    ASSERT_EQ(acpi.pci->memory.size(), 1u);
    for (int slot : {1, static_cast<int>(kMaxVirtioDevices)}) {
      const VirtioPciPlace place = PlaceVirtioPci(slot, io_apic);
      EXPECT_TRUE(
          acpi.pci->memory[0].Contains(memory::GuestAddress(place.msix)));
      EXPECT_EQ(acpi.pci->interrupts[slot - 1].gsi, place.gsi);
    }
  }
}

TEST(LayoutTest, KvmPagesLieInTheHole) {
  EXPECT_GE(kIdentityMapAddress, kHoleStart);
  EXPECT_GE(kTssAddress, kIdentityMapAddress + memory::kPageSize);
  EXPECT_LE(kTssAddress + 3 * memory::kPageSize, kFourGiB);
}

}  // namespace
}  // namespace cloister::vmm
