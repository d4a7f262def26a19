// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_SIZE_H_
#define CLOISTER_VMM_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cloister::vmm {

// Bytes from "536870912", "0x20000000", "512M", "512MiB", "2G", "4096K" or
// "1T"; letters in either case, always powers of two. InvalidArgument, quoting
// the text, for anything else and for sizes of 2^64 bytes or more.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);

// The largest unit that divides `bytes`: "512 MiB", "4 KiB", "17 B".
std::string FormatSize(uint64_t bytes);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_SIZE_H_
