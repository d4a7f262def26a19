// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_FORMAT_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace cloister::devices::virtio {

// How much of an image's start and end DetectDiskFormat wants to see.
inline constexpr size_t kDiskFormatHead = 1024;
inline constexpr size_t kDiskFormatTail = 512;

// The name, as `qemu-img -f` knows it, of a disk image format that is not raw:
// "qcow2", "vmdk", "vhdx", "vpc", "vdi", "qed", "parallels", "dmg". Nullopt for
// everything else, which is raw. Looks at signatures only, so what a guest
// writes into its own first sector can at most get its disk refused. `head` and
// `tail` may be shorter than the image allows, never longer.
std::optional<absl::string_view> DetectDiskFormat(
    absl::Span<const uint8_t> head, absl::Span<const uint8_t> tail);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_FORMAT_H_
