// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_VM_PROCESS_H_
#define CLOISTER_CLI_VM_PROCESS_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cloister/cli/terminal.h"
#include "cloister/devices/serial.h"
#include "cloister/vmm/vm_end.h"

namespace cloister::cli {

// What the commands that run a VM have in common.

// The guest's serial output, on its way to the terminal.
class ConsoleSink : public devices::SerialSink {
 public:
  // Without a terminal, output is dropped. Set before the VM starts.
  void set_terminal(Terminal* terminal) { terminal_ = terminal; }
  size_t Write(absl::Span<const uint8_t> bytes) override {
    return terminal_ == nullptr ? bytes.size() : terminal_->Write(bytes);
  }

 private:
  Terminal* terminal_ = nullptr;
};

// The real-time signal that takes vCPUs out of the guest; main() installs its
// handler.
int KickSignal();

// The signals that end a VM, for a SignalSet: all that end a process unless it
// crashed, but those that main() has it ignore and KickSignal, CleanUpSignal.
std::vector<int> EndingSignals();

// Core files and other processes of the same user must not get at what the
// monitor may see of a guest.
absl::Status ForbidDumps();

// Lets the process have as many files open as its hard limit says: each vCPU,
// device and connection is one or more, and the usual soft limit, 1024, is
// below the number of vCPUs that KVM takes. Nothing here uses select(2).
absl::Status RaiseFileLimit();

// The ExitCode for the end of a VM.
int ExitCodeFor(vmm::VmEnd::Kind kind);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_VM_PROCESS_H_
