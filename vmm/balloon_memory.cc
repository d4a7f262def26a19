// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/balloon_memory.h"

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::vmm {

using memory::GuestRange;
using memory::PageState;
using memory::StateRange;

absl::Status BalloonMemory::Check(const GuestRange& range) const {
  if (!range.IsPageAligned()) {
    return absl::InvalidArgumentError(
        absl::StrCat(range.ToString(), " is not whole pages"));
  }
  for (const GuestRange& window : windows_) {
    if (window.Overlaps(range)) {
      return absl::InvalidArgumentError(
          absl::StrCat(range.ToString(), " is part of a window"));
    }
  }
  const bool ordinary =
      states_->ForEachRange(range, [](const StateRange& part) {
        return part.state == PageState::kPrivate ||
               part.state == PageState::kShared;
      });
  if (ordinary) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      range.ToString(), " is not wholly the guest's ordinary RAM"));
}

absl::StatusOr<uint64_t> BalloonMemory::GiveUp(const GuestRange& range) {
  RETURN_IF_ERROR(Check(range));
  if (broker_ != nullptr) {
    RETURN_IF_ERROR(broker_->GuestGaveUp(range));
    RETURN_IF_ERROR(broker_->FreeGivenUp(range));
  } else {
    RETURN_IF_ERROR(backend_->FreeShared(range));
  }
  return range.size();
}

absl::Status BalloonMemory::TakeBack(const GuestRange& range) {
  RETURN_IF_ERROR(Check(range));
  return broker_ == nullptr ? absl::OkStatus() : broker_->GuestTookBack(range);
}

absl::Status BalloonMemory::TakeBackAll() {
  if (broker_ == nullptr ||
      broker_->phase() != memory::ConversionPhase::kRunning) {
    return absl::OkStatus();  // there is nothing, or nobody, to give it to
  }
  return broker_->GuestTookBackAll();
}

absl::StatusOr<uint64_t> BalloonMemory::Discard(const GuestRange& range) {
  absl::StatusOr<uint64_t> freed = GiveUp(range);
  const absl::Status back = TakeBack(range);
  if (freed.ok() && !back.ok()) return back;
  return freed;
}

}  // namespace cloister::vmm
