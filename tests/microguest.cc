// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/microguest.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/backend_factory.h"
#include "cloister/vcpu/boot_tables.h"
#include "cloister/vcpu/cpuid.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vcpu/regs.h"

extern "C" const uint8_t cloister_microguest_start[], cloister_microguest_end[];

namespace cloister::tests {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;

constexpr uint64_t kGdt = 0x7000;
constexpr uint64_t kCode = 0x8000;
constexpr uint64_t kTables = 0x20000;
constexpr uint64_t kAliasedEnd = 1 << 20;
constexpr uint64_t kLargePage = 2 << 20;
constexpr uint16_t kCommandPort = 0x510;

// A mailbox: 64-bit words at these offsets, as microguest_code.S has them.
constexpr uint64_t kOp = 0x00, kAddress = 0x08, kCount = 0x10, kValue = 0x18,
                   kStride = 0x20, kDelta = 0x28, kResult = 0x30, kSeen = 0x38,
                   kStop = 0x40, kProgress = 0x48, kSeed = 0x50;

}  // namespace

// A backend that can be told not to free memory.
class Microguest::KeepingBackend : public confidential::Backend {
 public:
  KeepingBackend(std::unique_ptr<confidential::Backend> inner, bool punch)
      : inner_(std::move(inner)), punch_(punch) {}
  void set_punch(bool value) { punch_.store(value); }

  absl::string_view name() const override { return inner_->name(); }
  confidential::BackendKind kind() const override { return inner_->kind(); }
  std::optional<int> c_bit() const override { return inner_->c_bit(); }
  memory::ConversionContent content() const override {
    return inner_->content();
  }
  uint64_t preferred_chunk() const override {
    return inner_->preferred_chunk();
  }
  memory::PageProgress SetAttributes(const GuestRange& range,
                                     PageState to) override {
    return inner_->SetAttributes(range, to);
  }
  absl::Status ReserveShared(const GuestRange& range) override {
    return inner_->ReserveShared(range);
  }
  absl::Status FreeShared(const GuestRange& range) override {
    return punch_.load() ? inner_->FreeShared(range) : absl::OkStatus();
  }
  absl::Status FreePrivate(const GuestRange& range) override {
    return punch_.load() ? inner_->FreePrivate(range) : absl::OkStatus();
  }
  absl::Status ForEachBacked(
      memory::BackingSide side, const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&)> visit) override {
    return inner_->ForEachBacked(side, range, visit);
  }
  absl::StatusOr<confidential::PageFault> TranslateFault(
      const kvm::MemoryFaultExit& fault) const override {
    return inner_->TranslateFault(fault);
  }
  absl::Status Launch(const confidential::LaunchRequest& request) override {
    return inner_->Launch(request);
  }

 private:
  const std::unique_ptr<confidential::Backend> inner_;
  std::atomic<bool> punch_;
};

// One vCPU's exits: commands here, memory to the router.
class Microguest::Handler : public vcpu::ExitHandler {
 public:
  Handler(Microguest* guest, Cpu* cpu) : guest_(*guest), cpu_(*cpu) {}

  uint64_t PageStateGeneration() override {
    return guest_.router_->PageStateGeneration();
  }
  void OnPortRead(uint16_t port, absl::Span<uint8_t> data) override {
    if (port != kCommandPort) return;
    const bool more = guest_.NextCommand(cpu_);
    for (uint8_t& byte : data) byte = more ? 1 : 0;
  }
  vcpu::Verdict OnPortWrite(uint16_t /*port*/,
                            absl::Span<const uint8_t> /*data*/) override {
    return vcpu::Verdict::kContinue;
  }
  void OnMmioRead(GuestAddress address, absl::Span<uint8_t> /*data*/) override {
    base::MutexLock lock(&guest_.mutex_);
    guest_.mmio_reads_.push_back(address.value());
  }
  vcpu::Verdict OnMmioWrite(GuestAddress /*address*/,
                            absl::Span<const uint8_t> /*data*/) override {
    return vcpu::Verdict::kContinue;
  }
  uint64_t OnHypercall(const vcpu::Hypercall& call) override {
    return guest_.router_->OnHypercall(call);
  }
  absl::Status OnMemoryFault(const kvm::MemoryFaultExit& fault,
                             uint64_t generation) override {
    {
      base::MutexLock lock(&guest_.mutex_);
      guest_.faults_.push_back(fault);
    }
    return guest_.router_->OnMemoryFault(fault, generation);
  }
  bool OnMsr(vcpu::MsrAccess& access) override {
    return guest_.router_->OnMsr(access);
  }
  void OnApicEoi(uint8_t /*vector*/) override {}
  vcpu::Verdict OnSystemEvent(const kvm::SystemEventExit& event) override {
    return vcpu::DefaultVerdict(event);
  }

 private:
  Microguest& guest_;
  Cpu& cpu_;
};

absl::StatusOr<std::unique_ptr<Microguest>> Microguest::CreateStopped(
    const MicroguestOptions& options) {
  std::unique_ptr<Microguest> guest(new Microguest());
  RETURN_IF_ERROR(guest->Build(options));
  return guest;
}

absl::StatusOr<std::unique_ptr<Microguest>> Microguest::Create(
    const MicroguestOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Microguest> guest, CreateStopped(options));
  RETURN_IF_ERROR(guest->Start());
  return guest;
}

absl::Status Microguest::Build(const MicroguestOptions& options) {
  RETURN_IF_ERROR(vcpu::InstallKickHandler(SIGRTMIN));
  ASSIGN_OR_RETURN(kvm::System system, kvm::System::Open(*options.syscalls));
  ASSIGN_OR_RETURN(auto supported, system.SupportedCpuid());
  ASSIGN_OR_RETURN(c_bit_, vcpu::ComputeCbit(supported));
  confidential::RamOptions ram;
  const uint64_t slot =
      options.slot_bytes == 0 ? options.memory : options.slot_bytes;
  for (uint64_t at = 0; at < options.memory; at += slot) {
    ASSIGN_OR_RETURN(
        GuestRange range,
        GuestRange::CreatePageAligned(GuestAddress(at),
                                      std::min(slot, options.memory - at)));
    ram.ram.push_back(range);
  }
  ram.aliased_end = kAliasedEnd;
  ASSIGN_OR_RETURN(backend_vm_, confidential::CreateBackendVm(
                                    system, options.backend, ram, c_bit_));
  auto keeping = std::make_unique<KeepingBackend>(
      std::move(backend_vm_.backend), options.punch);
  keeping_ = keeping.get();
  backend_vm_.backend = std::move(keeping);
  RETURN_IF_ERROR(vm().EnableHypercallExits());
  RETURN_IF_ERROR(vm().EnableUserSpaceMsrExits());
  RETURN_IF_ERROR(BuildMemory(options));
  RETURN_IF_ERROR(PlaceCode(options.memory));
  vmm::ExitRouter::Parts parts;
  parts.states = &states_;
  parts.broker = broker_.get();
  parts.backend = backend_vm_.backend.get();
  parts.log = &base::Logger::Null();
  router_ = std::make_unique<vmm::ExitRouter>(parts);
  for (uint32_t i = 0; i < options.cpus; ++i) {
    RETURN_IF_ERROR(BuildVcpu(system, i, options.cpus));
  }
  return absl::OkStatus();
}

absl::Status Microguest::BuildMemory(const MicroguestOptions& options) {
  ASSIGN_OR_RETURN(
      view_, memory::SharedView::Create(backend_vm_.memory.get(), &states_));
  memory::ConversionBrokerOptions broker;
  broker.policy = options.policy;
  ASSIGN_OR_RETURN(broker_, memory::ConversionBroker::Create(
                                &states_, backend_vm_.backend.get(),
                                view_.get(), std::move(broker)));
  for (const memory::MemoryRegion& region : memory().regions()) {
    const bool low = region.range().start().value() < kAliasedEnd;
    RETURN_IF_ERROR(broker_->AddRam(
        region.range(), low ? PageState::kAliased : PageState::kPrivate));
  }
  return absl::OkStatus();
}

absl::Status Microguest::PlaceCode(uint64_t memory) {
  const uint64_t mapped = memory + kLargePage;
  const std::vector<vcpu::PageMapping> mappings = {
      {.virtual_address = 0, .size = kLargePage},
      {.virtual_address = kLargePage,
       .physical = GuestAddress(kLargePage),
       .size = mapped - kLargePage,
       .encrypted = true},
      {.virtual_address = SharedVa(0), .size = mapped},
  };
  ASSIGN_OR_RETURN(
      std::vector<uint8_t> tables,
      vcpu::BuildPageTables({.tables = GuestAddress(kTables), .c_bit = c_bit_},
                            mappings));
  if (tables.size() > kRecords - kTables) {
    return absl::InvalidArgumentError("too much memory for the page tables");
  }
  RETURN_IF_ERROR(this->memory().Write(GuestAddress(kTables), tables));
  RETURN_IF_ERROR(
      this->memory().Write(GuestAddress(kGdt), vcpu::BuildBootGdt()));
  return this->memory().Write(
      GuestAddress(kCode),
      absl::MakeConstSpan(cloister_microguest_start,
                          static_cast<size_t>(cloister_microguest_end -
                                              cloister_microguest_start)));
}

absl::Status Microguest::BuildVcpu(const kvm::System& system, uint32_t index,
                                   uint32_t count) {
  ASSIGN_OR_RETURN(auto supported, system.SupportedCpuid());
  ASSIGN_OR_RETURN(kvm::VcpuFd vcpu, vm().CreateVcpu(index));
  vcpu::CpuidPolicy policy;
  policy.x2apic = false;
  policy.c_bit = c_bit_;
  policy.map_gpa_range = true;
  ASSIGN_OR_RETURN(
      auto cpuid, vcpu::BuildCpuid(supported, policy, {.count = count}, index));
  RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
  RETURN_IF_ERROR(vcpu.SetMsrs(vcpu::BootMsrs()));
  const vcpu::LongModeEntry entry = {.rip = kCode,
                                     .rdi = Mailbox(index),
                                     .cr3 = kTables,
                                     .gdt = kGdt,
                                     .gdt_size = 48};
  ASSIGN_OR_RETURN(kvm::SpecialRegisters reset, vcpu.GetSpecialRegisters());
  RETURN_IF_ERROR(vcpu.SetSpecialRegisters(
      vcpu::LongModeSpecialRegisters(entry, reset, /*x2apic=*/false)));
  RETURN_IF_ERROR(vcpu.SetRegisters(vcpu::LongModeRegisters(entry)));
  cpus_.push_back(std::make_unique<Cpu>());
  Cpu* cpu = cpus_.back().get();
  cpu->handler = std::make_unique<Handler>(this, cpu);
  vcpu::RunnerOptions options;
  options.index = index;
  options.kick_signal = SIGRTMIN;
  cpu->runner =
      std::make_unique<vcpu::Runner>(std::move(vcpu), *cpu->handler, options,
                                     [this, cpu](const vcpu::RunEnd& end) {
                                       base::MutexLock lock(&mutex_);
                                       cpu->ended = true;
                                       cpu->end = end;
                                       changed_.SignalAll();
                                     });
  return absl::OkStatus();
}

absl::Status Microguest::Start() {
  broker_->GuestStarted();
  for (const auto& cpu : cpus_) RETURN_IF_ERROR(cpu->runner->Start());
  return absl::OkStatus();
}

Microguest::~Microguest() {
  {
    base::MutexLock lock(&mutex_);
    closing_ = true;
    changed_.SignalAll();
  }
  if (broker_ != nullptr) broker_->Shutdown();
  for (const auto& cpu : cpus_) cpu->runner->RequestStop();
  for (const auto& cpu : cpus_) cpu->runner->Wait();
}

bool Microguest::NextCommand(Cpu& cpu) {
  base::MutexLock lock(&mutex_);
  if (cpu.taken) {
    cpu.taken = false;
    cpu.commanded = false;
    changed_.SignalAll();
  }
  while (!cpu.commanded && !closing_) changed_.Wait(&mutex_);
  cpu.taken = !closing_;
  return cpu.taken;
}

void Microguest::Begin(uint32_t cpu, const Command& command) {
  Poke(cpu, kOp, static_cast<uint64_t>(command.op));
  Poke(cpu, kAddress, command.address);
  Poke(cpu, kCount, command.count);
  Poke(cpu, kValue, command.value);
  Poke(cpu, kStride, command.stride);
  Poke(cpu, kDelta, command.delta);
  Poke(cpu, kSeed, command.seed);
  for (uint64_t word : {kResult, kSeen, kStop, kProgress}) Poke(cpu, word, 0);
  base::MutexLock lock(&mutex_);
  cpus_[cpu]->commanded = true;
  changed_.SignalAll();
}

void Microguest::Stop(uint32_t cpu) { Poke(cpu, kStop, 1); }

absl::StatusOr<Microguest::Result> Microguest::Wait(uint32_t cpu) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::minutes(2);
  {
    base::MutexLock lock(&mutex_);
    Cpu& state = *cpus_[cpu];
    while (state.commanded && !state.ended) {
      if (!changed_.WaitUntil(&mutex_, deadline)) {
        return absl::DeadlineExceededError(
            absl::StrCat("vCPU ", cpu, " is not done"));
      }
    }
    if (state.ended) {
      if (!state.end.status.ok()) return state.end.status;
      return absl::AbortedError(
          absl::StrCat("vCPU ", cpu, ": ", vcpu::RunEndName(state.end.kind)));
    }
  }
  return Result{.result = Peek(cpu, kResult),
                .seen = Peek(cpu, kSeen),
                .progress = Peek(cpu, kProgress)};
}

absl::StatusOr<Microguest::Result> Microguest::Run(uint32_t cpu,
                                                   const Command& command) {
  Begin(cpu, command);
  return Wait(cpu);
}

bool Microguest::busy(uint32_t cpu) {
  base::MutexLock lock(&mutex_);
  return cpus_[cpu]->commanded && !cpus_[cpu]->ended;
}

void Microguest::SetPunching(bool value) { keeping_->set_punch(value); }

absl::StatusOr<memory::ReconcileReport> Microguest::Reconcile() {
  broker_->Pause();
  auto report = broker_->Reconcile(memory::GuestPages::kAllReported);
  broker_->Resume();
  return report;
}

uint64_t Microguest::Progress(uint32_t cpu) { return Peek(cpu, kProgress); }

absl::StatusOr<uint64_t> Microguest::Convert(uint64_t gpa, uint64_t npages,
                                             uint64_t attributes,
                                             uint32_t cpu) {
  ASSIGN_OR_RETURN(Result result, Run(cpu, {.op = Op::kConvert,
                                            .address = gpa,
                                            .count = npages,
                                            .value = attributes}));
  return result.result;
}

absl::Status Microguest::FillPages(uint64_t address, uint64_t pages,
                                   uint64_t value, uint32_t cpu) {
  return Run(cpu, {.op = Op::kWrite,
                   .address = address,
                   .count = pages,
                   .value = value,
                   .delta = 1})
      .status();
}

absl::Status Microguest::CheckPages(uint64_t address, uint64_t pages,
                                    uint64_t value, uint64_t delta,
                                    uint32_t cpu) {
  ASSIGN_OR_RETURN(Result result, Run(cpu, {.op = Op::kCheck,
                                            .address = address,
                                            .count = pages,
                                            .value = value,
                                            .delta = delta}));
  if (result.result == pages) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("page ", result.result, " of ", pages, " at 0x",
                   absl::Hex(address), " holds 0x", absl::Hex(result.seen),
                   ", not 0x", absl::Hex(value + result.result * delta)));
}

std::vector<kvm::MemoryFaultExit> Microguest::Faults() {
  base::MutexLock lock(&mutex_);
  return faults_;
}

std::vector<uint64_t> Microguest::MmioReads() {
  base::MutexLock lock(&mutex_);
  return mmio_reads_;
}

uint64_t Microguest::Peek(uint32_t cpu, uint64_t offset) {
  return memory()
      .Load<uint64_t>(GuestAddress(Mailbox(cpu) + offset),
                      std::memory_order_acquire)
      .value_or(~uint64_t{0});
}

void Microguest::Poke(uint32_t cpu, uint64_t offset, uint64_t value) {
  // The mailbox is RAM: this cannot fail.
  memory()
      .Store<uint64_t>(GuestAddress(Mailbox(cpu) + offset), value,
                       std::memory_order_release)
      .IgnoreError();
}

}  // namespace cloister::tests
