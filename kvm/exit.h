// SPDX-License-Identifier: Apache-2.0
//
// Why a vCPU stopped running guest code. Everything here is a copy taken once
// from the run page and validated; only what the answer must be written to is a
// pointer into that page, valid until the vCPU's next Run().
#ifndef CLOISTER_KVM_EXIT_H_
#define CLOISTER_KVM_EXIT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "cloister/memory/guest_address.h"

namespace cloister::kvm {

// IN or OUT, also with a REP prefix: `count` items of `width` bytes.
struct IoExit {
  enum class Direction { kIn, kOut };
  Direction direction = Direction::kIn;
  uint16_t port = 0;
  uint8_t width = 0;   // 1, 2 or 4
  uint32_t count = 0;  // at least 1
  // width * count bytes: what the guest wrote, or where its input goes.
  uint8_t* data = nullptr;
  size_t size() const { return size_t{width} * count; }
};

// An access to an address without a slot, or a write to a read-only one.
struct MmioExit {
  memory::GuestAddress address;
  uint8_t length = 0;  // 1 to 8
  bool is_write = false;
  uint8_t* data = nullptr;  // `length` bytes, as IoExit::data
};

// A hypercall left to user space (Vm::EnableHypercallExits).
struct HypercallExit {
  uint64_t number = 0;
  std::array<uint64_t, 6> args = {};
  bool long_mode = false;
  uint64_t* result = nullptr;  // goes to the guest's RAX

  static constexpr uint64_t kMapGpaRange = 12;
};

// An access that the page's private or shared state does not allow
// (KVM_EXIT_MEMORY_FAULT, Linux 6.8).
struct MemoryFaultExit {
  memory::GuestAddress address;  // page-aligned
  uint64_t size = 0;             // bytes
  uint64_t flags = 0;            // KVM's, whole
  bool is_private = false;       // flag bit 3; only a backend interprets it
};

// RDMSR or WRMSR left to user space (Vm::EnableUserSpaceMsrExits).
struct MsrExit {
  enum Reason : uint32_t { kInvalid = 1, kUnknown = 2, kFilter = 4 };
  uint32_t index = 0;
  bool is_write = false;
  uint64_t value = 0;          // what is written
  uint64_t* result = nullptr;  // where a read's value goes
  uint8_t* error = nullptr;    // non-zero: the guest gets #GP
  uint32_t reason = 0;         // one Reason
};

struct HaltExit {};             // HLT without an in-kernel local APIC
struct ShutdownExit {};         // triple fault
struct InterruptWindowExit {};  // the guest can take an interrupt now
struct InterruptedExit {};      // KVM_EXIT_INTR: a signal

// The guest, or KVM for it, asks for shutdown, reset, …
struct SystemEventExit {
  static constexpr uint32_t kShutdown = 1, kReset = 2, kCrash = 3;
  uint32_t type = 0;
  uint32_t count = 0;  // valid entries of `data`
  std::array<uint64_t, 16> data = {};
};

// KVM gave up.
struct InternalErrorExit {
  static constexpr uint32_t kEmulation = 1;
  uint32_t suberror = 0;
  uint32_t count = 0;  // valid entries of `data`
  std::array<uint64_t, 16> data = {};

  // The bytes of the instruction that could not be emulated, as hex pairs; ""
  // where KVM does not say.
  std::string InstructionBytes() const;
};

// The hardware refused the guest's state.
struct FailEntryExit {
  uint64_t hardware_reason = 0;
  uint32_t cpu = 0;  // host CPU
};

struct DebugExit {
  uint32_t exception = 0;
  uint64_t pc = 0, dr6 = 0, dr7 = 0;
};

// With a split irqchip: the guest acknowledged this level-triggered vector.
struct ApicEoiExit {
  uint8_t vector = 0;
};

// KVM_EXIT_UNKNOWN: the hardware exited for a reason KVM does not know.
struct UnknownExit {
  uint64_t hardware_reason = 0;
};

// Any exit that this library does not decode; see ExitName.
struct OtherExit {
  uint32_t number = 0;
};

using Exit = std::variant<
    InterruptedExit, IoExit, MmioExit, HypercallExit, MemoryFaultExit, MsrExit,
    HaltExit, ShutdownExit, SystemEventExit, InternalErrorExit, FailEntryExit,
    InterruptWindowExit, DebugExit, ApicEoiExit, UnknownExit, OtherExit>;

// KVM's name for an exit number, "KVM_EXIT_SHUTDOWN"; "KVM_EXIT_<number>, not
// known to this build" beyond the known ones.
std::string ExitName(uint32_t number);

// One line for an error message: the name and every field that helps.
// "KVM_EXIT_IO: out of 1 byte to port 0x3f8".
std::string DescribeExit(const Exit& exit);

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_EXIT_H_
