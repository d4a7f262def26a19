// SPDX-License-Identifier: Apache-2.0
//
// Test only; private to FakeKvm: what the fake remembers, and how it answers
// where the test has scripted nothing.
#ifndef CLOISTER_KVM_FAKE_KVM_STATE_H_
#define CLOISTER_KVM_FAKE_KVM_STATE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "cloister/kvm/capability.h"
#include "cloister/kvm/exit_encoder.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {

enum class FakeKind { kSystem, kVm, kVcpu, kGuestMemfd };

// Sets errno and returns -1.
int Fail(int error);

// How many bytes a call's argument points to and KVM reads.
size_t ArgumentSize(unsigned long request, uintptr_t argument);

struct FakeKvm::State {
  struct RunStep {
    std::function<void(uint8_t* page, AnswerArea* answer)> fill;
    int error = 0;
    std::optional<uint32_t> vcpu;
  };
  struct Vcpu {
    uint32_t id = 0;
    int vm = -1;
    uint8_t* page = nullptr;
    AnswerArea answer;
  };

  std::map<unsigned long, std::deque<Handler>> queued;
  std::map<unsigned long, Handler> handlers;
  std::deque<RunStep> runs;
  bool block_when_idle = false;
  std::map<int, int> capabilities;
  std::map<int, int> vm_capabilities;
  std::deque<int> open_errors, mmap_errors, fallocate_errors;

  std::map<int, FakeKind> kinds;
  std::set<uint64_t> guest_memfds;  // by inode: descriptors are duplicated
  std::map<int, Vcpu> vcpus;
  std::map<int, std::map<uint32_t, MemorySlot>> slots;
  std::map<std::pair<int, unsigned long>, std::vector<uint8_t>> blobs;
  std::map<std::pair<int, uint32_t>, uint64_t> msrs;
  std::map<int, std::vector<uint8_t>> cpuid;

  std::vector<Call> calls;
  std::vector<std::vector<uint8_t>> answers;
  std::vector<AttributeCall> attribute_calls;

  // A real descriptor that answers as `kind`; -1 and errno on failure.
  int NewFd(FakeKind kind, const char* name, unsigned flags);
  // The answer to CHECK_EXTENSION.
  int Extension(FakeKind kind, int number) const;
  bool Has(FakeKind kind, Capability capability) const;

  int SystemIoctl(unsigned long request, uintptr_t argument);
  int VmIoctl(int fd, unsigned long request, uintptr_t argument);
  int VcpuIoctl(int fd, unsigned long request, uintptr_t argument);
  int SetRegion(int fd, const struct kvm_userspace_memory_region2& region);
  bool IsGuestMemfd(int fd) const;
  int CreateGuestMemfd(const struct kvm_create_guest_memfd& argument);
  int CreateVcpu(int fd, uint32_t id);
  int Attributes(const struct kvm_memory_attributes& attributes);
  int Msrs(int fd, uintptr_t argument, bool set);
  // What a KVM_RUN does first: takes the answer to the last exit, obeys
  // immediate_exit (-1, EINTR) and takes the next step, if there is one.
  int EnterRun(int fd, RunStep* step, uint8_t** page, bool* block);
  // -2: not one of these.
  int Blob(int fd, unsigned long request, uintptr_t argument);
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_FAKE_KVM_STATE_H_
