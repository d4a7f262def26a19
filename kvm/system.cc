// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/system.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

constexpr int kApiVersion = 12;
// KVM takes fewer than 256 MSRs per call.
constexpr size_t kMsrBatch = 255;
// Above every list that a KVM has; one that keeps asking for more is broken.
constexpr uint32_t kMaxEntries = 16384;

absl::Status OpenError(int error, const char* path) {
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(absl::StrCat(
          path,
          " does not exist: load the kvm_intel or kvm_amd module, or "
          "enable (nested) virtualization for this machine"));
    case ENODEV:
    case ENXIO:
      return absl::NotFoundError(absl::StrCat(
          path, " has no KVM behind it (", base::ErrnoName(error),
          "): enable virtualization in the firmware and load kvm_intel or "
          "kvm_amd"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat(
          "no permission to open ", path, " (", base::ErrnoName(error),
          "): join the group that owns it (usermod -aG kvm <user>, then log in "
          "again) or run as root"));
    default:
      return base::ErrnoStatus(error, absl::StrCat("open(", path, ")"));
  }
}

}  // namespace

absl::StatusOr<System> System::Open(Syscalls& syscalls, const char* path) {
  base::UniqueFd fd(base::RetryOnEintr(
      [&] { return syscalls.Open(path, O_RDWR | O_CLOEXEC); }));
  if (!fd.valid()) return OpenError(errno, path);
  return Adopt(std::move(fd), syscalls, path);
}

absl::StatusOr<System> System::Adopt(base::UniqueFd fd, Syscalls& syscalls,
                                     const char* path) {
  int version = base::RetryOnEintr(
      [&] { return syscalls.Ioctl(fd.get(), KVM_GET_API_VERSION, 0); });
  if (version < 0) {
    int error = errno;
    if (error == ENOTTY || error == EINVAL) {
      return absl::UnimplementedError(
          absl::StrCat(path,
                       " is not a KVM device: it does not answer "
                       "KVM_GET_API_VERSION (",
                       base::ErrnoName(error), ")"));
    }
    return base::ErrnoStatus(error,
                             absl::StrCat("KVM_GET_API_VERSION(", path, ")"));
  }
  if (version != kApiVersion) {
    return absl::UnimplementedError(
        absl::StrCat(path, " speaks KVM API version ", version, ", not ",
                     kApiVersion, ": use Linux 2.6.22 or later"));
  }
  return System(syscalls, std::move(fd), version);
}

int System::Ioctl(unsigned long request, uintptr_t argument) const {
  return base::RetryOnEintr(
      [&] { return syscalls_->Ioctl(fd_.get(), request, argument); });
}

int System::CheckExtension(Capability capability) const {
  return std::max(0, Ioctl(KVM_CHECK_EXTENSION, CapabilityNumber(capability)));
}

int System::MaxVcpus() const {
  int maximum = CheckExtension(Capability::kMaxVcpus);
  if (maximum <= 0) maximum = CheckExtension(Capability::kVcpusRecommended);
  return std::max(1, maximum);
}

absl::StatusOr<size_t> System::VcpuMmapSize() const {
  int size = Ioctl(KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < 0) return base::ErrnoStatus(errno, "KVM_GET_VCPU_MMAP_SIZE");
  if (static_cast<size_t>(size) < sizeof(struct kvm_run)) {
    return absl::InternalError(absl::StrCat("KVM_GET_VCPU_MMAP_SIZE: ", size,
                                            " bytes, fewer than ",
                                            sizeof(struct kvm_run)));
  }
  return static_cast<size_t>(size);
}

absl::StatusOr<std::vector<CpuidEntry>> System::SupportedCpuid() const {
  static_assert(sizeof(CpuidEntry) == sizeof(struct kvm_cpuid_entry2));
  constexpr size_t kHeader = sizeof(struct kvm_cpuid2);
  for (uint32_t capacity = 128; capacity <= kMaxEntries; capacity *= 2) {
    std::vector<uint8_t> list(kHeader + capacity * sizeof(CpuidEntry));
    uint32_t count = capacity;
    std::memcpy(list.data(), &count, sizeof(count));
    if (Ioctl(KVM_GET_SUPPORTED_CPUID,
              reinterpret_cast<uintptr_t>(list.data())) < 0) {
      if (errno == E2BIG) continue;
      return base::ErrnoStatus(errno, "KVM_GET_SUPPORTED_CPUID");
    }
    std::memcpy(&count, list.data(), sizeof(count));
    std::vector<CpuidEntry> entries(std::min(count, capacity));
    if (!entries.empty()) {
      std::memcpy(entries.data(), list.data() + kHeader,
                  entries.size() * sizeof(CpuidEntry));
    }
    return entries;
  }
  return base::ErrnoStatus(E2BIG, "KVM_GET_SUPPORTED_CPUID");
}

absl::StatusOr<std::vector<uint32_t>> System::IndexList(
    unsigned long request, const char* name) const {
  for (uint32_t capacity = 256; capacity <= kMaxEntries; capacity *= 2) {
    // struct kvm_msr_list: a count, then as many indices.
    std::vector<uint32_t> list(1 + capacity);
    list[0] = capacity;
    if (Ioctl(request, reinterpret_cast<uintptr_t>(list.data())) < 0) {
      if (errno == E2BIG) continue;
      return base::ErrnoStatus(errno, name);
    }
    uint32_t count = std::min(list[0], capacity);
    return std::vector<uint32_t>(list.begin() + 1, list.begin() + 1 + count);
  }
  return base::ErrnoStatus(E2BIG, name);
}

absl::StatusOr<std::vector<uint32_t>> System::MsrIndexList() const {
  return IndexList(KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST");
}

absl::StatusOr<std::vector<MsrEntry>> System::FeatureMsrs() const {
  ASSIGN_OR_RETURN(std::vector<uint32_t> indices,
                   IndexList(KVM_GET_MSR_FEATURE_INDEX_LIST,
                             "KVM_GET_MSR_FEATURE_INDEX_LIST"));
  constexpr size_t kHeader = sizeof(struct kvm_msrs);
  std::vector<MsrEntry> features;
  for (size_t next = 0; next < indices.size();) {
    uint32_t count =
        static_cast<uint32_t>(std::min(indices.size() - next, kMsrBatch));
    std::vector<uint8_t> list(kHeader + count * sizeof(MsrEntry));
    std::memcpy(list.data(), &count, sizeof(count));
    for (size_t i = 0; i < count; ++i) {
      MsrEntry entry = {indices[next + i], 0, 0};
      std::memcpy(list.data() + kHeader + i * sizeof(entry), &entry,
                  sizeof(entry));
    }
    int done = Ioctl(KVM_GET_MSRS, reinterpret_cast<uintptr_t>(list.data()));
    if (done < 0) return base::ErrnoStatus(errno, "KVM_GET_MSRS(features)");
    uint32_t read = std::min(static_cast<uint32_t>(done), count);
    for (size_t i = 0; i < read; ++i) {
      MsrEntry entry;
      std::memcpy(&entry, list.data() + kHeader + i * sizeof(entry),
                  sizeof(entry));
      features.push_back(entry);
    }
    // KVM stops at one that this CPU lacks: leave that out and go on.
    next += read < count ? read + 1 : read;
  }
  return features;
}

absl::StatusOr<Vm> System::CreateVm(VmType type) const {
  ASSIGN_OR_RETURN(size_t mmap_size, VcpuMmapSize());
  base::UniqueFd fd(Ioctl(KVM_CREATE_VM, static_cast<uintptr_t>(type)));
  if (!fd.valid()) {
    int error = errno;
    std::string what = absl::StrCat("KVM_CREATE_VM(", VmTypeName(type), ")");
    if (error == EINVAL) {
      return absl::UnimplementedError(
          absl::StrCat(what,
                       ": this KVM does not offer VMs of that type "
                       "(EINVAL)"));
    }
    return base::ErrnoStatus(error, what);
  }
  bool has_user_memory2 = CheckExtension(Capability::kUserMemory2) > 0;
  return Vm(*syscalls_, std::move(fd), type, mmap_size, has_user_memory2);
}

}  // namespace cloister::kvm
