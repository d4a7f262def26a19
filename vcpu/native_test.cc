// SPDX-License-Identifier: Apache-2.0
//
// The run loop on this machine's /dev/kvm, with guests of a few instructions.
// Without a usable /dev/kvm every test is skipped and says why.
#include <cpuid.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/memory_region.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vm.h"
#include "cloister/vcpu/boot_tables.h"
#include "cloister/vcpu/cpuid.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vcpu/regs.h"
#include "cloister/vcpu/runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::cloister::memory::GuestAddress;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMemorySize = 2 << 20;
constexpr uint64_t kGdt = 0x1000;
constexpr uint64_t kCode = 0x4000;
constexpr uint64_t kStackTop = 0x7000;
constexpr uint64_t kSipiPage = 0x8000;
constexpr uint64_t kData = 0x9000;
constexpr uint64_t kPageTables = 0x10000;
constexpr uint64_t kMappedBytes = uint64_t{2} << 30;
// For a guest to get somewhere; these hosts may be emulated themselves.
constexpr auto kPatience = std::chrono::seconds(60);

// Polls for what another thread or the guest does, false after kPatience.
bool Eventually(const std::function<bool()>& condition) {
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// Whether the CPU that this test runs on has VMX or SVM. A KVM without them is
// done in software.
bool HostHasVirtualization() {
  unsigned eax, ebx, ecx, edx;
  bool vmx = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & 1 << 5) != 0;
  bool svm = __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0 &&
             (ecx & 1 << 2) != 0;
  return vmx || svm;
}

class Recorder : public ExitHandler {
 public:
  uint64_t PageStateGeneration() override { return 0; }
  void OnPortRead(uint16_t, absl::Span<uint8_t> data) override {
    for (uint8_t& byte : data) byte = next_byte++;
    if (hook) hook();
  }
  Verdict OnPortWrite(uint16_t port, absl::Span<const uint8_t> data) override {
    written.append(data.begin(), data.end());
    return port == 0xf4 ? Verdict::kPowerOff : Verdict::kContinue;
  }
  void OnMmioRead(GuestAddress address, absl::Span<uint8_t> data) override {
    log.push_back(absl::StrCat("read ", address.ToString(), " ", data.size()));
    for (uint8_t& byte : data) byte = next_byte++;
  }
  Verdict OnMmioWrite(GuestAddress address,
                      absl::Span<const uint8_t> data) override {
    log.push_back(absl::StrCat("write ", address.ToString(), " ", data.size(),
                               " = ", data[0]));
    return Verdict::kContinue;
  }
  uint64_t OnHypercall(const Hypercall& call) override {
    log.push_back(absl::StrCat("hypercall ", call.number, " ", call.args[0],
                               " ", call.args[1], " ", call.args[2]));
    return 0x77;
  }
  absl::Status OnMemoryFault(const kvm::MemoryFaultExit&, uint64_t) override {
    return absl::InternalError("no private memory here");
  }
  bool OnMsr(MsrAccess& access) override {
    log.push_back(absl::StrCat(access.is_write ? "wrmsr " : "rdmsr ",
                               absl::Hex(access.index)));
    access.value = 0x5a;
    return true;
  }
  void OnApicEoi(uint8_t) override {}
  Verdict OnSystemEvent(const kvm::SystemEventExit& event) override {
    return DefaultVerdict(event);
  }

  uint8_t next_byte = 1;
  std::string written;
  std::vector<std::string> log;
  std::function<void()> hook;
};

class NativeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(InstallKickHandler(SIGRTMIN + 1));
    absl::StatusOr<kvm::System> system = kvm::System::Open();
    if (!system.ok()) {
      std::cout << "skipped: " << system.status().message() << std::endl;
      GTEST_SKIP() << system.status().message();
    }
    system_ = std::make_unique<kvm::System>(*std::move(system));
    absl::StatusOr<kvm::Vm> vm = system_->CreateVm(kvm::VmType::kDefault);
    ASSERT_OK(vm);
    vm_ = std::make_unique<kvm::Vm>(*std::move(vm));
    void* memory = mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    memory_ = static_cast<uint8_t*>(memory);
    kvm::MemoryRegion region;
    region.size = kMemorySize;
    region.host = memory;
    ASSERT_OK(vm_->SetMemoryRegion(region));
    Place(kGdt, BuildBootGdt());
    absl::StatusOr<std::vector<uint8_t>> tables =
        BuildPageTables({.tables = GuestAddress(kPageTables)},
                        IdentityMappings(kMappedBytes, kMappedBytes));
    ASSERT_OK(tables);
    Place(kPageTables, *tables);
  }
  void TearDown() override {
    runners_.clear();
    vm_.reset();
    if (memory_ != nullptr) munmap(memory_, kMemorySize);
  }

  void Place(uint64_t address, const std::vector<uint8_t>& bytes) {
    ASSERT_LE(bytes.size(), kMemorySize - address);
    std::memcpy(memory_ + address, bytes.data(), bytes.size());
  }
  uint64_t Load(uint64_t address) const {
    return __atomic_load_n(reinterpret_cast<uint64_t*>(memory_ + address),
                           __ATOMIC_SEQ_CST);
  }

  // vCPU `index` of `count`, at the start of `code`.
  Runner* MakeRunner(const std::vector<uint8_t>& code, uint32_t index = 0,
                     bool x2apic = false, uint32_t count = 1) {
    if (!code.empty()) Place(kCode, code);
    LongModeEntry entry = {.rip = kCode,
                           .rsp = kStackTop,
                           .cr3 = kPageTables,
                           .gdt = kGdt,
                           .gdt_size = 48};
    absl::StatusOr<kvm::VcpuFd> vcpu = vm_->CreateVcpu(index);
    EXPECT_OK(vcpu);
    absl::StatusOr<std::vector<kvm::CpuidEntry>> supported =
        system_->SupportedCpuid();
    EXPECT_OK(supported);
    absl::StatusOr<std::vector<kvm::CpuidEntry>> cpuid =
        BuildCpuid(*supported, {.x2apic = x2apic}, {.count = count}, index);
    EXPECT_OK(cpuid);
    EXPECT_OK(vcpu->SetCpuid(*cpuid));
    EXPECT_OK(vcpu->SetMsrs(BootMsrs()));
    absl::StatusOr<kvm::SpecialRegisters> reset = vcpu->GetSpecialRegisters();
    EXPECT_OK(reset);
    if (index == 0) {
      EXPECT_OK(vcpu->SetSpecialRegisters(
          LongModeSpecialRegisters(entry, *reset, x2apic)));
      EXPECT_OK(vcpu->SetRegisters(LongModeRegisters(entry)));
    } else {
      EXPECT_OK(vcpu->SetSpecialRegisters(
          ApplicationProcessorRegisters(*reset, x2apic)));
    }
    RunnerOptions options;
    options.index = index;
    options.kick_signal = SIGRTMIN + 1;
    runners_.push_back(std::make_unique<Runner>(
        *std::move(vcpu), recorder_, options, Runner::EndCallback()));
    return runners_.back().get();
  }

  // Starts the vCPU and waits for its end; stops it when that takes too long.
  RunEnd RunToEnd(Runner* runner) {
    EXPECT_OK(runner->Start());
    EXPECT_TRUE(Eventually([=] { return runner->end().has_value(); }));
    return runner->Stop();
  }

  Recorder recorder_;
  std::unique_ptr<kvm::System> system_;
  std::unique_ptr<kvm::Vm> vm_;
  uint8_t* memory_ = nullptr;
  std::vector<std::unique_ptr<Runner>> runners_;
};

const std::vector<uint8_t> kCounterLoop = {
    0x48, 0xff, 0x04, 0x25, 0x00, 0x90, 0x00, 0x00,  // inc qword [0x9000]
    0xeb, 0xf6,                                      // jmp back
};

TEST_F(NativeTest, CounterStandsStillWhilePaused) {
  Runner* runner = MakeRunner(kCounterLoop);
  ASSERT_OK(runner->Start());
  uint64_t last = 0;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(Eventually([&] { return Load(kData) > last; }));
    ASSERT_TRUE(runner->Pause());
    last = Load(kData);
    ASSERT_OK_AND_ASSIGN(kvm::Registers registers,
                         runner->vcpu().GetRegisters());
    EXPECT_TRUE(registers.rip == kCode || registers.rip == kCode + 8);
    for (int j = 0; j < 100; ++j) std::this_thread::yield();
    ASSERT_EQ(Load(kData), last);
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
  last = Load(kData);
  for (int j = 0; j < 100; ++j) std::this_thread::yield();
  EXPECT_EQ(Load(kData), last);
}

TEST_F(NativeTest, SpinningGuestIsKicked) {
  Runner* runner = MakeRunner({0xeb, 0xfe});  // jmp to itself
  ASSERT_OK(runner->Start());
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(runner->Pause());
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
}

TEST_F(NativeTest, TwoVmsShareTheKickSignal) {
  Runner* first = MakeRunner(kCounterLoop);
  ASSERT_OK_AND_ASSIGN(kvm::Vm other, system_->CreateVm(kvm::VmType::kDefault));
  kvm::MemoryRegion region;
  region.size = kMemorySize;
  region.host = memory_;
  ASSERT_OK(other.SetMemoryRegion(region));
  std::swap(*vm_, other);
  Runner* second = MakeRunner({});
  ASSERT_OK(first->Start());
  ASSERT_OK(second->Start());
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(first->Pause());
    uint64_t before = Load(kData);
    ASSERT_TRUE(Eventually([&] { return Load(kData) > before; }))
        << "the other VM goes on";
    first->Resume();
    std::swap(first, second);
  }
  EXPECT_EQ(first->Stop().kind, RunEnd::Kind::kStopped);
  EXPECT_EQ(second->Stop().kind, RunEnd::Kind::kStopped);
}

TEST_F(NativeTest, StringIo) {
  Place(kData, {'h', 'e', 'l', 'l', 'o'});
  Runner* runner = MakeRunner({
      0xbe, 0x00, 0x90, 0x00, 0x00,  // mov esi, 0x9000
      0xb9, 0x05, 0x00, 0x00, 0x00,  // mov ecx, 5
      0xba, 0xf8, 0x03, 0x00, 0x00,  // mov edx, 0x3f8
      0xfc,                          // cld
      0xf3, 0x6e,                    // rep outsb
      0xbf, 0x00, 0x91, 0x00, 0x00,  // mov edi, 0x9100
      0xb9, 0x03, 0x00, 0x00, 0x00,  // mov ecx, 3
      0xba, 0xf0, 0x01, 0x00, 0x00,  // mov edx, 0x1f0
      0xf3, 0x66, 0x6d,              // rep insw
      0xf4,                          // hlt
  });
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status;
  EXPECT_EQ(recorder_.written, "hello");
  EXPECT_EQ(Load(kData + 0x100), 0x0000060504030201u);
  EXPECT_EQ(runner->counters()[ExitKind::kHalt], 1u);
}

TEST_F(NativeTest, MmioBothWays) {
  Runner* runner = MakeRunner({
      0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x50,  // mov eax, [0x50000000]
      0x89, 0x04, 0x25, 0x08, 0x00, 0x00, 0x50,  // mov [0x50000008], eax
      0x89, 0x04, 0x25, 0x00, 0x90, 0x00, 0x00,  // mov [0x9000], eax
      0xf4,                                      // hlt
  });
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status;
  EXPECT_THAT(recorder_.log,
              ElementsAre("read 0x50000000 4", "write 0x50000008 4 = 1"));
  EXPECT_EQ(Load(kData), 0x04030201u);
}

// The whole point of completing: the registers saved while paused have the
// answer in them, and the instruction is not run again.
TEST_F(NativeTest, PausedInsideAnInstructionItIsFinishedFirst) {
  Runner* runner = MakeRunner({
      0x31, 0xc0,  // xor eax, eax
      0xe4, 0x60,  // in al, 0x60
      0xe4, 0x61,  // in al, 0x61
      0xf4,        // hlt
  });
  recorder_.next_byte = 0x41;
  recorder_.hook = [runner] { runner->RequestPause(); };
  ASSERT_OK(runner->Start());
  for (uint64_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(Eventually([=] { return runner->paused(); }));
    ASSERT_OK_AND_ASSIGN(kvm::Registers registers,
                         runner->vcpu().GetRegisters());
    EXPECT_EQ(registers.rip, kCode + 4 + 2 * i);
    EXPECT_EQ(registers.rax, 0x41 + i);
    runner->Resume();
  }
  ASSERT_TRUE(Eventually([=] { return runner->end().has_value(); }));
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kHalted);
}

TEST_F(NativeTest, GuestSeesItsCpuid) {
  // Leaves 0xB and 0x40000000, to 0x9000 and 0x9008.
  Runner* runner = MakeRunner({
      0xb8, 0x0b, 0x00, 0x00, 0x00,              // mov eax, 0xb
      0x31, 0xc9,                                // xor ecx, ecx
      0x0f, 0xa2,                                // cpuid
      0x89, 0x1c, 0x25, 0x00, 0x90, 0x00, 0x00,  // mov [0x9000], ebx
      0x89, 0x0c, 0x25, 0x04, 0x90, 0x00, 0x00,  // mov [0x9004], ecx
      0xb8, 0x00, 0x00, 0x00, 0x40,              // mov eax, 0x40000000
      0x0f, 0xa2,                                // cpuid
      0x89, 0x1c, 0x25, 0x08, 0x90, 0x00, 0x00,  // mov [0x9008], ebx
      0x89, 0x04, 0x25, 0x0c, 0x90, 0x00, 0x00,  // mov [0x900c], eax
      0xf4,                                      // hlt
  });
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status;
  EXPECT_EQ(Load(kData), uint64_t{0x100} << 32 | 1);
  EXPECT_EQ(Load(kData + 8), uint64_t{0x40000001} << 32 | 0x4b4d564b);
}

// A guest that enables every state component it is offered must find the size
// it was promised, or Linux reports an "XSAVE consistency problem".
TEST_F(NativeTest, XsaveAreaHasThePromisedSize) {
  ASSERT_OK_AND_ASSIGN(std::vector<kvm::CpuidEntry> supported,
                       system_->SupportedCpuid());
  ASSERT_OK_AND_ASSIGN(std::vector<kvm::CpuidEntry> cpuid,
                       BuildCpuid(supported, {}, {}, 0));
  bool xsave = false;
  for (const kvm::CpuidEntry& entry : cpuid) xsave |= entry.function == 0xd;
  if (!xsave) GTEST_SKIP() << "skipped: this KVM offers no XSAVE";
  Runner* runner = MakeRunner({
      0x0f, 0x20, 0xe0,                          // mov rax, cr4
      0x0d, 0x00, 0x00, 0x04, 0x00,              // or eax, OSXSAVE
      0x0f, 0x22, 0xe0,                          // mov cr4, rax
      0xb8, 0x0d, 0x00, 0x00, 0x00,              // mov eax, 0xd
      0x31, 0xc9,                                // xor ecx, ecx
      0x0f, 0xa2,                                // cpuid
      0x31, 0xd2,                                // xor edx, edx
      0x31, 0xc9,                                // xor ecx, ecx
      0x0f, 0x01, 0xd1,                          // xsetbv
      0xb8, 0x0d, 0x00, 0x00, 0x00,              // mov eax, 0xd
      0x31, 0xc9,                                // xor ecx, ecx
      0x0f, 0xa2,                                // cpuid
      0x89, 0x1c, 0x25, 0x00, 0x90, 0x00, 0x00,  // mov [0x9000], ebx
      0x89, 0x0c, 0x25, 0x04, 0x90, 0x00, 0x00,  // mov [0x9004], ecx
      0xf4,                                      // hlt
  });
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status << end.registers;
  uint32_t enabled = Load(kData) & 0xffffffff;
  EXPECT_EQ(enabled, Load(kData) >> 32);
}

TEST_F(NativeTest, TripleFaultIsNamed) {
  Runner* runner = MakeRunner({0x0f, 0x0b});  // ud2, without an IDT
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kGuestShutdown) << end.status;
  EXPECT_THAT(
      std::string(end.status.message()),
      AllOf(HasSubstr("EXIT_SHUTDOWN: triple fault"), HasSubstr("RIP")));
  EXPECT_THAT(end.registers, AllOf(HasSubstr("rip="), HasSubstr("cr3=")));
}

TEST_F(NativeTest, UnknownMsrsReachTheHandler) {
  absl::Status enabled = vm_->EnableUserSpaceMsrExits();
  if (!enabled.ok()) GTEST_SKIP() << "skipped: " << enabled.message();
  Runner* runner = MakeRunner({
      0xb9, 0x31, 0x01, 0x01, 0xc0,              // mov ecx, 0xc0010131
      0x0f, 0x32,                                // rdmsr
      0x89, 0x04, 0x25, 0x00, 0x90, 0x00, 0x00,  // mov [0x9000], eax
      0x0f, 0x30,                                // wrmsr
      0xf4,                                      // hlt
  });
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status;
  EXPECT_EQ(Load(kData), 0x5au);
  EXPECT_THAT(recorder_.log, ElementsAre("rdmsr c0010131", "wrmsr c0010131"));
}

TEST_F(NativeTest, ConversionHypercallReachesTheHandler) {
  absl::Status enabled = vm_->EnableHypercallExits();
  if (!enabled.ok()) GTEST_SKIP() << "skipped: " << enabled.message();
  ASSERT_OK_AND_ASSIGN(std::vector<kvm::CpuidEntry> supported,
                       system_->SupportedCpuid());
  if (!HostHasVirtualization()) {
    GTEST_SKIP() << "skipped: a software KVM, which never returns from a "
                    "guest kernel's VMMCALL";
  }
  uint8_t last = UsesVmmcall(supported) ? 0xd9 : 0xc1;
  Runner* runner = MakeRunner({
      0xb8, 0x0c, 0x00, 0x00, 0x00,                    // mov eax, 12
      0xbb, 0x00, 0x00, 0x10, 0x00,                    // mov ebx, 0x100000
      0xb9, 0x02, 0x00, 0x00, 0x00,                    // mov ecx, 2
      0xba, 0x10, 0x00, 0x00, 0x00,                    // mov edx, 16
      0x0f, 0x01, last,                                // vmmcall or vmcall
      0x48, 0x89, 0x04, 0x25, 0x00, 0x90, 0x00, 0x00,  // mov [0x9000], rax
      0xf4,                                            // hlt
  });
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status;
  EXPECT_THAT(recorder_.log, ElementsAre("hypercall 12 1048576 2 16"));
  EXPECT_EQ(Load(kData), 0x77u);
}

// --- with an in-kernel irqchip ---

class NativeSmpTest : public NativeTest {
 protected:
  void SetUp() override {
    NativeTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_OK(vm_->SetTssAddress(GuestAddress(0xfffbd000)));
    ASSERT_OK(vm_->CreateIrqchip());
  }

  Runner* MakeProcessor(const std::vector<uint8_t>& code, uint32_t index,
                        uint32_t count) {
    Runner* runner = MakeRunner(code, index, /*x2apic=*/true, count);
    absl::StatusOr<kvm::LapicState> lapic = runner->vcpu().GetLapic();
    EXPECT_OK(lapic);
    SetLocalInterrupts(index == 0, *lapic);
    EXPECT_OK(runner->vcpu().SetLapic(*lapic));
    return runner;
  }
};

TEST_F(NativeSmpTest, ProcessorsWaitForSipiWithoutRunning) {
  std::vector<Runner*> runners;
  for (uint32_t i = 1; i < 4; ++i) runners.push_back(MakeProcessor({}, i, 4));
  for (Runner* runner : runners) ASSERT_OK(runner->Start());
  for (int i = 0; i < 50; ++i) {
    for (Runner* runner : runners) runner->RequestPause();
    for (Runner* runner : runners) ASSERT_TRUE(runner->WaitPaused());
    for (Runner* runner : runners) {
      ASSERT_OK_AND_ASSIGN(kvm::MpState state, runner->vcpu().GetMpState());
      EXPECT_EQ(state, kvm::MpState::kUninitialized);
      runner->Resume();
    }
  }
  for (Runner* runner : runners) {
    EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
    EXPECT_LT(runner->counters().total(), 1000u) << "it does not spin";
  }
}

TEST_F(NativeSmpTest, InitAndSipiStartAProcessor) {
  Place(kSipiPage, {
                       0xc6, 0x06, 0x00, 0x90, 0x01,  // mov byte [0x9000], 1
                       0xf4,                          // hlt
                       0xeb, 0xfd,                    // jmp to the hlt
                   });
  Runner* boot = MakeProcessor(
      {
          0xb9, 0x30, 0x08, 0x00, 0x00,  // mov ecx, 0x830: x2APIC ICR
          0xba, 0x01, 0x00, 0x00, 0x00,  // mov edx, 1: to APIC id 1
          0xb8, 0x00, 0x45, 0x00, 0x00,  // mov eax, 0x4500: INIT
          0x0f, 0x30,                    // wrmsr
          0xb8, 0x08, 0x46, 0x00, 0x00,  // mov eax, 0x4608: SIPI, page 8
          0x0f, 0x30,                    // wrmsr
          0x80, 0x3c, 0x25, 0x00, 0x90, 0x00, 0x00, 0x01,  // cmp [0x9000], 1
          0x75, 0xf6,                                      // jne back
          0xe6, 0xf4,                                      // out 0xf4, al
      },
      0, 2);
  Runner* application = MakeProcessor({}, 1, 2);
  ASSERT_OK(application->Start());
  RunEnd end = RunToEnd(boot);
  EXPECT_EQ(end.kind, RunEnd::Kind::kPowerOff) << end.status;
  // Halted in the kernel now: a kick gets it out.
  ASSERT_TRUE(application->Pause());
  application->Resume();
  EXPECT_EQ(application->Stop().kind, RunEnd::Kind::kStopped);
}

TEST_F(NativeSmpTest, WideApicIds) {
  constexpr uint32_t kId = 300;
  if (system_->MaxVcpus() <= 1 ||
      system_->CheckExtension(kvm::Capability::kMaxVcpuId) <=
          static_cast<int>(kId)) {
    GTEST_SKIP() << "skipped: this KVM takes no vCPU id of " << kId;
  }
  ASSERT_OK(vm_->EnableX2apicApi());
  // Leaf 0xB's EDX and the x2APIC id register agree.
  Runner* runner = MakeProcessor(
      {
          0xb8, 0x0b, 0x00, 0x00, 0x00,              // mov eax, 0xb
          0x31, 0xc9,                                // xor ecx, ecx
          0x0f, 0xa2,                                // cpuid
          0x89, 0x14, 0x25, 0x00, 0x90, 0x00, 0x00,  // mov [0x9000], edx
          0xb9, 0x02, 0x08, 0x00, 0x00,  // mov ecx, 0x802: x2APIC id
          0x0f, 0x32,                    // rdmsr
          0x89, 0x04, 0x25, 0x04, 0x90, 0x00, 0x00,  // mov [0x9004], eax
          0xe6, 0xf4,                                // out 0xf4, al
      },
      kId, kId + 1);
  LongModeEntry entry = {.rip = kCode,
                         .rsp = kStackTop,
                         .cr3 = kPageTables,
                         .gdt = kGdt,
                         .gdt_size = 48};
  ASSERT_OK_AND_ASSIGN(kvm::SpecialRegisters reset,
                       runner->vcpu().GetSpecialRegisters());
  ASSERT_OK(runner->vcpu().SetSpecialRegisters(
      LongModeSpecialRegisters(entry, reset, true)));
  ASSERT_OK(runner->vcpu().SetRegisters(LongModeRegisters(entry)));
  ASSERT_OK(runner->vcpu().SetMpState(kvm::MpState::kRunnable));
  RunEnd end = RunToEnd(runner);
  EXPECT_EQ(end.kind, RunEnd::Kind::kPowerOff) << end.status;
  EXPECT_EQ(Load(kData), uint64_t{kId} << 32 | kId);
}

}  // namespace
}  // namespace cloister::vcpu
