// SPDX-License-Identifier: Apache-2.0
//
// What the broker adds to a conversion: one ConvertForHost() call to its
// return, on pages that are backed, against the same one attribute ioctl and
// one fallocate. No guest runs. Needs a KVM with private memory: run it in the
// lab (./dev bench conversions).
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/backend_factory.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vcpu_fd.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"
#include "cloister/vcpu/cpuid.h"

namespace cloister {
namespace {

using confidential::BackendKind;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kKiB = 1 << 10, kMiB = 1 << 20, kGiB = 1 << 30;
constexpr uint64_t kStart = kGiB;  // both ways aligned to everything
constexpr uint64_t kRam = 2 * kGiB;

// What the broker may cost beside the two system calls, and from what size on.
constexpr double kMark = 1.05;
constexpr uint64_t kMarkFrom = 2 * kMiB;

struct Setup {
  memory::PageStateMap states;
  confidential::BackendVm vm;
  std::unique_ptr<memory::SharedView> view;
  std::unique_ptr<memory::ConversionBroker> broker;
  std::unique_ptr<kvm::VcpuFd> vcpu;  // backs private pages
  uint64_t c = 0;
};

absl::StatusOr<std::unique_ptr<Setup>> SetUp() {
  auto setup = std::make_unique<Setup>();
  ASSIGN_OR_RETURN(kvm::System system, kvm::System::Open());
  ASSIGN_OR_RETURN(auto supported, system.SupportedCpuid());
  ASSIGN_OR_RETURN(int c_bit, vcpu::ComputeCbit(supported));
  setup->c = uint64_t{1} << c_bit;
  confidential::RamOptions ram;
  ASSIGN_OR_RETURN(GuestRange all, GuestRange::Create(GuestAddress(0), kRam));
  ram.ram = {all};
  ASSIGN_OR_RETURN(setup->vm,
                   confidential::CreateBackendVm(
                       system, BackendKind::kSwProtected, ram, c_bit));
  ASSIGN_OR_RETURN(setup->view, memory::SharedView::Create(
                                    setup->vm.memory.get(), &setup->states));
  ASSIGN_OR_RETURN(setup->broker, memory::ConversionBroker::Create(
                                      &setup->states, setup->vm.backend.get(),
                                      setup->view.get(), {}));
  RETURN_IF_ERROR(setup->broker->AddRam(all, PageState::kPrivate));
  ASSIGN_OR_RETURN(kvm::VcpuFd vcpu, setup->vm.vm->CreateVcpu(0));
  setup->vcpu = std::make_unique<kvm::VcpuFd>(std::move(vcpu));
  return setup;
}

// Backs the side that a conversion to `to` will free.
absl::Status Back(Setup& setup, const GuestRange& range, PageState to) {
  if (to == PageState::kPrivate) return setup.vm.memory->Fill(range, 1);
  ASSIGN_OR_RETURN(
      GuestRange view_b,
      GuestRange::Create(GuestAddress(range.start().value() | setup.c),
                         range.size()));
  ASSIGN_OR_RETURN(uint64_t done, setup.vcpu->PreFaultMemory(view_b));
  if (done == range.size()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("backed only ", done, " bytes"));
}

// The two system calls that no conversion can do without.
absl::Status Bare(Setup& setup, const GuestRange& range, PageState to) {
  RETURN_IF_ERROR(
      setup.vm.vm->SetMemoryAttributes(range, to == PageState::kPrivate));
  return to == PageState::kPrivate ? setup.vm.backend->FreeShared(range)
                                   : setup.vm.backend->FreePrivate(range);
}

absl::Status Convert(Setup& setup, const GuestRange& range, PageState to) {
  return setup.broker
      ->ConvertForHost({&range, 1}, to,
                       memory::HostConversionReason::kBeforeBoot)
      .status();
}

using Action = absl::Status (*)(Setup&, const GuestRange&, PageState);

absl::StatusOr<double> Time(Setup& setup, const GuestRange& range, PageState to,
                            Action action) {
  RETURN_IF_ERROR(Back(setup, range, to));
  const Clock::time_point start = Clock::now();
  RETURN_IF_ERROR(action(setup, range, to));
  return std::chrono::duration<double, std::micro>(Clock::now() - start)
      .count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Both ways and both contenders, `runs` times in turn. Clears `*met` if a mark
// is missed.
absl::Status Measure(Setup& setup, const std::string& name, uint64_t size,
                     int runs, bool* met) {
  ASSIGN_OR_RETURN(GuestRange range,
                   GuestRange::Create(GuestAddress(kStart), size));
  constexpr std::array<PageState, 2> kWays = {PageState::kShared,
                                              PageState::kPrivate};
  constexpr std::array<Action, 2> kContenders = {Convert, Bare};
  std::array<std::array<std::vector<double>, 2>, 2> times;
  for (int run = 0; run < runs; ++run) {
    for (int turn = 0; turn < 2; ++turn) {
      const int contender = (turn + run) % 2;  // neither is always first
      for (int way = 0; way < 2; ++way) {
        ASSIGN_OR_RETURN(double time, Time(setup, range, kWays[way],
                                           kContenders[contender]));
        times[contender][way].push_back(time);
      }
    }
  }
  for (int way = 0; way < 2; ++way) {
    const double broker = Median(times[0][way]);
    const double bare = Median(times[1][way]);
    const bool marked = size >= kMarkFrom;
    const bool ok = broker <= kMark * bare;
    if (marked && !ok) *met = false;
    std::printf("%-8s to %-8s %12.1f %12.1f %8.3f  %s\n", name.c_str(),
                way == 0 ? "shared" : "private", broker, bare, broker / bare,
                !marked ? "no mark"
                : ok    ? "pass"
                        : "FAIL");
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

// Whether all marks were met.
absl::StatusOr<bool> Run() {
  ASSIGN_OR_RETURN(std::unique_ptr<Setup> setup, SetUp());
  std::printf("%-20s %12s %12s %8s  mark: at most %.2f from 2 MiB up\n",
              "median, us", "Convert()", "ioctl+punch", "ratio", kMark);
  bool met = true;
  RETURN_IF_ERROR(Measure(*setup, "4 KiB", 4 * kKiB, 301, &met));
  RETURN_IF_ERROR(Measure(*setup, "64 KiB", 64 * kKiB, 201, &met));
  RETURN_IF_ERROR(Measure(*setup, "2 MiB", 2 * kMiB, 101, &met));
  RETURN_IF_ERROR(Measure(*setup, "1 GiB", kGiB, 9, &met));
  std::printf("marks: %s\n", met ? "all met" : "MISSED");
  return met;
}

}  // namespace
}  // namespace cloister

int main() {
  absl::StatusOr<bool> met = cloister::Run();
  if (met.ok()) return *met ? EXIT_SUCCESS : EXIT_FAILURE;
  std::fprintf(stderr, "conversions_bench: %s\n",
               met.status().ToString().c_str());
  return EXIT_FAILURE;
}
