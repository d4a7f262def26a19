// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/test_guest.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::kvm {
namespace {

// Page-table entry bits (SDM vol. 3, 4.5).
constexpr uint64_t kPresentWritable = 3;
constexpr uint64_t kLargePage = 0x80;

constexpr uint64_t kCr0 = 0x80000031;  // PG, NE, ET, PE
constexpr uint64_t kCr4 = 0x20;        // PAE
constexpr uint64_t kEfer = 0x500;      // LMA, LME

void Store64(uint8_t* memory, uint64_t address, uint64_t value) {
  std::memcpy(memory + address, &value, sizeof(value));
}

Segment CodeSegment() {
  Segment segment;
  segment.limit = 0xffffffff;
  segment.selector = 0x8;
  segment.type = 11;
  segment.present = 1;
  segment.non_system = 1;
  segment.long_mode = 1;
  segment.granularity = 1;
  return segment;
}

Segment DataSegment() {
  Segment segment = CodeSegment();
  segment.selector = 0x10;
  segment.type = 3;
  segment.long_mode = 0;
  segment.default_size = 1;
  return segment;
}

Segment TaskSegment() {
  Segment segment;
  segment.limit = 0x67;
  segment.selector = 0x18;
  segment.type = 11;
  segment.present = 1;
  return segment;
}

}  // namespace

std::string NoKvmReason() {
  absl::StatusOr<System> system = System::Open();
  if (system.ok()) return "";
  return std::string(system.status().message());
}

void LoadTestGuest(uint8_t* memory, absl::Span<const uint8_t> code) {
  constexpr uint64_t kPdpt = kTestPageTables + 0x1000;
  constexpr uint64_t kDirectory = kTestPageTables + 0x2000;
  Store64(memory, kTestPageTables, kPdpt | kPresentWritable);
  Store64(memory, kPdpt, kDirectory | kPresentWritable);
  for (uint64_t i = 0; i < 512; ++i) {
    Store64(memory, kDirectory + i * 8,
            (i << 21) | kPresentWritable | kLargePage);
  }
  std::memcpy(memory + kTestCode, code.data(), code.size());
}

absl::Status StartTestVcpu(const System& system, const VcpuFd& vcpu) {
  ASSIGN_OR_RETURN(std::vector<CpuidEntry> leaves, system.SupportedCpuid());
  RETURN_IF_ERROR(vcpu.SetCpuid(leaves));
  ASSIGN_OR_RETURN(SpecialRegisters special, vcpu.GetSpecialRegisters());
  special.cs = CodeSegment();
  special.ds = special.es = special.fs = special.gs = special.ss =
      DataSegment();
  special.tr = TaskSegment();
  special.cr0 = kCr0;
  special.cr3 = kTestPageTables;
  special.cr4 = kCr4;
  special.efer = kEfer;
  RETURN_IF_ERROR(vcpu.SetSpecialRegisters(special));
  Registers registers;
  registers.rip = kTestCode;
  registers.rsp = kTestStack;
  registers.rflags = 2;
  return vcpu.SetRegisters(registers);
}

absl::StatusOr<HostMapping> MapAnonymous(uint64_t size) {
  void* data = RealSyscalls().Mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return base::ErrnoStatus(errno, "mmap(anonymous)");
  return HostMapping(RealSyscalls(), data, size);
}

absl::StatusOr<Exit> RunToExit(VcpuFd& vcpu) {
  for (;;) {
    ASSIGN_OR_RETURN(RunOutcome outcome, vcpu.Run());
    if (outcome.kind == RunOutcome::Kind::kExit) return outcome.exit;
  }
}

TestCode& TestCode::Add(std::initializer_list<uint8_t> bytes) {
  bytes_.insert(bytes_.end(), bytes);
  return *this;
}

TestCode& TestCode::AddLe(uint64_t value, int size) {
  for (int i = 0; i < size; ++i) {
    bytes_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  return *this;
}

TestCode& TestCode::MovRax(uint64_t value) {
  return Add({0x48, 0xb8}).AddLe(value, 8);
}
TestCode& TestCode::MovRdx(uint64_t value) {
  return Add({0x48, 0xba}).AddLe(value, 8);
}
TestCode& TestCode::MovEcx(uint32_t value) {
  return Add({0xb9}).AddLe(value, 4);
}
TestCode& TestCode::StoreAl() { return Add({0x88, 0x02}); }
TestCode& TestCode::StoreRax() { return Add({0x48, 0x89, 0x02}); }
TestCode& TestCode::LoadRax() { return Add({0x48, 0x8b, 0x02}); }
TestCode& TestCode::MovRbxRax() { return Add({0x48, 0x89, 0xc3}); }
TestCode& TestCode::OutAl() { return Add({0xee}); }
TestCode& TestCode::OutEax() { return Add({0xef}); }
TestCode& TestCode::InAl() { return Add({0xec}); }
TestCode& TestCode::Hlt() { return Add({0xf4}); }
TestCode& TestCode::JumpToSelf() { return Add({0xeb, 0xfe}); }
TestCode& TestCode::LoadRaxForEver() { return LoadRax().Add({0xeb, 0xfb}); }
TestCode& TestCode::Vmmcall() { return Add({0x0f, 0x01, 0xd9}); }
TestCode& TestCode::Wrmsr() { return Add({0x0f, 0x30}); }

}  // namespace cloister::kvm
