// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/exit.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

// Indexed by KVM's exit numbers, as of Linux 7.3.
constexpr const char* kNames[] = {
    "KVM_EXIT_UNKNOWN",          // 0
    "KVM_EXIT_EXCEPTION",        // 1
    "KVM_EXIT_IO",               // 2
    "KVM_EXIT_HYPERCALL",        // 3
    "KVM_EXIT_DEBUG",            // 4
    "KVM_EXIT_HLT",              // 5
    "KVM_EXIT_MMIO",             // 6
    "KVM_EXIT_IRQ_WINDOW_OPEN",  // 7
    "KVM_EXIT_SHUTDOWN",         // 8
    "KVM_EXIT_FAIL_ENTRY",       // 9
    "KVM_EXIT_INTR",             // 10
    "KVM_EXIT_SET_TPR",          // 11
    "KVM_EXIT_TPR_ACCESS",       // 12
    "KVM_EXIT_S390_SIEIC",       // 13
    "KVM_EXIT_S390_RESET",       // 14
    "KVM_EXIT_DCR",              // 15
    "KVM_EXIT_NMI",              // 16
    "KVM_EXIT_INTERNAL_ERROR",   // 17
    "KVM_EXIT_OSI",              // 18
    "KVM_EXIT_PAPR_HCALL",       // 19
    "KVM_EXIT_S390_UCONTROL",    // 20
    "KVM_EXIT_WATCHDOG",         // 21
    "KVM_EXIT_S390_TSCH",        // 22
    "KVM_EXIT_EPR",              // 23
    "KVM_EXIT_SYSTEM_EVENT",     // 24
    "KVM_EXIT_S390_STSI",        // 25
    "KVM_EXIT_IOAPIC_EOI",       // 26
    "KVM_EXIT_HYPERV",           // 27
    "KVM_EXIT_ARM_NISV",         // 28
    "KVM_EXIT_X86_RDMSR",        // 29
    "KVM_EXIT_X86_WRMSR",        // 30
    "KVM_EXIT_DIRTY_RING_FULL",  // 31
    "KVM_EXIT_AP_RESET_HOLD",    // 32
    "KVM_EXIT_X86_BUS_LOCK",     // 33
    "KVM_EXIT_XEN",              // 34
    "KVM_EXIT_RISCV_SBI",        // 35
    "KVM_EXIT_RISCV_CSR",        // 36
    "KVM_EXIT_NOTIFY",           // 37
    "KVM_EXIT_LOONGARCH_IOCSR",  // 38
    "KVM_EXIT_MEMORY_FAULT",     // 39
    "KVM_EXIT_TDX",              // 40
    "KVM_EXIT_ARM_SEA",          // 41
    "KVM_EXIT_ARM_LDST64B",      // 42
    "KVM_EXIT_SNP_REQ_CERTS",    // 43
};
static_assert(std::size(kNames) == KVM_EXIT_SNP_REQ_CERTS + 1);

// What a failed emulation leaves in KVM_EXIT_INTERNAL_ERROR's data: flags, then
// a length byte and up to 15 instruction bytes.
constexpr uint64_t kInstructionBytesFlag = 1;
constexpr size_t kMaxInstructionBytes = 15;

std::string Bytes(uint64_t count) {
  return absl::StrCat(count, count == 1 ? " byte" : " bytes");
}

const char* InternalErrorName(uint32_t suberror) {
  switch (suberror) {
    case 1:
      return "instruction emulation failed";
    case 2:
      return "simultaneous exceptions";
    case 3:
      return "exit during event delivery";
    case 4:
      return "unexpected hardware exit";
  }
  return "unknown suberror";
}

const char* SystemEventName(uint32_t type) {
  switch (type) {
    case 1:
      return "shutdown";
    case 2:
      return "reset";
    case 3:
      return "crash";
    case 4:
      return "wakeup";
    case 5:
      return "suspend";
    case 6:
      return "SEV guest terminated";
    case 7:
      return "TDX guest reported a fatal error";
  }
  return "unknown event";
}

const char* MsrReasonName(uint32_t reason) {
  switch (reason) {
    case MsrExit::kInvalid:
      return "invalid";
    case MsrExit::kUnknown:
      return "unknown to KVM";
    case MsrExit::kFilter:
      return "filtered";
  }
  return "reason unknown";
}

std::string DataWords(uint32_t count, const std::array<uint64_t, 16>& data) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(count, data.size()); ++i) {
    absl::StrAppend(&text, i == 0 ? ", data 0x" : " 0x", absl::Hex(data[i]));
  }
  return text;
}

// One overload per exit kind: what follows its name.
struct Describer {
  std::string operator()(const IoExit& exit) const {
    bool in = exit.direction == IoExit::Direction::kIn;
    std::string text = absl::StrCat(
        in ? "KVM_EXIT_IO: in of " : "KVM_EXIT_IO: out of ", Bytes(exit.width));
    if (exit.count != 1) absl::StrAppend(&text, " x ", exit.count);
    return absl::StrCat(text, in ? " from" : " to", " port 0x",
                        absl::Hex(exit.port));
  }
  std::string operator()(const MmioExit& exit) const {
    return absl::StrCat("KVM_EXIT_MMIO: ", exit.is_write ? "write" : "read",
                        " of ", Bytes(exit.length), " at GPA ",
                        exit.address.ToString());
  }
  std::string operator()(const HypercallExit& exit) const {
    return absl::StrCat("KVM_EXIT_HYPERCALL: number ", exit.number, ", args 0x",
                        absl::Hex(exit.args[0]), " 0x", absl::Hex(exit.args[1]),
                        " 0x", absl::Hex(exit.args[2]));
  }
  std::string operator()(const MemoryFaultExit& exit) const {
    return absl::StrCat(
        "KVM_EXIT_MEMORY_FAULT: ", exit.is_private ? "private" : "shared",
        " access at GPA ", exit.address.ToString(), " size 0x",
        absl::Hex(exit.size), ", flags 0x", absl::Hex(exit.flags));
  }
  std::string operator()(const MsrExit& exit) const {
    std::string text =
        absl::StrCat(exit.is_write ? "KVM_EXIT_X86_WRMSR: MSR 0x"
                                   : "KVM_EXIT_X86_RDMSR: MSR 0x",
                     absl::Hex(exit.index));
    if (exit.is_write) {
      absl::StrAppend(&text, " = 0x", absl::Hex(exit.value));
    }
    return absl::StrCat(text, ", ", MsrReasonName(exit.reason));
  }
  std::string operator()(const HaltExit&) const { return "KVM_EXIT_HLT"; }
  std::string operator()(const ShutdownExit&) const {
    return "KVM_EXIT_SHUTDOWN: triple fault";
  }
  std::string operator()(const SystemEventExit& exit) const {
    return absl::StrCat("KVM_EXIT_SYSTEM_EVENT: type ", exit.type, ", ",
                        SystemEventName(exit.type),
                        DataWords(exit.count, exit.data));
  }
  std::string operator()(const InternalErrorExit& exit) const {
    std::string text =
        absl::StrCat("KVM_EXIT_INTERNAL_ERROR: suberror ", exit.suberror, ", ",
                     InternalErrorName(exit.suberror));
    // Its words are the instruction, which may be a secret of the guest's.
    if (!exit.InstructionBytes().empty()) return text;
    return absl::StrCat(text, DataWords(exit.count, exit.data));
  }
  std::string operator()(const FailEntryExit& exit) const {
    return absl::StrCat("KVM_EXIT_FAIL_ENTRY: hardware reason 0x",
                        absl::Hex(exit.hardware_reason), " on host CPU ",
                        exit.cpu);
  }
  std::string operator()(const InterruptWindowExit&) const {
    return "KVM_EXIT_IRQ_WINDOW_OPEN";
  }
  std::string operator()(const InterruptedExit&) const {
    return "KVM_EXIT_INTR";
  }
  std::string operator()(const DebugExit& exit) const {
    return absl::StrCat("KVM_EXIT_DEBUG: exception ", exit.exception, " at 0x",
                        absl::Hex(exit.pc), ", DR6 0x", absl::Hex(exit.dr6),
                        ", DR7 0x", absl::Hex(exit.dr7));
  }
  std::string operator()(const ApicEoiExit& exit) const {
    return absl::StrCat("KVM_EXIT_IOAPIC_EOI: vector 0x",
                        absl::Hex(exit.vector));
  }
  std::string operator()(const UnknownExit& exit) const {
    return absl::StrCat("KVM_EXIT_UNKNOWN: hardware reason 0x",
                        absl::Hex(exit.hardware_reason));
  }
  std::string operator()(const OtherExit& exit) const {
    return ExitName(exit.number);
  }
};

}  // namespace

std::string InternalErrorExit::InstructionBytes() const {
  if (suberror != kEmulation || count < 3) return "";
  if ((data[0] & kInstructionBytesFlag) == 0) return "";
  uint8_t raw[1 + kMaxInstructionBytes];
  std::memcpy(raw, &data[1], sizeof(raw));
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(raw[0], kMaxInstructionBytes); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : " ",
                    absl::Hex(raw[1 + i], absl::kZeroPad2));
  }
  return text;
}

std::string ExitName(uint32_t number) {
  if (number < std::size(kNames)) return kNames[number];
  return absl::StrCat("KVM_EXIT_<", number, ">, not known to this build");
}

std::string DescribeExit(const Exit& exit) {
  return std::visit(Describer{}, exit);
}

}  // namespace cloister::kvm
