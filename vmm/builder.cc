// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/builder.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/unique_fd.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/confidential/backend_factory.h"
#include "cloister/confidential/measurement.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/boot_tables.h"
#include "cloister/vcpu/cpuid.h"
#include "cloister/vcpu/host_cpuid_policy.h"
#include "cloister/vcpu/regs.h"
#include "cloister/vmm/balloon_memory.h"
#include "cloister/vmm/launch_plan.h"
#include "cloister/vmm/layout.h"
#include "cloister/vmm/size.h"

namespace cloister::vmm {

using confidential::BackendKind;
using confidential::LaunchPages;
using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;

namespace {

// Where an ordinary guest's first GDT and page tables lie: low memory that
// Linux takes over once it has its own.
constexpr uint64_t kBootGdtAddress = 0x8000;
constexpr uint64_t kBootTablesAddress = 0x10000;

absl::StatusOr<GuestRange> PagesAround(GuestAddress start, uint64_t size) {
  const uint64_t first = base::AlignDown(start.value(), memory::kPageSize);
  const uint64_t end = base::AlignUp(start.value() + size, memory::kPageSize);
  return GuestRange::CreatePageAligned(GuestAddress(first), end - first);
}

}  // namespace

// The steps of BuildVm, in order.
class VmBuilder {
 public:
  // Builds into `vm`, whose parts are empty.
  VmBuilder(const VmConfig& config, MicroVm* vm)
      : config_(config), hooks_(vm->hooks_), vm_(vm) {}

  static std::unique_ptr<MicroVm> NewVm(const VmConfig& config,
                                        const VmHooks& hooks,
                                        kvm::Syscalls& syscalls) {
    std::unique_ptr<MicroVm> vm(new MicroVm(hooks));
    vm->rebuild_ = [config, vm = vm.get(), &syscalls] {
      return VmBuilder(config, vm).Build(syscalls);
    };
    return vm;
  }

  absl::Status Build(kvm::Syscalls& syscalls) {
    RETURN_IF_ERROR(ValidateConfig(config_));
    RETURN_IF_ERROR(OpenHost(syscalls));
    RETURN_IF_ERROR(Plan());
    RETURN_IF_ERROR(CreateVm());
    RETURN_IF_ERROR(CreateMemoryStates());
    RETURN_IF_ERROR(CreateDevices());
    RETURN_IF_ERROR(PrepareLaunch());
    RETURN_IF_ERROR(CreateVcpus());
    return Launch();
  }

 private:
  absl::Status OpenHost(kvm::Syscalls& syscalls);
  // How the guest tells of conversions, as this host can do it.
  absl::Status ChooseReports(const confidential::HostFacts& facts);
  absl::Status CheckCpus();
  absl::Status Plan();
  absl::Status CreateVm();
  absl::Status CreateMemoryStates();
  absl::Status Declare(const GuestRange& region);
  absl::Status CreateDevices();
  absl::Status PrepareLaunch();
  absl::Status PrepareShim();
  absl::Status CheckDigest() const;
  absl::Status PrepareBootTables();
  absl::Status StagePieces();
  absl::Status CreateVcpus();
  absl::Status SetUpVcpu(kvm::VcpuFd& vcpu, uint32_t index);
  absl::Status Launch();

  // What a thread of this VM runs first; null if nothing.
  std::function<void()> OnThreadStart(ThreadKind kind) const {
    if (!hooks_.on_thread_start) return nullptr;
    return [hook = hooks_.on_thread_start, kind] { hook(kind); };
  }
  void Reached(absl::string_view phase) {
    if (hooks_.boot_timer != nullptr) hooks_.boot_timer->Reached(phase);
  }
  const kvm::Vm& kvm_vm() const { return *vm_->backend_vm_.vm; }

  VmConfig config_;  // as asked for, but for ChooseReports
  const VmHooks& hooks_;
  MicroVm* const vm_;
  std::optional<kvm::System> system_;
  BackendKind kind_ = BackendKind::kOff;
  std::vector<kvm::CpuidEntry> supported_;
  bool hypercalls_ = false;  // the guest reports conversions by VMMCALL
  int c_bit_ = 0;
  std::optional<LaunchPlan> plan_;
  std::optional<shim::ShimLaunch> shim_;
  std::vector<std::vector<uint8_t>> owned_;  // bytes that launch_ refers to
  confidential::LaunchRequest launch_;
  vcpu::LongModeEntry entry_;
};

absl::Status VmBuilder::OpenHost(kvm::Syscalls& syscalls) {
  base::UniqueFd kvm;
  if (hooks_.kvm_fd >= 0) {
    ASSIGN_OR_RETURN(kvm, base::DuplicateFd(hooks_.kvm_fd));
  }
  ASSIGN_OR_RETURN(kvm::System system,
                   kvm.valid() ? kvm::System::Adopt(std::move(kvm), syscalls)
                               : kvm::System::Open(syscalls));
  system_ = std::move(system);
  RETURN_IF_ERROR(CheckCpus());
  ASSIGN_OR_RETURN(supported_, system_->SupportedCpuid());
  if (config_.confidential.backend == confidential::BackendChoice::kOff) {
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(confidential::HostFacts facts,
                   confidential::CollectHostFacts(*system_));
  ASSIGN_OR_RETURN(
      kind_, confidential::ChooseBackend(config_.confidential.backend, facts));
  if (kind_ == BackendKind::kOff) return absl::OkStatus();
  ASSIGN_OR_RETURN(c_bit_, vcpu::ComputeCbit(supported_));
  return ChooseReports(facts);
}

absl::Status VmBuilder::ChooseReports(const confidential::HostFacts& facts) {
  const bool wanted =
      config_.confidential.reports == ConversionReports::kHypercall;
  ASSIGN_OR_RETURN(hypercalls_,
                   confidential::ChooseHypercalls(config_.confidential.backend,
                                                  wanted, facts));
  if (!wanted || hypercalls_) return absl::OkStatus();
  config_.confidential.reports = ConversionReports::kFault;
  hooks_.log->Warning(
      "guests of this host have no VMMCALL: this one shares pages by "
      "touching them, and its launch digest is that of --conversion-reports "
      "fault");
  return absl::OkStatus();
}

absl::Status VmBuilder::CheckCpus() {
  vcpu::CpuLimits limits;
  limits.max_vcpus = system_->MaxVcpus();
  const int max_id = system_->CheckExtension(kvm::Capability::kMaxVcpuId);
  limits.max_vcpu_id = max_id > 0 ? max_id : limits.max_vcpus;
  absl::Status status =
      vcpu::ValidateTopology(TopologyOf(config_.cpus), limits);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("--cpus: ", status.message()));
}

absl::Status VmBuilder::Plan() {
  std::optional<ConfidentialLaunch> confidential;
  if (kind_ != BackendKind::kOff) {
    confidential = ConfidentialLaunch{.c_bit = c_bit_};
  }
  ASSIGN_OR_RETURN(LaunchPlan plan, PlanLaunch(config_, confidential));
  const uint64_t end = plan.all_ram.back().last().value();
  const int bits = kind_ != BackendKind::kOff
                       ? c_bit_
                       : vcpu::MaxPhysicalAddressBits(supported_);
  if ((end >> bits) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--memory: ", FormatSize(config_.memory.bytes),
                     " do not fit below guest-physical address bit ", bits));
  }
  plan_ = std::move(plan);
  Reached("kernel loaded");
  return absl::OkStatus();
}

absl::Status VmBuilder::CreateVm() {
  confidential::RamOptions ram;
  ram.ram = plan_->all_ram;
  ram.aliased_end = kind_ == BackendKind::kOff ? 0 : kLowMemoryEnd;
  ram.huge_pages = config_.memory.huge_pages;
  ASSIGN_OR_RETURN(confidential::BackendVm backend_vm,
                   confidential::CreateBackendVm(*system_, kind_, ram, c_bit_));
  {
    base::MutexLock lock(&vm_->parts_mutex_);
    vm_->backend_vm_ = std::move(backend_vm);
  }
  const kvm::Vm& vm = kvm_vm();
  RETURN_IF_ERROR(vm.SetTssAddress(GuestAddress(kTssAddress)));
  RETURN_IF_ERROR(vm.SetIdentityMapAddress(GuestAddress(kIdentityMapAddress)));
  RETURN_IF_ERROR(vm.CreateIrqchip());
  RETURN_IF_ERROR(vm.CreatePit());
  if (plan_->topology.needs_x2apic_ids()) {
    RETURN_IF_ERROR(vm.EnableX2apicApi());
  }
  if (kind_ != BackendKind::kOff) {
    if (hypercalls_) RETURN_IF_ERROR(vm.EnableHypercallExits());
    RETURN_IF_ERROR(vm.EnableUserSpaceMsrExits());
  }
  Reached("VM created");
  return absl::OkStatus();
}

absl::Status VmBuilder::CreateMemoryStates() {
  auto states = std::make_unique<memory::PageStateMap>();
  ASSIGN_OR_RETURN(
      std::unique_ptr<memory::SharedView> view,
      memory::SharedView::Create(vm_->backend_vm_.memory.get(), states.get()));
  {
    base::MutexLock lock(&vm_->parts_mutex_);
    vm_->states_ = std::move(states);
    vm_->view_ = std::move(view);
  }
  if (kind_ == BackendKind::kOff) {
    for (const GuestRange& range : plan_->ram) {
      RETURN_IF_ERROR(vm_->states_->Set(range, PageState::kShared));
    }
    return absl::OkStatus();
  }
  memory::ConversionBrokerOptions options;
  options.policy = config_.confidential.policy;
  options.exchange_windows = config_.confidential.exchange_windows;
  options.on_fatal = [vm = vm_](const absl::Status& status) {
    vm->OnFatal(status);
  };
  options.on_thread_start = OnThreadStart(ThreadKind::kConversion);
  options.on_held = [vm = vm_] { vm->NoteHalt(); };
  ASSIGN_OR_RETURN(std::unique_ptr<memory::ConversionBroker> broker,
                   memory::ConversionBroker::Create(
                       vm_->states_.get(), vm_->backend_vm_.backend.get(),
                       vm_->view_.get(), std::move(options)));
  {
    base::MutexLock lock(&vm_->parts_mutex_);
    vm_->broker_ = std::move(broker);
  }
  for (const memory::MemoryRegion& region :
       vm_->backend_vm_.memory->regions()) {
    RETURN_IF_ERROR(Declare(region.range()));
  }
  return absl::OkStatus();
}

absl::Status VmBuilder::Declare(const GuestRange& region) {
  const std::vector<GuestRange>& windows =
      config_.confidential.exchange_windows;
  if (std::find(windows.begin(), windows.end(), region) != windows.end()) {
    return vm_->broker_->AddExchangeWindow(region, PageState::kPrivate);
  }
  return vm_->broker_->AddRam(region, region.start().value() < kLowMemoryEnd
                                          ? PageState::kAliased
                                          : PageState::kPrivate);
}

absl::Status VmBuilder::CreateDevices() {
  PlatformOptions options;
  for (const GuestRange& range : plan_->ram) {
    (range.start().value() < kFourGiB ? options.ram_below_4gib
                                      : options.ram_above_4gib) += range.size();
  }
  options.events = vm_->Events();
  ASSIGN_OR_RETURN(std::unique_ptr<Platform> platform,
                   Platform::Create(kvm_vm(), *hooks_.console,
                                    std::move(options), *hooks_.log));
  {
    base::MutexLock lock(&vm_->parts_mutex_);
    vm_->platform_ = std::move(platform);
  }
  VirtioDevices::Parts parts;
  parts.vm = &kvm_vm();
  parts.pio = &vm_->platform_->pio();
  parts.mmio = &vm_->platform_->mmio();
  parts.view = vm_->view_.get();
  parts.log = hooks_.log;
  parts.confidential = kind_ != BackendKind::kOff;
  parts.msi_x = OffersMsiX(config_.confidential.backend, parts.confidential);
  parts.on_thread_start = OnThreadStart(ThreadKind::kDevice);
  parts.ram = config_.memory.bytes;
  parts.balloon_pages = std::make_unique<BalloonMemory>(
      vm_->states_.get(), vm_->backend_vm_.backend.get(), vm_->broker_.get(),
      config_.confidential.exchange_windows);
  parts.console = hooks_.console;
  parts.on_console_room = hooks_.on_console_room;
  ASSIGN_OR_RETURN(std::unique_ptr<VirtioDevices> virtio,
                   VirtioDevices::Create(config_.devices, std::move(parts)));
  {
    base::MutexLock lock(&vm_->parts_mutex_);
    vm_->virtio_ = std::move(virtio);
  }
  for (const ExtraDevice& extra : hooks_.extra_devices) {
    devices::Bus& bus = extra.space == devices::Bus::Space::kPio
                            ? vm_->platform_->pio()
                            : vm_->platform_->mmio();
    RETURN_IF_ERROR(bus.Insert(extra.start, extra.size, extra.device));
  }
  auto router = std::make_unique<ExitRouter>(
      ExitRouter::Parts{.pio = &vm_->platform_->pio(),
                        .mmio = &vm_->platform_->mmio(),
                        .states = vm_->states_.get(),
                        .broker = vm_->broker_.get(),
                        .backend = vm_->backend_vm_.backend.get(),
                        .log = hooks_.log});
  base::MutexLock lock(&vm_->parts_mutex_);
  vm_->router_ = std::move(router);
  return absl::OkStatus();
}

absl::Status VmBuilder::PrepareLaunch() {
  if (plan_->shim.has_value()) {
    RETURN_IF_ERROR(PrepareShim());
  } else {
    RETURN_IF_ERROR(PrepareBootTables());
  }
  RETURN_IF_ERROR(CheckDigest());
  for (const boot::Piece& piece : plan_->image.pieces()) {
    launch_.pages.push_back(LaunchPages{piece.gpa, piece.data.span()});
  }
  return vm_->broker_ == nullptr ? absl::OkStatus() : StagePieces();
}

absl::Status VmBuilder::CheckDigest() const {
  const std::string& expected = config_.confidential.expected_digest;
  if (expected.empty()) return absl::OkStatus();
  const std::optional<shim::Digest> digest = vm_->digest();
  const std::string actual =
      digest.has_value() ? shim::DigestHex(*digest) : "none";
  if (absl::EqualsIgnoreCase(expected, actual)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("expected_digest: the launch digest is ", actual));
}

absl::Status VmBuilder::PrepareShim() {
  ASSIGN_OR_RETURN(shim_, shim::BuildShimLaunch(*plan_->shim));
  if (!vm_->measurement_.has_value()) {
    vm_->measurement_ = confidential::MeasureHandover(shim_->handover);
  } else if (vm_->measurement_->digest != shim_->digest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "relaunch: the files give launch digest ",
        shim::DigestHex(shim_->digest), " now, not that of the first launch"));
  }
  for (const shim::Placement& placement : shim_->placements) {
    launch_.pages.push_back(LaunchPages{placement.gpa, placement.bytes});
  }
  entry_.rip = shim_->start.rip.value();
  entry_.cr3 = shim_->start.cr3;
  return absl::OkStatus();
}

absl::Status VmBuilder::PrepareBootTables() {
  vcpu::PageTableOptions tables;
  tables.tables = GuestAddress(kBootTablesAddress);
  std::vector<vcpu::PageMapping> identity =
      vcpu::IdentityMappings(kFourGiB, kFourGiB);
  ASSIGN_OR_RETURN(std::vector<uint8_t> bytes,
                   vcpu::BuildPageTables(tables, identity));
  std::vector<uint8_t> gdt = vcpu::BuildBootGdt();
  entry_.rip = plan_->image.entry().rip.value();
  entry_.rsi = plan_->image.entry().rsi.value();
  entry_.cr3 = kBootTablesAddress;
  entry_.gdt = kBootGdtAddress;
  entry_.gdt_size = static_cast<uint16_t>(gdt.size());
  owned_.push_back(std::move(bytes));
  launch_.pages.push_back({GuestAddress(kBootTablesAddress), owned_.back()});
  owned_.push_back(std::move(gdt));
  launch_.pages.push_back({GuestAddress(kBootGdtAddress), owned_.back()});
  return absl::OkStatus();
}

// The shim takes everything from shared memory: those pages start out shared.
absl::Status VmBuilder::StagePieces() {
  std::vector<GuestRange> ranges = {shim_->reserved};
  for (const LaunchPages& pages : launch_.pages) {
    if (pages.bytes.empty()) continue;
    ASSIGN_OR_RETURN(GuestRange range,
                     PagesAround(pages.gpa, pages.bytes.size()));
    ranges.push_back(range);
  }
  if (!plan_->shim->hypercalls) vm_->staged_ = ranges;
  return vm_->broker_
      ->ConvertForHost(ranges, PageState::kShared,
                       memory::HostConversionReason::kBeforeBoot)
      .status();
}

absl::Status VmBuilder::CreateVcpus() {
  const vcpu::CpuTopology& topology = plan_->topology;
  for (uint32_t i = 0; i < topology.count; ++i) {
    ASSIGN_OR_RETURN(kvm::VcpuFd vcpu, kvm_vm().CreateVcpu(topology.ApicId(i)));
    RETURN_IF_ERROR(SetUpVcpu(vcpu, i));
    vcpu::RunnerOptions options;
    options.index = i;
    options.kick_signal = hooks_.kick_signal;
    options.on_start = OnThreadStart(ThreadKind::kVcpu);
    options.on_park = [vm = vm_] { vm->NoteHalt(); };
    auto runner = std::make_shared<vcpu::Runner>(
        std::move(vcpu), *vm_->router_, options,
        [vm = vm_](const vcpu::RunEnd& end) { vm->OnVcpuEnd(end); });
    base::MutexLock lock(&vm_->parts_mutex_);
    vm_->runners_.push_back(std::move(runner));
  }
  return absl::OkStatus();
}

absl::Status VmBuilder::SetUpVcpu(kvm::VcpuFd& vcpu, uint32_t index) {
  vcpu::CpuidPolicy policy = vcpu::HostCpuidPolicy(kvm_vm());
  if (kind_ != BackendKind::kOff) {
    policy.c_bit = c_bit_;
    policy.map_gpa_range = hypercalls_;
  }
  ASSIGN_OR_RETURN(
      auto cpuid, vcpu::BuildCpuid(supported_, policy, plan_->topology, index));
  RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
  RETURN_IF_ERROR(vcpu.SetMsrs(vcpu::BootMsrs()));
  ASSIGN_OR_RETURN(kvm::LapicState lapic, vcpu.GetLapic());
  vcpu::SetLocalInterrupts(/*is_boot_processor=*/index == 0, lapic);
  RETURN_IF_ERROR(vcpu.SetLapic(lapic));
  ASSIGN_OR_RETURN(kvm::SpecialRegisters reset, vcpu.GetSpecialRegisters());
  if (index != 0) {
    return vcpu.SetSpecialRegisters(
        vcpu::ApplicationProcessorRegisters(reset, /*x2apic=*/true));
  }
  launch_.special_registers =
      vcpu::LongModeSpecialRegisters(entry_, reset, /*x2apic=*/true);
  launch_.registers = vcpu::LongModeRegisters(entry_);
  RETURN_IF_ERROR(vcpu.SetSpecialRegisters(launch_.special_registers));
  return vcpu.SetRegisters(launch_.registers);
}

absl::Status VmBuilder::Launch() {
  RETURN_IF_ERROR(vm_->backend_vm_.backend->Launch(launch_));
  Reached("kernel placed");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MicroVm>> BuildVm(const VmConfig& config,
                                                 const VmHooks& hooks,
                                                 kvm::Syscalls& syscalls) {
  std::unique_ptr<MicroVm> vm = VmBuilder::NewVm(config, hooks, syscalls);
  RETURN_IF_ERROR(VmBuilder(config, vm.get()).Build(syscalls));
  return vm;
}

}  // namespace cloister::vmm
