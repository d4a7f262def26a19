// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/linux_loader.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/input_file.h"
#include "cloister/boot/kernel_image.h"
#include "cloister/boot/linux_params.h"
#include "cloister/boot/shared_bytes.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {
namespace {

using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;

// An unstripped vmlinux with debug information has about 1 GiB.
constexpr uint64_t kMaximumKernelFile = uint64_t{2} << 30;

// `status` with the name of the file, or option, before it.
absl::Status Annotate(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(name, ": ", status.message()));
}

GuestRange BelowFourGiB() {
  return *GuestRange::Create(GuestAddress(0), kFourGiB);
}

// The lowest free place of `size` bytes: what is small goes below the kernel,
// which leaves the memory above it in one piece.
absl::StatusOr<GuestAddress> PlaceLow(const LaunchImage& image, PieceType type,
                                      uint64_t size) {
  auto place = image.FindLowest(size, memory::kPageSize, BelowFourGiB());
  if (place) return *place;
  return absl::ResourceExhaustedError(
      absl::StrCat("the guest's memory has no room for the ",
                   PieceTypeName(type), " of ", size, " bytes"));
}

absl::StatusOr<KernelImage> ReadKernel(const std::string& path) {
  ASSIGN_OR_RETURN(InputFile file, InputFile::Open("kernel", path));
  ASSIGN_OR_RETURN(SharedBytes bytes, file.Read(kMaximumKernelFile));
  absl::StatusOr<KernelImage> kernel = ParseKernel(bytes);
  if (!kernel.ok()) return Annotate(file.name(), kernel.status());
  return kernel;
}

// `data` without the zeroes at its end, which need neither be copied nor
// hashed: Linux stores some 10 MiB of BSS in its ELF image.
SharedBytes WithoutTrailingZeroes(const SharedBytes& data) {
  size_t size = data.size();
  while (size > 0 && data.data()[size - 1] == 0) --size;
  return *data.Slice(0, size);
}

absl::Status AddKernel(const std::string& path, const ElfKernel& kernel,
                       LaunchImage* image) {
  const ElfSegment& top = kernel.segments.back();
  uint64_t last = top.gpa.value() + (top.memory_size - 1);
  if (image->usable().empty() || last > image->usable().back().last().value()) {
    uint64_t end =
        image->usable().empty() ? 0 : image->usable().back().last().value() + 1;
    return absl::ResourceExhaustedError(absl::StrCat(
        "kernel ", path, ": needs memory up to 0x", absl::Hex(last), " (",
        (last >> 20) + 1, " MiB), the guest's ends at 0x", absl::Hex(end), " (",
        end >> 20, " MiB)"));
  }
  for (const ElfSegment& segment : kernel.segments) {
    absl::Status added =
        image->Add({PieceType::kKernelSegment, segment.gpa,
                    WithoutTrailingZeroes(segment.data), segment.memory_size});
    if (!added.ok()) return Annotate(absl::StrCat("kernel ", path), added);
  }
  return absl::OkStatus();
}

// Adds the tables and returns where the RSDP is.
absl::StatusOr<GuestAddress> AddAcpi(const AcpiOptions& options,
                                     LaunchImage* image) {
  // The length does not depend on the address.
  ASSIGN_OR_RETURN(AcpiTables draft,
                   BuildAcpiTables(options, GuestAddress(kHighMemoryStart)));
  ASSIGN_OR_RETURN(GuestAddress place,
                   PlaceLow(*image, PieceType::kAcpi, draft.bytes.size()));
  ASSIGN_OR_RETURN(AcpiTables tables, BuildAcpiTables(options, place));
  uint64_t size = tables.bytes.size();
  RETURN_IF_ERROR(image->Add(
      {PieceType::kAcpi, place, SharedBytes(std::move(tables.bytes)), size}));
  return tables.rsdp;
}

// Adds a piece of exactly these bytes and returns where it is.
absl::StatusOr<GuestAddress> AddLow(PieceType type, std::vector<uint8_t> bytes,
                                    LaunchImage* image) {
  uint64_t size = bytes.size();
  ASSIGN_OR_RETURN(GuestAddress place, PlaceLow(*image, type, size));
  RETURN_IF_ERROR(
      image->Add({type, place, SharedBytes(std::move(bytes)), size}));
  return place;
}

absl::StatusOr<GuestAddress> AddCommandLine(const std::string& command_line,
                                            LaunchImage* image) {
  std::vector<uint8_t> bytes(command_line.begin(), command_line.end());
  bytes.push_back(0);
  return AddLow(PieceType::kCommandLine, std::move(bytes), image);
}

absl::StatusOr<GuestRange> AddInitrd(const std::string& path,
                                     const SetupHeader& header,
                                     LaunchImage* image) {
  ASSIGN_OR_RETURN(InputFile file, InputFile::Open("initrd", path));
  // Before reading: a file that cannot fit is not worth the host's memory.
  absl::StatusOr<GuestAddress> place = PlaceInitrd(*image, file.size(), header);
  if (!place.ok()) return Annotate(file.name(), place.status());
  ASSIGN_OR_RETURN(SharedBytes bytes, file.Read(file.size()));
  Piece piece = {PieceType::kInitrd, *place, std::move(bytes), file.size()};
  GuestRange range = *GuestRange::Create(*place, file.size());
  RETURN_IF_ERROR(image->Add(std::move(piece)));
  return range;
}

// The e820 table with the ACPI tables' range in it.
absl::StatusOr<std::vector<E820Entry>> MemoryMap(const MemoryLayout& layout,
                                                 const LaunchImage& image) {
  std::vector<E820Entry> extra;
  for (const Piece& piece : image.pieces()) {
    if (piece.type != PieceType::kAcpi) continue;
    extra.push_back({piece.range(), E820Type::kAcpi});
  }
  return BuildE820(layout, extra);
}

}  // namespace

absl::StatusOr<LaunchImage> LoadLinux(const LinuxLoadOptions& options) {
  ASSIGN_OR_RETURN(std::vector<GuestRange> usable,
                   UsableRanges(options.memory));
  ASSIGN_OR_RETURN(LaunchImage image, LaunchImage::Create(std::move(usable)));
  ASSIGN_OR_RETURN(KernelImage kernel, ReadKernel(options.kernel_path));
  BootParams params;
  params.setup_header = kernel.setup_header ? *std::move(kernel.setup_header)
                                            : DefaultSetupHeader();
  absl::Status status =
      CheckCommandLine(options.command_line, params.setup_header);
  if (!status.ok()) return Annotate(options.command_line_name, status);
  RETURN_IF_ERROR(AddKernel(options.kernel_path, kernel.elf, &image));
  if (options.acpi) {
    ASSIGN_OR_RETURN(params.rsdp, AddAcpi(*options.acpi, &image));
  }
  if (!options.device_tree.empty()) {
    ASSIGN_OR_RETURN(
        params.setup_data,
        AddLow(PieceType::kDeviceTree,
               EncodeSetupData(SetupDataType::kDeviceTree, options.device_tree),
               &image));
  }
  ASSIGN_OR_RETURN(params.command_line,
                   AddCommandLine(options.command_line, &image));
  if (!options.initrd_path.empty()) {
    ASSIGN_OR_RETURN(params.initrd, AddInitrd(options.initrd_path,
                                              params.setup_header, &image));
  }
  ASSIGN_OR_RETURN(params.e820, MemoryMap(options.memory, image));
  ASSIGN_OR_RETURN(std::vector<uint8_t> page, EncodeBootParams(params));
  ASSIGN_OR_RETURN(GuestAddress zero_page,
                   PlaceLow(image, PieceType::kBootParams, page.size()));
  RETURN_IF_ERROR(image.Add({PieceType::kBootParams, zero_page,
                             SharedBytes(std::move(page)), kBootParamsSize}));
  RETURN_IF_ERROR(image.SetEntry({kernel.elf.entry, zero_page}));
  return image;
}

}  // namespace cloister::boot
