// SPDX-License-Identifier: Apache-2.0
//
// Compresses test data the way the kernel's build compresses kernels (test
// only).
#ifndef CLOISTER_BOOT_FAKE_COMPRESS_H_
#define CLOISTER_BOOT_FAKE_COMPRESS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "cloister/boot/decompress.h"

namespace cloister::boot {

// All that Decompress supports.
inline constexpr Compression kSupportedCompressions[] = {
    Compression::kGzip, Compression::kBzip2, Compression::kLzma,
    Compression::kXz,   Compression::kLz4,   Compression::kZstd};

// `bytes` as one stream. Aborts if the library fails.
std::vector<uint8_t> Compress(Compression compression,
                              absl::Span<const uint8_t> bytes);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_FAKE_COMPRESS_H_
