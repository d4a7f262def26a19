// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/config.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/memory/guest_address.h"
#include "cloister/vmm/kernel_arguments.h"
#include "cloister/vmm/size.h"

namespace cloister::vmm {
namespace {

// The builder checks again against the C-bit, once that is known.
constexpr uint64_t kMaxMemory = uint64_t{1} << 40;
constexpr size_t kMaxIdLength = 64;
// KVM's own limit on x86; a host may have a lower one, which the builder asks.
constexpr uint32_t kMaxCpus = 4096;

absl::Status ValidateMemory(const MemoryConfig& memory) {
  if (memory.bytes % memory::kPageSize != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--memory: ", memory.bytes, " bytes are not a multiple of 4 KiB"));
  }
  if (memory.bytes < kMinMemory || memory.bytes > kMaxMemory) {
    return absl::InvalidArgumentError(
        absl::StrCat("--memory: ", FormatSize(memory.bytes), " is not between ",
                     FormatSize(kMinMemory), " and ", FormatSize(kMaxMemory)));
  }
  return absl::OkStatus();
}

absl::Status ValidateCpus(const CpuConfig& cpus) {
  if (cpus.count == 0 || cpus.count > kMaxCpus) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--cpus: ", cpus.count, " is not between 1 and ", kMaxCpus));
  }
  if (cpus.threads_per_core == 0 || cpus.count % cpus.threads_per_core != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads-per-core: ", cpus.threads_per_core,
                     " does not divide --cpus ", cpus.count));
  }
  return absl::OkStatus();
}

// Guest memory begins below and goes on above 4 GiB, a border of either size.
absl::Status ValidateHugePages(const MemoryConfig& memory) {
  uint64_t page = memory::kPageSize;
  if (memory.huge_pages == memory::HugePages::kHugetlb2M) {
    page = uint64_t{2} << 20;
  } else if (memory.huge_pages == memory::HugePages::kHugetlb1G) {
    page = uint64_t{1} << 30;
  }
  if (memory.bytes % page == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--memory: ", FormatSize(memory.bytes),
      " is not a multiple of the pages of --huge-pages, ", FormatSize(page)));
}

bool IsDigest(absl::string_view text) {
  return text.empty() ||
         (text.size() == 64 &&
          std::all_of(text.begin(), text.end(), absl::ascii_isxdigit));
}

absl::Status ValidateConfidential(const VmConfig& config) {
  const ConfidentialConfig& confidential = config.confidential;
  if (confidential.policy.shared_limit % memory::kPageSize != 0 &&
      confidential.policy.shared_limit != UINT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shared-limit: ", confidential.policy.shared_limit,
                     " bytes are not a multiple of 4 KiB"));
  }
  if (confidential.policy.burst == 0) {
    return absl::InvalidArgumentError(
        "--conversion-rate: a burst of no requests at all");
  }
  if (!IsDigest(confidential.expected_digest)) {
    return absl::InvalidArgumentError(
        "expected_digest: expected 64 hexadecimal digits");
  }
  const bool off = confidential.backend == confidential::BackendChoice::kOff;
  if (!off && HasArgument(config.kernel.command_line, "swiotlb=noforce")) {
    return absl::InvalidArgumentError(
        "--append: swiotlb=noforce leaves a confidential guest no memory that "
        "devices may use");
  }
  if (off && !confidential.exchange_windows.empty()) {
    return absl::InvalidArgumentError(
        "exchange windows: not with --confidential off");
  }
  if (!off && config.memory.huge_pages != memory::HugePages::kNone) {
    // One touch of shared memory would back 511 private neighbours.
    return absl::InvalidArgumentError(
        "--huge-pages: only with --confidential off");
  }
  return absl::OkStatus();
}

absl::Status ValidateId(const std::string& id) {
  bool good = !id.empty() && id.size() <= kMaxIdLength;
  for (char c : id) good = good && (absl::ascii_isalnum(c) || c == '-');
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--id: 1 to ", kMaxIdLength, " letters, digits and dashes, please"));
}

}  // namespace

absl::Status ValidateConfig(const VmConfig& config) {
  if (config.kernel.path.empty()) {
    return absl::InvalidArgumentError("--kernel: a file is needed");
  }
  if (absl::Status s = ValidateMemory(config.memory); !s.ok()) return s;
  if (absl::Status s = ValidateHugePages(config.memory); !s.ok()) return s;
  if (absl::Status s = ValidateCpus(config.cpus); !s.ok()) return s;
  if (absl::Status s = ValidateId(config.id); !s.ok()) return s;
  if (absl::Status s = ValidateDevices(config.devices); !s.ok()) return s;
  return ValidateConfidential(config);
}

}  // namespace cloister::vmm
