// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/fake_machine.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;

GuestRange Pages(uint64_t start, uint64_t size) {
  return GuestRange::CreatePageAligned(GuestAddress(start), size).value();
}

}  // namespace

FakeMachine::FakeMachine() : states_(std::make_unique<memory::PageStateMap>()) {
  constexpr uint64_t kMib = 1 << 20;
  states_->Set(Pages(0, kMib), PageState::kAliased).IgnoreError();
  states_->Set(Pages(kMib, kMib), PageState::kShared).IgnoreError();
  states_->Set(Pages(2 * kMib, 62 * kMib), PageState::kPrivate).IgnoreError();
  states_->Set(Pages(kWindow, kMib), PageState::kPrivate).IgnoreError();
}

FakeMachine::~FakeMachine() = default;

absl::Status FakeMachine::Note(std::string call) {
  {
    base::MutexLock lock(&mutex_);
    calls_.push_back(call);
  }
  return hook ? hook(call) : absl::OkStatus();
}

absl::Status FakeMachine::Start(const Json&) {
  RETURN_IF_ERROR(Note("start"));
  base::MutexLock lock(&mutex_);
  started_ = true;
  return absl::OkStatus();
}

absl::Status FakeMachine::Pause() { return Note("pause"); }
absl::Status FakeMachine::Resume() { return Note("resume"); }

absl::StatusOr<uint64_t> FakeMachine::Convert(
    absl::Span<const GuestRange> ranges, PageState to,
    memory::HostConversionReason) {
  RETURN_IF_ERROR(Note("convert"));
  const GuestRange window = Pages(kWindow, 1 << 20);
  for (const GuestRange& range : ranges) {
    if (!window.Contains(range)) {
      return absl::FailedPreconditionError("guest owns this page");
    }
  }
  uint64_t bytes = 0;
  for (const GuestRange& range : ranges) {
    RETURN_IF_ERROR(states_->Set(range, to));
    bytes += range.size();
  }
  base::MutexLock lock(&mutex_);
  converted_ += bytes;
  return bytes;
}

absl::Status FakeMachine::Update(DeviceKind kind, absl::string_view id,
                                 const Json&) {
  constexpr const char* kKinds[] = {"drive", "network", "balloon",
                                    "statistics"};
  RETURN_IF_ERROR(
      Note(absl::StrCat("update ", kKinds[static_cast<size_t>(kind)],
                        id.empty() ? "" : " ", id)));
  if (id == "none") return absl::NotFoundError("there is no drive none");
  return absl::OkStatus();
}

absl::StatusOr<Json> FakeMachine::BalloonStatistics() {
  return Json({{"target_pages", 256},
               {"actual_pages", 0},
               {"target_mib", 1},
               {"actual_mib", 0}});
}

absl::Status FakeMachine::SetPolicy(const Json& policy) {
  return Note(absl::StrCat("policy ", policy.value("implicit", "none"), " ",
                           policy.value("per_second", uint64_t{0})));
}

absl::StatusOr<std::string> FakeMachine::Measurement(const Json& config) {
  if (!config.contains("boot-source")) {
    return absl::FailedPreconditionError("there is nothing to boot");
  }
  return std::string("{\"digest\":\"00\",\"format\":1,\"inputs\":[]}\n");
}

absl::Status FakeMachine::Press(Button button) {
  return Note(button == Button::kPower ? "power button" : "ctrl-alt-del");
}

void FakeMachine::Stop() { Note("stop").IgnoreError(); }

void FakeMachine::LookAtMemory() {
  base::MutexLock lock(&mutex_);
  looked_ = true;
}

MachineStats FakeMachine::Stats() {
  MachineStats stats;
  base::MutexLock lock(&mutex_);
  if (!started_) return stats;
  stats.vcpus.push_back({"0", {{"port_read", 3}, {"port_write", 5}}});
  stats.devices.push_back({"serial", {{"bytes_out", 7}}});
  stats.boot.push_back({"process start", std::chrono::nanoseconds(0)});
  stats.boot.push_back({"first KVM_RUN", std::chrono::milliseconds(2)});
  stats.conversions.emplace();
  stats.conversions->to_shared[2] = {converted_ == 0 ? 0u : 1u, converted_};
  stats.conversions->private_bytes = states_->bytes(PageState::kPrivate);
  stats.conversions->shared_bytes = states_->bytes(PageState::kShared);
  stats.conversions->latency[10] = 4;
  if (looked_) stats.conversions->double_backed_bytes = 8192;
  return stats;
}

const memory::PageStateMap* FakeMachine::states() {
  base::MutexLock lock(&mutex_);
  return started_ ? states_.get() : nullptr;
}

std::string FakeMachine::Backend() {
  base::MutexLock lock(&mutex_);
  return started_ ? "emulated" : "";
}

std::vector<AddressWindow> FakeMachine::Windows() {
  return {{"KVM's pages", Pages(0xfffbc000, 0x4000)},
          {"exchange window", Pages(kWindow, 1 << 20)}};
}

std::vector<std::string> FakeMachine::calls() {
  base::MutexLock lock(&mutex_);
  return calls_;
}

}  // namespace cloister::api
