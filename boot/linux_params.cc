// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/linux_params.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StoreLe;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;

// Offsets in boot_params; names as in zero-page.rst and boot.rst.
constexpr size_t kAcpiRsdpAddr = 0x070;
constexpr size_t kExtRamdiskImage = 0x0c0;
constexpr size_t kExtRamdiskSize = 0x0c4;
constexpr size_t kExtCmdLinePtr = 0x0c8;
constexpr size_t kE820Entries = 0x1e8;
constexpr size_t kSetupHeader = 0x1f1;
constexpr size_t kVidMode = 0x1fa;
constexpr size_t kBootFlag = 0x1fe;
constexpr size_t kMagic = 0x202;
constexpr size_t kVersion = 0x206;
constexpr size_t kTypeOfLoader = 0x210;
constexpr size_t kLoadFlags = 0x211;
constexpr size_t kRamdiskImage = 0x218;
constexpr size_t kRamdiskSize = 0x21c;
constexpr size_t kHeapEndPtr = 0x224;
constexpr size_t kCmdLinePtr = 0x228;
constexpr size_t kInitrdAddrMax = 0x22c;
constexpr size_t kXLoadFlags = 0x236;
constexpr size_t kCmdlineSize = 0x238;
constexpr size_t kSetupData = 0x250;
constexpr size_t kHeaderEnd215 = 0x26c;
constexpr size_t kE820Table = 0x2d0;
constexpr size_t kE820EntrySize = 20;

constexpr uint8_t kUndefinedLoader = 0xff;
constexpr uint8_t kLoadedHigh = 1 << 0;
constexpr uint16_t kNormalVideoMode = 0xffff;
constexpr uint32_t kDefaultCommandLineSize = 2047;
constexpr uint32_t kDefaultInitrdMax = 0x7fffffff;

void StoreLow(uint8_t* to, uint64_t value) {
  StoreLe<uint32_t>(to, static_cast<uint32_t>(value));
}
void StoreHigh(uint8_t* to, uint64_t value) {
  StoreLe<uint32_t>(to, static_cast<uint32_t>(value >> 32));
}

uint64_t TotalSize(const std::vector<GuestRange>& ranges) {
  uint64_t total = 0;
  for (const GuestRange& range : ranges) total += range.size();
  return total;
}

}  // namespace

SetupHeader DefaultSetupHeader() {
  SetupHeader header;
  header.protocol = 0x20f;
  header.command_line_size = kDefaultCommandLineSize;
  header.initrd_address_max = kDefaultInitrdMax;
  header.can_load_above_4g = true;
  header.bytes.resize(kHeaderEnd215 - kSetupHeader);
  auto at = [&](size_t offset) {
    return header.bytes.data() + (offset - kSetupHeader);
  };
  StoreLe<uint16_t>(at(kBootFlag), 0xaa55);
  std::memcpy(at(kMagic), "HdrS", 4);
  StoreLe<uint16_t>(at(kVersion), header.protocol);
  StoreLe<uint32_t>(at(kInitrdAddrMax), header.initrd_address_max);
  StoreLe<uint16_t>(at(kXLoadFlags), 3);
  StoreLe<uint32_t>(at(kCmdlineSize), header.command_line_size);
  return header;
}

absl::StatusOr<std::vector<uint8_t>> EncodeBootParams(
    const BootParams& params) {
  if (params.e820.empty() || params.e820.size() > kMaximumE820Entries) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory map of ", params.e820.size(),
                     " entries; boot_params holds 1 to ", kMaximumE820Entries));
  }
  std::vector<uint8_t> page(kBootParamsSize);
  uint8_t* at = page.data();
  // The parser and DefaultSetupHeader bound the header below the e820 table.
  const std::vector<uint8_t>& header = params.setup_header.bytes;
  std::memcpy(at + kSetupHeader, header.data(),
              std::min(header.size(), kE820Table - kSetupHeader));
  at[kTypeOfLoader] = kUndefinedLoader;
  at[kLoadFlags] = kLoadedHigh;
  StoreLe<uint16_t>(at + kVidMode, kNormalVideoMode);
  StoreLe<uint16_t>(at + kHeapEndPtr, 0);
  StoreLe<uint64_t>(at + kSetupData,
                    params.setup_data ? params.setup_data->value() : 0);
  StoreLow(at + kCmdLinePtr, params.command_line.value());
  StoreHigh(at + kExtCmdLinePtr, params.command_line.value());
  uint64_t start = params.initrd ? params.initrd->start().value() : 0;
  uint64_t size = params.initrd ? params.initrd->size() : 0;
  StoreLow(at + kRamdiskImage, start);
  StoreHigh(at + kExtRamdiskImage, start);
  StoreLow(at + kRamdiskSize, size);
  StoreHigh(at + kExtRamdiskSize, size);
  if (params.rsdp) {
    StoreLe<uint64_t>(at + kAcpiRsdpAddr, params.rsdp->value());
  }
  at[kE820Entries] = static_cast<uint8_t>(params.e820.size());
  uint8_t* entry = at + kE820Table;
  for (const E820Entry& e820 : params.e820) {
    StoreLe<uint64_t>(entry, e820.range.start().value());
    StoreLe<uint64_t>(entry + 8, e820.range.size());
    StoreLe<uint32_t>(entry + 16, static_cast<uint32_t>(e820.type));
    entry += kE820EntrySize;
  }
  return page;
}

std::vector<uint8_t> EncodeSetupData(SetupDataType type,
                                     absl::Span<const uint8_t> data) {
  // struct setup_data: next, type, len, data.
  uint8_t head[16] = {};
  StoreLe<uint32_t>(head + 8, static_cast<uint32_t>(type));
  StoreLe<uint32_t>(head + 12, static_cast<uint32_t>(data.size()));
  std::vector<uint8_t> bytes(sizeof(head) + data.size());
  std::copy(std::begin(head), std::end(head), bytes.begin());
  std::copy(data.begin(), data.end(), bytes.begin() + sizeof(head));
  return bytes;
}

absl::Status CheckCommandLine(absl::string_view command_line,
                              const SetupHeader& header) {
  if (command_line.size() > header.command_line_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(command_line.size(), " bytes, more than the ",
                     header.command_line_size, " that this kernel accepts"));
  }
  if (command_line.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("contains a NUL");
  }
  return absl::OkStatus();
}

absl::StatusOr<GuestAddress> PlaceInitrd(const LaunchImage& image,
                                         uint64_t size,
                                         const SetupHeader& header) {
  auto below = GuestRange::Create(GuestAddress(0),
                                  uint64_t{header.initrd_address_max} + 1);
  auto anywhere = GuestRange::Create(GuestAddress(0), UINT64_MAX);
  std::optional<GuestAddress> place =
      image.FindHighest(size, memory::kPageSize, *below);
  if (!place && header.can_load_above_4g) {
    place = image.FindHighest(size, memory::kPageSize, *anywhere);
  }
  if (place) return *place;
  uint64_t largest =
      image.LargestFree(header.can_load_above_4g ? *anywhere : *below);
  return absl::ResourceExhaustedError(absl::StrCat(
      "its ", size, " bytes do not fit into the guest's memory: of ",
      TotalSize(image.usable()), " usable bytes at most ", largest,
      " in a row are free where the kernel accepts an initrd"));
}

}  // namespace cloister::boot
