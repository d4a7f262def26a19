// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/exit_encoder.h"

#include <algorithm>
#include <cstring>
#include <variant>

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

void CopyPadded(const std::vector<uint8_t>& from, size_t size, uint8_t* to) {
  std::memset(to, 0, size);
  if (!from.empty()) std::memcpy(to, from.data(), std::min(size, from.size()));
}

// One overload per exit kind: fills the union, returns the exit number.
struct Encoder {
  struct kvm_run* run;
  uint8_t* page;
  const std::vector<uint8_t>& data;
  size_t io_offset;
  AnswerArea answer = {};

  uint32_t operator()(const IoExit& exit) {
    bool in = exit.direction == IoExit::Direction::kIn;
    run->io.direction = in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
    run->io.size = exit.width;
    run->io.port = exit.port;
    run->io.count = exit.count;
    run->io.data_offset = io_offset;
    CopyPadded(in ? std::vector<uint8_t>() : data, exit.size(),
               page + io_offset);
    if (in) answer = {io_offset, exit.size()};
    return KVM_EXIT_IO;
  }
  uint32_t operator()(const MmioExit& exit) {
    run->mmio.phys_addr = exit.address.value();
    run->mmio.len = exit.length;
    run->mmio.is_write = exit.is_write;
    CopyPadded(exit.is_write ? data : std::vector<uint8_t>(),
               sizeof(run->mmio.data), run->mmio.data);
    if (!exit.is_write) {
      answer = {offsetof(struct kvm_run, mmio.data), exit.length};
    }
    return KVM_EXIT_MMIO;
  }
  uint32_t operator()(const HypercallExit& exit) {
    run->hypercall.nr = exit.number;
    std::copy(exit.args.begin(), exit.args.end(), run->hypercall.args);
    run->hypercall.longmode = exit.long_mode ? 1 : 0;
    run->hypercall.ret = 0;
    answer = {offsetof(struct kvm_run, hypercall.ret), sizeof(uint64_t)};
    return KVM_EXIT_HYPERCALL;
  }
  uint32_t operator()(const MemoryFaultExit& exit) {
    uint64_t flags = exit.flags;
    if (exit.is_private) flags |= KVM_MEMORY_EXIT_FLAG_PRIVATE;
    MemoryFaultRunData fault = {flags, exit.address.value(), exit.size};
    std::memcpy(page + kRunUnionOffset, &fault, sizeof(fault));
    return KVM_EXIT_MEMORY_FAULT;
  }
  uint32_t operator()(const MsrExit& exit) {
    run->msr.error = 0;
    run->msr.index = exit.index;
    run->msr.reason = exit.reason;
    run->msr.data = exit.is_write ? exit.value : 0;
    // The error byte, padding, reason, index and data.
    answer = {offsetof(struct kvm_run, msr), sizeof(run->msr)};
    return exit.is_write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
  }
  uint32_t operator()(const HaltExit&) { return KVM_EXIT_HLT; }
  uint32_t operator()(const ShutdownExit&) { return KVM_EXIT_SHUTDOWN; }
  uint32_t operator()(const InterruptWindowExit&) {
    return KVM_EXIT_IRQ_WINDOW_OPEN;
  }
  uint32_t operator()(const InterruptedExit&) { return KVM_EXIT_INTR; }
  uint32_t operator()(const SystemEventExit& exit) {
    run->system_event.type = exit.type;
    run->system_event.ndata = exit.count;
    std::copy(exit.data.begin(), exit.data.end(), run->system_event.data);
    return KVM_EXIT_SYSTEM_EVENT;
  }
  uint32_t operator()(const InternalErrorExit& exit) {
    run->internal.suberror = exit.suberror;
    run->internal.ndata = exit.count;
    std::copy(exit.data.begin(), exit.data.end(), run->internal.data);
    return KVM_EXIT_INTERNAL_ERROR;
  }
  uint32_t operator()(const FailEntryExit& exit) {
    run->fail_entry.hardware_entry_failure_reason = exit.hardware_reason;
    run->fail_entry.cpu = exit.cpu;
    return KVM_EXIT_FAIL_ENTRY;
  }
  uint32_t operator()(const DebugExit& exit) {
    run->debug.arch.exception = exit.exception;
    run->debug.arch.pc = exit.pc;
    run->debug.arch.dr6 = exit.dr6;
    run->debug.arch.dr7 = exit.dr7;
    return KVM_EXIT_DEBUG;
  }
  uint32_t operator()(const ApicEoiExit& exit) {
    run->eoi.vector = exit.vector;
    return KVM_EXIT_IOAPIC_EOI;
  }
  uint32_t operator()(const UnknownExit& exit) {
    run->hw.hardware_exit_reason = exit.hardware_reason;
    return KVM_EXIT_UNKNOWN;
  }
  uint32_t operator()(const OtherExit& exit) { return exit.number; }
};

}  // namespace

AnswerArea EncodeExit(const Exit& exit, const std::vector<uint8_t>& data,
                      size_t io_offset, uint8_t* run_page) {
  auto* run = reinterpret_cast<struct kvm_run*>(run_page);
  Encoder encoder{run, run_page, data, io_offset};
  run->exit_reason = std::visit(encoder, exit);
  return encoder.answer;
}

}  // namespace cloister::kvm
