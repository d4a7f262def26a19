// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/acpi.h"

#include <functional>
#include <map>
#include <string>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/acpi_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::LoadLe;
using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

using Tables = std::map<std::string, std::vector<uint8_t>>;

constexpr GuestAddress kBase(0x123000);

AcpiOptions Options() {
  AcpiOptions options;
  options.pm = {.pm1_event = 0x600,
                .pm1_control = 0x604,
                .pm_timer = 0x608,
                .gpe0 = 0x620,
                .gpe0_length = 8};
  options.apic_ids = {0, 1};
  return options;
}

Tables Build(const AcpiOptions& options) {
  absl::StatusOr<AcpiTables> built = BuildAcpiTables(options, kBase);
  EXPECT_OK(built);
  if (!built.ok()) return {};
  EXPECT_EQ(built->bytes.size() % memory::kPageSize, 0u);
  absl::StatusOr<Tables> tables =
      ReadAcpiTables(built->bytes, kBase, built->rsdp);
  EXPECT_OK(tables);
  return tables.ok() ? *tables : Tables();
}

// A MADT's entries, by their first byte.
std::vector<std::vector<uint8_t>> MadtEntries(const Tables& tables) {
  const std::vector<uint8_t>& madt = tables.at("APIC");
  std::vector<std::vector<uint8_t>> entries;
  for (size_t at = 44; at < madt.size(); at += madt[at + 1]) {
    if (madt[at + 1] < 2 || madt[at + 1] > madt.size() - at) {
      ADD_FAILURE() << "entry length at " << at;
      break;
    }
    entries.emplace_back(madt.begin() + at, madt.begin() + at + madt[at + 1]);
  }
  return entries;
}

bool Contains(const std::vector<uint8_t>& table, const std::string& text) {
  return std::string(table.begin(), table.end()).find(text) !=
         std::string::npos;
}

void ExpectRefused(const std::function<void(AcpiOptions&)>& change,
                   const std::string& text) {
  AcpiOptions options = Options();
  change(options);
  EXPECT_THAT(BuildAcpiTables(options, kBase),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(StartsWith("ACPI: "), HasSubstr(text),
                             Not(HasSubstr("\n")))));
}

TEST(AcpiTest, AllTablesAreReachableAndSumUp) {
  Tables tables = Build(Options());
  std::vector<std::string> signatures;
  for (const auto& [signature, bytes] : tables) {
    signatures.push_back(signature);
    if (signature == "RSD ") {
      EXPECT_EQ(std::string(bytes.begin() + 9, bytes.begin() + 15), "CLOIST");
    } else if (signature != "FACS") {
      EXPECT_EQ(std::string(bytes.begin() + 10, bytes.begin() + 16), "CLOIST");
    }
  }
  EXPECT_THAT(signatures,
              ElementsAre("APIC", "DSDT", "FACP", "FACS", "RSD ", "XSDT"));
}

TEST(AcpiTest, TheReaderNoticesEveryFlippedByte) {
  ASSERT_OK_AND_ASSIGN(AcpiTables built, BuildAcpiTables(Options(), kBase));
  size_t covered = 0;
  Tables good = *ReadAcpiTables(built.bytes, kBase, built.rsdp);
  for (const auto& [signature, bytes] : good) covered += bytes.size();
  size_t noticed = 0;
  for (uint8_t& byte : built.bytes) {
    byte ^= 0x20;
    if (!ReadAcpiTables(built.bytes, kBase, built.rsdp).ok()) ++noticed;
    byte ^= 0x20;
  }
  // All but the FACS, of which only signature and length are checked.
  EXPECT_EQ(noticed, covered - 64 + 8);
}

TEST(AcpiTest, LengthDoesNotDependOnTheAddressAndBytesOnNothingElse) {
  ASSERT_OK_AND_ASSIGN(AcpiTables low, BuildAcpiTables(Options(), kBase));
  ASSERT_OK_AND_ASSIGN(AcpiTables high,
                       BuildAcpiTables(Options(), GuestAddress(0xbfff0000)));
  ASSERT_OK_AND_ASSIGN(AcpiTables again, BuildAcpiTables(Options(), kBase));
  EXPECT_EQ(low.bytes.size(), high.bytes.size());
  EXPECT_EQ(low.bytes, again.bytes);
}

TEST(AcpiTest, TheFadtNamesTheFixedHardware) {
  AcpiOptions options = Options();
  options.reset = AcpiResetRegister{.port = 0xcf9, .value = 6};
  std::vector<uint8_t> fadt = Build(options)["FACP"];
  EXPECT_EQ(LoadLe<uint16_t>(&fadt[46]), 9);
  EXPECT_EQ(LoadLe<uint32_t>(&fadt[48]), 0u);  // SMI_CMD
  EXPECT_EQ(LoadLe<uint32_t>(&fadt[56]), 0x600u);
  EXPECT_EQ(LoadLe<uint32_t>(&fadt[64]), 0x604u);
  EXPECT_EQ(LoadLe<uint32_t>(&fadt[76]), 0x608u);
  EXPECT_EQ(LoadLe<uint32_t>(&fadt[80]), 0x620u);
  EXPECT_EQ(fadt[92], 8);
  std::vector<uint8_t> pm1_event(&fadt[148], &fadt[160]);
  EXPECT_THAT(pm1_event, ElementsAre(1, 32, 0, 2, 0, 6, 0, 0, 0, 0, 0, 0));
  std::vector<uint8_t> reset(&fadt[116], &fadt[129]);
  EXPECT_THAT(reset, ElementsAre(1, 8, 0, 1, 0xf9, 0xc, 0, 0, 0, 0, 0, 0, 6));
}

// Flags, and IA-PC boot flags.
std::pair<uint32_t, uint16_t> FadtFlags(const AcpiOptions& options) {
  std::vector<uint8_t> fadt = Build(options)["FACP"];
  return {LoadLe<uint32_t>(&fadt[112]), LoadLe<uint16_t>(&fadt[109])};
}

TEST(AcpiTest, FadtFlagsFollowTheOptions) {
  AcpiOptions options = Options();
  auto [flags, boot] = FadtFlags(options);
  EXPECT_EQ(flags & (1 << 20), 0u) << "hardware-reduced";
  EXPECT_EQ(flags & (1 << 4), 0u) << "fixed power button";
  EXPECT_EQ(flags & (1 << 10), 0u) << "no reset register";
  EXPECT_NE(flags & (1 << 8), 0u) << "32-bit timer";
  EXPECT_EQ(boot, 1 << 2);
  options.reset = AcpiResetRegister{};
  options.power_button = false;
  options.i8042 = true;
  options.rtc = false;
  options.serial_ports = {{}};
  options.pm.pm_timer = 0;
  std::tie(flags, boot) = FadtFlags(options);
  EXPECT_NE(flags & (1 << 4), 0u);
  EXPECT_NE(flags & (1 << 10), 0u);
  EXPECT_EQ(flags & (1 << 8), 0u);
  EXPECT_EQ(boot, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 5);
}

TEST(AcpiTest, MadtWithoutIoApic) {
  Tables tables = Build(Options());
  EXPECT_EQ(LoadLe<uint32_t>(&tables["APIC"][36]), 0xfee00000u);
  EXPECT_EQ(LoadLe<uint32_t>(&tables["APIC"][40]), 1u);
  EXPECT_THAT(MadtEntries(tables),
              ElementsAre(ElementsAre(0, 8, 0, 0, 1, 0, 0, 0),
                          ElementsAre(0, 8, 1, 1, 1, 0, 0, 0),
                          ElementsAre(4, 6, 0xff, 0, 0, 1)));
}

TEST(AcpiTest, MadtWithIoApic) {
  AcpiOptions options = Options();
  options.apic_ids = {0};
  options.io_apic = AcpiIoApic{.id = 7};
  EXPECT_THAT(
      MadtEntries(Build(options)),
      ElementsAre(ElementsAre(0, 8, 0, 0, 1, 0, 0, 0),
                  ElementsAre(1, 12, 7, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0),
                  ElementsAre(2, 10, 0, 0, 2, 0, 0, 0, 0, 0),
                  ElementsAre(2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0),
                  ElementsAre(4, 6, 0xff, 0, 0, 1)));
}

TEST(AcpiTest, LargeApicIdsGetX2ApicEntries) {
  AcpiOptions options = Options();
  options.apic_ids = {254, 255, 0x12345};
  EXPECT_THAT(
      MadtEntries(Build(options)),
      ElementsAre(
          ElementsAre(0, 8, 0, 254, 1, 0, 0, 0),
          ElementsAre(9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0),
          ElementsAre(9, 16, 0, 0, 0x45, 0x23, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0),
          ElementsAre(4, 6, 0xff, 0, 0, 1),
          ElementsAre(10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0)));
}

TEST(AcpiTest, TheDsdtHasWhatTheOptionsList) {
  AcpiOptions options = Options();
  options.rtc = false;
  std::vector<uint8_t> bare = Build(options)["DSDT"];
  EXPECT_TRUE(Contains(bare, "_S5_"));
  for (const char* name : {"PCI0", "COM1", "RTC0", "VR00"}) {
    EXPECT_FALSE(Contains(bare, name)) << name;
  }
  options.rtc = true;
  options.serial_ports = {{}, {.port = 0x2f8, .irq = 3}};
  options.pci = AcpiPciRoot{.io_first = 0x1000, .io_last = 0xffff};
  options.virtio_mmio = {
      {.registers = *GuestRange::Create(GuestAddress(0xd0000000), 0x200),
       .gsi = 5}};
  std::vector<uint8_t> full = Build(options)["DSDT"];
  for (const char* name :
       {"PCI0", "COM1", "COM2", "RTC0", "VR00", "LNRO0005"}) {
    EXPECT_TRUE(Contains(full, name)) << name;
  }
}

TEST(AcpiTest, RefusesPmPortsThatCannotBe) {
  ExpectRefused([](auto& o) { o.pm.pm1_event = 0; }, "required");
  ExpectRefused([](auto& o) { o.pm.pm1_event = 0xfffd; }, "wrap");
  ExpectRefused([](auto& o) { o.pm.pm_timer = 0xffff; }, "wrap");
  ExpectRefused([](auto& o) { o.pm.gpe0_length = 3; }, "GPE block");
  ExpectRefused([](auto& o) { o.pm.gpe0 = 0; }, "GPE block");
  ExpectRefused([](auto& o) { o.sci_irq = 16; }, "SCI");
  ExpectRefused([](auto& o) { o.s5_sleep_type = 8; }, "sleep type");
}

TEST(AcpiTest, RefusesProcessorsThatCannotBe) {
  ExpectRefused([](auto& o) { o.apic_ids.clear(); }, "0 processors");
  ExpectRefused([](auto& o) { o.apic_ids = {3, 3}; }, "two processors");
  ExpectRefused([](auto& o) { o.apic_ids = {UINT32_MAX}; }, "reserved");
}

TEST(AcpiTest, RefusesDevicesThatCannotBe) {
  GuestRange registers = *GuestRange::Create(GuestAddress(0xd0000000), 0x200);
  ExpectRefused([](auto& o) { o.serial_ports = {{.port = 0xfff9}}; }, "wrap");
  ExpectRefused([](auto& o) { o.serial_ports = {{.irq = 16}}; }, "IRQ 16");
  ExpectRefused([](auto& o) { o.serial_ports.resize(5); }, "more than 4");
  ExpectRefused(
      [&](auto& o) { o.virtio_mmio = {{.registers = registers, .gsi = 16}}; },
      "interrupt 16 cannot be delivered");
  ExpectRefused(
      [&](auto& o) {
        o.virtio_mmio.assign(257, {.registers = registers, .gsi = 5});
      },
      "more than 256");
}

TEST(AcpiTest, RefusesPciRootsThatCannotBe) {
  auto with_pci = [](const std::function<void(AcpiPciRoot&)>& change) {
    return [change](AcpiOptions& o) {
      o.pci = AcpiPciRoot{.io_first = 0x1000, .io_last = 0xffff};
      change(*o.pci);
    };
  };
  ExpectRefused(with_pci([](auto& p) { p.io_last = 0xfff; }), "ends before");
  ExpectRefused(with_pci([](auto& p) { p.io_first = 0xcff; }), "0xCF8");
  ExpectRefused(with_pci([](auto& p) {
                  p.interrupts = {{32, 0, 5}};
                }),
                "no such device");
  ExpectRefused(with_pci([](auto& p) {
                  p.interrupts = {{1, 4, 5}};
                }),
                "no such device");
  ExpectRefused(with_pci([](auto& p) {
                  p.interrupts = {{1, 0, 5}, {1, 0, 6}};
                }),
                "routed twice");
  ExpectRefused(with_pci([](auto& p) {
                  p.interrupts = {{1, 0, 20}};
                }),
                "interrupt 20");
  ExpectRefused(with_pci([](auto& p) {
                  p.memory = {*GuestRange::Create(GuestAddress(0), UINT64_MAX)};
                }),
                "52-bit");
}

TEST(AcpiTest, RefusesBadAddresses) {
  for (uint64_t base : {0x1001ul, 0x100000000ul, 0xfffff000ul}) {
    EXPECT_THAT(
        BuildAcpiTables(Options(), GuestAddress(base)),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("below 4 GiB")));
  }
}

}  // namespace
}  // namespace cloister::boot
