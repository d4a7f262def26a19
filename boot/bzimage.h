// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_BZIMAGE_H_
#define CLOISTER_BOOT_BZIMAGE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/decompress.h"
#include "cloister/boot/shared_bytes.h"

namespace cloister::boot {

// What boot_params takes over from a kernel's setup header, and the limits it
// states (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
struct SetupHeader {
  // The header's bytes, from file offset 0x1f1 to its end.
  std::vector<uint8_t> bytes;
  // 0x20f is version 2.15.
  uint16_t protocol = 0;
  // Longest command line, without the final NUL.
  uint32_t command_line_size = 0;
  // Highest address that the initrd may occupy.
  uint32_t initrd_address_max = 0;
  // The kernel accepts initrd and command line above 4 GiB.
  bool can_load_above_4g = false;
};

// A bzImage whose header has been checked against the file's length.
class BzImage {
 public:
  // True if `file` has a setup header's two signatures.
  static bool Detect(const SharedBytes& file);

  // InvalidArgument if the header is inconsistent, the file truncated or the
  // kernel not a 64-bit one; Unimplemented for boot protocols before 2.08 and
  // payloads in unknown formats.
  static absl::StatusOr<BzImage> Parse(const SharedBytes& file);

  const SetupHeader& header() const { return header_; }

  // "6.1.0-18-cloud-amd64 (...)", printable; empty if the file has none.
  const std::string& version() const { return version_; }

  // nullopt: the payload is an ELF image as it is.
  std::optional<Compression> compression() const { return compression_; }

  // The ELF image, and after it what the kernel's build appended (the table
  // for relocating the kernel). At most 1 GiB; InvalidArgument if the payload
  // is corrupt or its size is not the one stated at its end.
  absl::StatusOr<SharedBytes> Unpack() const;

 private:
  BzImage() = default;

  SetupHeader header_;
  std::string version_;
  std::optional<Compression> compression_;
  SharedBytes payload_;
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_BZIMAGE_H_
