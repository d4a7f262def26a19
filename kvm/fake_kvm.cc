// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/fake_kvm.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <utility>

#include "cloister/kvm/exit_encoder.h"
#include "cloister/kvm/fake_kvm_state.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

constexpr size_t kIoOffset = 4096;

}  // namespace

FakeKvm::FakeKvm() : state_(std::make_unique<State>()) {
  base::MutexLock lock(&mutex_);
  for (Capability capability : AllCapabilities()) {
    state_->capabilities[CapabilityNumber(capability)] = 1;
  }
  auto set = [&](Capability capability, int value) {
    mutex_.AssertHeld();
    state_->capabilities[CapabilityNumber(capability)] = value;
  };
  set(Capability::kVcpusRecommended, 8);
  set(Capability::kMaxVcpus, 1024);
  set(Capability::kMaxVcpuId, 4096);
  set(Capability::kMemorySlots, 32764);
  set(Capability::kVmTypes, 3);  // default and sw-protected
  set(Capability::kMemoryAttributes, 8);
  set(Capability::kGuestMemfdFlags, 3);
  set(Capability::kExitHypercall, 1 << KVM_HC_MAP_GPA_RANGE);
  set(Capability::kUserSpaceMsr, 7);
  set(Capability::kX2apicApi, 3);
  set(Capability::kSyncRegs, 7);
}

FakeKvm::~FakeKvm() {
  base::MutexLock lock(&mutex_);
  for (auto& [fd, vcpu] : state_->vcpus) {
    if (vcpu.page != nullptr) munmap(vcpu.page, kRunPageSize);
  }
}

void FakeKvm::QueueResult(unsigned long request, int result) {
  QueueHandler(request, [result](int, uintptr_t) { return result; });
}

void FakeKvm::QueueErrno(unsigned long request, int error) {
  QueueHandler(request, [error](int, uintptr_t) { return Fail(error); });
}

void FakeKvm::QueueHandler(unsigned long request, Handler handler) {
  base::MutexLock lock(&mutex_);
  state_->queued[request].push_back(std::move(handler));
}

void FakeKvm::SetHandler(unsigned long request, Handler handler) {
  base::MutexLock lock(&mutex_);
  state_->handlers[request] = std::move(handler);
}

void FakeKvm::SetCapability(Capability capability, int value) {
  base::MutexLock lock(&mutex_);
  state_->capabilities[CapabilityNumber(capability)] = value;
}

void FakeKvm::SetVmCapability(Capability capability, int value) {
  base::MutexLock lock(&mutex_);
  state_->vm_capabilities[CapabilityNumber(capability)] = value;
}

void FakeKvm::QueueExit(const Exit& exit, std::vector<uint8_t> data,
                        std::optional<uint32_t> vcpu) {
  QueueSlowExit([] {}, exit, std::move(data), vcpu);
}

void FakeKvm::QueueSlowExit(std::function<void()> before, const Exit& exit,
                            std::vector<uint8_t> data,
                            std::optional<uint32_t> vcpu) {
  base::MutexLock lock(&mutex_);
  state_->runs.push_back(
      {[before = std::move(before), exit, data = std::move(data)](
           uint8_t* page, AnswerArea* answer) {
         before();
         *answer = EncodeExit(exit, data, kIoOffset, page);
       },
       0, vcpu});
}

void FakeKvm::QueueRunErrno(int error, std::optional<Exit> exit,
                            std::optional<uint32_t> vcpu) {
  base::MutexLock lock(&mutex_);
  state_->runs.push_back({[exit](uint8_t* page, AnswerArea*) {
                            if (exit.has_value()) {
                              EncodeExit(*exit, {}, kIoOffset, page);
                            }
                          },
                          error, vcpu});
}

void FakeKvm::QueueRun(std::function<void(struct kvm_run*)> fill,
                       std::optional<uint32_t> vcpu) {
  base::MutexLock lock(&mutex_);
  state_->runs.push_back({[fill = std::move(fill)](uint8_t* page, AnswerArea*) {
                            fill(reinterpret_cast<struct kvm_run*>(page));
                          },
                          0, vcpu});
}

void FakeKvm::SetBlockWhenIdle(bool block) {
  base::MutexLock lock(&mutex_);
  state_->block_when_idle = block;
}

void FakeKvm::FailNextOpen(int error) {
  base::MutexLock lock(&mutex_);
  state_->open_errors.push_back(error);
}

void FakeKvm::FailNextMmap(int error) {
  base::MutexLock lock(&mutex_);
  state_->mmap_errors.push_back(error);
}

void FakeKvm::FailNextFallocate(int error) {
  base::MutexLock lock(&mutex_);
  state_->fallocate_errors.push_back(error);
}

std::vector<FakeKvm::Call> FakeKvm::calls() const {
  base::MutexLock lock(&mutex_);
  return state_->calls;
}

std::vector<FakeKvm::Call> FakeKvm::CallsOf(unsigned long request) const {
  base::MutexLock lock(&mutex_);
  std::vector<Call> found;
  for (const Call& call : state_->calls) {
    if (call.request == request) found.push_back(call);
  }
  return found;
}

size_t FakeKvm::CountOf(unsigned long request) const {
  return CallsOf(request).size();
}

std::vector<std::vector<uint8_t>> FakeKvm::answers() const {
  base::MutexLock lock(&mutex_);
  return state_->answers;
}

std::map<uint32_t, FakeKvm::MemorySlot> FakeKvm::slots(int vm_fd) const {
  base::MutexLock lock(&mutex_);
  return state_->slots[vm_fd];
}

std::vector<FakeKvm::AttributeCall> FakeKvm::attribute_calls() const {
  base::MutexLock lock(&mutex_);
  return state_->attribute_calls;
}

struct kvm_run* FakeKvm::RunPage(int fd) const {
  base::MutexLock lock(&mutex_);
  auto it = state_->vcpus.find(fd);
  if (it == state_->vcpus.end()) return nullptr;
  return reinterpret_cast<struct kvm_run*>(it->second.page);
}

size_t FakeKvm::mapped_run_pages() const {
  base::MutexLock lock(&mutex_);
  size_t count = 0;
  for (const auto& [fd, vcpu] : state_->vcpus) count += vcpu.page != nullptr;
  return count;
}

int FakeKvm::Open(const char*, int flags) {
  base::MutexLock lock(&mutex_);
  if (!state_->open_errors.empty()) {
    int error = state_->open_errors.front();
    state_->open_errors.pop_front();
    return Fail(error);
  }
  return state_->NewFd(FakeKind::kSystem, "fake-kvm",
                       (flags & O_CLOEXEC) != 0 ? MFD_CLOEXEC : 0);
}

int FakeKvm::Ioctl(int fd, unsigned long request, uintptr_t argument) {
  Handler handler;
  {
    base::MutexLock lock(&mutex_);
    Call call{fd, request, argument, {}};
    size_t size = ArgumentSize(request, argument);
    if (size != 0) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(argument);
      call.data.assign(bytes, bytes + size);
    }
    state_->calls.push_back(std::move(call));
    std::deque<Handler>& queue = state_->queued[request];
    if (!queue.empty()) {
      handler = std::move(queue.front());
      queue.pop_front();
    } else if (auto it = state_->handlers.find(request);
               it != state_->handlers.end()) {
      handler = it->second;
    }
  }
  if (handler) return handler(fd, argument);
  return Default(fd, request, argument);
}

int FakeKvm::Default(int fd, unsigned long request, uintptr_t argument) {
  if (request == KVM_RUN) return Run(fd);
  base::MutexLock lock(&mutex_);
  auto it = state_->kinds.find(fd);
  if (it == state_->kinds.end()) return Fail(EBADF);
  FakeKind kind = it->second;
  if (request == KVM_CHECK_EXTENSION &&
      (kind == FakeKind::kSystem || kind == FakeKind::kVm)) {
    return state_->Extension(kind, static_cast<int>(argument));
  }
  bool stateful = kind == FakeKind::kVm || kind == FakeKind::kVcpu;
  if (stateful) {
    int result = state_->Blob(fd, request, argument);
    if (result != -2) return result;
  }
  switch (kind) {
    case FakeKind::kSystem:
      return state_->SystemIoctl(request, argument);
    case FakeKind::kVm:
      return state_->VmIoctl(fd, request, argument);
    case FakeKind::kVcpu:
      return state_->VcpuIoctl(fd, request, argument);
    case FakeKind::kGuestMemfd:
      break;
  }
  return Fail(ENOTTY);
}

int FakeKvm::State::EnterRun(int fd, RunStep* step, uint8_t** page,
                             bool* block) {
  auto it = vcpus.find(fd);
  if (it == vcpus.end() || it->second.page == nullptr) return Fail(EBADF);
  Vcpu& vcpu = it->second;
  *page = vcpu.page;
  if (vcpu.answer.size != 0) {
    const uint8_t* answer = vcpu.page + vcpu.answer.offset;
    answers.emplace_back(answer, answer + vcpu.answer.size);
    vcpu.answer = {};
  }
  auto* run = reinterpret_cast<struct kvm_run*>(vcpu.page);
  if (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST) != 0) {
    return Fail(EINTR);
  }
  auto found = std::find_if(runs.begin(), runs.end(), [&](const RunStep& next) {
    return !next.vcpu.has_value() || *next.vcpu == vcpu.id;
  });
  if (found != runs.end()) {
    *step = std::move(*found);
    runs.erase(found);
  } else {
    *block = block_when_idle;
  }
  return 0;
}

int FakeKvm::Run(int fd) {
  State::RunStep step;
  uint8_t* page = nullptr;
  bool block = false;
  {
    base::MutexLock lock(&mutex_);
    if (state_->EnterRun(fd, &step, &page, &block) < 0) return -1;
  }
  auto* run = reinterpret_cast<struct kvm_run*>(page);
  if (block) {
    // Guest code runs: only a signal or immediate_exit ends it. The timeout
    // covers an immediate_exit that comes without its signal.
    while (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST) == 0) {
      if (poll(nullptr, 0, 1) < 0) break;
    }
    return Fail(EINTR);
  }
  AnswerArea answer;
  if (step.fill) {
    step.fill(page, &answer);
  } else {
    run->exit_reason = KVM_EXIT_HLT;
  }
  base::MutexLock lock(&mutex_);
  state_->vcpus[fd].answer = answer;
  return step.error != 0 ? Fail(step.error) : 0;
}

void* FakeKvm::Mmap(void* address, size_t length, int protection, int flags,
                    int fd, off_t offset) {
  base::MutexLock lock(&mutex_);
  if (!state_->mmap_errors.empty()) {
    errno = state_->mmap_errors.front();
    state_->mmap_errors.pop_front();
    return MAP_FAILED;
  }
  auto it = state_->vcpus.find(fd);
  if (it == state_->vcpus.end()) {
    return mmap(address, length, protection, flags, fd, offset);
  }
  if (length != kRunPageSize || it->second.page != nullptr) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  void* page = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page != MAP_FAILED) it->second.page = static_cast<uint8_t*>(page);
  return page;
}

int FakeKvm::Munmap(void* address, size_t length) {
  base::MutexLock lock(&mutex_);
  for (auto& [fd, vcpu] : state_->vcpus) {
    if (vcpu.page == address) vcpu.page = nullptr;
  }
  return munmap(address, length);
}

int FakeKvm::Fallocate(int fd, int mode, off_t offset, off_t length) {
  base::MutexLock lock(&mutex_);
  if (!state_->fallocate_errors.empty()) {
    int error = state_->fallocate_errors.front();
    state_->fallocate_errors.pop_front();
    return Fail(error);
  }
  return fallocate(fd, mode, offset, length);
}

}  // namespace cloister::kvm
