// SPDX-License-Identifier: Apache-2.0
//
// A VM from C++, with a device of one's own on its bus: a mailbox at port 0x500
// that a guest writes bytes to and asks for their number. Runs the kernel that
// it is given until the guest powers off or resets.
//
// usage: custom_device KERNEL
#include <cctype>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/serial.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/config.h"
#include "cloister/vmm/micro_vm.h"

namespace {

using cloister::base::MutexLock;

// One port: a write appends a byte, a read gives the number of bytes so far.
// The guest chooses what it does, how wide and how often, so text is bounded.
class Mailbox : public cloister::devices::BusDevice {
 public:
  static constexpr uint64_t kPort = 0x500;
  static constexpr size_t kMost = 1024;

  absl::string_view name() const override { return "mailbox0"; }

  void Read(uint64_t, absl::Span<uint8_t> data) override {
    MutexLock lock(&mutex_);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(text_.size());
  }
  void Write(uint64_t, absl::Span<const uint8_t> data) override {
    MutexLock lock(&mutex_);
    for (uint8_t byte : data) {
      if (text_.size() < kMost) text_ += std::isprint(byte) ? byte : '?';
    }
  }

  std::string text() {
    MutexLock lock(&mutex_);
    return text_;
  }

 private:
  cloister::base::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

// The guest's serial console, on stdout.
class Console : public cloister::devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    return std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  }
};

absl::Status Run(const char* kernel) {
  namespace vmm = cloister::vmm;
  absl::Status kick = cloister::vcpu::InstallKickHandler(SIGRTMIN);
  if (!kick.ok()) return kick;

  vmm::VmConfig config;
  config.kernel.path = kernel;
  config.kernel.command_line = "console=ttyS0 quiet";
  config.memory.bytes = uint64_t{64} << 20;
  config.confidential.backend = cloister::confidential::BackendChoice::kOff;

  Console console;
  cloister::base::Logger log(cloister::base::StderrSink(),
                             cloister::base::LogLevel::kInfo);
  auto mailbox = std::make_shared<Mailbox>();
  vmm::VmHooks hooks;
  hooks.console = &console;
  hooks.log = &log;
  hooks.kick_signal = SIGRTMIN;
  hooks.extra_devices = {
      {cloister::devices::Bus::Space::kPio, Mailbox::kPort, 1, mailbox}};

  auto vm = vmm::BuildVm(config, hooks);
  if (!vm.ok()) return vm.status();
  absl::Status started = (*vm)->Start();
  if (!started.ok()) return started;
  const vmm::VmEnd end = (*vm)->Wait();
  std::printf("mail: \"%s\"\n", mailbox->text().c_str());
  std::printf("the guest's end: %s\n",
              std::string(vmm::VmEndName(end.kind)).c_str());
  return end.status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: custom_device KERNEL\n");
    return 2;
  }
  const absl::Status status = Run(argv[1]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "custom_device: %s\n",
               std::string(status.message()).c_str());
  return 1;
}
