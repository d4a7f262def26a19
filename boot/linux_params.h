// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_LINUX_PARAMS_H_
#define CLOISTER_BOOT_LINUX_PARAMS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/boot/bzimage.h"
#include "cloister/boot/e820.h"
#include "cloister/boot/launch_image.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

inline constexpr uint64_t kBootParamsSize = 4096;
// boot_params has room for this many; longer tables are refused.
inline constexpr size_t kMaximumE820Entries = 128;

// The setup header for a vmlinux, which has none: boot protocol 2.15, a command
// line of 2047 bytes, the initrd anywhere.
SetupHeader DefaultSetupHeader();

// What the kernel learns from its zero page. Addresses and ranges are those of
// pieces of the launch image.
struct BootParams {
  SetupHeader setup_header;
  std::vector<E820Entry> e820;
  memory::GuestAddress command_line;
  std::optional<memory::GuestRange> initrd;
  // Read by Linux 5.0 and later.
  std::optional<memory::GuestAddress> rsdp;
  // The first element of the list of setup_data.
  std::optional<memory::GuestAddress> setup_data = {};
};

// Types of setup_data elements (Documentation/arch/x86/boot.rst).
enum class SetupDataType : uint32_t {
  kDeviceTree = 2,  // SETUP_DTB
};

// An element of the list of setup_data, the last one.
std::vector<uint8_t> EncodeSetupData(SetupDataType type,
                                     absl::Span<const uint8_t> data);

// struct boot_params (Documentation/arch/x86/zero-page.rst), kBootParamsSize
// bytes. InvalidArgument if the e820 table is empty or too long.
absl::StatusOr<std::vector<uint8_t>> EncodeBootParams(const BootParams& params);

// InvalidArgument if the kernel's buffer cannot hold `command_line` or if it
// contains a NUL, at which the kernel would stop reading.
absl::Status CheckCommandLine(absl::string_view command_line,
                              const SetupHeader& header);

// The highest page where an initrd of `size` bytes is free in `image` and
// acceptable to the kernel: up to initrd_addr_max, or above 4 GiB if it allows
// that and there is no room below. ResourceExhausted, with the sizes, if there
// is no such place.
absl::StatusOr<memory::GuestAddress> PlaceInitrd(const LaunchImage& image,
                                                 uint64_t size,
                                                 const SetupHeader& header);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_LINUX_PARAMS_H_
