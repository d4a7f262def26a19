// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/linux_probe.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cloister/base/bytes.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_macros.h"
#include "cloister/kvm/memory_region.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/vcpu/boot_tables.h"
#include "cloister/vcpu/exit_handler.h"
#include "cloister/vcpu/regs.h"
#include "cloister/vcpu/runner.h"

namespace cloister::vmm {
namespace {

using memory::GuestAddress;
using memory::GuestMemory;
using memory::GuestRange;
using memory::HostMapping;
using memory::MemoryRegion;

constexpr uint64_t kMemorySize = 0x40000;
constexpr uint64_t kGdt = 0x1000;
constexpr uint64_t kIdt = 0x2000;
constexpr uint64_t kStackTop = 0x4000;
constexpr uint64_t kCode = 0x4000;
constexpr uint64_t kUdHandler = 0x4100;
constexpr uint64_t kPfHandler = 0x4200;
constexpr uint64_t kBpHandler = 0x4300;
constexpr uint64_t kPageTables = 0x10000;
constexpr uint16_t kPort = 0xf0;

// What the guest reports, in order.
constexpr uint8_t kTookUd = 1, kTookPf = 2, kTookBp = 3, kDone = 4;

constexpr uint8_t kMainCode[] = {
    0x0f, 0x0b,                                       // ud2
    0x48, 0x8b,  0x04, 0x25, 0x00, 0x00, 0x00, 0x40,  // mov rax, [0x40000000]
    0xcc,                                             // int3
    0xb9, 0x40,  0x42, 0x0f, 0x00,                    // mov ecx, 1000000
    0xff, 0xc9,                                       // dec ecx
    0x75, 0xfc,                                       // jnz to the dec
    0xb0, kDone,                                      // mov al, 4
    0xe6, kPort,                                      // out 0xf0, al
    0xf4,                                             // hlt
    0xeb, 0xfd,                                       // jmp to the hlt
};
constexpr uint8_t kUdCode[] = {
    0xb0, kTookUd,                    // mov al, 1
    0xe6, kPort,                      // out 0xf0, al
    0x48, 0x83,    0x04, 0x24, 0x02,  // add qword [rsp], 2: past the ud2
    0x48, 0xcf,                       // iretq
};
constexpr uint8_t kPfCode[] = {
    0xb0, kTookPf,                    // mov al, 2
    0xe6, kPort,                      // out 0xf0, al
    0x48, 0x83,    0xc4, 0x08,        // add rsp, 8: the error code
    0x48, 0x83,    0x04, 0x24, 0x08,  // add qword [rsp], 8: past the mov
    0x48, 0xcf,                       // iretq
};

constexpr uint8_t kBpCode[] = {
    0xb0, kTookBp,  // mov al, 3
    0xe6, kPort,    // out 0xf0, al
    0x48, 0xcf,     // iretq
};

// What the guest has reported.
struct Answer {
  int reports = 0;
  bool out_of_turn = false;
};

using TimePoint = std::chrono::steady_clock::time_point;

// Notes the guest's reports, those until a deadline; the rest of the machine is
// empty.
class Reports : public vcpu::ExitHandler {
 public:
  explicit Reports(TimePoint deadline) : deadline_(deadline) {}

  uint64_t PageStateGeneration() override { return 0; }
  void OnPortRead(uint16_t, absl::Span<uint8_t>) override {}
  vcpu::Verdict OnPortWrite(uint16_t port,
                            absl::Span<const uint8_t> data) override {
    if (port != kPort) return vcpu::Verdict::kContinue;
    if (std::chrono::steady_clock::now() > deadline_) {
      return vcpu::Verdict::kPowerOff;
    }
    base::MutexLock lock(&mutex_);
    if (data[0] != answer_.reports + 1) {
      answer_.out_of_turn = true;
      return vcpu::Verdict::kPowerOff;
    }
    answer_.reports = data[0];
    return data[0] == kDone ? vcpu::Verdict::kPowerOff
                            : vcpu::Verdict::kContinue;
  }
  void OnMmioRead(GuestAddress, absl::Span<uint8_t>) override {}
  vcpu::Verdict OnMmioWrite(GuestAddress, absl::Span<const uint8_t>) override {
    return vcpu::Verdict::kContinue;
  }
  uint64_t OnHypercall(const vcpu::Hypercall&) override { return 0; }
  absl::Status OnMemoryFault(const kvm::MemoryFaultExit&, uint64_t) override {
    return absl::InternalError("memory fault");
  }
  bool OnMsr(vcpu::MsrAccess&) override { return false; }
  void OnApicEoi(uint8_t) override {}
  vcpu::Verdict OnSystemEvent(const kvm::SystemEventExit&) override {
    return vcpu::Verdict::kPowerOff;
  }

  Answer answer() {
    base::MutexLock lock(&mutex_);
    return answer_;
  }

 private:
  const TimePoint deadline_;
  base::Mutex mutex_;
  Answer answer_ ABSL_GUARDED_BY(mutex_);
};

// A 64-bit interrupt gate (SDM vol. 3A 6.14.1).
void SetGate(std::vector<uint8_t>& idt, int vector, uint64_t handler) {
  uint8_t* gate = &idt[16 * vector];
  base::StoreLe<uint16_t>(gate, static_cast<uint16_t>(handler));
  base::StoreLe<uint16_t>(gate + 2, vcpu::kBootCodeSelector);
  base::StoreLe<uint16_t>(gate + 4, 0x8e00);
  base::StoreLe<uint16_t>(gate + 6, static_cast<uint16_t>(handler >> 16));
  base::StoreLe<uint32_t>(gate + 8, static_cast<uint32_t>(handler >> 32));
}

absl::Status PlaceGuest(GuestMemory& memory, absl::Span<const uint8_t> code,
                        vcpu::LongModeEntry* entry) {
  if (code.empty()) code = kMainCode;
  if (code.size() > kUdHandler - kCode) {
    return absl::InvalidArgumentError("the probe's guest code is too long");
  }
  std::vector<uint8_t> gdt = vcpu::BuildBootGdt();
  std::vector<uint8_t> idt(16 * 32);
  SetGate(idt, 3, kBpHandler);
  SetGate(idt, 6, kUdHandler);
  SetGate(idt, 14, kPfHandler);
  vcpu::PageTableOptions tables;
  tables.tables = GuestAddress(kPageTables);
  const uint64_t two_mib = uint64_t{2} << 20;
  ASSIGN_OR_RETURN(
      std::vector<uint8_t> table_bytes,
      vcpu::BuildPageTables(tables, vcpu::IdentityMappings(two_mib, two_mib)));
  const std::pair<uint64_t, absl::Span<const uint8_t>> parts[] = {
      {kGdt, gdt},          {kIdt, idt},           {kPageTables, table_bytes},
      {kCode, code},        {kUdHandler, kUdCode}, {kPfHandler, kPfCode},
      {kBpHandler, kBpCode}};
  for (const auto& [address, bytes] : parts) {
    RETURN_IF_ERROR(memory.Write(GuestAddress(address), bytes));
  }
  entry->rip = kCode;
  entry->rsp = kStackTop;
  entry->cr3 = kPageTables;
  entry->gdt = kGdt;
  entry->gdt_size = static_cast<uint16_t>(gdt.size());
  return absl::OkStatus();
}

absl::StatusOr<GuestMemory> CreateMemory(const kvm::Vm& vm) {
  ASSIGN_OR_RETURN(HostMapping mapping,
                   HostMapping::CreateMemfd("cloister-probe", kMemorySize,
                                            memory::MappingOptions()));
  ASSIGN_OR_RETURN(MemoryRegion region,
                   MemoryRegion::Create(GuestAddress(0), std::move(mapping)));
  kvm::MemoryRegion slot;
  slot.size = kMemorySize;
  slot.host =
      reinterpret_cast<void*>(region.mapping().host_address().ForKvmSlot());
  RETURN_IF_ERROR(vm.SetMemoryRegion(slot));
  std::vector<MemoryRegion> regions;
  regions.push_back(std::move(region));
  return GuestMemory::Create(std::move(regions));
}

absl::StatusOr<kvm::VcpuFd> CreateVcpu(const kvm::System& system,
                                       const kvm::Vm& vm,
                                       const vcpu::LongModeEntry& entry) {
  ASSIGN_OR_RETURN(kvm::VcpuFd vcpu, vm.CreateVcpu(0));
  // Without long mode and NX in its CPUID a vCPU may not be given EFER.
  ASSIGN_OR_RETURN(std::vector<kvm::CpuidEntry> cpuid, system.SupportedCpuid());
  RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
  ASSIGN_OR_RETURN(kvm::SpecialRegisters reset, vcpu.GetSpecialRegisters());
  kvm::SpecialRegisters special =
      vcpu::LongModeSpecialRegisters(entry, reset, /*x2apic=*/false);
  special.idt.base = kIdt;
  special.idt.limit = 16 * 32 - 1;
  RETURN_IF_ERROR(vcpu.SetSpecialRegisters(special));
  RETURN_IF_ERROR(vcpu.SetRegisters(vcpu::LongModeRegisters(entry)));
  return vcpu;
}

const char* MissingAfter(int reports) {
  if (reports < kTookUd) return "#UD";
  if (reports < kTookPf) return "#PF";
  return reports < kTookBp ? "#BP" : "the return from #BP";
}

absl::Status Judge(const Answer& answer, const vcpu::RunEnd& end,
                   std::chrono::milliseconds limit) {
  if (answer.reports == kDone) return absl::OkStatus();
  std::string why = absl::StrCat("nothing within ", limit.count(), " ms");
  if (!end.status.ok()) {
    why = std::string(end.status.message());
  } else if (answer.out_of_turn) {
    why = "something else came first";
  } else if (end.kind == vcpu::RunEnd::Kind::kHalted) {
    why = "the guest went on without it";
  } else if (answer.reports == kTookBp) {
    return absl::UnavailableError(absl::StrCat(
        "a test guest did not finish a million turns of a loop within ",
        limit.count(),
        " ms: this KVM interprets guest code, too slowly for Linux to boot"));
  }
  return absl::UnavailableError(
      absl::StrCat("this KVM did not deliver ", MissingAfter(answer.reports),
                   " to a test guest, so Linux cannot run: ", why));
}

// The guest and what it is run by.
class Session {
 public:
  Session(kvm::Vm vm, GuestMemory memory, kvm::VcpuFd vcpu,
          const LinuxProbeOptions& options)
      : vm_(std::move(vm)),
        memory_(std::move(memory)),
        deadline_(std::chrono::steady_clock::now() + options.limit),
        reports_(deadline_),
        runner_(std::move(vcpu), reports_, {.kick_signal = options.kick_signal},
                [this](const vcpu::RunEnd&) {
                  base::MutexLock lock(&mutex_);
                  over_ = true;
                  ended_.SignalAll();
                }) {}

  absl::Status Start() { return runner_.Start(); }

  // What the guest reports until its time is over, or it ends.
  Answer AwaitAnswer() {
    (void)IsOverBy(deadline_);
    return reports_.answer();
  }
  // Why it ended; none if KVM_RUN does not return within `limit`.
  std::optional<vcpu::RunEnd> Stop(std::chrono::milliseconds limit) {
    runner_.RequestStop();
    if (!IsOverBy(std::chrono::steady_clock::now() + limit)) {
      return std::nullopt;
    }
    return runner_.Wait();
  }

 private:
  bool IsOverBy(TimePoint deadline) {
    base::MutexLock lock(&mutex_);
    while (!over_ && ended_.WaitUntil(&mutex_, deadline)) {
    }
    return over_;
  }

  const kvm::Vm vm_;
  const GuestMemory memory_;
  const TimePoint deadline_;
  Reports reports_;
  base::Mutex mutex_;
  base::CondVar ended_;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  vcpu::Runner runner_;  // last: its thread uses the rest
};

}  // namespace

absl::Status ProbeLinux(const kvm::System& system,
                        const LinuxProbeOptions& options) {
  ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
  ASSIGN_OR_RETURN(GuestMemory memory, CreateMemory(vm));
  vcpu::LongModeEntry entry;
  RETURN_IF_ERROR(PlaceGuest(memory, options.guest_code, &entry));
  ASSIGN_OR_RETURN(kvm::VcpuFd vcpu, CreateVcpu(system, vm, entry));
  auto session = std::make_unique<Session>(std::move(vm), std::move(memory),
                                           std::move(vcpu), options);
  RETURN_IF_ERROR(session->Start());
  const Answer answer = session->AwaitAnswer();
  const std::optional<vcpu::RunEnd> end = session->Stop(options.stop_limit);
  if (!end.has_value()) {
    // Its thread is in KVM_RUN for as long as the process lives.
    session.release();
    return absl::UnavailableError(
        absl::StrCat("KVM_RUN did not return from a test guest within ",
                     options.stop_limit.count(),
                     " ms of a signal, so Linux cannot run on this KVM"));
  }
  return Judge(answer, *end, options.limit);
}

}  // namespace cloister::vmm
