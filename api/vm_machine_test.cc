// SPDX-License-Identifier: Apache-2.0
//
// The controller's machine with a VM: natively on /dev/kvm, with a kernel that
// needs port I/O alone.
#include "cloister/api/vm_machine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/api/config_store.h"
#include "cloister/api/vm_config.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/confidential/backend_factory.h"
#include "cloister/devices/bus.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/boot_timer.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class NoConsole : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    written_ += bytes.size();
    return bytes.size();
  }
  size_t written() const { return written_; }

 private:
  std::atomic<size_t> written_{0};
};

// A device of the application's, which no guest here uses.
class ExtraRegisters : public devices::BusDevice {
 public:
  absl::string_view name() const override { return "application"; }
  void Read(uint64_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0);
  }
  void Write(uint64_t, absl::Span<const uint8_t>) override {}
};
constexpr uint64_t kExtra = 0xe0000000;

class VmMachineTest : public ::testing::Test {
 protected:
  VmMachineTest() : timer_(std::chrono::steady_clock::now()) { Make(); }
  void Make(std::function<absl::Status()> before_start = nullptr) {
    VmMachine::Options options;
    options.before_start = std::move(before_start);
    options.id = "machine-test";
    options.hooks.console = &console_;
    options.hooks.boot_timer = &timer_;
    options.hooks.kick_signal = SIGRTMIN;
    options.hooks.extra_devices.push_back({devices::Bus::Space::kMmio, kExtra,
                                           0x1000,
                                           std::make_shared<ExtraRegisters>()});
    machine_ = std::make_unique<VmMachine>(std::move(options));
  }
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  }
  std::string Path(const char* name) {
    return absl::StrCat(::testing::TempDir(), "/", name);
  }
  Json Config(vmm::MicroKernel kernel, const std::string& more = "") {
    EXPECT_OK(vmm::WriteMicroKernel(kernel, Path("kernel")));
    ConfigStore store;
    EXPECT_OK(store.Load(absl::StrCat(
        "{\"boot-source\":{\"kernel_image_path\":\"", Path("kernel"),
        "\"},\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":32},"
        "\"confidential\":{\"backend\":\"off\"}",
        more, "}")));
    return store.json();
  }
  uint64_t Exits() {
    uint64_t sum = 0;
    for (const CounterGroup& vcpu : machine_->Stats().vcpus) {
      for (const auto& [name, value] : vcpu.counters) sum += value;
    }
    return sum;
  }
  bool Runs() {
    const uint64_t before = Exits();
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (Exits() == before) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  NoConsole console_;
  vmm::BootTimer timer_;
  std::unique_ptr<VmMachine> machine_;
};

TEST_F(VmMachineTest, NothingStartsOnceItIsClosed) {
  machine_->Close();
  EXPECT_THAT(machine_->Start(Config(vmm::MicroKernel::kPrint)),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(machine_->vm(), nullptr);
  EXPECT_EQ(Exits(), 0u);
}

// However far the start has come: no guest is left running.
TEST_F(VmMachineTest, AStartThatIsUnderWayIsStopped) {
  const Json config = Config(vmm::MicroKernel::kPrint);
  for (int i = 0; i < 10; ++i) {
    std::thread closer;
    Make([&] {
      closer = std::thread([this] { machine_->Close(); });
      for (int j = 0; j < i; ++j) std::this_thread::yield();
      return absl::OkStatus();
    });
    const absl::Status started = machine_->Start(config);
    closer.join();
    if (started.ok()) {
      ASSERT_NE(machine_->vm(), nullptr);
      EXPECT_EQ(machine_->vm()->Wait().kind, vmm::VmEnd::Kind::kStopped);
    } else {
      EXPECT_THAT(started, StatusIs(absl::StatusCode::kCancelled));
      EXPECT_EQ(machine_->vm(), nullptr);
    }
  }
}

TEST_F(VmMachineTest, ThereIsNothingBeforeTheStart) {
  EXPECT_EQ(machine_->vm(), nullptr);
  EXPECT_EQ(machine_->states(), nullptr);
  EXPECT_EQ(machine_->Backend(), "");
  EXPECT_TRUE(machine_->Stats().vcpus.empty());
  machine_->Stop();
  for (const absl::Status& status :
       {machine_->Pause(), machine_->Resume(), machine_->Press(Button::kPower),
        machine_->SetPolicy(Json::object()),
        machine_->BalloonStatistics().status(),
        machine_->Update(DeviceKind::kDrive, "a", Json::object()),
        machine_
            ->Convert({}, memory::PageState::kShared,
                      memory::HostConversionReason::kGivenUp)
            .status()}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("not been started")));
  }
  ConfigStore empty;
  EXPECT_THAT(machine_->Measurement(empty.json()).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("/boot-source")));
}

TEST_F(VmMachineTest, RunsPausesAndStops) {
  ASSERT_OK(machine_->Start(Config(vmm::MicroKernel::kPrint)));
  ASSERT_NE(machine_->vm(), nullptr);
  EXPECT_EQ(machine_->Backend(), "off");
  EXPECT_TRUE(Runs());
  ASSERT_OK(machine_->Pause());
  const uint64_t paused = Exits();
  EXPECT_EQ(Exits(), paused);
  ASSERT_OK(machine_->Resume());
  EXPECT_TRUE(Runs());
  // What this guest has not.
  EXPECT_THAT(machine_->Press(Button::kPower),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("power button")));
  EXPECT_THAT(machine_->SetPolicy(Json::object()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("no private memory")));
  EXPECT_THAT(machine_->Update(DeviceKind::kDrive, "a", {{"drive_id", "a"}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no drive a")));
  EXPECT_FALSE(machine_->Stats().conversions.has_value());
  EXPECT_THAT(machine_->Stats().leased_bytes, ::testing::Optional(0u));
  EXPECT_FALSE(machine_->Stats().boot.empty());
  machine_->Stop();
  EXPECT_EQ(machine_->vm()->Wait().kind, vmm::VmEnd::Kind::kStopped);
}

TEST_F(VmMachineTest, WindowsAreThoseOfTheVm) {
  EXPECT_TRUE(machine_->Windows().empty());
  ASSERT_OK(
      machine_->Start(Config(vmm::MicroKernel::kPrint, ",\"entropy\":{}")));
  std::vector<std::string> names;
  for (const AddressWindow& window : machine_->Windows()) {
    names.push_back(window.name);
  }
  EXPECT_THAT(names, UnorderedElementsAre("PCI memory", "IOAPIC", "local APICs",
                                          "KVM's pages", "application"));
  machine_->Stop();
}

TEST_F(VmMachineTest, AFailedStartLeavesNoVm) {
  Json config = Config(vmm::MicroKernel::kPrint);
  config["boot-source"]["kernel_image_path"] = "/no/such/kernel";
  EXPECT_THAT(machine_->Start(config).message(), HasSubstr("/no/such/kernel"));
  EXPECT_EQ(machine_->vm(), nullptr);
  config = Config(vmm::MicroKernel::kPrint);
  config["serial"] = {{"serial_out_path", "/no/such/folder/file"}};
  EXPECT_THAT(machine_->Start(config).message(), HasSubstr("serial_out_path"));
  EXPECT_EQ(machine_->vm(), nullptr);
  // And another may be tried.
  ASSERT_OK(machine_->Start(Config(vmm::MicroKernel::kPrint)));
  EXPECT_TRUE(Runs());
}

// Its files and sockets are there for the next one, and its end is nobody's.
TEST_F(VmMachineTest, AVmThatDoesNotStartIsGone) {
  int ends = 0;
  VmMachine::Options options;
  options.id = "machine-test";
  options.hooks.console = &console_;
  options.hooks.kick_signal = SIGRTMIN;
  options.hooks.on_end = [&ends] { ++ends; };
  options.start = [](vmm::MicroVm& vm) {
    EXPECT_OK(vm.Start());
    vm.Stop();
    return absl::ResourceExhaustedError("no thread for vCPU 7");
  };
  VmMachine failing(options);
  std::ofstream(Path("disk")) << std::string(4096, 'd');
  const Json config = Config(
      vmm::MicroKernel::kPrint,
      absl::StrCat(",\"drives\":[{\"drive_id\":\"d\",\"path_on_host\":\"",
                   Path("disk"), "\",\"is_root_device\":false}]"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(
        failing.Start(config),
        StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("vCPU 7")));
    EXPECT_EQ(failing.vm(), nullptr);
    EXPECT_EQ(failing.states(), nullptr);
    EXPECT_EQ(ends, 0);
  }
  ASSERT_OK(machine_->Start(config));
  EXPECT_TRUE(Runs());
}

// A guest may be quicker than whoever started it.
TEST_F(VmMachineTest, AnEndBeforeTheStartIsDoneIsTold) {
  bool seen = false;
  VmMachine::Options options;
  options.id = "machine-test";
  options.hooks.console = &console_;
  options.hooks.kick_signal = SIGRTMIN;
  std::unique_ptr<VmMachine> machine;
  options.hooks.on_end = [&] { seen = machine->vm() != nullptr; };
  options.start = [](vmm::MicroVm& vm) {
    const absl::Status status = vm.Start();
    vm.Stop();
    vm.Wait();
    return status;
  };
  machine = std::make_unique<VmMachine>(options);
  ASSERT_OK(machine->Start(Config(vmm::MicroKernel::kPrint)));
  EXPECT_TRUE(seen);
}

TEST_F(VmMachineTest, TheSerialPortMayGoToAFile) {
  const std::string more = absl::StrCat(",\"serial\":{\"serial_out_path\":\"",
                                        Path("console"), "\"}");
  ASSERT_OK(machine_->Start(Config(vmm::MicroKernel::kPrint, more)));
  EXPECT_TRUE(Runs());
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  std::string text;
  while (text.empty() && std::chrono::steady_clock::now() < end) {
    std::ifstream file(Path("console"));
    std::getline(file, text, '\0');
  }
  EXPECT_NE(text, "");
  machine_->Stop();
}

TEST_F(VmMachineTest, AConsoleMayBeNobodys) {
  Json config = Config(vmm::MicroKernel::kPrint);
  config["machine-config"]["console"] = "none";
  ASSERT_OK(machine_->Start(config));
  EXPECT_TRUE(Runs());
  auto sent = [&] {
    const MachineStats stats = machine_->Stats();
    return stats.devices.at(0).counters.at(0);
  };
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (sent().second == 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
  EXPECT_EQ(sent().first, "tx_bytes");
  EXPECT_GT(sent().second, 0u);
  machine_->Stop();
  EXPECT_EQ(machine_->vm()->Wait().kind, vmm::VmEnd::Kind::kStopped);
  EXPECT_EQ(console_.written(), 0u);
}

TEST_F(VmMachineTest, MeasurementsAreOfConfidentialGuests) {
  Json config = Config(vmm::MicroKernel::kPrint);
  EXPECT_THAT(machine_->Measurement(config).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("backend: off")));
  config["confidential"]["backend"] = "emulated";
  ASSERT_OK_AND_ASSIGN(const std::string first, machine_->Measurement(config));
  EXPECT_THAT(first, HasSubstr("\"digest\""));
  config["boot-source"]["boot_args"] = "other";
  ASSERT_OK_AND_ASSIGN(const std::string other, machine_->Measurement(config));
  EXPECT_NE(first, other);
  ASSERT_OK(machine_->Start(Config(vmm::MicroKernel::kPrint)));
  EXPECT_THAT(machine_->Measurement(config).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("backend: off")));
}

class ConfidentialMachineTest : public VmMachineTest {
 protected:
  void SetUp() override {
    VmMachineTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_OK_AND_ASSIGN(auto system, kvm::System::Open());
    ASSERT_OK_AND_ASSIGN(auto facts, confidential::CollectHostFacts(system));
    const std::string missing = confidential::MissingFor(
        confidential::BackendKind::kEmulated, facts, /*hypercalls=*/false);
    if (!missing.empty()) GTEST_SKIP() << "this host lacks " << missing;
  }
  Json ConfidentialConfig(vmm::MicroKernel kernel) {
    Json config = Config(kernel);
    config["confidential"]["backend"] = "emulated";
    config["confidential"]["conversion_reports"] = "fault";
    return config;
  }
  std::string Measured() {
    absl::StatusOr<std::string> json = machine_->Measurement(Json::object());
    EXPECT_OK(json);
    return json.value_or("");
  }
};

TEST_F(ConfidentialMachineTest, TheMeasurementIsThatOfTheLaunch) {
  const Json config = ConfidentialConfig(vmm::MicroKernel::kFresh);
  ASSERT_OK_AND_ASSIGN(const std::string planned,
                       machine_->Measurement(config));
  ASSERT_OK(machine_->Start(config));
  vmm::MicroVm* const vm = machine_->vm();
  ASSERT_TRUE(vm->digest().has_value());
  EXPECT_THAT(planned, HasSubstr(shim::DigestHex(*vm->digest())));
  EXPECT_EQ(Measured(), planned);

  ASSERT_OK(vmm::WriteMicroKernel(vmm::MicroKernel::kOff, Path("kernel")));
  EXPECT_EQ(Measured(), planned);
  EXPECT_EQ(vm->Wait().kind, vmm::VmEnd::Kind::kReset);
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("launch digest")));
  EXPECT_EQ(Measured(), planned);
  ASSERT_EQ(std::remove(Path("kernel").c_str()), 0);
  EXPECT_EQ(Measured(), planned);

  ASSERT_OK(vmm::WriteMicroKernel(vmm::MicroKernel::kFresh, Path("kernel")));
  ASSERT_OK(vm->Relaunch());
  EXPECT_EQ(Measured(), planned);
}

// As where the host cannot do what was asked for and the builder chose anew.
TEST_F(ConfidentialMachineTest, TheMeasurementIsOfTheVmAndNotOfItsConfig) {
  const Json config = ConfidentialConfig(vmm::MicroKernel::kOff);
  ASSERT_OK_AND_ASSIGN(const std::string planned,
                       machine_->Measurement(config));
  ASSERT_OK_AND_ASSIGN(vmm::VmConfig asked, VmConfigFromJson(config, "test"));
  vmm::VmHooks hooks;
  hooks.console = &console_;
  hooks.kick_signal = SIGRTMIN;
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<vmm::MicroVm> vm,
                       vmm::BuildVm(asked, hooks));
  asked.confidential.reports = vmm::ConversionReports::kHypercall;
  machine_->Adopt(vm.get(), asked);
  EXPECT_EQ(Measured(), planned);
  machine_.reset();
}

}  // namespace
}  // namespace cloister::api
