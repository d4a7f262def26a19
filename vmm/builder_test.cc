// SPDX-License-Identifier: Apache-2.0
//
// Whole VMs on this host's /dev/kvm, with a few bytes of machine code in place
// of a kernel.
#include "cloister/vmm/builder.h"

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/kick_signal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

// Collects what the guest prints; lets a test wait for it.
class RecordingSink : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    text_.append(bytes.begin(), bytes.end());
    changed_.SignalAll();
    return bytes.size();
  }
  std::string WaitFor(size_t length) {
    base::MutexLock lock(&mutex_);
    while (text_.size() < length) changed_.Wait(&mutex_);
    return text_;
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

using Code = std::vector<uint8_t>;

// mov dx, 0x3f8; mov al, c; out dx, al
Code Print(char c) {
  return {0x66, 0xba, 0xf8, 0x03, 0xb0, static_cast<uint8_t>(c), 0xee};
}
// mov dx, port; mov ax, value; out dx, ax
Code Out16(uint16_t port, uint16_t value) {
  return {
      0x66, 0xba, static_cast<uint8_t>(port),  static_cast<uint8_t>(port >> 8),
      0x66, 0xb8, static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8),
      0x66, 0xef};
}
Code PowerOff() { return Out16(0x604, 0x3400); }      // SLP_TYP 5, SLP_EN
Code Reset() { return Out16(0x610, 1); }              // ACPI RESET_REG
Code Spin() { return {0xeb, 0xfe}; }                  // jmp to itself
Code UndefinedInstruction() { return {0x0f, 0x0b}; }  // without an IDT

Code operator+(Code a, const Code& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class BuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto system = kvm::System::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  }

  VmConfig Config(const Code& code) {
    std::vector<boot::FakeSegment> segments = boot::LinuxLikeSegments();
    segments[0].data = code;
    segments[0].memory_size = 4096;
    std::vector<uint8_t> elf = boot::MakeElf(segments, segments[0].physical);
    VmConfig config;
    config.kernel.path =
        absl::StrCat(::testing::TempDir(), "/kernel", ++kernels_);
    std::ofstream(config.kernel.path, std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()), elf.size());
    config.memory.bytes = 32 << 20;
    config.confidential.backend = confidential::BackendChoice::kOff;
    return config;
  }

  absl::StatusOr<std::unique_ptr<MicroVm>> Build(const Code& code,
                                                 RecordingSink* sink) {
    VmHooks hooks;
    hooks.console = sink;
    hooks.kick_signal = SIGRTMIN;
    return BuildVm(Config(code), hooks);
  }

  int kernels_ = 0;
};

TEST_F(BuilderTest, GuestPrintsAndPowersOff) {
  RecordingSink sink;
  ASSERT_OK_AND_ASSIGN(auto vm,
                       Build(Print('o') + Print('k') + PowerOff(), &sink));
  EXPECT_EQ(vm->backend(), confidential::BackendKind::kOff);
  EXPECT_FALSE(vm->digest().has_value());
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  EXPECT_EQ(sink.WaitFor(2), "ok");
  EXPECT_GE(vm->counters(0)[vcpu::ExitKind::kPortWrite], 3u);
}

// SDM vol. 3A 11.11.2.1: MTRRs on, memory is write-back.
TEST_F(BuilderTest, GuestFindsMtrrsAsFirmwareLeavesThem) {
  // mov ecx, 0x2ff; rdmsr; mov dx, 0x3f8; out dx, al; mov al, ah; out dx, al
  const Code print_default_type = {0xb9, 0xff, 0x02, 0x00, 0x00,
                                   0x0f, 0x32, 0x66, 0xba, 0xf8,
                                   0x03, 0xee, 0x88, 0xe0, 0xee};
  RecordingSink sink;
  ASSERT_OK_AND_ASSIGN(auto vm, Build(print_default_type + PowerOff(), &sink));
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  EXPECT_EQ(sink.WaitFor(2), "\x06\x08");
}

TEST_F(BuilderTest, AnotherDigestThanTheExpectedOneIsNotBuilt) {
  VmConfig config = Config(PowerOff());
  config.confidential.expected_digest = std::string(64, 'a');
  RecordingSink sink;
  VmHooks hooks;
  hooks.console = &sink;
  hooks.kick_signal = SIGRTMIN;
  EXPECT_THAT(
      BuildVm(config, hooks).status(),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               HasSubstr("expected_digest: the launch digest is none")));
}

TEST_F(BuilderTest, EveryVcpuGetsItsMsrs) {
  VmConfig config = Config(PowerOff());
  config.cpus.count = 3;
  RecordingSink sink;
  VmHooks hooks;
  hooks.console = &sink;
  hooks.kick_signal = SIGRTMIN;
  for (uint64_t nth = 1; nth <= 4; ++nth) {
    kvm::FaultKvm fault(kvm::RealSyscalls());
    fault.FailRequest(kvm::Requests::kSetMsrs, nth, EIO);
    EXPECT_EQ(BuildVm(config, hooks, fault).ok(), nth == 4) << nth;
    EXPECT_EQ(fault.Fired(), nth <= 3) << nth;
  }
}

TEST_F(BuilderTest, GuestResets) {
  RecordingSink sink;
  ASSERT_OK_AND_ASSIGN(auto vm, Build(Reset(), &sink));
  ASSERT_OK(vm->Start());
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kReset);
  EXPECT_OK(end.status);
}

TEST_F(BuilderTest, TripleFaultNamesItselfAndShowsRegisters) {
  RecordingSink sink;
  ASSERT_OK_AND_ASSIGN(auto vm, Build(UndefinedInstruction(), &sink));
  ASSERT_OK(vm->Start());
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kTripleFault);
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("vCPU 0"));
  EXPECT_THAT(end.registers, HasSubstr("rip="));
}

TEST_F(BuilderTest, StopEndsASpinningGuest) {
  RecordingSink sink;
  ASSERT_OK_AND_ASSIGN(auto vm, Build(Print('s') + Spin(), &sink));
  ASSERT_OK(vm->Start());
  sink.WaitFor(1);
  vm->Stop();
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kStopped);
  EXPECT_THAT(vm->Start(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(BuilderTest, PausedGuestStandsStillAndGoesOn) {
  RecordingSink sink;
  // Prints for ever: print; jmp back over the seven bytes and the jump.
  ASSERT_OK_AND_ASSIGN(auto vm, Build(Print('p') + Code{0xeb, 0xf7}, &sink));
  ASSERT_OK(vm->Start());
  size_t length = sink.WaitFor(1).size();
  for (int i = 0; i < 20; ++i) {
    vm->Pause();
    length = sink.WaitFor(length).size();
    EXPECT_EQ(sink.WaitFor(length).size(), length);
    vm->Resume();
    length = sink.WaitFor(length + 1).size();
  }
}

TEST_F(BuilderTest, TwoVmsLiveInOneProcess) {
  RecordingSink one, two;
  ASSERT_OK_AND_ASSIGN(auto first, Build(Print('1') + Spin(), &one));
  ASSERT_OK_AND_ASSIGN(auto second, Build(Print('2') + PowerOff(), &two));
  ASSERT_OK(first->Start());
  ASSERT_OK(second->Start());
  EXPECT_EQ(second->Wait().kind, VmEnd::Kind::kPowerOff);
  EXPECT_EQ(one.WaitFor(1), "1");
  EXPECT_EQ(two.WaitFor(1), "2");
  first->Stop();
  EXPECT_EQ(first->Wait().kind, VmEnd::Kind::kStopped);
}

TEST_F(BuilderTest, AVmThatNeverStartsIsStopped) {
  RecordingSink sink;
  ASSERT_OK_AND_ASSIGN(auto vm, Build(Spin(), &sink));
  vm.reset();
  ASSERT_OK_AND_ASSIGN(vm, Build(Spin(), &sink));
  EXPECT_FALSE(vm->PressPowerButton());
}

TEST_F(BuilderTest, AskingForWhatTheHostLacksNamesIt) {
  auto system = kvm::System::Open();
  ASSERT_OK(system);
  if (system->CreateVm(kvm::VmType::kSwProtected).ok()) {
    GTEST_SKIP() << "this host has software-protected VMs";
  }
  RecordingSink sink;
  VmHooks hooks;
  hooks.console = &sink;
  hooks.kick_signal = SIGRTMIN;
  VmConfig config = Config(Spin());
  config.confidential.backend = confidential::BackendChoice::kSwProtected;
  EXPECT_THAT(BuildVm(config, hooks),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("CONFIG_KVM_SW_PROTECTED_VM")));
}

}  // namespace
}  // namespace cloister::vmm
