// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_CONFIG_H_
#define CLOISTER_VMM_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/guest_memory_mapping.h"

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

struct ConfidentialConfig {
  confidential::BackendChoice backend = confidential::BackendChoice::kAuto;
  // What a guest's implicit conversions may do. Linux needs them early on.
  memory::ConversionPolicy policy;
};

// Everything that describes a VM. Plain data: nothing is opened or checked
// until Validate and the builder look at it.
struct VmConfig {
  KernelConfig kernel;
  CpuConfig cpus;
  MemoryConfig memory;
  ConfidentialConfig confidential;
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
