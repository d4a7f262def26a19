// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/fake_kvm_state.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <set>

#include "cloister/kvm/registers.h"

namespace cloister::kvm {
namespace {

// The registers that are remembered whole: a SET and the GET that returns it.
const std::map<unsigned long, unsigned long>& Pairs() {
  static const std::map<unsigned long, unsigned long> pairs = {
      {KVM_SET_REGS, KVM_GET_REGS},
      {KVM_SET_SREGS, KVM_GET_SREGS},
      {KVM_SET_FPU, KVM_GET_FPU},
      {KVM_SET_LAPIC, KVM_GET_LAPIC},
      {KVM_SET_MP_STATE, KVM_GET_MP_STATE},
      {KVM_SET_XCRS, KVM_GET_XCRS},
      {KVM_SET_VCPU_EVENTS, KVM_GET_VCPU_EVENTS},
      {KVM_SET_CLOCK, KVM_GET_CLOCK},
  };
  return pairs;
}

// Accepted without effect, on a VM or a vCPU.
const std::set<unsigned long>& Accepted() {
  static const std::set<unsigned long> accepted = {
      KVM_CREATE_IRQCHIP,
      KVM_CREATE_PIT2,
      KVM_SET_TSS_ADDR,
      KVM_SET_IDENTITY_MAP_ADDR,
      KVM_SET_BOOT_CPU_ID,
      KVM_IRQ_LINE,
      KVM_IRQFD,
      KVM_IOEVENTFD,
      KVM_SET_GSI_ROUTING,
      KVM_X86_SET_MSR_FILTER,
      KVM_NMI,
      KVM_INTERRUPT,
      KVM_KVMCLOCK_CTRL,
      KVM_SET_TSC_KHZ,
  };
  return accepted;
}

constexpr uint32_t kMsrIndices[] = {0x10, 0x174, 0x1a0, 0xc0000080};

const CpuidEntry& CpuidLeaf(size_t i) {
  static const CpuidEntry leaves[] = {
      {0x0, 0, 0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69, {}},
      {0x1, 0, 0, 0x000306a9, 0, 0x80000000, 0x078bfbff, {}},
      {0xd, 0, CpuidEntry::kSignificantIndex, 7, 0x340, 0x340, 0, {}},
      {0x80000000, 0, 0, 0x80000008, 0, 0, 0, {}},
      {0x80000001, 0, 0, 0, 0, 0, 0x20100800, {}},
      {0x80000008, 0, 0, 0x3028, 0, 0, 0, {}},
  };
  return leaves[i];
}
constexpr uint32_t kCpuidLeaves = 6;

}  // namespace

int Fail(int error) {
  errno = error;
  return -1;
}

size_t ArgumentSize(unsigned long request, uintptr_t argument) {
  if (argument == 0 || (_IOC_DIR(request) & _IOC_WRITE) == 0) return 0;
  size_t size = _IOC_SIZE(request);
  size_t entry = 0;
  switch (request) {
    case KVM_SET_MSRS:
    case KVM_GET_MSRS:
      entry = sizeof(struct kvm_msr_entry);
      break;
    case KVM_SET_CPUID2:
      entry = sizeof(struct kvm_cpuid_entry2);
      break;
    case KVM_SET_GSI_ROUTING:
      entry = sizeof(struct kvm_irq_routing_entry);
      break;
    default:
      break;
  }
  if (entry != 0) size += *reinterpret_cast<uint32_t*>(argument) * entry;
  return size;
}

int FakeKvm::State::NewFd(FakeKind kind, const char* name, unsigned flags) {
  int fd = memfd_create(name, flags);
  if (fd < 0) return -1;
  kinds[fd] = kind;
  // A closed descriptor's number may come back.
  vcpus.erase(fd);
  slots.erase(fd);
  for (auto& [number, vcpu] : vcpus) {
    if (vcpu.vm == fd) vcpu.vm = -1;
  }
  for (auto it = blobs.begin(); it != blobs.end();) {
    it = it->first.first == fd ? blobs.erase(it) : std::next(it);
  }
  for (auto it = msrs.begin(); it != msrs.end();) {
    it = it->first.first == fd ? msrs.erase(it) : std::next(it);
  }
  cpuid.erase(fd);
  return fd;
}

int FakeKvm::State::Extension(FakeKind kind, int number) const {
  if (kind == FakeKind::kVm) {
    auto it = vm_capabilities.find(number);
    if (it != vm_capabilities.end()) return it->second;
  }
  auto it = capabilities.find(number);
  return it == capabilities.end() ? 0 : it->second;
}

bool FakeKvm::State::Has(FakeKind kind, Capability capability) const {
  return Extension(kind, CapabilityNumber(capability)) > 0;
}

int FakeKvm::State::SystemIoctl(unsigned long request, uintptr_t argument) {
  switch (request) {
    case KVM_GET_API_VERSION:
      return 12;
    case KVM_GET_VCPU_MMAP_SIZE:
      return kRunPageSize;
    case KVM_CREATE_VM: {
      int types = Extension(FakeKind::kSystem, KVM_CAP_VM_TYPES);
      if (argument > 31 || ((types | 1) & (1 << argument)) == 0) {
        return Fail(EINVAL);
      }
      return NewFd(FakeKind::kVm, "fake-vm", MFD_CLOEXEC);
    }
    case KVM_GET_SUPPORTED_CPUID: {
      auto* list = reinterpret_cast<struct kvm_cpuid2*>(argument);
      if (list->nent < kCpuidLeaves) return Fail(E2BIG);
      list->nent = kCpuidLeaves;
      for (uint32_t i = 0; i < kCpuidLeaves; ++i) {
        std::memcpy(&list->entries[i], &CpuidLeaf(i), sizeof(CpuidEntry));
      }
      return 0;
    }
    case KVM_GET_MSR_INDEX_LIST:
    case KVM_GET_MSR_FEATURE_INDEX_LIST: {
      auto* list = reinterpret_cast<struct kvm_msr_list*>(argument);
      uint32_t room = list->nmsrs;
      list->nmsrs = std::size(kMsrIndices);
      if (room < list->nmsrs) return Fail(E2BIG);
      std::copy(std::begin(kMsrIndices), std::end(kMsrIndices), list->indices);
      return 0;
    }
    case KVM_GET_MSRS:
      return Msrs(-1, argument, /*set=*/false);
    default:
      return Fail(ENOTTY);
  }
}

int FakeKvm::State::SetRegion(
    int fd, const struct kvm_userspace_memory_region2& region) {
  std::map<uint32_t, MemorySlot>& table = slots[fd];
  if (region.memory_size == 0) {
    return table.erase(region.slot) == 1 ? 0 : Fail(EINVAL);
  }
  bool bound = (region.flags & KVM_MEM_GUEST_MEMFD) != 0;
  uint64_t last = region.guest_phys_addr + region.memory_size - 1;
  if (((region.guest_phys_addr | region.memory_size | region.userspace_addr) &
       0xfff) != 0 ||
      last < region.guest_phys_addr ||
      (bound && (region.flags & ~KVM_MEM_GUEST_MEMFD) != 0) ||
      (bound && !IsGuestMemfd(static_cast<int>(region.guest_memfd)))) {
    return Fail(EINVAL);
  }
  for (const auto& [number, other] : table) {
    bool apart =
        last < other.gpa || other.gpa + other.size - 1 < region.guest_phys_addr;
    if (number != region.slot && !apart) return Fail(EEXIST);
  }
  table[region.slot] = {region.guest_phys_addr,
                        region.memory_size,
                        reinterpret_cast<void*>(region.userspace_addr),
                        (region.flags & KVM_MEM_READONLY) != 0,
                        (region.flags & KVM_MEM_LOG_DIRTY_PAGES) != 0,
                        bound ? static_cast<int>(region.guest_memfd) : -1,
                        region.guest_memfd_offset};
  return 0;
}

bool FakeKvm::State::IsGuestMemfd(int fd) const {
  struct stat file = {};
  return fstat(fd, &file) == 0 && guest_memfds.count(file.st_ino) != 0;
}

int FakeKvm::State::CreateGuestMemfd(
    const struct kvm_create_guest_memfd& argument) {
  if (!Has(FakeKind::kVm, Capability::kGuestMemfd)) return Fail(ENOTTY);
  uint64_t flags = Extension(FakeKind::kVm, KVM_CAP_GUEST_MEMFD_FLAGS);
  if ((argument.flags & ~flags) != 0 || argument.size == 0 ||
      argument.size % 4096 != 0) {
    return Fail(EINVAL);
  }
  // Like KVM's, not close-on-exec. A size that nobody changes is a seal here.
  int fd = NewFd(FakeKind::kGuestMemfd, "fake-guest-memfd", MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  if (ftruncate(fd, static_cast<off_t>(argument.size)) < 0) {
    int error = errno;
    close(fd);
    return Fail(error);
  }
  struct stat file = {};
  if (fstat(fd, &file) == 0) guest_memfds.insert(file.st_ino);
  return fd;
}

int FakeKvm::State::CreateVcpu(int fd, uint32_t id) {
  int count = 0;
  for (const auto& [number, vcpu] : vcpus) {
    if (vcpu.vm != fd) continue;
    if (vcpu.id == id) return Fail(EEXIST);
    ++count;
  }
  if (count >= Extension(FakeKind::kVm, KVM_CAP_MAX_VCPUS) ||
      id >= static_cast<uint32_t>(
                Extension(FakeKind::kVm, KVM_CAP_MAX_VCPU_ID))) {
    return Fail(EINVAL);
  }
  int vcpu = NewFd(FakeKind::kVcpu, "fake-vcpu", MFD_CLOEXEC);
  if (vcpu >= 0) {
    vcpus[vcpu].id = id;
    vcpus[vcpu].vm = fd;
  }
  return vcpu;
}

int FakeKvm::State::Attributes(const struct kvm_memory_attributes& attributes) {
  if (!Has(FakeKind::kVm, Capability::kMemoryAttributes)) return Fail(ENOTTY);
  if (attributes.flags != 0 || attributes.size == 0 ||
      ((attributes.address | attributes.size) & 0xfff) != 0 ||
      (attributes.attributes & ~KVM_MEMORY_ATTRIBUTE_PRIVATE) != 0) {
    return Fail(EINVAL);
  }
  attribute_calls.push_back(
      {attributes.address, attributes.size, attributes.attributes != 0});
  return 0;
}

int FakeKvm::State::VmIoctl(int fd, unsigned long request, uintptr_t argument) {
  switch (request) {
    case KVM_SET_USER_MEMORY_REGION: {
      struct kvm_userspace_memory_region2 region = {};
      std::memcpy(&region, reinterpret_cast<void*>(argument),
                  sizeof(struct kvm_userspace_memory_region));
      if ((region.flags & KVM_MEM_GUEST_MEMFD) != 0) return Fail(EINVAL);
      return SetRegion(fd, region);
    }
    case KVM_SET_USER_MEMORY_REGION2:
      if (!Has(FakeKind::kVm, Capability::kUserMemory2)) return Fail(ENOTTY);
      return SetRegion(
          fd,
          *reinterpret_cast<struct kvm_userspace_memory_region2*>(argument));
    case KVM_CREATE_GUEST_MEMFD:
      return CreateGuestMemfd(
          *reinterpret_cast<struct kvm_create_guest_memfd*>(argument));
    case KVM_SET_MEMORY_ATTRIBUTES:
      return Attributes(
          *reinterpret_cast<struct kvm_memory_attributes*>(argument));
    case KVM_CREATE_VCPU:
      return CreateVcpu(fd, static_cast<uint32_t>(argument));
    case KVM_ENABLE_CAP: {
      const auto* enable = reinterpret_cast<struct kvm_enable_cap*>(argument);
      return Extension(FakeKind::kVm, static_cast<int>(enable->cap)) > 0
                 ? 0
                 : Fail(EINVAL);
    }
    case KVM_SIGNAL_MSI:
      return 1;  // delivered
    default:
      return Accepted().count(request) != 0 ? 0 : Fail(ENOTTY);
  }
}

int FakeKvm::State::Msrs(int fd, uintptr_t argument, bool set) {
  auto* list = reinterpret_cast<struct kvm_msrs*>(argument);
  if (list->nmsrs >= 256) return Fail(E2BIG);
  for (uint32_t i = 0; i < list->nmsrs; ++i) {
    uint64_t& value = msrs[{fd, list->entries[i].index}];
    if (set) {
      value = list->entries[i].data;
    } else {
      list->entries[i].data = value;
    }
  }
  return static_cast<int>(list->nmsrs);
}

int FakeKvm::State::Blob(int fd, unsigned long request, uintptr_t argument) {
  auto* bytes = reinterpret_cast<uint8_t*>(argument);
  size_t size = _IOC_SIZE(request);
  for (const auto& [set, get] : Pairs()) {
    if (request == set) {
      blobs[{fd, get}].assign(bytes, bytes + size);
      return 0;
    }
    if (request == get) {
      std::vector<uint8_t>& blob = blobs[{fd, get}];
      blob.resize(size);
      std::memcpy(bytes, blob.data(), size);
      return 0;
    }
  }
  return -2;
}

int FakeKvm::State::VcpuIoctl(int fd, unsigned long request,
                              uintptr_t argument) {
  switch (request) {
    case KVM_SET_MSRS:
      return Msrs(fd, argument, /*set=*/true);
    case KVM_GET_MSRS:
      return Msrs(fd, argument, /*set=*/false);
    case KVM_SET_CPUID2: {
      const auto* bytes = reinterpret_cast<uint8_t*>(argument);
      cpuid[fd].assign(bytes, bytes + ArgumentSize(request, argument));
      return 0;
    }
    case KVM_GET_CPUID2: {
      auto* list = reinterpret_cast<struct kvm_cpuid2*>(argument);
      std::vector<uint8_t>& stored = cpuid[fd];
      if (stored.empty()) stored.resize(sizeof(*list));
      uint32_t count;
      std::memcpy(&count, stored.data(), sizeof(count));
      if (list->nent < count) return Fail(E2BIG);
      std::memcpy(list, stored.data(), stored.size());
      return 0;
    }
    case KVM_GET_TSC_KHZ:
      return 2000000;
    case KVM_PRE_FAULT_MEMORY: {
      auto* range = reinterpret_cast<struct kvm_pre_fault_memory*>(argument);
      range->gpa += range->size;
      range->size = 0;
      return 0;
    }
    default:
      return Accepted().count(request) != 0 ? 0 : Fail(ENOTTY);
  }
}

}  // namespace cloister::kvm
