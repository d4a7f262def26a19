// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/linux_loader.h"

#include <unistd.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/acpi_reader.h"
#include "cloister/boot/decompress.h"
#include "cloister/boot/fake_compress.h"
#include "cloister/boot/fake_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::LoadLe;
using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

GuestRange Range(uint64_t first, uint64_t end) {
  return *GuestRange::Create(GuestAddress(first), end - first);
}

std::string WriteFile(const std::string& name,
                      const std::vector<uint8_t>& content) {
  std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(content.data()),
             static_cast<std::streamsize>(content.size()));
  return path;
}

AcpiOptions Acpi() {
  AcpiOptions acpi;
  acpi.pm.pm1_event = 0x600;
  acpi.pm.pm1_control = 0x604;
  acpi.apic_ids = {0};
  return acpi;
}

LinuxLoadOptions Options() {
  return {.kernel_path = WriteFile(
              "bzImage", MakeBzImage(Compression::kZstd, MakeVmlinux())),
          .initrd_path = WriteFile("initrd", std::vector<uint8_t>(5000, 0x42)),
          .command_line = "console=ttyS0",
          .memory = {.ram = {Range(0, 64 * kMiB)}},
          .acpi = Acpi()};
}

const Piece& Only(const LaunchImage& image, PieceType type) {
  const Piece* found = nullptr;
  for (const Piece& piece : image.pieces()) {
    if (piece.type != type) continue;
    EXPECT_EQ(found, nullptr);
    found = &piece;
  }
  EXPECT_NE(found, nullptr) << PieceTypeName(type);
  return *found;
}

auto IsError(absl::StatusCode code, const std::string& prefix,
             const std::string& text) {
  return StatusIs(
      code, AllOf(StartsWith(prefix), HasSubstr(text), Not(HasSubstr("\n"))));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

TEST(LoadLinuxTest, PlacesEverything) {
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(Options()));
  const std::vector<Piece>& pieces = image.pieces();
  ASSERT_EQ(pieces.size(), 6u);
  EXPECT_EQ(pieces[0].type, PieceType::kKernelSegment);
  EXPECT_EQ(pieces[0].gpa, GuestAddress(0x1000000));
  EXPECT_EQ(pieces[1].type, PieceType::kKernelSegment);
  EXPECT_EQ(pieces[1].memory_size, 0x1000u);
  EXPECT_EQ(image.entry().rip, GuestAddress(0x1000000));

  const Piece& initrd = Only(image, PieceType::kInitrd);
  EXPECT_EQ(initrd.gpa, GuestAddress(64 * kMiB - 0x2000));
  EXPECT_EQ(initrd.data.size(), 5000u);
  EXPECT_EQ(initrd.data.span()[4999], 0x42);

  const Piece& command_line = Only(image, PieceType::kCommandLine);
  EXPECT_EQ(std::string(command_line.data.span().begin(),
                        command_line.data.span().end()),
            std::string("console=ttyS0\0", 14));
}

TEST(LoadLinuxTest, BootParamsPointToThePieces) {
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(Options()));
  const Piece& params = Only(image, PieceType::kBootParams);
  EXPECT_EQ(image.entry().rsi, params.gpa);
  const uint8_t* page = params.data.data();
  EXPECT_EQ(LoadLe<uint32_t>(page + 0x228),
            Only(image, PieceType::kCommandLine).gpa.value());
  EXPECT_EQ(LoadLe<uint32_t>(page + 0x218),
            Only(image, PieceType::kInitrd).gpa.value());
  EXPECT_EQ(LoadLe<uint32_t>(page + 0x21c), 5000u);
  // The setup header is the kernel's.
  EXPECT_EQ(LoadLe<uint32_t>(page + 0x260), 0x400000u);
  const Piece& acpi = Only(image, PieceType::kAcpi);
  EXPECT_OK(ReadAcpiTables(acpi.data.span(), acpi.gpa,
                           GuestAddress(LoadLe<uint64_t>(page + 0x70))));
}

TEST(LoadLinuxTest, AcpiTablesLieInAnE820RangeOfTheirOwnAboveOneMiB) {
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(Options()));
  const Piece& acpi = Only(image, PieceType::kAcpi);
  EXPECT_GE(acpi.gpa.value(), kMiB);
  const uint8_t* page = Only(image, PieceType::kBootParams).data.data();
  int found = 0;
  for (int i = 0; i < page[0x1e8]; ++i) {
    const uint8_t* entry = page + 0x2d0 + 20 * i;
    if (LoadLe<uint32_t>(entry + 16) != 3) continue;
    ++found;
    EXPECT_EQ(LoadLe<uint64_t>(entry), acpi.gpa.value());
    EXPECT_EQ(LoadLe<uint64_t>(entry + 8), acpi.memory_size);
  }
  EXPECT_EQ(found, 1);
}

TEST(LoadLinuxTest, EveryPieceLiesAboveOneMiBAndOutsideReservations) {
  LinuxLoadOptions options = Options();
  options.memory.reserved = {
      {Range(kMiB, 2 * kMiB), E820Type::kRam},
      {Range(63 * kMiB, 64 * kMiB), E820Type::kReserved}};
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(options));
  for (const Piece& piece : image.pieces()) {
    EXPECT_GE(piece.gpa.value(), 2 * kMiB) << PieceTypeName(piece.type);
    EXPECT_LT(piece.range().last().value(), 63 * kMiB);
    EXPECT_TRUE(piece.gpa.IsPageAligned());
  }
}

TEST(LoadLinuxTest, TheSameInputGivesTheSameImage) {
  ASSERT_OK_AND_ASSIGN(LaunchImage a, LoadLinux(Options()));
  ASSERT_OK_AND_ASSIGN(LaunchImage b, LoadLinux(Options()));
  ASSERT_EQ(a.pieces().size(), b.pieces().size());
  for (size_t i = 0; i < a.pieces().size(); ++i) {
    EXPECT_EQ(a.pieces()[i].gpa, b.pieces()[i].gpa);
    EXPECT_TRUE(a.pieces()[i].data.span() == b.pieces()[i].data.span());
  }
}

TEST(LoadLinuxTest, EveryFormatGivesTheSameKernel) {
  std::vector<std::vector<uint8_t>> kernels = {
      MakeVmlinux(), MakeBzImage(std::nullopt, MakeVmlinux())};
  for (Compression compression : kSupportedCompressions) {
    kernels.push_back(MakeBzImage(compression, MakeVmlinux()));
  }
  for (const std::vector<uint8_t>& kernel : kernels) {
    LinuxLoadOptions options = Options();
    options.kernel_path = WriteFile("kernel", kernel);
    ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(options));
    EXPECT_EQ(image.pieces().size(), 6u);
    EXPECT_EQ(image.pieces()[0].data.span()[63], 0x90);
  }
}

TEST(LoadLinuxTest, ZeroesAtASegmentsEndAreLeftToTheMemory) {
  std::vector<FakeSegment> segments = LinuxLikeSegments();
  segments[1].data.resize(0x1000);
  segments.push_back({0x1300000, 0, std::vector<uint8_t>(16), 16});
  LinuxLoadOptions options = Options();
  options.kernel_path = WriteFile("vmlinux", MakeElf(segments, 0x1000000));
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(options));
  EXPECT_EQ(image.pieces()[1].data.size(), 32u);
  EXPECT_EQ(image.pieces()[1].memory_size, 0x1000u);
  EXPECT_EQ(image.pieces()[2].data.size(), 0u);
  EXPECT_EQ(image.pieces()[2].memory_size, 16u);
}

TEST(LoadLinuxTest, InitrdAndAcpiAreOptional) {
  LinuxLoadOptions options = Options();
  options.initrd_path.clear();
  options.command_line.clear();
  options.acpi.reset();
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(options));
  EXPECT_EQ(image.pieces().size(), 4u);
  const uint8_t* page = Only(image, PieceType::kBootParams).data.data();
  EXPECT_EQ(LoadLe<uint64_t>(page + 0x70), 0u);
  EXPECT_EQ(LoadLe<uint32_t>(page + 0x21c), 0u);
  EXPECT_EQ(Only(image, PieceType::kCommandLine).data.size(), 1u);
}

TEST(LoadLinuxTest, ADeviceTreeIsAPieceThatBootParamsPointTo) {
  LinuxLoadOptions options = Options();
  options.acpi.reset();
  options.device_tree = {0xd0, 0x0d, 0xfe, 0xed};
  ASSERT_OK_AND_ASSIGN(LaunchImage image, LoadLinux(options));
  const Piece& tree = Only(image, PieceType::kDeviceTree);
  EXPECT_GE(tree.gpa.value(), kMiB);
  ASSERT_EQ(tree.data.size(), 20u);
  EXPECT_EQ(LoadLe<uint32_t>(tree.data.data() + 8), 2u);
  EXPECT_EQ(tree.data.data()[16], 0xd0);
  const uint8_t* page = Only(image, PieceType::kBootParams).data.data();
  EXPECT_EQ(LoadLe<uint64_t>(page + 0x250), tree.gpa.value());
  EXPECT_EQ(LoadLe<uint64_t>(page + 0x70), 0u);
}

TEST(LoadLinuxTest, KernelErrorsNameTheFile) {
  LinuxLoadOptions options = Options();
  options.kernel_path = "/nonexistent";
  EXPECT_THAT(LoadLinux(options), IsError(absl::StatusCode::kNotFound,
                                          "kernel /nonexistent: ", "ENOENT"));
  options.kernel_path = WriteFile("text", {'h', 'e', 'l', 'l', 'o'});
  EXPECT_THAT(LoadLinux(options),
              IsError(kInvalid, "kernel " + options.kernel_path + ": ",
                      "not a bzImage"));
  std::vector<uint8_t> truncated = MakeBzImage(Compression::kXz, MakeVmlinux());
  truncated.resize(truncated.size() - 40);
  options.kernel_path = WriteFile("truncated", truncated);
  EXPECT_THAT(
      LoadLinux(options),
      IsError(kInvalid, "kernel " + options.kernel_path + ": ", "truncated"));
}

TEST(LoadLinuxTest, AKernelThatDoesNotFitNamesBothAddresses) {
  LinuxLoadOptions options = Options();
  options.memory.ram = {Range(0, 18 * kMiB)};
  EXPECT_THAT(LoadLinux(options),
              IsError(kExhausted, "kernel " + options.kernel_path + ": ",
                      "needs memory up to 0x1200fff (19 MiB), the guest's ends "
                      "at 0x1200000 (18 MiB)"));
  options.memory.ram = {Range(0, 64 * kMiB)};
  options.memory.reserved = {{Range(17 * kMiB, 19 * kMiB), E820Type::kRam}};
  EXPECT_THAT(LoadLinux(options),
              IsError(kInvalid, "kernel ", "usable memory"));
}

TEST(LoadLinuxTest, AnInitrdThatDoesNotFitIsNotEvenRead) {
  LinuxLoadOptions options = Options();
  options.initrd_path = WriteFile("sparse", {1});
  ASSERT_EQ(::truncate(options.initrd_path.c_str(), int64_t{1} << 40), 0);
  EXPECT_THAT(LoadLinux(options),
              IsError(kExhausted, "initrd " + options.initrd_path + ": ",
                      "1099511627776 bytes do not fit"));
  ::unlink(options.initrd_path.c_str());
  options.initrd_path = "/nonexistent";
  EXPECT_THAT(LoadLinux(options), IsError(absl::StatusCode::kNotFound,
                                          "initrd /nonexistent: ", ""));
}

TEST(LoadLinuxTest, OptionsAreChecked) {
  LinuxLoadOptions options = Options();
  options.command_line.assign(2048, 'x');
  EXPECT_THAT(LoadLinux(options),
              IsError(kInvalid, "kernel command line: ", "2048 bytes"));
  options = Options();
  options.memory.ram.clear();
  EXPECT_THAT(LoadLinux(options), StatusIs(kInvalid));
  options = Options();
  options.acpi->apic_ids.clear();
  EXPECT_THAT(LoadLinux(options), IsError(kInvalid, "ACPI: ", "0 processors"));
}

TEST(LoadLinuxTest, MemoryWithoutRoomForSmallPieces) {
  LinuxLoadOptions options = Options();
  options.initrd_path.clear();
  // Everything but the kernel's own two segments.
  options.memory.reserved = {
      {Range(kMiB, 16 * kMiB), E820Type::kRam},
      {Range(16 * kMiB + 0x1000, 18 * kMiB), E820Type::kRam},
      {Range(18 * kMiB + 0x1000, 64 * kMiB), E820Type::kRam}};
  EXPECT_THAT(LoadLinux(options),
              IsError(kExhausted, "the guest's memory has no room", "ACPI"));
}

}  // namespace
}  // namespace cloister::boot
