// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_DECOMPRESS_H_
#define CLOISTER_BOOT_DECOMPRESS_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/boot/shared_bytes.h"

namespace cloister::boot {

// The compression formats that Linux build configurations offer
// (CONFIG_KERNEL_GZIP and so on).
enum class Compression { kGzip, kBzip2, kLzma, kXz, kLzo, kLz4, kZstd };

// "gzip", "LZ4", ...
absl::string_view CompressionName(Compression compression);

// The format whose magic number `bytes` start with; nullopt if there is none.
std::optional<Compression> DetectCompression(absl::Span<const uint8_t> bytes);

// Unpacks `input`, one complete stream in the flavour that the kernel's build
// makes of each format (LZ4: the legacy framing, not the frame format), which
// must give exactly `size` bytes; so a small input cannot fill the host's
// memory. InvalidArgument if the input is corrupt or truncated, gives another
// size or has bytes left over; Unimplemented for LZO.
absl::StatusOr<SharedBytes> Decompress(Compression compression,
                                       absl::Span<const uint8_t> input,
                                       uint64_t size);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_DECOMPRESS_H_
