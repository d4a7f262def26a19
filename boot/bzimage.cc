// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/bzimage.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::boot {
namespace {

// Offsets in the file; names as in boot.rst.
constexpr size_t kSetupSects = 0x1f1;
constexpr size_t kSysSize = 0x1f4;
constexpr size_t kBootFlag = 0x1fe;
constexpr size_t kJumpLength = 0x201;
constexpr size_t kHeaderMagic = 0x202;
constexpr size_t kVersion = 0x206;
constexpr size_t kKernelVersion = 0x20e;
constexpr size_t kLoadFlags = 0x211;
constexpr size_t kInitrdAddrMax = 0x22c;
constexpr size_t kXLoadFlags = 0x236;
constexpr size_t kCmdlineSize = 0x238;
constexpr size_t kPayloadOffset = 0x248;
constexpr size_t kPayloadLength = 0x24c;
// Where the header of protocol 2.08 ends, and the room boot_params has.
constexpr size_t kHeaderEnd208 = 0x250;
constexpr size_t kHeaderEndMax = 0x290;

constexpr uint16_t kOldestProtocol = 0x208;
constexpr uint16_t kXLoadFlagsProtocol = 0x20c;
constexpr uint8_t kLoadedHigh = 1 << 0;
constexpr uint16_t kXlfKernel64 = 1 << 0;
constexpr uint16_t kXlfCanBeLoadedAbove4G = 1 << 1;
constexpr size_t kSector = 512;
constexpr uint64_t kMaximumUnpacked = uint64_t{1} << 30;
constexpr size_t kLongestVersion = 200;

absl::Status Invalid(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("bzImage: ", text));
}

std::string VersionText(uint16_t protocol) {
  uint32_t minor = protocol & 0xff;
  return absl::StrCat(protocol >> 8, minor < 10 ? ".0" : ".", minor);
}

absl::StatusOr<SetupHeader> ReadSetupHeader(const SharedBytes& file) {
  const uint8_t* bytes = file.data();
  SetupHeader header;
  header.protocol = base::LoadLe<uint16_t>(bytes + kVersion);
  if (header.protocol < kOldestProtocol) {
    return absl::UnimplementedError(
        absl::StrCat("bzImage: boot protocol ", VersionText(header.protocol),
                     "; 2.08 (Linux 2.6.26) or later is needed"));
  }
  size_t end = kHeaderMagic + bytes[kJumpLength];
  if (end < kHeaderEnd208 || end > kHeaderEndMax || end > file.size()) {
    return Invalid(absl::StrCat("setup header ends at 0x", absl::Hex(end)));
  }
  if ((bytes[kLoadFlags] & kLoadedHigh) == 0) {
    return Invalid("a zImage, which loads below 1 MiB");
  }
  if (header.protocol >= kXLoadFlagsProtocol) {
    uint16_t flags = base::LoadLe<uint16_t>(bytes + kXLoadFlags);
    if ((flags & kXlfKernel64) == 0) {
      return Invalid("wrong architecture: a 32-bit x86 kernel");
    }
    header.can_load_above_4g = (flags & kXlfCanBeLoadedAbove4G) != 0;
  }
  header.command_line_size = base::LoadLe<uint32_t>(bytes + kCmdlineSize);
  header.initrd_address_max = base::LoadLe<uint32_t>(bytes + kInitrdAddrMax);
  header.bytes.assign(bytes + kSetupSects, bytes + end);
  return header;
}

// The payload, checked to lie inside the file and inside the part of it that
// the header describes.
absl::StatusOr<SharedBytes> FindPayload(const SharedBytes& file) {
  const uint8_t* bytes = file.data();
  uint64_t sectors = bytes[kSetupSects] == 0 ? 4 : bytes[kSetupSects];
  uint64_t setup = (sectors + 1) * kSector;
  uint64_t code = uint64_t{base::LoadLe<uint32_t>(bytes + kSysSize)} * 16;
  // The size is given in paragraphs of 16 bytes, rounded up.
  if (file.size() < setup || file.size() - setup + 15 < code) {
    return Invalid(absl::StrCat("truncated: ", setup + code,
                                " bytes expected, the file has ", file.size()));
  }
  uint64_t offset = base::LoadLe<uint32_t>(bytes + kPayloadOffset);
  uint64_t length = base::LoadLe<uint32_t>(bytes + kPayloadLength);
  if (length == 0) return Invalid("no payload");
  if (offset > code || length > code - offset) {
    return Invalid(absl::StrCat("payload of ", length, " bytes at ", offset,
                                " leaves the kernel's ", code, " bytes"));
  }
  std::optional<SharedBytes> payload = file.Slice(setup + offset, length);
  if (!payload) return Invalid("truncated: the payload leaves the file");
  return *std::move(payload);
}

std::string ReadVersion(const SharedBytes& file) {
  size_t pointer = base::LoadLe<uint16_t>(file.data() + kKernelVersion);
  std::string version;
  if (pointer == 0) return version;
  for (size_t at = kSector + pointer; at < file.size(); ++at) {
    unsigned char c = file.data()[at];
    if (c == 0 || version.size() == kLongestVersion) break;
    version.push_back(absl::ascii_isprint(c) ? static_cast<char>(c) : '?');
  }
  return version;
}

bool IsElf(const SharedBytes& bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(),
                                          "\x7f"
                                          "ELF",
                                          4) == 0;
}

}  // namespace

bool BzImage::Detect(const SharedBytes& file) {
  return file.size() >= kHeaderEnd208 &&
         base::LoadLe<uint16_t>(file.data() + kBootFlag) == 0xaa55 &&
         std::memcmp(file.data() + kHeaderMagic, "HdrS", 4) == 0;
}

absl::StatusOr<BzImage> BzImage::Parse(const SharedBytes& file) {
  if (!Detect(file)) return Invalid("no setup header");
  BzImage image;
  ASSIGN_OR_RETURN(image.header_, ReadSetupHeader(file));
  ASSIGN_OR_RETURN(image.payload_, FindPayload(file));
  image.version_ = ReadVersion(file);
  image.compression_ = DetectCompression(image.payload_.span());
  if (!image.compression_ && !IsElf(image.payload_)) {
    return absl::UnimplementedError(
        "bzImage: the payload is in no known compression format");
  }
  return image;
}

absl::StatusOr<SharedBytes> BzImage::Unpack() const {
  if (!compression_) return payload_;
  if (payload_.size() < sizeof(uint32_t)) return Invalid("payload too short");
  absl::Span<const uint8_t> packed = payload_.span();
  uint64_t size =
      base::LoadLe<uint32_t>(packed.data() + packed.size() - sizeof(uint32_t));
  // A gzip stream ends with its size; to the others the build appends it.
  if (*compression_ != Compression::kGzip) {
    packed.remove_suffix(sizeof(uint32_t));
  }
  std::string name =
      absl::StrCat("bzImage: ", CompressionName(*compression_), " payload: ");
  if (size > kMaximumUnpacked) {
    return absl::InvalidArgumentError(absl::StrCat(name, "unpacked size ", size,
                                                   " exceeds the limit of ",
                                                   kMaximumUnpacked, " bytes"));
  }
  absl::StatusOr<SharedBytes> unpacked =
      Decompress(*compression_, packed, size);
  if (!unpacked.ok()) {
    return absl::Status(unpacked.status().code(),
                        absl::StrCat(name, unpacked.status().message()));
  }
  return unpacked;
}

}  // namespace cloister::boot
