// SPDX-License-Identifier: Apache-2.0
//
// A VM under the program's sandbox with a device that does, on the vCPU's
// thread, what no vCPU's thread may: it opens a file when the guest writes to
// port 0x500. With a terminal, in raw mode. Listens on SOCKET, logs to LOG.
// usage: sandbox_vm_child KERNEL SOCKET LOG
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cloister/api/socket_file.h"
#include "cloister/base/log.h"
#include "cloister/cli/crash_cleanup.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/monitor_log.h"
#include "cloister/cli/raw_mode.h"
#include "cloister/cli/sandbox/sandbox.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/builder.h"

namespace cloister {
namespace {

class FileOpener : public devices::BusDevice {
 public:
  absl::string_view name() const override { return "opener0"; }
  void Read(uint64_t, absl::Span<uint8_t> data) override {
    for (uint8_t& byte : data) byte = 0;
  }
  void Write(uint64_t, absl::Span<const uint8_t>) override {
    const int fd = ::open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    std::printf("opened as %d\n", fd);
    std::fflush(stdout);
  }
};

class NoConsole : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    return bytes.size();
  }
};

absl::Status Run(const std::string& kernel, const std::string& socket,
                 base::Logger& log) {
  auto api = api::SocketFile::Create(socket);
  if (!api.ok()) return api.status();
  auto sandbox = cli::Sandbox::Create({}, log);
  if (!sandbox.ok()) return sandbox.status();
  if (::isatty(STDIN_FILENO) != 0) {
    absl::Status raw = cli::RawMode::Enter(STDIN_FILENO);
    if (!raw.ok()) return raw;
  }
  absl::Status status = (*sandbox)->EnterMain();
  if (!status.ok()) return status;
  vmm::VmConfig config;
  config.kernel.path = kernel;
  config.memory.bytes = uint64_t{32} << 20;
  config.confidential.backend = confidential::BackendChoice::kOff;
  NoConsole console;
  vmm::VmHooks hooks;
  hooks.console = &console;
  hooks.log = &log;
  hooks.kick_signal = cli::KickSignal();
  hooks.on_thread_start = [&](vmm::ThreadKind kind) {
    (*sandbox)->EnterThread(kind);
  };
  hooks.extra_devices = {
      {devices::Bus::Space::kPio, 0x500, 1, std::make_shared<FileOpener>()}};
  auto vm = vmm::BuildVm(config, hooks);
  if (!vm.ok()) return vm.status();
  status = (*vm)->Start();
  if (status.ok()) (*vm)->Wait();
  return status;
}

}  // namespace
}  // namespace cloister

int main(int argc, char** argv) {
  if (argc != 4) return cloister::cli::kExitUsage;
  cloister::cli::MonitorLog log("child", cloister::base::LogLevel::kInfo);
  absl::Status status = log.Configure({{"log_path", argv[3]}});
  if (status.ok()) status = cloister::cli::InstallCrashCleanUp();
  if (status.ok()) {
    status = cloister::vcpu::InstallKickHandler(cloister::cli::KickSignal());
  }
  if (status.ok()) status = cloister::Run(argv[1], argv[2], log.log());
  cloister::cli::RawMode::Leave();
  if (status.ok()) return cloister::cli::kExitOk;
  log.Fail(status.message());
  return cloister::cli::kExitError;
}
