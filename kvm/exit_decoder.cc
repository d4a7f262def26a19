// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/exit_decoder.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

// The one read of an exit's fields: everything is judged on the copy.
template <typename T>
T ReadUnion(const uint8_t* run_page) {
  static_assert(kRunUnionOffset + sizeof(T) <=
                offsetof(struct kvm_run, kvm_valid_regs));
  T copy;
  std::memcpy(&copy, run_page + kRunUnionOffset, sizeof(copy));
  return copy;
}

absl::StatusOr<Exit> DecodeIo(uint8_t* run_page, size_t size) {
  auto io = ReadUnion<decltype(kvm_run::io)>(run_page);
  bool width_ok = io.size == 1 || io.size == 2 || io.size == 4;
  uint64_t bytes = uint64_t{io.size} * io.count;
  if (!width_ok || io.count == 0 || io.direction > KVM_EXIT_IO_OUT ||
      io.data_offset < sizeof(struct kvm_run) || io.data_offset > size ||
      bytes > size - io.data_offset) {
    return absl::InternalError(absl::StrCat(
        "KVM_EXIT_IO: ", io.count, " items of ", io.size, " bytes at offset ",
        io.data_offset, ", direction ", io.direction,
        " do not fit the run page of ", size, " bytes"));
  }
  IoExit exit;
  exit.direction = io.direction == KVM_EXIT_IO_OUT ? IoExit::Direction::kOut
                                                   : IoExit::Direction::kIn;
  exit.port = io.port;
  exit.width = io.size;
  exit.count = io.count;
  exit.data = run_page + io.data_offset;
  return exit;
}

absl::StatusOr<Exit> DecodeMmio(uint8_t* run_page) {
  auto mmio = ReadUnion<decltype(kvm_run::mmio)>(run_page);
  if (mmio.len == 0 || mmio.len > sizeof(mmio.data)) {
    return absl::InternalError(
        absl::StrCat("KVM_EXIT_MMIO: length ", mmio.len, " is not 1 to 8"));
  }
  MmioExit exit;
  exit.address = memory::GuestAddress(mmio.phys_addr);
  exit.length = static_cast<uint8_t>(mmio.len);
  exit.is_write = mmio.is_write != 0;
  exit.data = run_page + offsetof(struct kvm_run, mmio.data);
  return exit;
}

Exit DecodeHypercall(uint8_t* run_page) {
  auto call = ReadUnion<decltype(kvm_run::hypercall)>(run_page);
  HypercallExit exit;
  exit.number = call.nr;
  std::copy(std::begin(call.args), std::end(call.args), exit.args.begin());
  exit.long_mode = (call.longmode & 1) != 0;
  exit.result = reinterpret_cast<uint64_t*>(
      run_page + offsetof(struct kvm_run, hypercall.ret));
  return exit;
}

Exit DecodeMemoryFault(uint8_t* run_page) {
  auto fault = ReadUnion<MemoryFaultRunData>(run_page);
  MemoryFaultExit exit;
  exit.address = memory::GuestAddress(fault.gpa);
  exit.size = fault.size;
  exit.flags = fault.flags;
  exit.is_private = (fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE) != 0;
  return exit;
}

Exit DecodeMsr(uint8_t* run_page, bool is_write) {
  auto msr = ReadUnion<decltype(kvm_run::msr)>(run_page);
  MsrExit exit;
  exit.index = msr.index;
  exit.is_write = is_write;
  exit.value = is_write ? msr.data : 0;
  exit.result = reinterpret_cast<uint64_t*>(run_page +
                                            offsetof(struct kvm_run, msr.data));
  exit.error = run_page + offsetof(struct kvm_run, msr.error);
  exit.reason = msr.reason;
  return exit;
}

Exit DecodeSystemEvent(const uint8_t* run_page) {
  auto event = ReadUnion<decltype(kvm_run::system_event)>(run_page);
  SystemEventExit exit;
  exit.type = event.type;
  exit.count = std::min<uint32_t>(event.ndata, exit.data.size());
  std::copy_n(event.data, exit.count, exit.data.begin());
  return exit;
}

Exit DecodeInternalError(const uint8_t* run_page) {
  auto error = ReadUnion<decltype(kvm_run::internal)>(run_page);
  InternalErrorExit exit;
  exit.suberror = error.suberror;
  exit.count = std::min<uint32_t>(error.ndata, exit.data.size());
  std::copy_n(error.data, exit.count, exit.data.begin());
  return exit;
}

Exit DecodeFailEntry(const uint8_t* run_page) {
  auto entry = ReadUnion<decltype(kvm_run::fail_entry)>(run_page);
  return FailEntryExit{entry.hardware_entry_failure_reason, entry.cpu};
}

Exit DecodeDebug(const uint8_t* run_page) {
  auto debug = ReadUnion<decltype(kvm_run::debug)>(run_page);
  return DebugExit{debug.arch.exception, debug.arch.pc, debug.arch.dr6,
                   debug.arch.dr7};
}

}  // namespace

absl::StatusOr<Exit> DecodeExit(uint8_t* run_page, size_t size) {
  if (size < sizeof(struct kvm_run)) {
    return absl::InternalError(
        absl::StrCat("a run page of ", size, " bytes is too small"));
  }
  uint32_t number;
  std::memcpy(&number, run_page + offsetof(struct kvm_run, exit_reason),
              sizeof(number));
  switch (number) {
    case KVM_EXIT_UNKNOWN:
      return UnknownExit{ReadUnion<uint64_t>(run_page)};
    case KVM_EXIT_IO:
      return DecodeIo(run_page, size);
    case KVM_EXIT_HYPERCALL:
      return DecodeHypercall(run_page);
    case KVM_EXIT_DEBUG:
      return DecodeDebug(run_page);
    case KVM_EXIT_HLT:
      return HaltExit{};
    case KVM_EXIT_MMIO:
      return DecodeMmio(run_page);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return InterruptWindowExit{};
    case KVM_EXIT_SHUTDOWN:
      return ShutdownExit{};
    case KVM_EXIT_FAIL_ENTRY:
      return DecodeFailEntry(run_page);
    case KVM_EXIT_INTR:
      return InterruptedExit{};
    case KVM_EXIT_INTERNAL_ERROR:
      return DecodeInternalError(run_page);
    case KVM_EXIT_SYSTEM_EVENT:
      return DecodeSystemEvent(run_page);
    case KVM_EXIT_IOAPIC_EOI:
      return ApicEoiExit{ReadUnion<decltype(kvm_run::eoi)>(run_page).vector};
    case KVM_EXIT_X86_RDMSR:
      return DecodeMsr(run_page, /*is_write=*/false);
    case KVM_EXIT_X86_WRMSR:
      return DecodeMsr(run_page, /*is_write=*/true);
    case KVM_EXIT_MEMORY_FAULT:
      return DecodeMemoryFault(run_page);
    default:
      return OtherExit{number};
  }
}

}  // namespace cloister::kvm
