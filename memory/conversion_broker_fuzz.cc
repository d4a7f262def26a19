// SPDX-License-Identifier: Apache-2.0
//
// The conversion broker against a naive model, with failures of the backend
// and of listeners. Each operation is four bytes: what, first page, length and
// a detail.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_world.h"

namespace {

using namespace cloister::memory;  // NOLINT: a program of one file
using World = ConversionWorld;
using Phase = ConversionPhase;

constexpr uint64_t kPages = World::kEnd / kPageSize;
constexpr uint64_t kFirst = World::kAliasedEnd / kPageSize;
constexpr uint64_t kWindowFirst = World::kWindow / kPageSize;
constexpr uint64_t kWindowPages = World::kWindowSize / kPageSize;

void Check(bool right, const std::string& what) {
  if (right) return;
  std::cerr << "wrong: " << what << std::endl;
  std::abort();
}

// The states that the broker should have made, page by page.
class Model {
 public:
  Model() { Reset(); }

  void Reset() {
    ram_.assign(kPages, PageState::kPrivate);
    std::fill_n(ram_.begin(), kFirst, PageState::kAliased);
    window_.assign(kWindowPages, PageState::kShared);
    given_up_.assign(kPages, std::nullopt);
  }
  PageState Get(uint64_t page) const {
    if (page < kPages) return ram_[page];
    if (page - kWindowFirst < kWindowPages) return window_[page - kWindowFirst];
    return PageState::kNotRam;
  }
  bool AllRam(uint64_t first, uint64_t count, bool aliased_is) const {
    for (uint64_t page = first; page < first + count; ++page) {
      const PageState state = Get(page);
      if (state == PageState::kNotRam) return false;
      if (state == PageState::kAliased && !aliased_is) return false;
    }
    return true;
  }
  uint64_t Changing(uint64_t first, uint64_t count, PageState to) const {
    uint64_t bytes = 0;
    for (uint64_t page = first; page < first + count; ++page) {
      bytes += Convertible(page) && Get(page) != to ? kPageSize : 0;
    }
    return bytes;
  }
  // The first `bytes` that can change do.
  void Convert(uint64_t first, uint64_t count, PageState to, uint64_t bytes) {
    for (uint64_t page = first; page < first + count && bytes > 0; ++page) {
      if (!Convertible(page) || Get(page) == to) continue;
      (page < kPages ? ram_[page] : window_[page - kWindowFirst]) = to;
      bytes -= kPageSize;
    }
  }
  void GiveUp(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) {
      if (!given_up_[page].has_value()) given_up_[page] = ram_[page];
    }
  }
  bool AllGivenUp(uint64_t first, uint64_t count) const {
    for (uint64_t page = first; page < first + count; ++page) {
      if (page >= kPages || !given_up_[page].has_value()) return false;
    }
    return true;
  }
  void TakeBack(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < std::min(first + count, kPages);
         ++page) {
      if (given_up_[page].has_value()) ram_[page] = *given_up_[page];
      given_up_[page].reset();
    }
  }
  // What is as the guest asked is not given up any more.
  void Use(uint64_t first, uint64_t count, PageState to) {
    for (uint64_t page = first; page < std::min(first + count, kPages);
         ++page) {
      if (ram_[page] == to) given_up_[page].reset();
    }
  }
  // Takes over what a request left that failed in the middle.
  void Adopt(const World& world) {
    for (uint64_t page = kFirst; page < kPages; ++page) {
      ram_[page] = world.State(page * kPageSize);
      Check(Convertible(page), "a page vanished");
    }
    for (uint64_t i = 0; i < kWindowPages; ++i) {
      window_[i] = world.State((kWindowFirst + i) * kPageSize);
    }
  }
  void Compare(const World& world) const {
    for (uint64_t page = 0; page < kPages + 1; ++page) {
      Check(world.State(page * kPageSize) == Get(page),
            absl::StrCat("page ", page));
    }
    for (uint64_t i = 0; i <= kWindowPages; ++i) {
      const uint64_t page = kWindowFirst + i;
      Check(world.State(page * kPageSize) == Get(page),
            absl::StrCat("page ", page));
    }
  }

 private:
  bool Convertible(uint64_t page) const {
    const PageState state = Get(page);
    return state == PageState::kPrivate || state == PageState::kShared;
  }
  std::vector<PageState> ram_;
  std::vector<PageState> window_;
  std::vector<std::optional<PageState>> given_up_;
};

class Fuzzer {
 public:
  Fuzzer() {
    ConversionBrokerOptions options = World::WithWindow();
    options.lease_wait = std::chrono::nanoseconds(0);
    options.busy_wait = std::chrono::nanoseconds(0);
    world_ = World::Silent(std::move(options));
  }

  void Step(const uint8_t* op) {
    const PageState to = (op[3] & 1) ? PageState::kShared : PageState::kPrivate;
    // Some of it outside of RAM, now and then.
    const uint64_t first = (op[3] & 2) ? kWindowFirst + op[1] % 6 : op[1] % 70;
    const uint64_t count = 1 + op[2] % 24;
    switch (op[0] % 10) {
      case 0:
      case 1:
        return Hypercall(first, count, to, op[3]);
      case 2:
        return Fault(first, to, op[3]);
      case 3:
        return Host(first, count, to, op[3]);
      case 4:
        return (op[3] & 4) ? GiveUp(first, count) : TakeBack(first, count);
      case 5:
        return LeaseOrEnd(first, count);
      case 6:
        return Inject(op);
      case 7:
        return Reset();
      case 8:
        return Launch(first, count);
      case 9:
        return Reconcile(op[3]);
    }
  }

  void Finish() {
    leases_.clear();
    world_->backend.FailNothing();
    while (world_->broker->stats().pending_private_bytes != 0) {
      std::this_thread::yield();
    }
    Settle();
    world_->broker->GuestStopped();
    Check(fatal() || world_->broker->Reconcile().ok(), "reconcile failed");
    Check(fatal() ||
              world_->broker->CountDoubleBacked()->double_backed_bytes() == 0,
          "backed twice after all");
  }

  // What has to hold between any two operations.
  void Settle() {
    if (fatal()) return;
    model_.Compare(*world_);
    std::string wrong = world_->Wrong();
    Check(wrong.empty(), wrong);
  }

  bool fatal() { return !world_->broker->fatal().ok(); }

 private:
  Phase phase() const { return world_->broker->phase(); }

  void Hypercall(uint64_t first, uint64_t count, PageState to, uint8_t detail) {
    uint64_t gpa = first * kPageSize + ((detail & 0x80) ? 8 : 0);
    if (detail & 0x40) count = (uint64_t{1} << 52) - (detail & 0xc);
    uint64_t attributes = to == PageState::kPrivate ? 0x10 : 0;
    attributes |= (detail & 0x20) ? 0x20 : (detail >> 2) & 3;
    const bool valid =
        (detail & 0xe0) == 0 && model_.AllRam(first, count, true);
    GuestConversion done =
        world_->broker->ConvertForGuest(gpa, count, attributes);
    if (fatal()) return;
    Check((done.code == GuestConversionCode::kInvalid) == !valid,
          absl::StrCat("validity: ", done.detail.ToString()));
    if (!valid) return Check(done.bytes_changed == 0, "a bad request converts");
    const uint64_t changing = model_.Changing(first, count, to);
    Check(done.code == GuestConversionCode::kOk ? done.bytes_changed == changing
                                                : done.bytes_changed < changing,
          "bytes changed");
    model_.Convert(first, count, to, done.bytes_changed);
    model_.Use(first, count, to);
  }

  void Fault(uint64_t page, PageState to, uint8_t detail) {
    const bool stale = (detail & 0x20) != 0;
    const uint64_t generation = stale ? 0 : world_->states.CurrentGeneration();
    const uint64_t gpa = page * kPageSize + ((detail & 0x80) ? 1 : 0);
    FaultConversion done =
        world_->broker->ConvertForFault(GuestAddress(gpa), to, generation);
    if (fatal() || done.action == FaultAction::kFail) return;
    const bool ram = model_.AllRam(page, 1, false) && (detail & 0x80) == 0;
    if (!stale) {
      Check((done.action == FaultAction::kDeny) == !ram, "who is denied");
    }
    // RAM was declared after generation 0: each page changed since.
    if (!ram || stale || model_.Get(page) == to) return;
    model_.Convert(page, 1, to, kPageSize);
    model_.Use(page, 1, to);
  }

  void Host(uint64_t first, uint64_t count, PageState to, uint8_t detail) {
    const auto reason = static_cast<HostConversionReason>(detail / 4 % 3);
    const bool ram = model_.AllRam(first, count, false);
    bool owned = false;
    switch (reason) {
      case HostConversionReason::kBeforeBoot:
        owned = phase() == Phase::kBuilding;
        break;
      case HostConversionReason::kGivenUp:
        owned = model_.AllGivenUp(first, count);
        break;
      case HostConversionReason::kExchangeWindow:
        owned = first >= kWindowFirst;
        break;
    }
    if (phase() == Phase::kLaunching) owned = false;
    absl::Status status =
        world_
            ->Host(World::Range(first * kPageSize, count * kPageSize), to,
                   reason)
            .status();
    if (fatal()) return;
    Check(absl::IsInvalidArgument(status) == !ram, "what is RAM");
    if (!ram) return;
    Check(absl::IsFailedPrecondition(status) == !owned, "who owns it");
    if (status.ok()) return model_.Convert(first, count, to, UINT64_MAX);
    if (owned) model_.Adopt(*world_);
  }

  void GiveUp(uint64_t first, uint64_t count) {
    if (first >= kWindowFirst) return;  // the host's, not the guest's to give
    absl::Status status = world_->broker->GuestGaveUp(
        World::Range(first * kPageSize, count * kPageSize));
    const bool right = phase() == Phase::kRunning && first < kPages &&
                       model_.AllRam(first, count, false);
    Check(status.ok() == right, "a balloon takes what it should");
    if (right) model_.GiveUp(first, count);
  }

  void TakeBack(uint64_t first, uint64_t count) {
    if (first >= kWindowFirst) return;
    absl::Status status = world_->broker->GuestTookBack(
        World::Range(first * kPageSize, count * kPageSize));
    if (fatal() || phase() != Phase::kRunning) return;
    if (status.ok()) return model_.TakeBack(first, count);
    model_.Adopt(*world_);
  }

  void LeaseOrEnd(uint64_t first, uint64_t count) {
    if (leases_.size() >= 4) leases_.pop_front();
    bool shared = true;
    for (uint64_t page = first; page < first + count; ++page) {
      shared &= model_.Get(page) == PageState::kShared;
    }
    auto lease = world_->view->Acquire(
        World::Range(first * kPageSize, count * kPageSize));
    if (!fatal()) Check(lease.ok() == shared, "who gets a lease");
    if (lease.ok()) leases_.push_back(*std::move(lease));
  }

  void Inject(const uint8_t* op) {
    if (op[3] & 1) return world_->b.RefusePrepare(op[1] % 4);
    // Sometimes often enough that undoing fails as well.
    const uint64_t times = op[2] % 16 == 0 ? 2 : 1;
    world_->backend.FailCalls(std::nullopt, op[1] % 32, times,
                              absl::InternalError("told to"));
  }

  void Reset() {
    absl::Status status = world_->broker->Reset();
    if (fatal()) return;
    if (!leases_.empty()) {
      Check(absl::IsUnavailable(status), "a reset beneath a lease");
      return;
    }
    if (!status.ok()) return model_.Adopt(*world_);
    model_.Reset();
    Check(phase() == Phase::kBuilding, "a reset builds anew");
  }

  void Launch(uint64_t first, uint64_t count) {
    if (phase() == Phase::kBuilding) {
      Check(world_->broker->BeginLaunch().ok(), "no launch");
      return;
    }
    const Phase before = phase();
    const GuestRange staged =
        World::Range(first * kPageSize, count * kPageSize);
    absl::Status status = world_->broker->FinishLaunch({&staged, 1});
    if (fatal()) return;
    if (before != Phase::kLaunching) {
      return Check(absl::IsFailedPrecondition(status), "verified twice");
    }
    if (!status.ok()) return model_.Adopt(*world_);
    Check(phase() == Phase::kRunning, "verified and not running");
    model_.Convert(first, count, PageState::kPrivate, UINT64_MAX);
  }

  void Reconcile(uint8_t detail) {
    const bool paused = (detail & 1) != 0;
    const auto pages =
        (detail & 2) ? GuestPages::kAllReported : GuestPages::kMayBeUnreported;
    if (paused) world_->broker->Pause();
    auto report = world_->broker->Reconcile(pages);
    if (paused) world_->broker->Resume();
    if (!report.ok() || phase() != Phase::kRunning) return;
    if (!paused || pages == GuestPages::kMayBeUnreported) {
      Check(report->freed_bytes == 0, "freed beside a live guest");
    }
  }

  std::unique_ptr<World> world_;
  Model model_;
  std::deque<Lease> leases_;  // before the view goes
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Fuzzer fuzzer;
  for (size_t at = 0; size - at >= 4 && at < 4 * 256; at += 4) {
    fuzzer.Step(data + at);
    fuzzer.Settle();
  }
  fuzzer.Finish();
  return 0;
}
