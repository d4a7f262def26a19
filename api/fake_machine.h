// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_FAKE_MACHINE_H_
#define CLOISTER_API_FAKE_MACHINE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cloister/api/machine.h"
#include "cloister/base/mutex.h"

namespace cloister::api {

// A machine without a guest (test only): does what the controller says, keeps
// a list of it, and fails where a test wants it to. Thread-safe.
class FakeMachine : public Machine {
 public:
  FakeMachine();
  ~FakeMachine() override;

  // RAM from 0 to 64 MiB, private but for [1 MiB, 2 MiB) and an aliased first
  // MiB; an exchange window at 4 GiB, 1 MiB, private.
  static constexpr uint64_t kWindow = uint64_t{1} << 32;

  absl::Status Start(const Json& config) override;
  absl::Status Pause() override;
  absl::Status Resume() override;
  absl::StatusOr<uint64_t> Convert(
      absl::Span<const memory::GuestRange> ranges, memory::PageState to,
      memory::HostConversionReason reason) override;
  absl::Status Update(DeviceKind kind, absl::string_view id,
                      const Json& change) override;
  absl::StatusOr<Json> BalloonStatistics() override;
  absl::Status SetPolicy(const Json& policy) override;
  absl::StatusOr<std::string> Measurement(const Json& config) override;
  absl::Status Press(Button button) override;
  void Stop() override;
  void LookAtMemory() override;
  MachineStats Stats() override;
  const memory::PageStateMap* states() override;
  std::string Backend() override;
  std::vector<AddressWindow> Windows() override;

  // What was asked for, in order: "start", "pause", "update drive rootfs", ...
  std::vector<std::string> calls();
  // Runs in each slow call, before it does anything; a test makes it wait or
  // fail. Set before use.
  std::function<absl::Status(absl::string_view call)> hook;

 private:
  absl::Status Note(std::string call);

  base::Mutex mutex_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t converted_ ABSL_GUARDED_BY(mutex_) = 0;
  bool looked_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<memory::PageStateMap> states_;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_FAKE_MACHINE_H_
