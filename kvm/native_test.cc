// SPDX-License-Identifier: Apache-2.0
//
// The ioctl layer on this machine's own /dev/kvm, with tiny 64-bit guests that
// need neither exceptions nor interrupts (a software KVM can run them too).
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "cloister/base/event_fd.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/probe.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/test_guest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::GuestAddress;
using ::testing::HasSubstr;

constexpr uint64_t kMmio = 0x20000000;  // mapped by the page tables, no slot
constexpr uint64_t kData = 0x9000;

class NativeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason = NoKvmReason();
    if (!reason.empty()) GTEST_SKIP() << reason;
    Open(RealSyscalls());
  }

  void Open(Syscalls& syscalls) {
    vcpu_.reset();
    vm_.reset();
    absl::StatusOr<System> system = System::Open(syscalls);
    ASSERT_TRUE(system.ok()) << system.status();
    system_.emplace(std::move(*system));
    absl::StatusOr<Vm> vm = system_->CreateVm(VmType::kDefault);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_.emplace(std::move(*vm));
    absl::StatusOr<HostMapping> memory = MapAnonymous(kTestMemory);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = std::move(*memory);
  }

  MemoryRegion Region(uint16_t slot, uint64_t gpa, const HostMapping& host) {
    MemoryRegion region;
    region.slot = Slot(slot);
    region.gpa = GuestAddress(gpa);
    region.size = host.size();
    region.host = host.data();
    return region;
  }

  // A vCPU that will run `code` from plain memory.
  void Load(const TestCode& code) {
    LoadTestGuest(memory_.data(), code.bytes());
    ASSERT_OK(vm_->SetMemoryRegion(Region(0, 0, memory_)));
    StartVcpu();
  }
  void StartVcpu() {
    absl::StatusOr<VcpuFd> vcpu = vm_->CreateVcpu(0);
    ASSERT_TRUE(vcpu.ok()) << vcpu.status();
    vcpu_.emplace(std::move(*vcpu));
    ASSERT_OK(StartTestVcpu(*system_, *vcpu_));
  }

  template <typename T>
  T RunTo() {
    absl::StatusOr<Exit> exit = RunToExit(*vcpu_);
    if (!exit.ok() || !std::holds_alternative<T>(*exit)) {
      ADD_FAILURE() << (exit.ok() ? DescribeExit(*exit)
                                  : exit.status().ToString());
      return T{};
    }
    return std::get<T>(*exit);
  }

  std::optional<System> system_;
  HostMapping memory_;
  std::optional<Vm> vm_;
  std::optional<VcpuFd> vcpu_;
};

TEST_F(NativeTest, Halts) {
  Load(TestCode().Hlt());
  RunTo<HaltExit>();
  ASSERT_OK_AND_ASSIGN(Registers registers, vcpu_->GetRegisters());
  EXPECT_EQ(registers.rip, kTestCode + 1);
}

TEST_F(NativeTest, PortIo) {
  Load(TestCode().MovRdx(0x3f8).MovRax('A').OutAl().InAl().OutAl().Hlt());
  IoExit out = RunTo<IoExit>();
  EXPECT_EQ(DescribeExit(out), "KVM_EXIT_IO: out of 1 byte to port 0x3f8");
  ASSERT_NE(out.data, nullptr);
  EXPECT_EQ(out.data[0], 'A');
  IoExit in = RunTo<IoExit>();
  EXPECT_EQ(in.direction, IoExit::Direction::kIn);
  in.data[0] = 'z';
  IoExit again = RunTo<IoExit>();
  EXPECT_EQ(again.data[0], 'z');
  RunTo<HaltExit>();
}

TEST_F(NativeTest, WidePortIo) {
  Load(TestCode().MovRdx(0x604).MovRax(0x12345678).OutEax().Hlt());
  IoExit out = RunTo<IoExit>();
  EXPECT_EQ(out.width, 4);
  EXPECT_EQ(out.count, 1u);
  uint32_t value = 0;
  std::memcpy(&value, out.data, sizeof(value));
  EXPECT_EQ(value, 0x12345678u);
}

TEST_F(NativeTest, Mmio) {
  Load(TestCode()
           .MovRdx(kMmio)
           .MovRax(0x1122334455667788)
           .StoreRax()
           .LoadRax()
           .MovRbxRax()
           .Hlt());
  MmioExit write = RunTo<MmioExit>();
  EXPECT_TRUE(write.is_write);
  EXPECT_EQ(write.address.value(), kMmio);
  EXPECT_EQ(write.length, 8);
  uint64_t value = 0;
  std::memcpy(&value, write.data, 8);
  EXPECT_EQ(value, 0x1122334455667788u);
  MmioExit read = RunTo<MmioExit>();
  EXPECT_FALSE(read.is_write);
  value = 0xa5a5a5a5a5a5a5a5;
  std::memcpy(read.data, &value, 8);
  RunTo<HaltExit>();
  ASSERT_OK_AND_ASSIGN(Registers registers, vcpu_->GetRegisters());
  EXPECT_EQ(registers.rbx, 0xa5a5a5a5a5a5a5a5u);
}

TEST_F(NativeTest, GuestWritesReachTheHost) {
  Load(TestCode().MovRdx(kData).MovRax(0xfeed).StoreRax().Hlt());
  RunTo<HaltExit>();
  uint64_t value = 0;
  std::memcpy(&value, memory_.data() + kData, 8);
  EXPECT_EQ(value, 0xfeedu);
}

// The same guest through the first version of the slot ioctl.
TEST_F(NativeTest, SlotsOfTheFirstVersion) {
  FaultKvm old(RealSyscalls());
  old.HideCapability(Capability::kUserMemory2);
  Open(old);
  // If the second version were called, this would show.
  old.FailRequest(Requests::kSetMemoryRegion2, 1, ENOTTY);
  Load(TestCode().MovRdx(kData).MovRax(0xbeef).StoreRax().Hlt());
  RunTo<HaltExit>();
  EXPECT_FALSE(old.Fired());
  uint64_t value = 0;
  std::memcpy(&value, memory_.data() + kData, 8);
  EXPECT_EQ(value, 0xbeefu);
  vcpu_.reset();
  EXPECT_OK(vm_->DeleteMemoryRegion(Slot(0)));
  vm_.reset();  // before `old` goes
  system_.reset();
}

TEST_F(NativeTest, SlotErrors) {
  Load(TestCode().Hlt());
  ASSERT_OK_AND_ASSIGN(HostMapping other, MapAnonymous(0x2000));
  EXPECT_THAT(vm_->SetMemoryRegion(Region(1, kTestMemory - 0x1000, other)),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("slot 1")));
  MemoryRegion unaligned = Region(1, 0x100000, other);
  unaligned.host = other.data() + 1;
  EXPECT_THAT(vm_->SetMemoryRegion(unaligned),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(vm_->DeleteMemoryRegion(Slot(5)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(NativeTest, ReadonlySlotTurnsWritesIntoMmio) {
  if (system_->CheckExtension(Capability::kReadonlyMemory) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_CAP_READONLY_MEM";
  }
  ASSERT_OK_AND_ASSIGN(HostMapping rom, MapAnonymous(0x1000));
  rom.data()[0] = 0x42;
  MemoryRegion region = Region(1, 0x200000, rom);
  region.readonly = true;
  ASSERT_OK(vm_->SetMemoryRegion(region));
  Load(TestCode().MovRdx(0x200000).LoadRax().MovRbxRax().StoreAl().Hlt());
  MmioExit write = RunTo<MmioExit>();
  EXPECT_TRUE(write.is_write);
  EXPECT_EQ(write.address.value(), 0x200000u);
  RunTo<HaltExit>();
  ASSERT_OK_AND_ASSIGN(Registers registers, vcpu_->GetRegisters());
  EXPECT_EQ(registers.rbx, 0x42u);
}

// Guest memory that is a guest_memfd from the start, as the `off` backend uses.
TEST_F(NativeTest, RunsFromSharedGuestMemfd) {
  if (system_->CheckExtension(Capability::kUserMemory2) == 0 ||
      !(vm_->SupportedGuestMemfdFlags() == GuestMemfdFlags{true, true})) {
    GTEST_SKIP() << "this KVM's guest_memfd lacks MMAP and INIT_SHARED (6.18)";
  }
  ASSERT_OK_AND_ASSIGN(GuestMemfd file,
                       vm_->CreateGuestMemfd(kTestMemory, {true, true}));
  ASSERT_OK_AND_ASSIGN(HostMapping map, file.Map());
  LoadTestGuest(
      map.data(),
      TestCode().MovRdx(kData).MovRax(0xcafe).StoreRax().Hlt().bytes());
  MemoryRegion region = Region(0, 0, map);
  region.guest_memfd = GuestMemfdBinding{file.fd(), 0};
  ASSERT_OK(vm_->SetMemoryRegion(region));
  StartVcpu();
  RunTo<HaltExit>();
  uint64_t value = 0;
  std::memcpy(&value, map.data() + kData, 8);
  EXPECT_EQ(value, 0xcafeu);
  ASSERT_OK(file.PunchHole(kData, 0x1000));
  std::memcpy(&value, map.data() + kData, 8);
  EXPECT_EQ(value, 0u);
}

TEST_F(NativeTest, GuestMemfdRefusesFlagsItDoesNotOffer) {
  if (system_->CheckExtension(Capability::kGuestMemfd) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_CAP_GUEST_MEMFD";
  }
  GuestMemfdFlags offered = vm_->SupportedGuestMemfdFlags();
  for (GuestMemfdFlags flags :
       {GuestMemfdFlags{true, false}, GuestMemfdFlags{false, true},
        GuestMemfdFlags{true, true}}) {
    bool expected = (!flags.mmap || offered.mmap) &&
                    (!flags.init_shared || offered.init_shared);
    EXPECT_EQ(vm_->CreateGuestMemfd(0x1000, flags).ok(), expected);
  }
}

TEST_F(NativeTest, ImmediateExitStopsBeforeAnyInstruction) {
  if (system_->CheckExtension(Capability::kImmediateExit) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_CAP_IMMEDIATE_EXIT";
  }
  Load(TestCode().Hlt());
  vcpu_->SetImmediateExit(true);
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kInterrupted);
  ASSERT_OK_AND_ASSIGN(Registers registers, vcpu_->GetRegisters());
  EXPECT_EQ(registers.rip, kTestCode);
  vcpu_->SetImmediateExit(false);
  RunTo<HaltExit>();
}

// immediate_exit completes the pending port read before it returns.
TEST_F(NativeTest, ImmediateExitCompletesPendingIo) {
  Load(TestCode().MovRdx(0x3f8).MovRax(0).InAl().Hlt());
  IoExit in = RunTo<IoExit>();
  in.data[0] = 0x5a;
  vcpu_->SetImmediateExit(true);
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kInterrupted);
  ASSERT_OK_AND_ASSIGN(Registers registers, vcpu_->GetRegisters());
  EXPECT_EQ(registers.rax & 0xff, 0x5au);
}

TEST_F(NativeTest, ASignalEndsAnEndlessLoop) {
  struct sigaction action = {}, old;
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &old), 0);
  Load(TestCode().JumpToSelf());
  pthread_t self = pthread_self();
  std::thread kicker([&] {
    vcpu_->SetImmediateExit(true);
    pthread_kill(self, SIGUSR1);
  });
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  kicker.join();
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kInterrupted);
  ASSERT_EQ(sigaction(SIGUSR1, &old, nullptr), 0);
}

TEST_F(NativeTest, IoeventfdTakesWritesInTheKernel) {
  ASSERT_OK_AND_ASSIGN(base::EventFd any, base::EventFd::Create());
  ASSERT_OK_AND_ASSIGN(base::EventFd matching, base::EventFd::Create());
  IoEvent any_event{IoEvent::Space::kPio, 0x600, 4, {}};
  IoEvent matching_event{IoEvent::Space::kMmio, kMmio, 8, 7};
  ASSERT_OK(vm_->AttachIoeventfd(any_event, any.fd()));
  ASSERT_OK(vm_->AttachIoeventfd(matching_event, matching.fd()));
  EXPECT_THAT(vm_->AttachIoeventfd(any_event, matching.fd()),
              StatusIs(absl::StatusCode::kAlreadyExists));
  Load(TestCode()
           .MovRdx(0x600)
           .OutEax()
           .MovRdx(kMmio)
           .MovRax(7)
           .StoreRax()
           .MovRax(8)
           .StoreRax()
           .Hlt());
  // Only the write of 8 is left to user space.
  MmioExit write = RunTo<MmioExit>();
  ASSERT_NE(write.data, nullptr);
  EXPECT_EQ(write.data[0], 8);
  RunTo<HaltExit>();
  EXPECT_EQ(any.Drain(), 1u);
  EXPECT_EQ(matching.Drain(), 1u);
  EXPECT_OK(vm_->DetachIoeventfd(any_event, any.fd()));
  EXPECT_THAT(vm_->DetachIoeventfd(any_event, any.fd()),
              StatusIs(absl::StatusCode::kNotFound));
}

// Vector `vector` is pending in the local APIC's request register.
bool Pending(const LapicState& lapic, uint8_t vector) {
  return (lapic.Read(0x200 + 0x10 * (vector / 32)) >> (vector % 32)) & 1;
}

class NativeIrqTest : public NativeTest {
 protected:
  // A vCPU whose local APIC accepts interrupts.
  void StartWithApic() {
    StartVcpu();
    ASSERT_OK_AND_ASSIGN(LapicState lapic, vcpu_->GetLapic());
    lapic.Write(0xf0, 0x1ff);  // spurious vector, APIC enabled
    ASSERT_OK(vcpu_->SetLapic(lapic));
  }
  bool Requested(uint8_t vector) {
    absl::StatusOr<LapicState> lapic = vcpu_->GetLapic();
    EXPECT_TRUE(lapic.ok());
    return lapic.ok() && Pending(*lapic, vector);
  }
  // KVM may hand an eventfd's interrupt to a worker.
  bool RequestedSoon(uint8_t vector) {
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      if (Requested(vector)) return true;
      std::this_thread::yield();
    }
    return false;
  }
};

TEST_F(NativeIrqTest, IrqfdAndMsiReachTheLocalApic) {
  ASSERT_OK(vm_->CreateIrqchip());
  StartWithApic();
  ASSERT_OK(vm_->SignalMsi(Msi::ToProcessor(0, 0x41)));
  EXPECT_TRUE(Requested(0x41));

  std::vector<Route> routes = DefaultIrqchipRoutes();
  routes.push_back({Gsi(24), Msi::ToProcessor(0, 0x52)});
  ASSERT_OK(vm_->SetGsiRouting(routes));
  ASSERT_OK_AND_ASSIGN(base::EventFd event, base::EventFd::Create());
  ASSERT_OK(vm_->AttachIrqfd(event.fd(), Gsi(24)));
  EXPECT_FALSE(Requested(0x52));
  event.Signal();
  EXPECT_TRUE(RequestedSoon(0x52));
  EXPECT_OK(vm_->DetachIrqfd(event.fd(), Gsi(24)));
}

TEST_F(NativeIrqTest, SplitIrqchipTakesMsis) {
  if (system_->CheckExtension(Capability::kSplitIrqchip) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_CAP_SPLIT_IRQCHIP";
  }
  ASSERT_OK(vm_->EnableSplitIrqchip(kIoapicPins));
  StartWithApic();
  ASSERT_OK(vm_->SignalMsi(Msi::ToProcessor(0, 0x61)));
  EXPECT_TRUE(Requested(0x61));
  EXPECT_FALSE(vm_->CreateIrqchip().ok());
}

TEST_F(NativeIrqTest, FullIrqchipHasAPit) {
  ASSERT_OK(vm_->CreateIrqchip());
  ASSERT_OK(vm_->CreatePit());
  ASSERT_OK(vm_->SetIrqLine(Gsi(4), true));
  ASSERT_OK(vm_->SetIrqLine(Gsi(4), false));
  EXPECT_THAT(vm_->CreateIrqchip(), StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(NativeTest, StateRoundTrips) {
  Load(TestCode().Hlt());
  ASSERT_OK_AND_ASSIGN(std::vector<CpuidEntry> leaves,
                       system_->SupportedCpuid());
  ASSERT_OK_AND_ASSIGN(std::vector<CpuidEntry> set, vcpu_->GetCpuid());
  EXPECT_EQ(set.size(), leaves.size());
  constexpr uint32_t kSysenterEip = 0x176;
  ASSERT_OK(vcpu_->SetMsrs({{kSysenterEip, 0, 0x1234000}}));
  EXPECT_THAT(vcpu_->GetMsrs({kSysenterEip}),
              IsOkAndHolds(::testing::ElementsAre(
                  MsrEntry{kSysenterEip, 0, 0x1234000})));
  ASSERT_OK_AND_ASSIGN(FpuState fpu, vcpu_->GetFpu());
  fpu.xmm[3][4] = 0x77;
  ASSERT_OK(vcpu_->SetFpu(fpu));
  ASSERT_OK_AND_ASSIGN(FpuState back, vcpu_->GetFpu());
  EXPECT_EQ(back.xmm[3][4], 0x77);
  ASSERT_OK_AND_ASSIGN(VcpuEvents events, vcpu_->GetVcpuEvents());
  EXPECT_OK(vcpu_->SetVcpuEvents(events));
  ASSERT_OK_AND_ASSIGN(std::vector<Xcr> xcrs, vcpu_->GetXcrs());
  EXPECT_OK(vcpu_->SetXcrs(xcrs));
  EXPECT_THAT(vcpu_->GetMpState(), IsOkAndHolds(MpState::kRunnable));
}

TEST_F(NativeTest, RefusedMsrIsNamed) {
  Load(TestCode().Hlt());
  EXPECT_THAT(
      vcpu_->GetMsrs({0x10, 0x4badbad}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("MSR 0x4badbad")));
}

TEST_F(NativeTest, SystemLists) {
  ASSERT_OK_AND_ASSIGN(std::vector<uint32_t> indices, system_->MsrIndexList());
  EXPECT_FALSE(indices.empty());
  if (system_->CheckExtension(Capability::kGetMsrFeatures) != 0) {
    EXPECT_OK(system_->FeatureMsrs());
  }
  ASSERT_OK_AND_ASSIGN(ClockData clock, vm_->GetClock());
  EXPECT_OK(vm_->SetClock({clock.nanoseconds + 1000000, {}, {}}));
}

TEST_F(NativeTest, ProbeAgreesWithTheSystem) {
  CapabilityReport report = Probe(*system_);
  EXPECT_EQ(report.api_version, 12);
  EXPECT_EQ(report.max_vcpus, system_->MaxVcpus());
  EXPECT_TRUE(report.default_vm) << report.default_vm_error;
  EXPECT_EQ(report.sw_protected_vm, (report.vm_types_mask & 2) != 0)
      << report.sw_protected_vm_error;
}

TEST_F(NativeTest, TwoVmsLiveInOneProcess) {
  Load(TestCode().MovRdx(0x10).MovRax('1').OutAl().Hlt());
  ASSERT_OK_AND_ASSIGN(Vm second, system_->CreateVm(VmType::kDefault));
  ASSERT_OK_AND_ASSIGN(HostMapping memory, MapAnonymous(kTestMemory));
  LoadTestGuest(memory.data(),
                TestCode().MovRdx(0x20).MovRax('2').OutAl().Hlt().bytes());
  ASSERT_OK(second.SetMemoryRegion(Region(0, 0, memory)));
  ASSERT_OK_AND_ASSIGN(VcpuFd other, second.CreateVcpu(0));
  ASSERT_OK(StartTestVcpu(*system_, other));
  ASSERT_OK_AND_ASSIGN(Exit exit, RunToExit(other));
  EXPECT_EQ(std::get<IoExit>(exit).data[0], '2');
  EXPECT_EQ(RunTo<IoExit>().data[0], '1');
}

TEST_F(NativeTest, TooManyVcpusIsAnError) {
  int maximum = system_->CheckExtension(Capability::kMaxVcpuId);
  if (maximum <= 0) maximum = system_->MaxVcpus();
  EXPECT_THAT(vm_->CreateVcpu(maximum),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("KVM_CREATE_VCPU")));
}

}  // namespace
}  // namespace cloister::kvm
