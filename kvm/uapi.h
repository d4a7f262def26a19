// SPDX-License-Identifier: Apache-2.0
//
// KVM's UAPI: <linux/kvm.h> plus what Debian bookworm's copy of it (6.1) lacks.
// Numbers and layouts are the kernel's ABI; each is defined only where the
// system's header does not have it. Private to kvm/, lab/ and tests/: everyone
// else uses the types of this folder's other headers.
#ifndef CLOISTER_KVM_UAPI_H_
#define CLOISTER_KVM_UAPI_H_

#include <linux/stddef.h>

// In C++ an empty struct takes a byte, so bookworm's flexible arrays start too
// late and every ioctl number that encodes such a struct's size comes out wrong
// (KVM_GET_MSRS, KVM_SET_CPUID2, ...). Later headers do what this does.
#pragma push_macro("__DECLARE_FLEX_ARRAY")
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, member) type member[0]
#include <linux/kvm.h>
#pragma pop_macro("__DECLARE_FLEX_ARRAY")

#include <cstddef>
#include <cstdint>

// Capabilities that came after 6.1.
#ifndef KVM_CAP_USER_MEMORY2  // 6.8
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO  // 6.8
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES  // 6.8
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#endif
#ifndef KVM_CAP_GUEST_MEMFD  // 6.8
#define KVM_CAP_GUEST_MEMFD 234
#endif
#ifndef KVM_CAP_VM_TYPES  // 6.8
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY  // 6.11
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS  // 6.11
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif
#ifndef KVM_CAP_X86_GUEST_MODE  // 6.11
#define KVM_CAP_X86_GUEST_MODE 238
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS  // 6.18
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#endif

// Exit reasons that came after 6.1.
#ifndef KVM_EXIT_LOONGARCH_IOCSR
#define KVM_EXIT_LOONGARCH_IOCSR 38
#endif
#ifndef KVM_EXIT_MEMORY_FAULT  // 6.8
#define KVM_EXIT_MEMORY_FAULT 39
#endif
#ifndef KVM_EXIT_TDX  // 6.16
#define KVM_EXIT_TDX 40
#endif
#ifndef KVM_EXIT_ARM_SEA  // 6.19
#define KVM_EXIT_ARM_SEA 41
#endif
#ifndef KVM_EXIT_ARM_LDST64B
#define KVM_EXIT_ARM_LDST64B 42
#endif
#ifndef KVM_EXIT_SNP_REQ_CERTS
#define KVM_EXIT_SNP_REQ_CERTS 43
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ULL << 3)
#endif
#ifndef KVM_SYSTEM_EVENT_SEV_TERM
#define KVM_SYSTEM_EVENT_SEV_TERM 6
#endif
#ifndef KVM_SYSTEM_EVENT_TDX_FATAL
#define KVM_SYSTEM_EVENT_TDX_FATAL 7
#endif

// VM types, arguments of KVM_CREATE_VM.
#ifndef KVM_X86_DEFAULT_VM
#define KVM_X86_DEFAULT_VM 0
#endif
#ifndef KVM_X86_SW_PROTECTED_VM  // 6.8
#define KVM_X86_SW_PROTECTED_VM 1
#endif
#ifndef KVM_X86_SEV_VM  // 6.10
#define KVM_X86_SEV_VM 2
#endif
#ifndef KVM_X86_SEV_ES_VM  // 6.10
#define KVM_X86_SEV_ES_VM 3
#endif
#ifndef KVM_X86_SNP_VM  // 6.11
#define KVM_X86_SNP_VM 4
#endif
#ifndef KVM_X86_TDX_VM  // 6.16
#define KVM_X86_TDX_VM 5
#endif

// The hypercall with which a guest converts memory.
#ifndef KVM_HC_MAP_GPA_RANGE
#define KVM_HC_MAP_GPA_RANGE 12
#endif

#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#endif

#ifndef KVM_SET_USER_MEMORY_REGION2  // 6.8
struct kvm_userspace_memory_region2 {
  uint32_t slot;
  uint32_t flags;
  uint64_t guest_phys_addr;
  uint64_t memory_size;
  uint64_t userspace_addr;
  uint64_t guest_memfd_offset;
  uint32_t guest_memfd;
  uint32_t pad1;
  uint64_t pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 \
  _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES  // 6.8
struct kvm_memory_attributes {
  uint64_t address;
  uint64_t size;
  uint64_t attributes;
  uint64_t flags;
};
#define KVM_SET_MEMORY_ATTRIBUTES \
  _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#endif
#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
#endif

#ifndef KVM_CREATE_GUEST_MEMFD  // 6.8
struct kvm_create_guest_memfd {
  uint64_t size;
  uint64_t flags;
  uint64_t reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP  // 6.18
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#endif
#ifndef GUEST_MEMFD_FLAG_INIT_SHARED  // 6.18
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#endif

#ifndef KVM_PRE_FAULT_MEMORY  // 6.11
struct kvm_pre_fault_memory {
  uint64_t gpa;
  uint64_t size;
  uint64_t flags;
  uint64_t padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

namespace cloister::kvm {

// What KVM_EXIT_MEMORY_FAULT leaves in struct kvm_run's union, which bookworm's
// header does not declare.
struct MemoryFaultRunData {
  uint64_t flags;
  uint64_t gpa;
  uint64_t size;
};

// Where struct kvm_run's per-exit union starts.
inline constexpr size_t kRunUnionOffset = offsetof(struct kvm_run, hw);

static_assert(kRunUnionOffset == 32);
static_assert(sizeof(struct kvm_msrs) == 8);
static_assert(sizeof(struct kvm_msr_list) == 4);
static_assert(sizeof(struct kvm_cpuid2) == 8);
static_assert(sizeof(struct kvm_irq_routing) == 8);
static_assert(sizeof(struct kvm_xsave) == 4096);
static_assert(sizeof(struct kvm_userspace_memory_region2) == 160);
static_assert(sizeof(struct kvm_memory_attributes) == 32);
static_assert(sizeof(struct kvm_create_guest_memfd) == 64);
static_assert(sizeof(struct kvm_pre_fault_memory) == 64);

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_UAPI_H_
