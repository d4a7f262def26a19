// SPDX-License-Identifier: Apache-2.0
//
// Has ACPICA's compiler judge the tables: each must disassemble without a
// complaint, and the result must compile to the same bytes. iasl's exit code
// says nothing about bad checksums, so its words decide.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/acpi.h"
#include "cloister/boot/acpi_reader.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;

constexpr GuestAddress kBase(0x100000);
constexpr size_t kHeaderSize = 36;

bool HaveIasl() {
  const char* path = std::getenv("PATH");
  if (path == nullptr) return false;
  for (absl::string_view folder : absl::StrSplit(path, ':')) {
    if (::access(absl::StrCat(folder, "/iasl").c_str(), X_OK) == 0) return true;
  }
  return false;
}

// What iasl printed, or nullopt if it did not end with exit code 0.
std::optional<std::string> Iasl(const std::string& arguments) {
  std::string command = absl::StrCat("cd '", ::testing::TempDir(), "' && iasl ",
                                     arguments, " 2>&1 </dev/null");
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string output;
  char buffer[4096];
  while (size_t got = std::fread(buffer, 1, sizeof(buffer), pipe)) {
    output.append(buffer, got);
  }
  int status = ::pclose(pipe);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  return output;
}

std::vector<uint8_t> ReadFile(const std::string& name) {
  std::ifstream file(absl::StrCat(::testing::TempDir(), "/", name),
                     std::ios::binary);
  return {std::istreambuf_iterator<char>(file),
          std::istreambuf_iterator<char>()};
}

// Lines of `output` that complain.
std::string Complaints(const std::string& output) {
  std::string found;
  for (absl::string_view line : absl::StrSplit(output, '\n')) {
    std::string lower = absl::AsciiStrToLower(line);
    if (lower.find("0 errors, 0 warnings, 0 remarks") != std::string::npos) {
      continue;
    }
    for (const char* word : {"error", "warning", "remark", "checksum",
                             "invalid", "not contain", "external"}) {
      if (lower.find(word) != std::string::npos) {
        absl::StrAppend(&found, line, "\n");
        break;
      }
    }
  }
  return found;
}

// What iasl has against `table`; empty if nothing.
std::string Judge(const std::vector<uint8_t>& table) {
  std::ofstream(::testing::TempDir() + "/table.dat",
                std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(table.data()),
             static_cast<std::streamsize>(table.size()));
  for (const char* old : {"/table.dsl", "/again.aml"}) {
    ::unlink((::testing::TempDir() + old).c_str());
  }
  std::optional<std::string> output = Iasl("-d table.dat");
  if (!output) return "the disassembler failed";
  std::string complaints = Complaints(*output);
  if (!complaints.empty()) return complaints;
  output = Iasl("-oa -p again table.dsl");
  if (!output) return "the compiler failed";
  complaints = Complaints(*output);
  if (!complaints.empty()) return complaints;
  std::vector<uint8_t> again = ReadFile("again.aml");
  bool has_header = std::string(table.begin(), table.begin() + 4) != "FACS";
  // The compiler puts its own name, and so another checksum, into the header.
  size_t from = has_header ? kHeaderSize : 0;
  if (again.size() != table.size() ||
      !std::equal(table.begin() + from, table.end(), again.begin() + from)) {
    return "recompiled differently";
  }
  return "";
}

AcpiOptions Minimal() {
  AcpiOptions options;
  options.pm.pm1_event = 0x600;
  options.pm.pm1_control = 0x604;
  options.rtc = false;
  options.apic_ids = {0};
  return options;
}

AcpiOptions Full() {
  AcpiOptions options = Minimal();
  options.pm.pm_timer = 0x608;
  options.pm.gpe0 = 0x620;
  options.pm.gpe0_length = 8;
  options.reset = AcpiResetRegister{.port = 0xcf9, .value = 6};
  options.i8042 = true;
  options.rtc = true;
  for (uint32_t id = 0; id < 300; ++id) options.apic_ids.push_back(2 * id + 1);
  options.io_apic = AcpiIoApic{};
  options.serial_ports = {{}, {.port = 0x2f8, .irq = 3}};
  AcpiPciRoot pci = {.last_bus = 255, .io_first = 0x1000, .io_last = 0xffff};
  pci.memory = {*GuestRange::Create(GuestAddress(0xc0000000), 0x30000000),
                *GuestRange::Create(GuestAddress(uint64_t{1} << 40), 1 << 30)};
  for (uint8_t device = 0; device < 32; ++device) {
    for (uint8_t pin = 0; pin < 4; ++pin) {
      pci.interrupts.push_back({device, pin, 5u + (device + pin) % 40u});
    }
  }
  options.pci = pci;
  for (uint32_t i = 0; i < 40; ++i) {
    uint64_t at = (i % 2 == 0 ? 0xd0000000 : 0x1d0000000) + i * 0x1000;
    options.virtio_mmio.push_back(
        {.registers = *GuestRange::Create(GuestAddress(at), 0x200),
         .gsi = i,
         .level = i % 3 == 0});
  }
  return options;
}

std::map<std::string, std::vector<uint8_t>> Build(const AcpiOptions& options) {
  absl::StatusOr<AcpiTables> built = BuildAcpiTables(options, kBase);
  EXPECT_OK(built);
  if (!built.ok()) return {};
  auto tables = *ReadAcpiTables(built->bytes, kBase, built->rsdp);
  // iasl cannot take an RSDP on its own; ReadAcpiTables has checked it.
  tables.erase("RSD ");
  EXPECT_EQ(tables.size(), 5u);
  return tables;
}

class IaslTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HaveIasl()) {
      GTEST_SKIP() << "iasl (package acpica-tools) is not on the PATH";
    }
  }
};

TEST_F(IaslTest, AcceptsTheTablesOfASmallMachine) {
  for (const auto& [signature, table] : Build(Minimal())) {
    EXPECT_EQ(Judge(table), "") << signature;
  }
}

TEST_F(IaslTest, AcceptsTheTablesOfALargeMachine) {
  for (const auto& [signature, table] : Build(Full())) {
    EXPECT_EQ(Judge(table), "") << signature;
  }
}

TEST_F(IaslTest, NoticesAFlippedByte) {
  for (const auto& [signature, good] : Build(Full())) {
    // The FACS has no checksum.
    if (signature == "FACS") continue;
    for (size_t at : {size_t{12}, kHeaderSize + 1, good.size() - 1}) {
      std::vector<uint8_t> bad = good;
      bad[at] ^= 0x01;
      EXPECT_NE(Judge(bad), "") << signature << " byte " << at;
    }
  }
}

}  // namespace
}  // namespace cloister::boot
