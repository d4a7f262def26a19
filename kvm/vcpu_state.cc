// SPDX-License-Identifier: Apache-2.0
//
// VcpuFd's registers. Our structures have KVM's layout, so they are handed to
// the kernel as they are; the assertions below are what makes that right.
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/uapi.h"
#include "cloister/kvm/vcpu_fd.h"

namespace cloister::kvm {
namespace {

template <typename Ours, typename Kvm>
constexpr bool kSameShape =
    sizeof(Ours) == sizeof(Kvm) && alignof(Ours) <= alignof(Kvm) &&
    std::is_trivially_copyable_v<Ours>&& std::is_standard_layout_v<Ours>;

#define CLOISTER_SAME_FIELD(ours, our_field, theirs, their_field) \
  static_assert(offsetof(ours, our_field) ==                      \
                offsetof(struct theirs, their_field));            \
  static_assert(sizeof(ours::our_field) == sizeof(theirs::their_field))

static_assert(kSameShape<Registers, kvm_regs>);
CLOISTER_SAME_FIELD(Registers, rax, kvm_regs, rax);
CLOISTER_SAME_FIELD(Registers, rbx, kvm_regs, rbx);
CLOISTER_SAME_FIELD(Registers, rcx, kvm_regs, rcx);
CLOISTER_SAME_FIELD(Registers, rdx, kvm_regs, rdx);
CLOISTER_SAME_FIELD(Registers, rsi, kvm_regs, rsi);
CLOISTER_SAME_FIELD(Registers, rdi, kvm_regs, rdi);
CLOISTER_SAME_FIELD(Registers, rsp, kvm_regs, rsp);
CLOISTER_SAME_FIELD(Registers, rbp, kvm_regs, rbp);
CLOISTER_SAME_FIELD(Registers, r8, kvm_regs, r8);
CLOISTER_SAME_FIELD(Registers, r15, kvm_regs, r15);
CLOISTER_SAME_FIELD(Registers, rip, kvm_regs, rip);
CLOISTER_SAME_FIELD(Registers, rflags, kvm_regs, rflags);

static_assert(kSameShape<Segment, kvm_segment>);
CLOISTER_SAME_FIELD(Segment, base, kvm_segment, base);
CLOISTER_SAME_FIELD(Segment, limit, kvm_segment, limit);
CLOISTER_SAME_FIELD(Segment, selector, kvm_segment, selector);
CLOISTER_SAME_FIELD(Segment, type, kvm_segment, type);
CLOISTER_SAME_FIELD(Segment, present, kvm_segment, present);
CLOISTER_SAME_FIELD(Segment, dpl, kvm_segment, dpl);
CLOISTER_SAME_FIELD(Segment, default_size, kvm_segment, db);
CLOISTER_SAME_FIELD(Segment, non_system, kvm_segment, s);
CLOISTER_SAME_FIELD(Segment, long_mode, kvm_segment, l);
CLOISTER_SAME_FIELD(Segment, granularity, kvm_segment, g);
CLOISTER_SAME_FIELD(Segment, available, kvm_segment, avl);
CLOISTER_SAME_FIELD(Segment, unusable, kvm_segment, unusable);

static_assert(kSameShape<DescriptorTable, kvm_dtable>);
CLOISTER_SAME_FIELD(DescriptorTable, base, kvm_dtable, base);
CLOISTER_SAME_FIELD(DescriptorTable, limit, kvm_dtable, limit);

static_assert(kSameShape<SpecialRegisters, kvm_sregs>);
CLOISTER_SAME_FIELD(SpecialRegisters, cs, kvm_sregs, cs);
CLOISTER_SAME_FIELD(SpecialRegisters, ds, kvm_sregs, ds);
CLOISTER_SAME_FIELD(SpecialRegisters, es, kvm_sregs, es);
CLOISTER_SAME_FIELD(SpecialRegisters, fs, kvm_sregs, fs);
CLOISTER_SAME_FIELD(SpecialRegisters, gs, kvm_sregs, gs);
CLOISTER_SAME_FIELD(SpecialRegisters, ss, kvm_sregs, ss);
CLOISTER_SAME_FIELD(SpecialRegisters, tr, kvm_sregs, tr);
CLOISTER_SAME_FIELD(SpecialRegisters, ldt, kvm_sregs, ldt);
CLOISTER_SAME_FIELD(SpecialRegisters, gdt, kvm_sregs, gdt);
CLOISTER_SAME_FIELD(SpecialRegisters, idt, kvm_sregs, idt);
CLOISTER_SAME_FIELD(SpecialRegisters, cr0, kvm_sregs, cr0);
CLOISTER_SAME_FIELD(SpecialRegisters, cr2, kvm_sregs, cr2);
CLOISTER_SAME_FIELD(SpecialRegisters, cr3, kvm_sregs, cr3);
CLOISTER_SAME_FIELD(SpecialRegisters, cr4, kvm_sregs, cr4);
CLOISTER_SAME_FIELD(SpecialRegisters, cr8, kvm_sregs, cr8);
CLOISTER_SAME_FIELD(SpecialRegisters, efer, kvm_sregs, efer);
CLOISTER_SAME_FIELD(SpecialRegisters, apic_base, kvm_sregs, apic_base);
CLOISTER_SAME_FIELD(SpecialRegisters, interrupt_bitmap, kvm_sregs,
                    interrupt_bitmap);

static_assert(kSameShape<CpuidEntry, kvm_cpuid_entry2>);
CLOISTER_SAME_FIELD(CpuidEntry, function, kvm_cpuid_entry2, function);
CLOISTER_SAME_FIELD(CpuidEntry, index, kvm_cpuid_entry2, index);
CLOISTER_SAME_FIELD(CpuidEntry, flags, kvm_cpuid_entry2, flags);
CLOISTER_SAME_FIELD(CpuidEntry, eax, kvm_cpuid_entry2, eax);
CLOISTER_SAME_FIELD(CpuidEntry, ebx, kvm_cpuid_entry2, ebx);
CLOISTER_SAME_FIELD(CpuidEntry, ecx, kvm_cpuid_entry2, ecx);
CLOISTER_SAME_FIELD(CpuidEntry, edx, kvm_cpuid_entry2, edx);
static_assert(CpuidEntry::kSignificantIndex == KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

static_assert(kSameShape<MsrEntry, kvm_msr_entry>);
CLOISTER_SAME_FIELD(MsrEntry, index, kvm_msr_entry, index);
CLOISTER_SAME_FIELD(MsrEntry, value, kvm_msr_entry, data);

static_assert(kSameShape<FpuState, kvm_fpu>);
CLOISTER_SAME_FIELD(FpuState, fpr, kvm_fpu, fpr);
CLOISTER_SAME_FIELD(FpuState, fcw, kvm_fpu, fcw);
CLOISTER_SAME_FIELD(FpuState, fsw, kvm_fpu, fsw);
CLOISTER_SAME_FIELD(FpuState, ftwx, kvm_fpu, ftwx);
CLOISTER_SAME_FIELD(FpuState, last_opcode, kvm_fpu, last_opcode);
CLOISTER_SAME_FIELD(FpuState, last_ip, kvm_fpu, last_ip);
CLOISTER_SAME_FIELD(FpuState, last_dp, kvm_fpu, last_dp);
CLOISTER_SAME_FIELD(FpuState, xmm, kvm_fpu, xmm);
CLOISTER_SAME_FIELD(FpuState, mxcsr, kvm_fpu, mxcsr);

static_assert(kSameShape<LapicState, kvm_lapic_state>);
static_assert(kSameShape<VcpuEvents, kvm_vcpu_events>);

static_assert(static_cast<int>(MpState::kRunnable) == KVM_MP_STATE_RUNNABLE);
static_assert(static_cast<int>(MpState::kUninitialized) ==
              KVM_MP_STATE_UNINITIALIZED);
static_assert(static_cast<int>(MpState::kInitReceived) ==
              KVM_MP_STATE_INIT_RECEIVED);
static_assert(static_cast<int>(MpState::kHalted) == KVM_MP_STATE_HALTED);
static_assert(static_cast<int>(MpState::kSipiReceived) ==
              KVM_MP_STATE_SIPI_RECEIVED);
static_assert(static_cast<int>(MpState::kApResetHold) ==
              KVM_MP_STATE_AP_RESET_HOLD);

#undef CLOISTER_SAME_FIELD

// KVM takes fewer than 256 MSRs per call.
constexpr size_t kMsrBatch = 255;
// KVM's own limit is 256; a KVM that keeps asking for more is broken.
constexpr size_t kMaxCpuidEntries = 4096;

// struct kvm_msrs and struct kvm_cpuid2: two 32-bit words, the first of which
// counts the entries that follow.
template <typename Entry>
struct CountedList {
  static constexpr size_t kHeader = 8;
  explicit CountedList(size_t count) : bytes(kHeader + count * sizeof(Entry)) {
    set_count(static_cast<uint32_t>(count));
  }
  void set_count(uint32_t count) {
    std::memcpy(bytes.data(), &count, sizeof(count));
  }
  uint32_t count() const {
    uint32_t count;
    std::memcpy(&count, bytes.data(), sizeof(count));
    return count;
  }
  void Set(size_t i, const Entry& entry) {
    std::memcpy(bytes.data() + kHeader + i * sizeof(Entry), &entry,
                sizeof(Entry));
  }
  Entry Get(size_t i) const {
    Entry entry;
    std::memcpy(&entry, bytes.data() + kHeader + i * sizeof(Entry),
                sizeof(Entry));
    return entry;
  }
  std::vector<uint8_t> bytes;
};
static_assert(offsetof(struct kvm_msrs, entries) == 8);
static_assert(offsetof(struct kvm_cpuid2, entries) == 8);

std::string MsrText(uint32_t index) {
  return absl::StrCat(": KVM refused MSR 0x", absl::Hex(index));
}

}  // namespace

absl::StatusOr<Registers> VcpuFd::GetRegisters() const {
  Registers registers;
  RETURN_IF_ERROR(Ioctl(KVM_GET_REGS, "KVM_GET_REGS", &registers));
  return registers;
}

absl::Status VcpuFd::SetRegisters(const Registers& registers) const {
  return Ioctl(KVM_SET_REGS, "KVM_SET_REGS", &registers);
}

absl::StatusOr<SpecialRegisters> VcpuFd::GetSpecialRegisters() const {
  SpecialRegisters registers;
  RETURN_IF_ERROR(Ioctl(KVM_GET_SREGS, "KVM_GET_SREGS", &registers));
  return registers;
}

absl::Status VcpuFd::SetSpecialRegisters(
    const SpecialRegisters& registers) const {
  return Ioctl(KVM_SET_SREGS, "KVM_SET_SREGS", &registers);
}

absl::Status VcpuFd::SetCpuid(absl::Span<const CpuidEntry> entries) const {
  CountedList<CpuidEntry> list(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) list.Set(i, entries[i]);
  if (RawIoctl(KVM_SET_CPUID2, list.bytes.data()) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat(What("KVM_SET_CPUID2"), " with ", entries.size(),
                            " entries"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<CpuidEntry>> VcpuFd::GetCpuid() const {
  for (size_t capacity = 64; capacity <= kMaxCpuidEntries; capacity *= 2) {
    CountedList<CpuidEntry> list(capacity);
    if (RawIoctl(KVM_GET_CPUID2, list.bytes.data()) < 0) {
      if (errno == E2BIG) continue;
      return base::ErrnoStatus(errno, What("KVM_GET_CPUID2"));
    }
    std::vector<CpuidEntry> entries;
    for (size_t i = 0; i < list.count() && i < capacity; ++i) {
      entries.push_back(list.Get(i));
    }
    return entries;
  }
  return base::ErrnoStatus(E2BIG, What("KVM_GET_CPUID2"));
}

absl::Status VcpuFd::SetMsrs(absl::Span<const MsrEntry> entries) const {
  while (!entries.empty()) {
    absl::Span<const MsrEntry> batch = entries.subspan(0, kMsrBatch);
    CountedList<MsrEntry> list(batch.size());
    for (size_t i = 0; i < batch.size(); ++i) list.Set(i, batch[i]);
    int done = RawIoctl(KVM_SET_MSRS, list.bytes.data());
    if (done < 0) return base::ErrnoStatus(errno, What("KVM_SET_MSRS"));
    if (static_cast<size_t>(done) < batch.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(What("KVM_SET_MSRS"), MsrText(batch[done].index),
                       " = 0x", absl::Hex(batch[done].value)));
    }
    entries.remove_prefix(batch.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<MsrEntry>> VcpuFd::GetMsrs(
    absl::Span<const uint32_t> indices) const {
  std::vector<MsrEntry> entries;
  while (!indices.empty()) {
    absl::Span<const uint32_t> batch = indices.subspan(0, kMsrBatch);
    CountedList<MsrEntry> list(batch.size());
    for (size_t i = 0; i < batch.size(); ++i) list.Set(i, {batch[i], 0, 0});
    int done = RawIoctl(KVM_GET_MSRS, list.bytes.data());
    if (done < 0) return base::ErrnoStatus(errno, What("KVM_GET_MSRS"));
    if (static_cast<size_t>(done) < batch.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(What("KVM_GET_MSRS"), MsrText(batch[done])));
    }
    for (size_t i = 0; i < batch.size(); ++i) entries.push_back(list.Get(i));
    indices.remove_prefix(batch.size());
  }
  return entries;
}

absl::StatusOr<MpState> VcpuFd::GetMpState() const {
  struct kvm_mp_state state = {};
  RETURN_IF_ERROR(Ioctl(KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state));
  return static_cast<MpState>(state.mp_state);
}

absl::Status VcpuFd::SetMpState(MpState state) const {
  struct kvm_mp_state argument = {};
  argument.mp_state = static_cast<uint32_t>(state);
  return Ioctl(KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &argument);
}

absl::StatusOr<LapicState> VcpuFd::GetLapic() const {
  LapicState state;
  RETURN_IF_ERROR(Ioctl(KVM_GET_LAPIC, "KVM_GET_LAPIC", &state));
  return state;
}

absl::Status VcpuFd::SetLapic(const LapicState& state) const {
  return Ioctl(KVM_SET_LAPIC, "KVM_SET_LAPIC", &state);
}

absl::StatusOr<FpuState> VcpuFd::GetFpu() const {
  FpuState state;
  RETURN_IF_ERROR(Ioctl(KVM_GET_FPU, "KVM_GET_FPU", &state));
  return state;
}

absl::Status VcpuFd::SetFpu(const FpuState& state) const {
  return Ioctl(KVM_SET_FPU, "KVM_SET_FPU", &state);
}

absl::StatusOr<std::vector<Xcr>> VcpuFd::GetXcrs() const {
  struct kvm_xcrs raw = {};
  RETURN_IF_ERROR(Ioctl(KVM_GET_XCRS, "KVM_GET_XCRS", &raw));
  if (raw.nr_xcrs > KVM_MAX_XCRS) {
    return absl::InternalError(
        absl::StrCat(What("KVM_GET_XCRS"), ": ", raw.nr_xcrs, " registers"));
  }
  std::vector<Xcr> xcrs;
  for (uint32_t i = 0; i < raw.nr_xcrs; ++i) {
    xcrs.push_back({raw.xcrs[i].xcr, raw.xcrs[i].value});
  }
  return xcrs;
}

absl::Status VcpuFd::SetXcrs(absl::Span<const Xcr> xcrs) const {
  struct kvm_xcrs raw = {};
  if (xcrs.size() > KVM_MAX_XCRS) {
    return absl::InvalidArgumentError(
        absl::StrCat(What("KVM_SET_XCRS"), ": ", xcrs.size(),
                     " registers, at most ", KVM_MAX_XCRS));
  }
  raw.nr_xcrs = static_cast<uint32_t>(xcrs.size());
  for (size_t i = 0; i < xcrs.size(); ++i) {
    raw.xcrs[i].xcr = xcrs[i].index;
    raw.xcrs[i].value = xcrs[i].value;
  }
  return Ioctl(KVM_SET_XCRS, "KVM_SET_XCRS", &raw);
}

absl::StatusOr<VcpuEvents> VcpuFd::GetVcpuEvents() const {
  VcpuEvents events;
  RETURN_IF_ERROR(Ioctl(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &events));
  return events;
}

absl::Status VcpuFd::SetVcpuEvents(const VcpuEvents& events) const {
  return Ioctl(KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &events);
}

absl::StatusOr<uint32_t> VcpuFd::GetTscKhz() const {
  int khz = RawIoctl(KVM_GET_TSC_KHZ, nullptr);
  if (khz < 0) return base::ErrnoStatus(errno, What("KVM_GET_TSC_KHZ"));
  return static_cast<uint32_t>(khz);
}

absl::Status VcpuFd::SetTscKhz(uint32_t khz) const {
  int result = base::RetryOnEintr(
      [&] { return syscalls_->Ioctl(fd_.get(), KVM_SET_TSC_KHZ, khz); });
  if (result < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat(What("KVM_SET_TSC_KHZ"), " to ", khz));
  }
  return absl::OkStatus();
}

}  // namespace cloister::kvm
