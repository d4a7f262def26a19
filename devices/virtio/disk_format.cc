// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_format.h"

#include <algorithm>

namespace cloister::devices::virtio {
namespace {

using absl::string_view;

// Where a signature stands.
enum class Place { kHead, kTail };

struct Signature {
  string_view format;
  Place place;
  size_t offset;
  string_view bytes;
};

// From the formats' own specifications.
constexpr Signature kSignatures[] = {
    {"qcow2", Place::kHead, 0, string_view("QFI\xfb", 4)},
    {"vmdk", Place::kHead, 0, string_view("KDMV", 4)},
    {"vmdk", Place::kHead, 0, string_view("COWD", 4)},
    {"vmdk", Place::kHead, 0, string_view("# Disk DescriptorFile", 21)},
    {"vhdx", Place::kHead, 0, string_view("vhdxfile", 8)},
    {"vpc", Place::kHead, 0, string_view("conectix", 8)},
    {"vpc", Place::kTail, 0, string_view("conectix", 8)},
    {"vdi", Place::kHead, 0x40, string_view("\x7f\x10\xda\xbe", 4)},
    {"qed", Place::kHead, 0, string_view("QED\0", 4)},
    {"parallels", Place::kHead, 0, string_view("WithoutFreeSpace", 16)},
    {"parallels", Place::kHead, 0, string_view("WithouFreSpacExt", 16)},
    {"dmg", Place::kTail, 0, string_view("koly", 4)},
};

bool Matches(absl::Span<const uint8_t> data, const Signature& signature) {
  if (data.size() < signature.offset ||
      signature.bytes.size() > data.size() - signature.offset) {
    return false;
  }
  return std::equal(signature.bytes.begin(), signature.bytes.end(),
                    data.begin() + signature.offset,
                    [](char wanted, uint8_t found) {
                      return static_cast<uint8_t>(wanted) == found;
                    });
}

}  // namespace

std::optional<string_view> DetectDiskFormat(absl::Span<const uint8_t> head,
                                            absl::Span<const uint8_t> tail) {
  for (const Signature& signature : kSignatures) {
    if (Matches(signature.place == Place::kHead ? head : tail, signature)) {
      return signature.format;
    }
  }
  return std::nullopt;
}

}  // namespace cloister::devices::virtio
