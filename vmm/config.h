// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_CONFIG_H_
#define CLOISTER_VMM_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/vmm/device_config.h"

namespace cloister::vmm {

struct KernelConfig {
  std::string path;         // bzImage or ELF vmlinux
  std::string initrd_path;  // empty: none
  std::string command_line;
};

struct CpuConfig {
  uint32_t count = 1;
  uint32_t threads_per_core = 1;
};

struct MemoryConfig {
  uint64_t bytes = uint64_t{256} << 20;
  // Only where the guest is not confidential: see private-memory in docs.
  memory::HugePages huge_pages = memory::HugePages::kNone;
};

// How a confidential guest tells that it shares a page, or takes it back.
enum class ConversionReports {
  kHypercall,  // MAP_GPA_RANGE by VMMCALL: AMD hosts
  kFault,      // by touching it: pages only ever become shared
};

struct ConfidentialConfig {
  confidential::BackendChoice backend = confidential::BackendChoice::kAuto;
  // Part of the launch digest. With kAuto a host without VMMCALL makes it
  // kFault, and says so; with a backend asked for by name it refuses instead.
  ConversionReports reports = ConversionReports::kHypercall;
  // 64 hexadecimal digits: a VM with another launch digest, or with none, is
  // not built. Empty: any.
  std::string expected_digest;
  // What a guest's conversions may do: limits, and whether those that no
  // hypercall reports are allowed. Linux needs those early on.
  memory::ConversionPolicy policy;
  // Memory beside --memory that starts out private and that the host may
  // convert at any time (memory::HostConversionReason::kExchangeWindow):
  // page-aligned, ascending, disjoint, outside of the guest's e820 table and of
  // the hole below 4 GiB. Part of the launch digest.
  std::vector<memory::GuestRange> exchange_windows;
};

// Everything that describes a VM. Plain data: nothing is opened or checked
// until Validate and the builder look at it.
struct VmConfig {
  KernelConfig kernel;
  CpuConfig cpus;
  MemoryConfig memory;
  ConfidentialConfig confidential;
  DevicesConfig devices;
  // Host file descriptor and path handling belongs to the caller; this is a
  // name for threads and messages.
  std::string id = "vm0";
};

inline constexpr uint64_t kMinMemory = uint64_t{16} << 20;

// Checks what can be checked without the host. InvalidArgument, naming the
// option as the command line spells it.
absl::Status ValidateConfig(const VmConfig& config);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_CONFIG_H_
